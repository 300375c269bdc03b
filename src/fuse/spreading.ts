/** When the data of one READ is copied by a thread of the pool, so that the device thread copies that of the next. */

/**
 * From so many bytes on another thread is worth waking. Measured with one helper: reads of 128 KiB cost 1.25 to 1.45
 * times the CPU and were no faster; of 256 KiB 1.02 to 1.15 times, and were 1.26 to 1.41 times as fast.
 */
export const SPREAD_BYTES = 256 * 1024

/** What decides whether several threads move data at once. */
export interface Spreading {
  /** The guest has asked for more than the request in hand. */
  moreWaits(): boolean
  /** Threads that have a CPU of their own beside the device thread's; `busy` of them are at work already. */
  helpers(busy: number): number
}
