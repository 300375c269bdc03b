/** Requests that wait for their answer: what is kept of each meanwhile, and how many of which kind there are. */
import { Errno } from '../../protocol/errno.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import type { Buffers } from './buffers.js'
import { type FuseRequest, OUT_HEADER_BYTES } from './request.js'

/** A reply that comes later has this much body at most (fuse_write_out, fuse_lk_out). */
const LATE_BODY_BYTES = 32
/** Segments a late reply's header and body can lie in: a byte each at worst. */
export const LATE_SEGMENTS = OUT_HEADER_BYTES + LATE_BODY_BYTES
/** Requests that can wait for their answer at once: as many as the pool takes jobs (kMaxJobs). */
const MAX_PENDING = 16384
/** Interrupts remembered that came before their request, on another ring. */
const EARLY_INTERRUPTS = 64

/** One of them: where it came from, and where its reply's first bytes go. */
export class Pending {
  queue = 0
  head = 0
  opcode = 0
  nodeid = 0
  uniqueLow = 0
  uniqueHigh = 0
  writeBytes = 0
  /** It counts against the room for those that wait for what others do. */
  mayLast = false
  /** It does not wait for anything: the pool moves its data. */
  spread = false
  segmentCount = 0
  readonly segments = new Float64Array(LATE_SEGMENTS * 2)
}

export class PendingRequests {
  count = 0
  /** Those of them that do not wait for anything. */
  spreadCount = 0
  /** Such READs, ever. */
  spreadTotal = 0

  readonly #list: (Pending | undefined)[] = []
  readonly #spare: Pending[] = []
  readonly #freeTokens: number[] = []
  readonly #inFlight: number[] = []
  readonly #lasting: number[] = []
  /** `unique` as two words, oldest first. */
  readonly #early: [low: number, high: number][] = []

  get(token: number): Pending | undefined {
    return this.#list[token]
  }

  /** Those of a queue. */
  inFlight(queue: number): number {
    return this.#inFlight[queue] ?? 0
  }

  /**
   * Remembers the request in hand, whose buffers are in `from`, the list of segments. Returns its token. Errors: EAGAIN
   * too many wait.
   */
  add(
    queue: number,
    head: number,
    request: FuseRequest,
    buffers: Buffers,
    from: Float64Array,
    mayLast: boolean,
    spread: boolean,
  ): number {
    const token = this.#freeTokens.pop() ?? this.#list.length
    if (token >= MAX_PENDING) return -Errno.EAGAIN
    const pending = this.#spare.pop() ?? new Pending()
    pending.queue = queue
    pending.head = head
    pending.opcode = request.opcode
    pending.nodeid = request.nodeid
    pending.uniqueLow = request.uniqueLow
    pending.uniqueHigh = request.uniqueHigh
    pending.writeBytes = buffers.writeBytes
    pending.mayLast = mayLast
    if (mayLast) this.#lasting[queue] = (this.#lasting[queue] ?? 0) + 1
    pending.spread = spread
    if (spread) {
      this.spreadCount++
      this.spreadTotal++
    }
    pending.segmentCount = copySegments(from, buffers, pending.segments)
    this.#list[token] = pending
    this.#inFlight[queue] = this.inFlight(queue) + 1
    this.count++
    return token
  }

  /** Whether the request in hand may wait for what others do. Errors: EINTR it was interrupted before; EAGAIN `room` such wait. */
  mayLast(queue: number, { uniqueLow, uniqueHigh }: FuseRequest, room: number): number {
    const early = this.#early.findIndex(([low, high]) => low === uniqueLow && high === uniqueHigh)
    if (early >= 0) {
      this.#early.splice(early, 1)
      return -Errno.EINTR
    }
    return (this.#lasting[queue] ?? 0) < room ? 0 : -Errno.EAGAIN
  }

  /** The one of this token waits no more; `recycle` follows. */
  remove(token: number, pending: Pending): void {
    this.#list[token] = undefined
    this.#freeTokens.push(token)
    this.#inFlight[pending.queue]!--
    if (pending.mayLast) this.#lasting[pending.queue]!--
    this.count--
    if (pending.spread) this.spreadCount--
  }

  /** Nobody looks at it any more. */
  recycle(pending: Pending): void {
    this.#spare.push(pending)
  }

  /** Token of a request, or -1: there is none, and the interrupt is remembered until it comes. */
  interrupted(uniqueLow: number, uniqueHigh: number): number {
    const token = this.#list.findIndex(
      one => one !== undefined && one.uniqueLow === uniqueLow && one.uniqueHigh === uniqueHigh,
    )
    if (token >= 0) return token
    this.#early.push([uniqueLow, uniqueHigh])
    if (this.#early.length > EARLY_INTERRUPTS) this.#early.shift()
    return -1
  }

  /** Tokens of those of a queue that wait for what others do; they may be removed meanwhile. */
  *lasting(queue: number): IterableIterator<number> {
    for (const [token, pending] of this.#list.entries())
      if (pending?.mayLast === true && pending.queue === queue) yield token
  }

  /** One of them may be making the node's file longer. */
  grows(nodeid: number): boolean {
    return this.#list.some(
      one =>
        one !== undefined &&
        (one.opcode === Opcode.FUSE_COPY_FILE_RANGE ||
          one.opcode === Opcode.FUSE_COPY_FILE_RANGE_64 ||
          (one.nodeid === nodeid &&
            (one.opcode === Opcode.FUSE_WRITE || one.opcode === Opcode.FUSE_FALLOCATE))),
    )
  }
}

/** Takes the writable segments that hold the first LATE_SEGMENTS bytes of the reply. */
function copySegments(from: Float64Array, buffers: Buffers, to: Float64Array): number {
  let bytes = 0
  let count = 0
  while (count < buffers.writeCount && bytes < LATE_SEGMENTS && count < LATE_SEGMENTS) {
    const at = (buffers.writeFirst + count) * 2
    to[count * 2] = from[at]!
    to[count * 2 + 1] = from[at + 1]!
    bytes += from[at + 1]!
    count++
  }
  return count
}
