/** Rounds of measurements made one number each. */
import type { Measurement } from './driver.js'

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  if (sorted.length === 0) return Number.NaN
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** Medians over the rounds of one row at one depth for one contestant. */
export interface Summary {
  readonly row: string
  readonly depth: number
  readonly queues: number
  readonly contestant: string
  readonly opsPerSecond: number
  readonly p50Us: number
  readonly p99Us: number
  readonly p999Us: number
  readonly serverUsPerOp: number
  readonly driverUsPerOp: number
  readonly kicksPerRequest: number
  readonly signalsPerRequest: number
  readonly errors: number
  /** Of the separate counting run; undefined when nothing could count. */
  readonly callsPerOp: number | undefined
  readonly callsByName: Readonly<Record<string, number>>
}

export function summarize(
  contestant: string,
  rounds: readonly Measurement[],
  counted: Measurement | undefined,
): Summary {
  const first = rounds[0]!
  const of = (value: (m: Measurement) => number): number => round4(median(rounds.map(value)))
  const calls = counted?.systemCalls
  return {
    row: first.row,
    depth: first.depth,
    queues: first.queues,
    contestant,
    opsPerSecond: of(m => m.rate),
    p50Us: of(m => m.p50 / 1000),
    p99Us: of(m => m.p99 / 1000),
    p999Us: of(m => m.p999 / 1000),
    serverUsPerOp: of(m => m.serverNs / m.ops / 1000),
    driverUsPerOp: of(m => m.driverNs / m.ops / 1000),
    kicksPerRequest: of(m => m.kicks / m.requests),
    signalsPerRequest: of(m => m.signals / m.requests),
    errors: rounds.reduce((sum, m) => sum + m.errors, 0),
    callsPerOp: calls === undefined ? undefined : round4((calls.total ?? 0) / counted!.ops),
    callsByName: perOperation(calls ?? {}, counted?.ops ?? 1),
  }
}

/** Counts as numbers per operation, the most frequent first; "other" is what has no name. */
export function perOperation(
  calls: Readonly<Record<string, number>>,
  ops: number,
): Record<string, number> {
  const { total = 0, ...named } = calls
  const other = total - Object.values(named).reduce((sum, count) => sum + count, 0)
  return Object.fromEntries(
    Object.entries(other > 0 ? { ...named, other } : named)
      .map(([name, count]): [string, number] => [name, round4(count / ops)])
      .filter(([, count]) => count >= 0.005)
      .sort((a, b) => b[1] - a[1]),
  )
}

function round4(value: number): number {
  return Number(value.toPrecision(4))
}
