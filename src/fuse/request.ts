/** The request being handled: decoded header, places in the arena, and the reused objects back ends are handed. */
import type { Context } from '../native/context.js'
import { Attributes, EntryReply, OpenReply, SetAttributes, StatfsReply } from '../vfs/replies.js'
import { LockRange, Name, Payload, type Request, Span } from '../vfs/request.js'
import { REPLY_AT, REPLY_BYTES, SCRATCH_AT } from './layout.js'

/** struct fuse_out_header (include/uapi/linux/fuse.h). */
export const OUT_HEADER_BYTES = 16

/** Where `suspend` and `complete` go: the server that owns the request. */
export interface Suspender {
  readonly pendingCount: number
  suspend(mayLast: boolean): number
  spreads(bytes: number): boolean
  complete(token: number, outcome: number): void
  cancel(token: number): void
  interrupt(uniqueLow: number, uniqueHigh: number): void
}

export class FuseRequest implements Request {
  readonly context: Context
  readonly scratchAt = SCRATCH_AT
  opcode = 0
  uniqueLow = 0
  uniqueHigh = 0
  nodeid = 0
  uid = 0
  gid = 0
  pid = 0
  waitedMs = 0
  token = -1
  umask = 0
  groupsAt = 0
  groupCount = -1
  readonly securityName = new Name()
  readonly securityValue = new Span()

  /** Arena offset of what follows fuse_in_header, and how many bytes of it there are. */
  bodyAt = 0
  bodyBytes = 0
  /** All readable bytes of the chain after the header, in the arena or not (WRITE). */
  bodyTotalBytes = 0
  /** Arena offset of the reply body, and the guest's room for it (may pass what the arena holds). */
  readonly replyAt = REPLY_AT + OUT_HEADER_BYTES
  replyRoom = 0

  readonly name = new Name()
  readonly name2 = new Name()
  readonly payload = new Payload()
  readonly input = new Span()
  readonly output = new Span()
  readonly entry = new EntryReply()
  readonly opened = new OpenReply()
  readonly attr = new Attributes()
  readonly change = new SetAttributes()
  readonly statfs = new StatfsReply()
  readonly range = new LockRange()

  readonly #suspender: Suspender

  constructor(context: Context, suspender: Suspender) {
    this.context = context
    this.#suspender = suspender
  }

  /** See `Request.begun`. */
  begun = false

  /** Forgets what only some opcodes carry. */
  resetOptional(): void {
    this.begun = false
    this.umask = 0
    this.groupsAt = 0
    this.groupCount = -1
    this.securityName.bytes = 0
    this.securityValue.bytes = 0
  }

  /** Bytes of reply body that fit both the guest's buffers and the arena. */
  get replyCapacity(): number {
    return Math.min(this.replyRoom, REPLY_BYTES - OUT_HEADER_BYTES)
  }

  /** Points `output` at the reply body, for at most `bytes`. */
  outputSpan(bytes: number): Span {
    this.output.at = this.replyAt
    this.output.bytes = Math.min(bytes, this.replyCapacity)
    return this.output
  }

  suspend(mayLast = false): number {
    this.token = this.#suspender.suspend(mayLast)
    return this.token
  }

  get alone(): boolean {
    return this.#suspender.pendingCount === 0
  }

  spreads(bytes: number): boolean {
    return this.#suspender.spreads(bytes)
  }

  complete(token: number, outcome: number): void {
    this.#suspender.complete(token, outcome)
  }

  cancel(token: number): void {
    this.#suspender.cancel(token)
  }

  /** The guest wants the request with this `unique` given up. */
  interrupt(uniqueLow: number, uniqueHigh: number): void {
    this.#suspender.interrupt(uniqueLow, uniqueHigh)
  }
}
