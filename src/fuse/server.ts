/**
 * The FUSE server: takes one request from guest buffers, has it carried out, writes the reply into
 * guest buffers. It knows nothing of rings or sockets.
 *
 * The readable part of a request is copied once to the arena, so that the guest cannot change it
 * between check and use. There are two places that write a reply: `#reply` and `complete`.
 */
import { Errno } from '../../protocol/errno.js'
import { OPCODE_LIMIT, Opcode, opcodeName } from '../../protocol/fuse/opcodes.js'
import { fuse_in_header, fuse_write_in } from '../../protocol/fuse/structs.js'
import type { Context } from '../native/context.js'
import { DEFERRED, type FileSystem, type Outcome, PENDING } from '../vfs/filesystem.js'
import type { Buffers } from './buffers.js'
import { DirectIo, ORDINARY } from './direct-io.js'
import { HEAD_BYTES, LATE_REPLY_AT, REPLY_AT, REQUEST_AT, REQUEST_BYTES } from './layout.js'
import type { Operation } from './operation.js'
import { OPERATIONS } from './operations.js'
import { ReplySink } from './ops-directory.js'
import { LATE_SEGMENTS, type Pending, PendingRequests } from './pending.js'
import { FuseRequest, OUT_HEADER_BYTES, type Suspender } from './request.js'
import { FuseSession, type SessionOptions } from './session.js'
import { SPREAD_BYTES, type Spreading } from './spreading.js'

const IN_HEADER_BYTES = fuse_in_header.SIZE

/** `handle`: the request waits; `onComplete` will be called. */
export const SUSPENDED = -1
/** `handle`: the guest broke the protocol so that no reply is possible; `violation` says how. */
export const VIOLATION = -2
/** `handle`: nothing was done; the same request wants to be handed in again after `againMs`. */
export const AGAIN = -3

export interface ServerOptions extends SessionOptions {
  /** Requests of a queue that may wait for what others do, so that room is left for others. */
  readonly waitRoom: (queue: number) => number
  /** Called when a suspended request was answered: what `handle` would have returned. */
  readonly onComplete: (queue: number, head: number, written: number) => void
  /** A handler threw: a bug of ours. The request is answered EIO. */
  readonly onFault: (message: string, cause: unknown) => void
  /** Called with each request and reply when tracing; undefined: off. */
  readonly trace?: ServerTrace | undefined
  /** undefined: the device thread moves everything that does not wait. */
  readonly spreading?: Spreading | undefined
}

export interface ServerTrace {
  /** `length` bytes of request at `at`, from fuse_in_header on. */
  request(view: DataView, at: number, length: number): void
  /** `length` bytes of reply at `at`, from fuse_out_header on; payload in guest memory is not among them. */
  reply(opcode: number, view: DataView, at: number, length: number): void
}

export class FuseServer implements Suspender {
  readonly session: FuseSession
  readonly fs: FileSystem
  /** After VIOLATION. */
  violation = ''
  /** Requests taken and errors answered, by opcode. */
  readonly requests = new Float64Array(OPCODE_LIMIT)
  readonly errors = new Float64Array(OPCODE_LIMIT)
  readonly #context: Context
  readonly #request: FuseRequest
  readonly #directIo: DirectIo
  readonly #options: ServerOptions
  readonly #call: { fs: FileSystem; session: FuseSession; request: FuseRequest; buffers: Buffers }
  readonly #pending = new PendingRequests()
  /** Segments at the end of the list, for late replies. */
  readonly #lateSegments: number
  #queue = 0
  #head = 0
  #suspended = false
  #spread = false
  /** Only the first bytes of the request could be copied. */
  #headCut = false

