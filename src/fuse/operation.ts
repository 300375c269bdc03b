/** What one opcode is to the server: the row of its table. */
import type { FileSystem, Outcome } from '../vfs/filesystem.js'
import type { Buffers } from './buffers.js'
import type { FuseRequest } from './request.js'
import type { FuseSession } from './session.js'

/** What a handler works with. */
export interface Call {
  readonly fs: FileSystem
  readonly session: FuseSession
  readonly request: FuseRequest
  readonly buffers: Buffers
}

export interface Operation {
  /** Least bytes of body (fixed struct, and one byte for each name's NUL). Less is EINVAL. */
  readonly minBody: number
  /** Bytes of the fixed reply body; the request is not carried out unless the guest has room for it. */
  readonly replyBytes: number
  /** Changes the file system: EROFS on a read-only one. */
  readonly writes?: boolean | undefined
  /** No reply is sent (FORGET, BATCH_FORGET, INTERRUPT). */
  readonly silent?: boolean | undefined
  /** Decodes, calls the back end and returns its outcome. */
  run(call: Call): Outcome
  /**
   * Builds the reply body in the arena at `at` from an outcome `>= 0` and returns its bytes. It must
   * need nothing but the outcome when the request can be suspended. Left out: no body.
   */
  readonly encode?: ((call: Call, outcome: Outcome, at: number) => number) | undefined
  /** The outcome is the number of payload bytes already in the guest's buffers (READ). */
  readonly payloadReply?: boolean | undefined
  /** The reply could not be delivered: takes back the lookup or the handle it carried. */
  readonly undo?: ((call: Call) => void) | undefined
}

/** Some opcodes' rows, keyed by opcode. */
export type OperationTable = Readonly<Record<number, Operation>>
