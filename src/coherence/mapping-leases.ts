/**
 * Files that guests of several daemons have in their DAX windows. Two promises, both kept in the version table:
 *
 * 1. A file is cut short only when no guest of another daemon has what is cut off in its window any more: it would be the
 *    end of its VMM (SIGBUS).
 * 2. While a guest has a file in its window, no other one answers from what it has cached of it: stores into the window are
 *    seen by no daemon. Mappings of one file are the same memory.
 *
 * For the first, an inode has further slots in the table, each under a key of its own:
 *
 *     seat, 0 to SEATS - 1   lease = (guest, end)  this guest has mapped something of the file, until then at least
 *                            conflict = number of the last wish that it has granted
 *     wish                   change = (guest, end) this guest wants to cut the file; nobody maps more of it
 *                            version = number of the wish, 0: not written yet; conflict = pages that stay
 *
 * Who maps takes a seat, then looks for a wish; who cuts makes his wish known, then looks at the seats: one of
 * the two sees the other. A daemon looks every LOOK_MS whether there is a wish for what it has mapped, unmaps that, and
 * says so in its seat, which it keeps for the rest. What a daemon that died has left ends by time.
 *
 * For the second a mapping is a change of the inode that lasts as long (leases.ts): it waits until others' leases
 * have ended, then nobody gets one.
 */
import { Errno } from '../../protocol/errno.js'
import {
  ownerOf,
  pack,
  Slot,
  tickOf,
  ticksFor,
  ticksLeft,
  TICK_MS,
} from '../../protocol/version-table/layout.js'
import type { DaxWindow, MappingRights } from '../vfs/dax.js'
import { DEFERRED, type Outcome } from '../vfs/filesystem.js'
import { type Identities, InodeKey, NO_INODE } from '../vfs/identities.js'
import { Change } from './change.js'
import { CHANGE_MS, type Leases } from './leases.js'
import type { SizeLocks } from './size-locks.js'
import type { VersionTable } from './version-table.js'

/** Guests that can have one file in their windows at the same time. */
export const SEATS = 16
/** A seat that is not renewed is free after this: its daemon is gone. */
export const SEAT_MS = CHANGE_MS
/** How often a daemon looks for wishes, and renews its seats. */
export const LOOK_MS = 50
/** How often one that wants to cut looks whether it may. */
const CUT_AGAIN_MS = 5
/** A mapping or a cut that was not possible for so long is refused, or done: no honest daemon lets others wait longer. */
const MOST_WAIT_MS = 10_000
const PAGE_BYTES = 4096
/** Pages that a wish can name; of a file that stays longer than 8 TiB more is unmapped than need be. */
const MOST_PAGES = 2 ** 31 - 1

export interface MappingCounters {
  /** Files that got into the window, and those that had to wait or were refused. */
  taken: number
  waited: number
  refused: number
  /** Wishes of others that were granted. */
  granted: number
  /** Own cuts that found other guests' mappings. */
  cuts: number
  /** Cuts without the consent of somebody who has the file mapped. */
  forced: number
}

class Held {
  readonly change = new Change()
  /** What it was told to wait, all in all: the time in which this daemon was stopped is not of that. */
  waitedMs = 0
  tries = 0
  seat = -1
  /** The last wish granted that may not be over; 0: none. */
  granted = 0

  get key(): InodeKey {
    return this.change.keys[0]!
  }
}

interface Wish {
  readonly number: number
  readonly pages: number
}

export interface MappingOptions {
  readonly guest: number
  readonly nowMs: () => number
}

