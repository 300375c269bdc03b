/** Puts the time limits that leases allow into the entries of READDIRPLUS, on their way to the reply. */
import type { EntryReply } from '../vfs/replies.js'
import type { DirectorySink } from '../vfs/request.js'
import type { LeasedReplies } from './leased-replies.js'

/**
 * A reply is cut short after so long: its entries' leases run already, the guest's timeouts only when it has
 * the whole reply. The guest asks for the rest.
 */
const MOST_MS = 20

export class LeasingSink implements DirectorySink {
  readonly plus = true
  readonly #replies: LeasedReplies
  #to: DirectorySink | undefined
  #dirMs = 0
  /** A fraction from the start: see MetadataCache. */
  #untilMs = 0.5
  #any = false
  #looked = 0

  constructor(replies: LeasedReplies) {
    this.#replies = replies
  }

  /** After the lease on the directory was asked for: the guest has it for `dirMs`. */
  begin(to: DirectorySink, dirMs: number, looked: number): void {
    this.#to = to
    this.#dirMs = dirMs
    this.#looked = looked
    this.#any = false
    this.#untilMs = this.#replies.nowMs + MOST_MS
  }

  get entry(): EntryReply {
    return this.#to!.entry
  }

  fits(nameBytes: number): boolean {
    // It was this late after the host had been asked for the last entry: that is what may take long.
    if (this.#any && this.#replies.nowMs > this.#untilMs) return false
    return this.#to!.fits(nameBytes)
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
      this.#any = this.#dirMs > 0
      this.#replies.readClock()
      this.#replies.entry(to.entry, this.#dirMs, this.#looked)
    }
    return to.add(nameAt, nameBytes, type, inoLow, inoHigh, cookieLow, cookieHigh, withEntry)
  }
}
