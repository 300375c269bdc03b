/**
 * How long to spin before sleeping. A wake-up costs both sides 10 to 15 us, a request about 1: spinning
 * pays while the guest comes back soon, and is waste when it does not. So the time grows when a sleep
 * turned out short, and shrinks when a spin was in vain.
 */
export class AdaptivePolling {
  readonly #maxUs: number
  #currentUs: number

  /** `maxUs` 0 turns polling off. */
  constructor(maxUs: number) {
    this.#maxUs = maxUs
    this.#currentUs = maxUs
  }

  /** Microseconds to spin now; 0: sleep at once. */
  get spinUs(): number {
    return this.#currentUs
  }

  spunInVain(): void {
    this.#currentUs = this.#currentUs >> 1
  }

  /** After a sleep of `us`: one that a full spin would have spared asks for more spinning. */
  slept(us: number): void {
    if (this.#maxUs === 0) return
    if (us <= this.#maxUs) this.#currentUs = Math.min(this.#maxUs, Math.max(this.#currentUs * 2, 8))
  }
}
