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

export class Contention {
  readonly #table: VersionTable
  readonly #quietBaseMs: number

  constructor(table: VersionTable, quietBaseMs: number) {
    this.#table = table
    this.#quietBaseMs = quietBaseMs
  }

  /** How long the inode must have been left alone. */
  quietMs(slot: number, now: number): number {
    return this.#quietBaseMs << this.#level(slot, now)
  }

  /** How often changes met a lease: forgotten when there was none for four times the quiet time it asks for. */
  #level(slot: number, now: number): number {
    const conflict = this.#table.word(slot, Slot.conflict)
    const level = Math.min(levelOf(conflict), MOST_LEVELS)
    return ticksSince(conflict, now) <= ticksFor((this.#quietBaseMs << level) * 4) ? level : 0
  }

  /**
   * Nobody but `guest` has changed the inode for long, as far as the table and its own change time tell (`ageMs` ago;
   * NaN: not known).
   */
  settled(slot: number, guest: number, ageMs: number, now: number): boolean {
    if (this.#level(slot, now) > 0) return false
    const change = this.#table.word(slot, Slot.change)
    const owner = ownerOf(change)
    if (owner === guest) return true
    return owner === NONE ? ageMs >= SETTLED_MS : ticksSince(change, now) >= ticksFor(SETTLED_MS)
  }

  /** A change met a lease: what it is about is shared by those who want to cache it. */
  raise(slot: number, now: number): void {
    this.#setLevel(slot, Math.min(this.#level(slot, now) + 1, MOST_LEVELS), now)
  }

  /** A change met none: while there are changes nothing is forgotten. */
  remember(slot: number, now: number): void {
    const level = this.#level(slot, now)
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
   * The inode was found to have changed last `ageMs` ago (by its ctime). When that is lately, and after the last change
   * of a guest, it was a process of the host: all daemons are told. True when it was news.
   */
  changedBefore(slot: number, ageMs: number, now: number): boolean {
    if (!(ageMs > -MOST_AHEAD_MS && ageMs < this.quietMs(slot, now))) return false
    const table = this.#table
    const known = table.word(slot, Slot.change)
    const age = Math.max(0, Math.ceil(ageMs / TICK_MS))
    // A guest's change that is under way explains it, and so does one that ended later.
    if (ticksLeft(known, now) > 0) return false
    if (ownerOf(known) !== NONE && ticksSince(known, now) <= age + SLACK_TICKS) return false
    if (!table.swap(slot, Slot.change, known, pack(HOST, now - age))) return false
    table.bump(slot)
    const lease = table.word(slot, Slot.lease)
    const met =
      ownerOf(lease) !== NONE && (ticksLeft(lease, now) > 0 || ticksSince(lease, now) < age)
    if (met) this.raise(slot, now)
    else this.remember(slot, now)
    return true
  }
}