export class MappingLeases implements MappingRights {
  readonly counters: MappingCounters = {
    taken: 0,
    waited: 0,
    refused: 0,
    granted: 0,
    cuts: 0,
    forced: 0,
  }
  #window: DaxWindow | undefined
  /** Hears after how many milliseconds a request that is DEFERRED wants to be handed in again. */
  onWait: (ms: number) => void = () => undefined
  readonly #table: VersionTable
  readonly #leases: Leases
  readonly #sizes: SizeLocks
  readonly #identities: Identities
  readonly #guest: number
  readonly #nowMs: () => number
  readonly #held = new Map<number, Held>()
  readonly #wishes = new Map<string, Wish>()
  readonly #at = new InodeKey()
  #seats = 0
  #lookedMs = 0

  constructor(
    table: VersionTable,
    leases: Leases,
    sizes: SizeLocks,
    identities: Identities,
    { guest, nowMs }: MappingOptions,
  ) {
    this.#table = table
    this.#leases = leases
    this.#sizes = sizes
    this.#identities = identities
    this.#guest = guest
    this.#nowMs = nowMs
  }

  /** The guest has a window, until `undefined` is given. Every daemon of the table takes care of size changes then. */
  attach(window: DaxWindow | undefined): void {
    this.#window = window
    if (window !== undefined) this.#table.announceWindow()
  }

  // --- slots ----------------------------------------------------------------------------------------

  /** Makes slot number `n` of the inode, 0 the wish, 1 to SEATS the seats, what the table is about. */
  #seek(key: InodeKey, n: number): void {
    Object.assign(this.#at, key)
    // Majors have 12 bits.
    this.#at.devMajor = key.devMajor ^ ((n + 1) << 20)
    this.#table.seek(this.#at)
  }

