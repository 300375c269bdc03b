/**
 * Slots that changes under way have, each once for every change that has it. Few at a time: a list is faster than a
 * map, and makes no garbage where a file is written again and again.
 */
export class SlotCounts {
  #slots = new Int32Array(64)
  #total = 0

  /** All counts together. */
  get total(): number {
    return this.#total
  }

  of(slot: number): number {
    let count = 0
    for (let i = 0; i < this.#total; i++) if (this.#slots[i] === slot) count++
    return count
  }

  add(slot: number): void {
    if (this.#total === this.#slots.length) {
      const more = new Int32Array(2 * this.#total)
      more.set(this.#slots)
      this.#slots = more
    }
    this.#slots[this.#total++] = slot
  }

  /** Undoes one `add`; returns what is left of the slot's count. */
  remove(slot: number): number {
    const slots = this.#slots
    let at = this.#total - 1
    while (at >= 0 && slots[at] !== slot) at--
    if (at < 0) return 0
    slots[at] = slots[--this.#total]!
    return this.of(slot)
  }

  /** The slots with a count. */
  slots(): ReadonlySet<number> {
    return new Set(this.#slots.subarray(0, this.#total))
  }
}
