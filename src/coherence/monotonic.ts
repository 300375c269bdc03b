/** CLOCK_MONOTONIC in milliseconds, the same in every process of the host, and without an allocation. */
const [seconds, nanoseconds] = process.hrtime()
const offsetMs = seconds * 1000 + nanoseconds / 1e6 - performance.now()

export function monotonicMs(): number {
  return performance.now() + offsetMs
}