  #set(slot: number, field: number, value: number): void {
    const table = this.#table
    while (!table.swap(slot, field, table.word(slot, field), value));
  }

  /** The slot of a wish that somebody has now, or -1. */
  #wish(key: InodeKey, now: number): number {
    this.#seek(key, 0)
    const slot = this.#table.find()
    return slot >= 0 && ticksLeft(this.#table.word(slot, Slot.change), now) > 0 ? slot : -1
  }

  get #now(): number {
    return tickOf(this.#nowMs())
  }

  // --- who maps -------------------------------------------------------------------------------------

  later(ms = CUT_AGAIN_MS): Outcome {
    this.counters.waited++
    this.onWait(ms)
    return DEFERRED
  }

  take(nodeid: number): Outcome {
    if (this.#leases.damaged) return 0
    let held = this.#held.get(nodeid)
    if (held === undefined) {
      held = new Held()
      held.change.data = true
      if (this.#identities.ofNode(nodeid, held.change.next()) === NO_INODE) return -Errno.ESTALE
      held.change.took(nodeid)
      this.#held.set(nodeid, held)
    }
    if (held.seat >= 0) return 0
    const late = held.waitedMs > MOST_WAIT_MS
    const wait = this.#leases.begin(held.change, held.tries++ > 0, late)
    held.waitedMs += Math.max(wait, CUT_AGAIN_MS)
    if (wait > 0) return this.later(wait)
    // A change that has no slot is not seen for as long as a mapping lasts.
    const placed = held.change.count === 0 || held.change.slots[0]! >= 0
    if (placed && this.#sit(held)) {
      this.counters.taken++
      return 0
    }
    this.#leases.end(held.change)
    if (!placed && !late) return this.later()
    this.#held.delete(nodeid)
    this.counters.refused++
    return -Errno.EIO
  }

  /** False: all seats are taken. */
  #sit(held: Held): boolean {
    const table = this.#table
    const now = this.#now
    for (let seat = 0; seat < SEATS; seat++) {
      this.#seek(held.key, 1 + seat)
      const slot = table.insert(now)
      if (slot < 0) continue
      const old = table.word(slot, Slot.lease)
      if (ticksLeft(old, now) > 0 && ownerOf(old) !== this.#guest) continue
      if (!table.swap(slot, Slot.lease, old, pack(this.#guest, now + ticksFor(SEAT_MS)))) continue
      if (!table.belongs(slot)) continue
      held.seat = seat
      this.#seats++
      return true
    }
    return false
  }

  #leave(held: Held): void {
    this.#seek(held.key, 1 + held.seat)
    held.seat = -1
    this.#seats--
    const slot = this.#table.find()
    if (slot < 0) return
    const word = this.#table.word(slot, Slot.lease)
    if (ownerOf(word) === this.#guest)
      this.#table.swap(slot, Slot.lease, word, pack(this.#guest, this.#now))
  }

  giveBack(nodeid: number): void {
    const held = this.#held.get(nodeid)
    if (held === undefined) return
    this.#held.delete(nodeid)
    if (held.seat < 0) return
    this.#leave(held)
    // Its data is another than at the beginning.
    this.#leases.end(held.change)
  }

  clear(): void {
    for (const nodeid of this.#held.keys()) this.giveBack(nodeid)
  }

  limit(nodeid: number): number {
    const held = this.#held.get(nodeid)
    if (held === undefined) return Number.POSITIVE_INFINITY
    const wish = this.#wish(held.key, this.#now)
    if (wish < 0 || this.#table.word(wish, Slot.version) === 0) return Number.POSITIVE_INFINITY
    if (ownerOf(this.#table.word(wish, Slot.change)) === this.#guest)
      return Number.POSITIVE_INFINITY
    return Math.max(0, this.#table.word(wish, Slot.conflict)) * PAGE_BYTES
  }

  lengthen(nodeid: number): boolean {
    const held = this.#held.get(nodeid)
    return held === undefined || this.#sizes.alone(held.key)
  }

  lengthened(nodeid: number): void {
    const held = this.#held.get(nodeid)
    if (held !== undefined) this.#sizes.release(held.key)
  }

  /** This guest has seats, which want `look`. */
  get seated(): boolean {
    return this.#seats > 0
  }

  /** Milliseconds until `look` has something to do, while `seated`. */
  get dueMs(): number {
    return Math.max(0, Math.ceil(this.#lookedMs + LOOK_MS - this.#nowMs()))
  }

  /** Renews the seats, and grants the wishes of others. */
  look(): void {
    const ms = this.#nowMs()
    if (this.#seats === 0 || ms - this.#lookedMs < LOOK_MS) return
    this.#lookedMs = ms
    if (this.#leases.damaged) return
    for (const [nodeid, held] of this.#held) if (held.seat >= 0) this.#lookAt(nodeid, held)
  }

  #lookAt(nodeid: number, held: Held): void {
    const table = this.#table
    const now = this.#now
    if (!this.#renew(held, now)) {
      // Whoever was stopped for longer than a seat lasts may find another there.
      this.#seats--
      held.seat = -1
      if (!this.#sit(held)) {
        this.#window?.revoke(nodeid, 0)
        this.#seats++
        held.seat = SEATS - 1
        return
      }
    }
    const wish = this.#wish(held.key, now)
    if (wish < 0) {
      if (held.granted !== 0) this.#window?.restore(nodeid)
      held.granted = 0
      return
    }
    const number = table.word(wish, Slot.version)
    const own = ownerOf(table.word(wish, Slot.change)) === this.#guest
    if (own || number === 0 || number === held.granted) return
    const pages = Math.max(0, table.word(wish, Slot.conflict))
    if (this.#window?.revoke(nodeid, pages * PAGE_BYTES) === false) return
    this.#seek(held.key, 1 + held.seat)
    const slot = table.find()
    if (slot < 0) return
    held.granted = number
    this.#set(slot, Slot.conflict, number)
    this.counters.granted++
  }

  #renew(held: Held, now: number): boolean {
    this.#seek(held.key, 1 + held.seat)
    const slot = this.#table.find()
    if (slot < 0) return false
    const word = this.#table.word(slot, Slot.lease)
    return (
      ownerOf(word) === this.#guest &&
      this.#table.swap(slot, Slot.lease, word, pack(this.#guest, now + ticksFor(SEAT_MS)))
    )
  }

  // --- who cuts -------------------------------------------------------------------------------------

  /**
   * `change` may cut one of its files: milliseconds after which to ask again, 0: it may be done now, and
   * `done` follows. `force`: it has waited long enough.
   */
  begin(change: Change, force: boolean): number {
    if (change.cut < 0 || this.#leases.damaged) return 0
    const key = change.keys[change.cut]!
    const wish = this.#want(key, Math.min(Math.ceil(change.keep / PAGE_BYTES), MOST_PAGES))
    const left = wish === undefined ? 1 : this.#unwilling(key, wish.number)
    if (left > 0 && !force) return CUT_AGAIN_MS
    if (left > 0) this.counters.forced++
    change.wish = wish?.number ?? 0
    return 0
  }

  /** Makes the wish known. undefined: somebody else has one, or there is no room for it now. */
  #want(key: InodeKey, pages: number): Wish | undefined {
    const table = this.#table
    const now = this.#now
    this.#seek(key, 0)
    const slot = table.insert(now)
    if (slot < 0) return undefined
    const name = nameOf(key)
    const word = table.word(slot, Slot.change)
    const until = pack(this.#guest, now + ticksFor(CHANGE_MS))
    const known = this.#wishes.get(name)
    if (ticksLeft(word, now) > 0) {
      const mine = ownerOf(word) === this.#guest && known?.number === table.word(slot, Slot.version)
      if (!mine || known.pages !== pages) return undefined
      table.swap(slot, Slot.change, word, until)
      return known
    }
    if (!table.swap(slot, Slot.change, word, until) || !table.belongs(slot)) return undefined
    this.#set(slot, Slot.version, 0)
    this.#set(slot, Slot.conflict, pages)
    const made = { number: table.advance() || table.advance(), pages }
    this.#set(slot, Slot.version, made.number)
    this.#wishes.set(name, made)
    if (this.#unwilling(key, made.number) > 0) this.counters.cuts++
    return made
  }

  /** Milliseconds until the last seat of somebody who has not granted the wish is free by itself. */
  #unwilling(key: InodeKey, number: number): number {
    const table = this.#table
    const now = this.#now
    let most = 0
    for (let seat = 0; seat < SEATS; seat++) {
      this.#seek(key, 1 + seat)
      const slot = table.find()
      if (slot < 0) continue
      const word = table.word(slot, Slot.lease)
      const left = ticksLeft(word, now)
      if (left === 0 || ownerOf(word) === this.#guest) continue
      if (table.word(slot, Slot.conflict) !== number) most = Math.max(most, left)
    }
    return most * TICK_MS
  }

  /** The file is cut, or will not be. */
  done(change: Change): void {
    if (change.wish === 0) return
    const key = change.keys[change.cut]!
    const now = this.#now
    this.#wishes.delete(nameOf(key))
    this.#seek(key, 0)
    const slot = this.#table.find()
    if (slot < 0 || this.#table.word(slot, Slot.version) !== change.wish) return
    const word = this.#table.word(slot, Slot.change)
    if (ownerOf(word) === this.#guest)
      this.#table.swap(slot, Slot.change, word, pack(this.#guest, now))
  }

  // --- who caches -----------------------------------------------------------------------------------

  /** A guest of another daemon has the file in its window: what this one caches of it may be out of date by now. */
  byOthers(key: InodeKey): boolean {
    const now = this.#now
    for (let seat = 0; seat < SEATS; seat++) {
      this.#seek(key, 1 + seat)
      const slot = this.#table.find()
      if (slot < 0) continue
      const word = this.#table.word(slot, Slot.lease)
      if (ticksLeft(word, now) > 0 && ownerOf(word) !== this.#guest) return true
    }
    return false
  }
}

function nameOf(key: InodeKey): string {
  return `${key.devMajor}:${key.devMinor}:${key.inoHigh}:${key.inoLow}`
}
