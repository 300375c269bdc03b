/** CLOCK_MONOTONIC in milliseconds, the same in every process of the host, and without an allocation. */

/** performance.now() at the moment when process.hrtime() is 0. */
let offsetMs = 0
/**
 * Both clocks are read one after the other, and whoever is made to wait in between gets it wrong by that
 * much: the best of several tries counts. Leases of daemons whose clocks differ would not be worth much.
 */
let bestMs = Number.POSITIVE_INFINITY
for (let tries = 0; tries < 100 && bestMs > 0.02; tries++) {
  const before = performance.now()
  const [seconds, nanoseconds] = process.hrtime()
  const after = performance.now()
  if (after - before >= bestMs) continue
  bestMs = after - before
  offsetMs = seconds * 1000 + nanoseconds / 1e6 - before
}

export function monotonicMs(): number {
  return performance.now() + offsetMs
}
