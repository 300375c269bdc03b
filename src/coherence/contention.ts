/**
 * What of the table says how much guests and host want to change an inode that guests want to cache: how long it must
 * be left alone before a guest may, and what processes of the host have done to it.
 */
import {
  dataCountOf,
  HOST,
  levelOf,
  NONE,
  ownerOf,
  pack,
  packConflict,
  Slot,
  TICK_MS,
  ticksFor,
  ticksLeft,
  ticksSince,
} from '../../protocol/version-table/layout.js'
import type { VersionTable } from './version-table.js'

/** How long an inode must be left alone by others before a guest may cache it. */
export const QUIET_MS = 500
/** That time doubles so often at most: 16 s. */
const MOST_LEVELS = 5
/** What others have left alone for so long is settled. */
export const SETTLED_MS = 3000
/** The clock of change times is behind that of the table by a timer tick of the host, and rounding. */
const SLACK_TICKS = 3
/** Change times that lie ahead by more come from another clock. */
const MOST_AHEAD_MS = 1000
/** Slots of which a guest knows when it took them over; a power of two. */
const TAKEN_OVER = 4096

export class Contention {
  readonly #table: VersionTable
  readonly #quietBaseMs: number
  /**
   * When this guest last changed what somebody else had changed, by slot. It decides how soon something is cached, never
   * whether that is right: two inodes may share a place.
   */
  readonly #takenOver = new Int32Array(TAKEN_OVER)

  constructor(table: VersionTable, quietBaseMs: number) {
    this.#table = table
    this.#quietBaseMs = quietBaseMs
  }

  /** How long an inode with this conflict word must have been left alone. */
  quietMs(conflict: number, now: number): number {
    return this.#quietBaseMs << this.#level(conflict, now)
  }

  /**
   * This guest changed the inode last, and others did shortly before: by turns, as changes met leases more than once. If
   * it cached what it changes itself, the next of them would wait again.
   */
  byTurns(slot: number, conflict: number, now: number): boolean {
    if (this.#level(conflict, now) < 2) return false
    return ticksSince(this.#takenOver[placeOf(slot)]!, now) < ticksFor(this.quietMs(conflict, now))
  }

  /** This guest changes what somebody else had changed last. */
  takesOver(slot: number, now: number): void {
    this.#takenOver[placeOf(slot)] = now
  }

  /** How often changes met a lease: forgotten when there was none for four times the quiet time it asks for. */
  #level(conflict: number, now: number): number {
    const level = Math.min(levelOf(conflict), MOST_LEVELS)
    if (level === 0) return 0
    return ticksSince(conflict, now) <= ticksFor((this.#quietBaseMs << level) * 4) ? level : 0
  }

  /**
   * Nobody but `guest` has changed the inode for long, as far as its words in the table and its own change time tell
   * (`ageMs` ago; NaN: not known).
   */
  settled(conflict: number, change: number, guest: number, ageMs: number, now: number): boolean {
    if (this.#level(conflict, now) > 0) return false
    const owner = ownerOf(change)
    if (owner === guest) return true
    return owner === NONE ? ageMs >= SETTLED_MS : ticksSince(change, now) >= ticksFor(SETTLED_MS)
  }

  /** A change met a lease: what it is about is shared by those who want to cache it. */
  raise(slot: number, now: number): void {
    const conflict = this.#table.word(slot, Slot.conflict)
    this.#setLevel(slot, Math.min(this.#level(conflict, now) + 1, MOST_LEVELS), now)
  }

  /** A change met none: while there are changes nothing is forgotten. */
  remember(slot: number, now: number): void {
    const level = this.#level(this.#table.word(slot, Slot.conflict), now)
    if (level > 0) this.#setLevel(slot, level, now)
  }

  #setLevel(slot: number, level: number, now: number): void {
    const word = this.#table.word(slot, Slot.conflict)
    // Where somebody else sets it at the same moment it does not matter who wins.
    this.#table.swap(slot, Slot.conflict, word, packConflict(level, dataCountOf(word), now))
  }

  /** Counts a change of data; after the version was made new. */
  countData(slot: number): void {
    for (;;) {
      const word = this.#table.word(slot, Slot.conflict)
      const counted = packConflict(levelOf(word), dataCountOf(word) + 1, word)
      if (this.#table.swap(slot, Slot.conflict, word, counted)) return
    }
  }

  /**
   * The inode was found to have changed last `ageMs` ago (by its ctime): that is lately, and its words in the table,
   * read before, say of no change of a guest that explains it.
   */
  isNews(conflict: number, change: number, ageMs: number, now: number): boolean {
    if (!(ageMs > -MOST_AHEAD_MS && ageMs < this.quietMs(conflict, now))) return false
    // A guest's change that is under way explains it, and so does one that ended later.
    if (ticksLeft(change, now) > 0) return false
    return ownerOf(change) === NONE || ticksSince(change, now) > ageTicks(ageMs) + SLACK_TICKS
  }

  /**
   * Before an inode's change time is known: whatever it is, `isNews` would say no, and `settled` the same. `change` is its
   * word in the table.
   */
  explains(change: number, now: number): boolean {
    if (ownerOf(change) === NONE) return false
    return ticksLeft(change, now) > 0 || ticksSince(change, now) <= SLACK_TICKS
  }

  /** After `isNews`: it was a process of the host, and all daemons are told. False: somebody was faster. */
  changedByHost(slot: number, change: number, ageMs: number, now: number): boolean {
    const table = this.#table
    const age = ageTicks(ageMs)
    if (!table.swap(slot, Slot.change, change, pack(HOST, now - age))) return false
    table.bump(slot)
    const lease = table.word(slot, Slot.lease)
    const met =
      ownerOf(lease) !== NONE && (ticksLeft(lease, now) > 0 || ticksSince(lease, now) < age)
    if (met) this.raise(slot, now)
    else this.remember(slot, now)
    return true
  }
}

/** Slots begin four words apart or more. */
function placeOf(slot: number): number {
  return (slot >>> 2) & (TAKEN_OVER - 1)
}

function ageTicks(ageMs: number): number {
  return Math.max(0, Math.ceil(ageMs / TICK_MS))
}
