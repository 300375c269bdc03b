/**
 * How many changes are under way, by slot. A file that is written again and again takes its slot and gives it back
 * with each write: a count of 0 stays for the next one, as a map that forgets and learns makes garbage.
 */

/** Counts of 0 that may stay. */
const MOST_ZEROS = 256

export class SlotCounts {
  readonly #counts = new Map<number, number>()
  #total = 0

  /** All counts together. */
  get total(): number {
    return this.#total
  }

  of(slot: number): number {
    return this.#counts.get(slot) ?? 0
  }

  add(slot: number): void {
    if (this.#total === 0 && this.#counts.size > MOST_ZEROS) this.#counts.clear()
    this.#counts.set(slot, this.of(slot) + 1)
    this.#total++
  }

  /** Undoes one `add`; returns what is left of the slot's count. */
  remove(slot: number): number {
    const left = this.of(slot) - 1
    this.#counts.set(slot, left)
    this.#total--
    return left
  }

  /** The slots with a count. Drops what stayed: to be called now and then while there is always a change under way. */
  slots(): readonly number[] {
    for (const [slot, count] of this.#counts) if (count === 0) this.#counts.delete(slot)
    return [...this.#counts.keys()]
  }
}
