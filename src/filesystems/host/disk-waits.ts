/**
 * Whether the device thread itself waits for data that a disk is about to deliver, or lets the pool do that.
 *
 * Handing a read over takes two wake-ups, of a thread of the pool and of the device thread: 30 to 60 us, about what
 * an SSD takes for 4 KiB. So where nothing else is to be done, trying again for a moment is faster and costs no more
 * CPU time. On a disk that takes longer it is waste: after a few waits in vain it pauses for some reads, each time for
 * more.
 */

/** Longest wait, microseconds. */
const MOST_US = 150
const WAITS_IN_VAIN = 4
const MOST_PAUSES = 256

export class DiskWaits {
  #inVain = 0
  /** Reads to go before it is tried again. */
  #pause = 0
  #nextPause = 16

  /** Microseconds to wait for the read in hand; 0: leave it to the pool. Asked once for each. */
  next(): number {
    if (this.#pause === 0) return MOST_US
    this.#pause--
    return 0
  }

  /** The wait brought the data. */
  paid(): void {
    this.#inVain = 0
    this.#nextPause = 16
  }

  inVain(): void {
    if (++this.#inVain < WAITS_IN_VAIN) return
    this.#inVain = 0
    this.#pause = this.#nextPause
    this.#nextPause = Math.min(this.#nextPause * 2, MOST_PAUSES)
  }
}
