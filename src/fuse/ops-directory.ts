/** OPENDIR READDIR READDIRPLUS RELEASEDIR FSYNCDIR. */
import { direntBytes, writeDirent } from '../../protocol/fuse/dirent.js'
import { FUSE_FSYNC_FDATASYNC } from '../../protocol/fuse/flags.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import {
  fuse_entry_out,
  fuse_fsync_in,
  fuse_open_in,
  fuse_open_out,
  fuse_read_in,
  fuse_release_in,
} from '../../protocol/fuse/structs.js'
import type { Outcome } from '../vfs/filesystem.js'
import type { EntryReply } from '../vfs/replies.js'
import type { DirectorySink } from '../vfs/request.js'
import { encodeEntry, encodeOpen } from './encode.js'
import type { Call, OperationTable } from './operation.js'
import { BYTES_IN_PLACE } from './ops-inode.js'
import type { FuseRequest } from './request.js'

/** fuse_dirent.namelen. */
const DIRENT_NAMELEN = 16

/** Packs entries into the reply body. One per server, reset for each request. */
export class ReplySink implements DirectorySink {
  plus = false
  readonly entry: EntryReply
  /** Bytes packed so far. */
  bytes = 0
  readonly #request: FuseRequest
  #limit = 0

  constructor(request: FuseRequest) {
    this.#request = request
    this.entry = request.entry
  }

  reset(plus: boolean, limit: number): void {
    this.plus = plus
    this.bytes = 0
    this.#limit = limit
  }

  fits(nameBytes: number): boolean {
    return this.bytes + this.#prefix() + direntBytes(nameBytes) <= this.#limit
  }

  expire(): void {
    if (!this.plus) return
    const { view } = this.#request.context
    const F = fuse_entry_out.f
    forEachEntry(view, this.#request.replyAt, this.bytes, at => {
      F.entry_valid.set(view, at, 0)
      F.entry_valid_nsec.set(view, at, 0)
      F.attr_valid.set(view, at, 0)
      F.attr_valid_nsec.set(view, at, 0)
    })
  }

  #prefix(): number {
    return this.plus ? fuse_entry_out.SIZE : 0
  }

  add(
    nameAt: number,
    nameBytes: number,
    type: number,
    inoLow: number,
    inoHigh: number,
    cookieLow: number,
    cookieHigh: number,
    withEntry: boolean,
  ): boolean {
    if (!this.fits(nameBytes)) return false
    const { view, bytes } = this.#request.context
    let at = this.#request.replyAt + this.bytes
    const start = at
    if (this.plus) {
      // Nodeid 0 in READDIRPLUS: no entry to instantiate, the name is all there is.
      if (withEntry) encodeEntry(view, at, this.entry)
      else bytes.fill(0, at, at + fuse_entry_out.SIZE)
      at += fuse_entry_out.SIZE
    }
    at += writeDirent(
      view,
      bytes,
      at,
      inoLow,
      inoHigh,
      cookieLow,
      cookieHigh,
      type,
      bytes,
      nameAt,
      nameBytes,
    )
    this.bytes += at - start
    return true
  }
}

function readdir({ fs, session, request }: Call, plus: boolean): Outcome {
  const { view } = request.context
  const In = fuse_read_in.f
  const { sink } = session
  const size = In.size.get(view, request.bodyAt)
  sink.reset(plus, Math.min(size, request.replyCapacity))
  const cookieAt = request.bodyAt + In.offset.offset
  const fh = In.fh.get(view, request.bodyAt)
  const low = view.getUint32(cookieAt, true)
  const high = view.getUint32(cookieAt + 4, true)
  const outcome = fs.readdir(request, request.nodeid, fh, low, high, sink)
  return outcome < 0 ? outcome : sink.bytes
}

/** Gives back the lookups of a READDIRPLUS reply that could not be delivered. */
function undoReaddirplus({ fs, session, request }: Call): void {
  const { view } = request.context
  forEachEntry(view, request.replyAt, session.sink.bytes, at => {
    const nodeid = fuse_entry_out.f.nodeid.get(view, at)
    if (nodeid !== 0) fs.forget(nodeid, 1)
  })
}

/** Each fuse_direntplus of a reply's body of `bytes` at `start`. */
function forEachEntry(
  view: DataView,
  start: number,
  bytes: number,
  use: (at: number) => void,
): void {
  for (let at = start; at < start + bytes; ) {
    use(at)
    at += fuse_entry_out.SIZE
    at += direntBytes(view.getUint32(at + DIRENT_NAMELEN, true))
  }
}

export const directoryOperations: OperationTable = {
  [Opcode.FUSE_OPENDIR]: {
    minBody: fuse_open_in.SIZE,
    replyBytes: fuse_open_out.SIZE,
    run({ fs, request }) {
      request.opened.reset()
      const flags = fuse_open_in.f.flags.get(request.context.view, request.bodyAt)
      return fs.opendir(request, request.nodeid, flags, request.opened)
    },
    encode: ({ request }, _outcome, at) => encodeOpen(request.context.view, at, request.opened),
    undo: ({ fs, request }) => {
      fs.releasedir(request, request.nodeid, request.opened.fh)
    },
  },
  [Opcode.FUSE_READDIR]: {
    minBody: fuse_read_in.SIZE,
    replyBytes: 0,
    run: call => readdir(call, false),
    encode: BYTES_IN_PLACE,
  },
  [Opcode.FUSE_READDIRPLUS]: {
    minBody: fuse_read_in.SIZE,
    replyBytes: 0,
    run: call => readdir(call, true),
    encode: BYTES_IN_PLACE,
    undo: undoReaddirplus,
  },
  [Opcode.FUSE_RELEASEDIR]: {
    minBody: fuse_release_in.SIZE,
    replyBytes: 0,
    run: ({ fs, request }) =>
      fs.releasedir(
        request,
        request.nodeid,
        fuse_release_in.f.fh.get(request.context.view, request.bodyAt),
      ),
  },
  [Opcode.FUSE_FSYNCDIR]: {
    minBody: fuse_fsync_in.SIZE,
    replyBytes: 0,
    run({ fs, request }) {
      const { view } = request.context
      const flags = fuse_fsync_in.f.fsync_flags.get(view, request.bodyAt)
      const fh = fuse_fsync_in.f.fh.get(view, request.bodyAt)
      return fs.fsyncdir(request, request.nodeid, fh, (flags & FUSE_FSYNC_FDATASYNC) !== 0)
    },
  },
}
