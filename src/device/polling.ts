/**
 * Whether to spin before sleeping, and how long. A wake-up costs both sides 10 to 25 us, a request about
 * 1: spinning pays while the guest comes back soon, and is waste when it does not. So it goes on while it
 * finds work; after a few spins in vain it pauses for some sleeps, each time for more, and begins again
 * when sleeps are so short that a spin would have spared them. Where others wait for the CPU it pauses at once.
 */

/** A sleep lasts so much longer than the spin in its place would: both sides wake up. Microseconds. */
const WAKE_UP_US = 50
const SPINS_IN_VAIN = 4
const MOST_PAUSES = 256

/** Spins that are looked at together: how often did others take the CPU meanwhile? */
const SPINS_TO_LOOK = 64
/** So often they may have; oftener, and the CPU has better things to do than to spin. */
const MOST_PREEMPTIONS = 8

export class AdaptivePolling {
  readonly #maxUs: number
  #inVain = 0
  /** Short sleeps to go before spinning again. */
  #pause = 0
  #nextPause = 1
  #spins = 0
  #preemptions = 0

  /** `maxUs` 0 turns polling off. */
  constructor(maxUs: number) {
    this.#maxUs = maxUs
  }

  /** Microseconds to spin now; 0: sleep at once. */
  get spinUs(): number {
    return this.#pause > 0 ? 0 : this.#maxUs
  }

  /** A spin ended. True: `preempted` wants to be called. */
  get wantsToKnow(): boolean {
    const spin = this.#spins++ % SPINS_TO_LOOK
    return spin === 0 || spin === SPINS_TO_LOOK - 1
  }

  /** `count`: how often others took this thread's CPU since it began. */
  preempted(count: number): void {
    if (this.#spins % SPINS_TO_LOOK !== 0) this.#preemptions = count
    else if (count - this.#preemptions > MOST_PREEMPTIONS) this.#pause = MOST_PAUSES
  }

  /** A spin ended with work to do. */
  spun(): void {
    this.#inVain = 0
    this.#nextPause = 1
  }

  spunInVain(): void {
    if (++this.#inVain < SPINS_IN_VAIN) return
    this.#inVain = 0
    this.#pause = this.#nextPause
    this.#nextPause = Math.min(this.#nextPause * 2, MOST_PAUSES)
  }

  /** After a sleep of `us`: one that a spin would have spared asks for spinning. */
  slept(us: number): void {
    if (us > this.#maxUs + WAKE_UP_US) this.#pause = Math.max(this.#pause, 1)
    else if (this.#pause > 0) this.#pause--
  }
}
