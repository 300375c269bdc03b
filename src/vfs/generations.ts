/**
 * Ids of a table: a slot index in the low 32 bits and the slot's generation, 20 bits, above it; so below
 * 2^53. And what both tables do when a guest's ids come from another daemon, which is not for the hot path.
 */
export const TWO32 = 0x1_0000_0000
export const MAX_GENERATION = 0xfffff

/** The slot that an id, or any other number, names. (`%` of what is no small integer takes eight times as long.) */
export function slotOf(id: number): number {
  return id >>> 0
}

/** Frees the empty places from `first` on, for ids above every one of `generation`. */
export function settleSlots(
  slots: readonly unknown[],
  generations: number[],
  free: number[],
  first: number,
  generation: number,
): void {
  free.length = 0
  for (let slot = slots.length - 1; slot >= first; slot--) {
    if (slots[slot] !== undefined) continue
    const next = Math.max(generations[slot]!, generation + 1)
    generations[slot] = next
    if (next <= MAX_GENERATION) free.push(slot)
  }
}

/** The highest generation of any id so far. */
export function highestGeneration(generations: readonly number[]): number {
  let highest = 0
  for (const generation of generations) highest = Math.max(highest, generation)
  return Math.min(highest, MAX_GENERATION)
}
