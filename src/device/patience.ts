/**
 * The hiprio queue carries what its driver waits for no answer to: FORGET. With `--cache=never` one comes with every
 * stat, and a kick and a signal for each would be a third of all wake-ups. So while the guest is at work neither is
 * in a hurry: a FORGET is taken when a request has woken the device anyway, and the driver is signalled when
 * nothing has come for LINGER_MS, half of the ring is to be given back, or some requests later. A driver that
 * does wait (it sends the next FORGET after the signal) is found by that: where waiting was in vain some times,
 * it pauses.
 *
 * Source: virtio 1.3, sections 2.7.7 and 2.7.10: the notifications asked for are sent, when is left open.
 */

/**
 * How long a FORGET or its signal may lie. More than a scheduler's tick (4 ms with HZ=250): a timer that comes
 * before it is one more for the host's clock to be set to, with every sleep. A guest that unmounts or removes the
 * device waits for its last FORGET so long.
 */
export const LINGER_MS = 10

const IN_VAIN = 4
const MOST_PAUSES = 256

export class Patience {
  /** Something was given back without a signal, or may wait without a kick. */
  waiting = false
  #inVain = 0
  /** Batches to go without waiting. */
  #pause = 0
  #nextPause = 1

  /** A batch of the hiprio queue is about to be served. */
  served(): void {
    if (this.#pause > 0) this.#pause--
    else this.waiting = true
  }

  /** A batch of requests is about to be served. */
  paid(): void {
    if (!this.waiting) return
    this.#inVain = 0
    this.#nextPause = 1
  }

  /** Nothing came in LINGER_MS. */
  timedOut(): void {
    this.waiting = false
    if (++this.#inVain < IN_VAIN) return
    this.#inVain = 0
    this.#pause = this.#nextPause
    this.#nextPause = Math.min(this.#nextPause * 2, MOST_PAUSES)
  }

  /** It is enough, whatever came. */
  end(): void {
    this.waiting = false
  }
}