  constructor(context: Context, fs: FileSystem, options: ServerOptions) {
    this.#context = context
    this.fs = fs
    this.#options = options
    this.session = new FuseSession(options)
    this.#request = new FuseRequest(context, this)
    this.#directIo = new DirectIo(context, fs, this.session, this.#request)
    this.session.sink = new ReplySink(this.#request)
    this.#lateSegments = context.segments.length / 2 - LATE_SEGMENTS
    this.#call = { fs, session: this.session, request: this.#request, buffers: NO_BUFFERS }
  }

  /** After AGAIN: milliseconds until then. */
  get againMs(): number {
    return this.fs.waits?.againMs ?? 1
  }

  /** Suspended requests. */
  get pendingCount(): number {
    return this.#pending.count
  }
  /** Those of them that do not wait for anything: the pool moves their data. */
  get spreadCount(): number {
    return this.#pending.spreadCount
  }
  /** READs that the pool was given for that, ever. */
  get spreadTotal(): number {
    return this.#pending.spreadTotal
  }

  /** Those of a queue. */
  inFlight(queue: number): number {
    return this.#pending.inFlight(queue)
  }

  /**
   * Handles one request of `queue`. Returns the bytes written to the writable buffers (0 when the
   * opcode has no reply), SUSPENDED, AGAIN or VIOLATION. `head` is what `onComplete` gets back.
   * `waitedMs`: since it was handed in first, when the answer then was AGAIN.
   */
  handle(queue: number, head: number, buffers: Buffers, waitedMs = 0): number {
    const fault = this.#takeHeader(buffers)
    if (fault !== 0) return fault
    this.#queue = queue
    this.#head = head
    this.#suspended = false
    this.#spread = false
    const { opcode } = this.#request
    if (this.session.passthrough.size > 0 && !this.#headCut && this.#options.trace === undefined) {
      const written = this.#directIo.run(buffers)
      if (written !== ORDINARY) {
        this.requests[opcode]!++
        return written >= 0 ? written : this.#violateReply(opcode)
      }
    }
    const known = opcode < OPCODE_LIMIT
    if (known && waitedMs === 0) this.requests[opcode]!++
    this.#request.waitedMs = waitedMs
    const operation = known ? OPERATIONS[opcode] : undefined
    if (operation?.silent !== true && buffers.writeBytes < OUT_HEADER_BYTES)
      return this.#violate(
        `${opcodeName(opcode)} has no room for a reply (${buffers.writeBytes} bytes)`,
      )
    this.#call.buffers = buffers
    const outcome = operation === undefined ? -Errno.ENOSYS : this.#run(operation, buffers)
    if (outcome === PENDING && this.#suspended) return SUSPENDED
    if (outcome === DEFERRED) return AGAIN
    if (operation?.silent === true) return 0
    return this.#reply(operation, outcome, buffers)
  }

  /** Copies the head of the request and decodes fuse_in_header. 0, or VIOLATION. */
  #takeHeader(buffers: Buffers): number {
    const { readBytes } = buffers
    if (readBytes < IN_HEADER_BYTES) return this.#violate(`a request of ${readBytes} bytes`)
    let copied = this.#copyHead(buffers, HEAD_BYTES)
    // The data of a WRITE may lie outside guest memory: then that WRITE fails, by its own rules.
    this.#headCut = copied < 0
    if (this.#headCut) copied = this.#copyHead(buffers, IN_HEADER_BYTES + fuse_write_in.SIZE)
    if (copied < IN_HEADER_BYTES) return this.#violate('a request outside guest memory')
    const { view } = this.#context
    const request = this.#request
    request.opcode = view.getUint32(REQUEST_AT + 4, true)
    request.uniqueLow = view.getUint32(REQUEST_AT + 8, true)
    request.uniqueHigh = view.getUint32(REQUEST_AT + 12, true)
    request.nodeid = fuse_in_header.f.nodeid.get(view, REQUEST_AT)
    request.uid = view.getUint32(REQUEST_AT + 24, true)
    request.gid = view.getUint32(REQUEST_AT + 28, true)
    request.pid = view.getUint32(REQUEST_AT + 32, true)
    request.bodyAt = REQUEST_AT + IN_HEADER_BYTES
    request.bodyBytes = copied - IN_HEADER_BYTES
    request.replyRoom = Math.max(buffers.writeBytes - OUT_HEADER_BYTES, 0)
    request.resetOptional()
    return 0
  }

  #copyHead({ readFirst, readCount, readBytes }: Buffers, most: number): number {
    return this.#context.copyIn(readFirst, readCount, 0, REQUEST_AT, Math.min(readBytes, most))
  }

