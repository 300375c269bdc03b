/**
 * Is there an order of reads and writes of one register, each at some moment between its begin and its end,
 * in which every read finds what the last write before it wrote? Each write writes another value.
 *
 * Gibbons and Korach, "Testing shared memories", SIAM J. Comput. 26(4), 1997, section 4: the operations of a
 * value make a zone, from the first end to the last begin; forward zones must not overlap, and none may
 * hold a backward one.
 */
export interface Operation {
  readonly kind: 'read' | 'write'
  readonly value: number
  readonly begin: number
  readonly end: number
}

/** What is wrong with the history, or ''. A value that nobody wrote counts as there from the start. */
export function checkRegister(history: readonly Operation[]): string {
  const zones = new Map<number, { firstEnd: number; lastBegin: number; written: number }>()
  for (const { kind, value, begin, end } of history) {
    let zone = zones.get(value)
    if (zone === undefined) {
      zone = { firstEnd: Number.POSITIVE_INFINITY, lastBegin: -1, written: -1 }
      zones.set(value, zone)
    }
    zone.firstEnd = Math.min(zone.firstEnd, end)
    zone.lastBegin = Math.max(zone.lastBegin, begin)
    if (kind === 'write') {
      if (zone.written >= 0) return `${value} was written twice`
      zone.written = begin
    }
  }
  for (const [value, zone] of zones) {
    // The value from before the history was written before all.
    if (zone.written < 0) zone.firstEnd = -1
    const early = history.some(
      one => one.kind === 'read' && one.value === value && one.end < zone.written,
    )
    if (early) return `${value} was read before it was written`
  }
  const forward = [...zones]
    .filter(([, zone]) => zone.firstEnd < zone.lastBegin)
    .toSorted(([, a], [, b]) => a.firstEnd - b.firstEnd)
  for (let i = 1; i < forward.length; i++) {
    const [value, zone] = forward[i]!
    const [before, former] = forward[i - 1]!
    if (zone.firstEnd < former.lastBegin) return `${before} was read after ${value} was there`
  }
  for (const [value, zone] of zones) {
    if (zone.firstEnd < zone.lastBegin) continue
    const around = forward.find(
      ([, other]) => other.firstEnd < zone.lastBegin && zone.firstEnd < other.lastBegin,
    )
    if (around !== undefined) return `${around[0]} was read before and after ${value}`
  }
  return ''
}
