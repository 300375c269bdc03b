/** Puts the time limits that leases allow into the entries of READDIRPLUS, on their way to the reply. */
import type { EntryReply } from '../vfs/replies.js'
import type { DirectorySink } from '../vfs/request.js'
import type { LeasedReplies } from './leased-replies.js'

/**
 * A reply is cut short after so long: its entries' leases run already, the guest's timeouts only when it has
 * the whole reply. The guest asks for the rest.
 */
const MOST_MS = 20
/** Where one entry was waited for longer than that nothing may be cached. */
const TOO_LATE_MS = 2 * MOST_MS
/** While the host answers at once the clock is read for so many entries together; else for each. */
const TOGETHER = 8
const AT_ONCE_MS = 1

export class LeasingSink implements DirectorySink {
  readonly plus = true
  readonly #replies: LeasedReplies
  #to: DirectorySink | undefined
  #dirMs = 0
  /** A fraction from the start: see MetadataCache. */
  #beganMs = 0.5
  #any = false
  #looked = 0
  /** Entries until the clock is read again. */
  #left = 0

  constructor(replies: LeasedReplies) {
    this.#replies = replies
  }

  /** After the lease on the directory was asked for: the guest has it for `dirMs`. */
  begin(to: DirectorySink, dirMs: number, looked: number): void {
    this.#to = to
    this.#dirMs = dirMs
    this.#looked = looked
    this.#any = false
    this.#beganMs = this.#replies.nowMs
    this.#left = 0
  }

  /** After the last entry. */
  end(): void {
    if (!this.#any) return
    this.#replies.readClock()
    if (this.#replies.nowMs - this.#beganMs > TOO_LATE_MS) this.#to!.expire()
  }

  get entry(): EntryReply {
    return this.#to!.entry
  }

  expire(): void {
    this.#to!.expire()
  }

  fits(nameBytes: number): boolean {
    // It was this late after the host had been asked for one of the last entries: that is what may take long.
    if (this.#any && this.#replies.nowMs - this.#beganMs > MOST_MS) return false
    return this.#to!.fits(nameBytes)
  }

  #readClock(): void {
    const beforeMs = this.#replies.nowMs
    this.#replies.readClock()
    this.#left = this.#replies.nowMs - beforeMs <= AT_ONCE_MS ? TOGETHER - 1 : 0
  }

  add(
    nameAt: number,
    nameBytes: number,
    type: number,
    inoLow: number,
    inoHigh: number,
    cookieLow: number,
    cookieHigh: number,
    withEntry: boolean,
  ): boolean {
    const to = this.#to!
    if (withEntry) {
      if (this.#dirMs > 0) this.#any = true
      if (--this.#left < 0) this.#readClock()
      this.#replies.entry(to.entry, this.#dirMs, this.#looked)
    }
    return to.add(nameAt, nameBytes, type, inoLow, inoHigh, cookieLow, cookieHigh, withEntry)
  }
}
