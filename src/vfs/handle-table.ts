/** Open files and directories by fh: slot index in the low 32 bits, generation above, below 2^53. */
import { highestGeneration, MAX_GENERATION, settleSlots, slotOf, TWO32 } from './generations.js'

export class HandleTable<H> {
  readonly #slots: (H | undefined)[] = []
  readonly #generations: number[] = []
  readonly #free: number[] = []
  #size = 0

  get size(): number {
    return this.#size
  }

  insert(handle: H): number {
    const slot = this.#free.pop() ?? this.#slots.length
    if (slot === this.#slots.length) this.#generations.push(0)
    this.#slots[slot] = handle
    this.#size++
    return this.#generations[slot]! * TWO32 + slot
  }

  /** As `insert`, at the place that `fh` of another table names. False: it is taken. `settle` ends a row of these. */
  insertAt(handle: H, fh: number): boolean {
    const slot = slotOf(fh)
    if (this.#slots[slot] !== undefined) return false
    this.#free.length = 0
    while (this.#slots.length <= slot) {
      this.#slots.push(undefined)
      this.#generations.push(0)
    }
    this.#slots[slot] = handle
    this.#generations[slot] = Math.floor(fh / TWO32)
    this.#size++
    return true
  }

  /** Frees the places that `insertAt` left, for fhs above every one of `generation`. */
  settle(generation: number): void {
    settleSlots(this.#slots, this.#generations, this.#free, 0, generation)
  }

  /** The highest generation of any fh so far. */
  get generation(): number {
    return highestGeneration(this.#generations)
  }

  get(fh: number): H | undefined {
    const slot = slotOf(fh)
    return this.#generations[slot] === (fh - slot) / TWO32 ? this.#slots[slot] : undefined
  }

  /** Takes the handle out; undefined when there is none of that number. */
  remove(fh: number): H | undefined {
    const handle = this.get(fh)
    if (handle === undefined) return undefined
    const slot = slotOf(fh)
    this.#slots[slot] = undefined
    this.#size--
    const generation = this.#generations[slot]! + 1
    this.#generations[slot] = generation
    if (generation <= MAX_GENERATION) this.#free.push(slot)
    return handle
  }

  /** Handles with their fh. */
  *entries(): IterableIterator<[fh: number, handle: H]> {
    for (const [slot, handle] of this.#slots.entries())
      if (handle !== undefined) yield [this.#generations[slot]! * TWO32 + slot, handle]
  }

  *[Symbol.iterator](): IterableIterator<H> {
    for (const handle of this.#slots) if (handle !== undefined) yield handle
  }

  /** Takes every handle out, after `visit` saw it. */
  clear(visit: (handle: H) => void): void {
    for (let slot = 0; slot < this.#slots.length; slot++) {
      const handle = this.#slots[slot]
      if (handle === undefined) continue
      visit(handle)
      this.remove(this.#generations[slot]! * TWO32 + slot)
    }
  }
}