  /** Brings the rest of the body to the arena and cuts it to the header's `len`. 0 or -errno. */
  #takeBody(buffers: Buffers): number {
    const { view } = this.#context
    const request = this.#request
    const length = view.getUint32(REQUEST_AT, true)
    if (length < IN_HEADER_BYTES || length > buffers.readBytes) return -Errno.EINVAL
    request.bodyTotalBytes = length - IN_HEADER_BYTES
    if (request.opcode === Opcode.FUSE_WRITE) {
      request.bodyBytes = Math.min(request.bodyTotalBytes, fuse_write_in.SIZE)
      return 0
    }
    if (this.#headCut) return -Errno.EFAULT
    if (length > HEAD_BYTES) {
      if (length > REQUEST_BYTES) return -Errno.E2BIG
      const { readFirst, readCount } = buffers
      const more = length - HEAD_BYTES
      const copied = this.#context.copyIn(
        readFirst,
        readCount,
        HEAD_BYTES,
        REQUEST_AT + HEAD_BYTES,
        more,
      )
      if (copied !== more) return -Errno.EFAULT
    }
    request.bodyBytes = request.bodyTotalBytes
    return 0
  }

  #run(operation: Operation, buffers: Buffers): Outcome {
    const request = this.#request
    const fault = this.#takeBody(buffers)
    if (fault < 0) return fault
    if (this.#options.trace !== undefined)
      this.#options.trace.request(
        this.#context.view,
        REQUEST_AT,
        IN_HEADER_BYTES + request.bodyBytes,
      )
    if (!this.session.initialised && request.opcode !== Opcode.FUSE_INIT) return -Errno.EIO
    if (request.bodyBytes < operation.minBody) return -Errno.EINVAL
    if (request.replyRoom < operation.replyBytes) return -Errno.EINVAL
    if (operation.writes === true && this.fs.capabilities.readOnly) return -Errno.EROFS
    try {
      const outcome = operation.run(this.#call)
      if (operation.writes === true) this.fs.renew()
      return outcome
    } catch (cause) {
      this.#options.onFault(
        `${opcodeName(request.opcode)} of node ${request.nodeid} failed inside the daemon`,
        cause,
      )
      return -Errno.EIO
    }
  }

  /** Writes header and body of the reply; returns the bytes written. */
  #reply(operation: Operation | undefined, result: Outcome, buffers: Buffers): number {
    let outcome = result
    const { view } = this.#context
    const request = this.#request
    let body = 0
    let inPlace = 0
    if (outcome >= 0 && operation !== undefined) {
      if (operation.payloadReply === true) inPlace = outcome
      else if (operation.encode !== undefined)
        body = operation.encode(this.#call, outcome, REPLY_AT + OUT_HEADER_BYTES)
      if (body > request.replyCapacity) {
        operation.undo?.(this.#call)
        outcome = -Errno.EINVAL
        body = 0
      }
    }
    if (outcome < 0) this.#countError(request.opcode)
    const total = OUT_HEADER_BYTES + body + inPlace
    writeOutHeader(view, REPLY_AT, total, outcome, request.uniqueLow, request.uniqueHigh)
    this.#options.trace?.reply(request.opcode, view, REPLY_AT, OUT_HEADER_BYTES + body)
    const bytes = OUT_HEADER_BYTES + body
    const copied = this.#context.copyOut(buffers.writeFirst, buffers.writeCount, 0, REPLY_AT, bytes)
    if (copied === bytes) return total
    if (outcome >= 0) operation?.undo?.(this.#call)
    return this.#violateReply(request.opcode)
  }

  #violateReply(opcode: number): number {
    return this.#violate(`the reply of ${opcodeName(opcode)} goes outside guest memory`)
  }

  #countError(opcode: number): void {
    if (opcode < OPCODE_LIMIT) this.errors[opcode]!++
  }

  #violate(what: string): number {
    this.violation = what
    return VIOLATION
  }

  // --- requests that are answered later ---------------------------------------------------------

  spreads(bytes: number): boolean {
    const { spreading } = this.#options
    if (spreading === undefined || bytes < SPREAD_BYTES || !spreading.moreWaits()) return false
    this.#spread = this.spreadCount < spreading.helpers(this.spreadCount)
    return this.#spread
  }

  suspend(mayLast: boolean): number {
    const request = this.#request
    const queue = this.#queue
    if (mayLast) {
      const fault = this.#pending.mayLast(queue, request, this.#options.waitRoom(queue))
      if (fault < 0) return fault
    }
    const { buffers } = this.#call
    const { segments } = this.#context
    const token = this.#pending.add(
      queue,
      this.#head,
      request,
      buffers,
      segments,
      mayLast,
      this.#spread,
    )
    if (token >= 0) this.#suspended = true
    return token
  }

  /** FUSE_INTERRUPT. It comes on another ring, and so perhaps before what it is about. */
  interrupt(uniqueLow: number, uniqueHigh: number): void {
    const token = this.#pending.interrupted(uniqueLow, uniqueHigh)
    if (token >= 0) this.fs.interrupt(token, -Errno.EINTR)
  }

  /** Answers those requests of a queue that wait for what others do: ENOLCK. */
  giveUpWaits(queue: number): void {
    for (const token of this.#pending.lasting(queue)) this.fs.interrupt(token, -Errno.ENOLCK)
  }

  complete(token: number, result: Outcome): void {
    const pending = this.#pending.get(token)
    if (pending === undefined) throw new Error(`request ${token} was answered twice`)
    this.#pending.remove(token, pending)
    this.fs.waits?.completed(token)
    const written = this.#replyLate(pending, result)
    this.#pending.recycle(pending)
    this.#options.onComplete(pending.queue, pending.head, written)
  }

  /** A suspended request may be making the node's file longer. */
  grows(nodeid: number): boolean {
    return this.#pending.grows(nodeid)
  }

  /** The suspended request in hand was not submitted after all: it will be answered by its return value. */
  cancel(token: number): void {
    const pending = this.#pending.get(token)
    if (pending === undefined) return
    this.#pending.remove(token, pending)
    this.#suspended = false
    this.#pending.recycle(pending)
  }

  #replyLate(pending: Pending, outcome: Outcome): number {
    const { view, segments } = this.#context
    const operation = OPERATIONS[pending.opcode]
    let body = 0
    let inPlace = 0
    if (outcome < 0) this.#countError(pending.opcode)
    else if (operation?.payloadReply === true) inPlace = outcome
    else if (operation?.encode !== undefined)
      body = operation.encode(this.#call, outcome, LATE_REPLY_AT + OUT_HEADER_BYTES)
    const bytes = OUT_HEADER_BYTES + body
    const total = bytes + inPlace
    writeOutHeader(view, LATE_REPLY_AT, total, outcome, pending.uniqueLow, pending.uniqueHigh)
    this.#options.trace?.reply(pending.opcode, view, LATE_REPLY_AT, OUT_HEADER_BYTES + body)
    for (let i = 0; i < pending.segmentCount * 2; i++)
      segments[this.#lateSegments * 2 + i] = pending.segments[i]!
    const copied = this.#context.copyOut(
      this.#lateSegments,
      pending.segmentCount,
      0,
      LATE_REPLY_AT,
      bytes,
    )
    return copied === bytes ? total : 0
  }
}

const NO_BUFFERS: Buffers = {
  readFirst: 0,
  readCount: 0,
  readBytes: 0,
  writeFirst: 0,
  writeCount: 0,
  writeBytes: 0,
}

/** struct fuse_out_header; `outcome` below 0 is the error. */
function writeOutHeader(
  view: DataView,
  at: number,
  length: number,
  outcome: Outcome,
  uniqueLow: number,
  uniqueHigh: number,
): void {
  view.setUint32(at, length, true)
  view.setInt32(at + 4, outcome < 0 ? clampErrno(outcome) : 0, true)
  view.setUint32(at + 8, uniqueLow, true)
  view.setUint32(at + 12, uniqueHigh, true)
}

/** Linux drops a reply whose error is outside (-512, 0): such an outcome would be a back end's bug. */
function clampErrno(outcome: Outcome): number {
  return outcome > -512 ? outcome : -Errno.EIO
}
