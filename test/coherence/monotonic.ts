/** CLOCK_MONOTONIC in milliseconds, as the daemons' `Context.nowUs`: the same in every process of the host. */
export function monotonicMs(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1000 + nanoseconds / 1e6
}
