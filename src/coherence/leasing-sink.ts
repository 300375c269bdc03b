/** Puts the time limits that leases allow into the entries of READDIRPLUS, on their way to the reply. */
import type { EntryReply } from '../vfs/replies.js'
import type { DirectorySink } from '../vfs/request.js'

/**
 * A reply is cut short after so long: its entries' leases run already, the guest's timeouts only when it has
 * the whole reply. The guest asks for the rest.
 */
const MOST_MS = 20

export class LeasingSink implements DirectorySink {
  readonly plus = true
  readonly #fill: (entry: EntryReply, dirMs: number, looked: number) => void
  #to: DirectorySink | undefined
  #dirMs = 0
  #untilMs = 0
  #any = false
  #looked = 0

  constructor(fill: (entry: EntryReply, dirMs: number, looked: number) => void) {
    this.#fill = fill
  }

  begin(to: DirectorySink, dirMs: number, looked: number): void {
    this.#to = to
    this.#dirMs = dirMs
    this.#looked = looked
    this.#any = false
    this.#untilMs = performance.now() + MOST_MS
  }

  get entry(): EntryReply {
    return this.#to!.entry
  }

  fits(nameBytes: number): boolean {
    if (this.#any && this.#dirMs > 0 && performance.now() > this.#untilMs) return false
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
    this.#any = true
    if (withEntry) this.#fill(to.entry, this.#dirMs, this.#looked)
    return to.add(nameAt, nameBytes, type, inoLow, inoHigh, cookieLow, cookieHigh, withEntry)
  }
}
