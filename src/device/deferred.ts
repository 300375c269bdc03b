/** Requests that wait to be handed in again: taken from their ring, not begun, not given back. */

export interface DeferredRequest {
  readonly queue: number
  readonly head: number
  /** When it was handed in first, and when it is due; of performance.now(). */
  readonly sinceMs: number
  readonly dueMs: number
}

export class DeferredRequests {
  #requests: DeferredRequest[] = []

  get count(): number {
    return this.#requests.length
  }

  add(request: DeferredRequest): void {
    this.#requests.push(request)
  }

  /** Takes the oldest that is due at `nowMs`, if any. */
  take(nowMs: number): DeferredRequest | undefined {
    const index = this.#requests.findIndex(request => request.dueMs <= nowMs)
    return index < 0 ? undefined : this.#requests.splice(index, 1)[0]
  }

  has(queue: number): boolean {
    return this.#requests.some(request => request.queue === queue)
  }

  /** Whole milliseconds until the next is due; -1: there is none. */
  waitMs(nowMs: number): number {
    let next = Number.POSITIVE_INFINITY
    for (const { dueMs } of this.#requests) next = Math.min(next, dueMs)
    return next === Number.POSITIVE_INFINITY ? -1 : Math.max(0, Math.ceil(next - nowMs))
  }
}
