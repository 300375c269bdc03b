/** GETLK SETLK SETLKW. */
import { Errno } from '../../protocol/errno.js'
import { FUSE_LK_FLOCK } from '../../protocol/fuse/flags.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import { fuse_lk_in, fuse_lk_out } from '../../protocol/fuse/structs.js'
import type { Outcome } from '../vfs/filesystem.js'
import type { Call, OperationTable } from './operation.js'

/** OFFSET_MAX: "to the end of the file". */
const OFFSET_MAX = 0x7fff_ffff_ffff_ffffn

function decodeRange({ request }: Call): number {
  const { view } = request.context
  const { range, bodyAt } = request
  const In = fuse_lk_in.f
  const start = In.lk_start.get(view, bodyAt)
  const end = In.lk_end.get(view, bodyAt)
  if (start > end || start > BigInt(Number.MAX_SAFE_INTEGER)) return -Errno.EINVAL
  range.start = Number(start)
  // No file is so long: what ends past 2^53 has no end.
  range.end = end > BigInt(Number.MAX_SAFE_INTEGER) ? Number.POSITIVE_INFINITY : Number(end)
  if (end > OFFSET_MAX) return -Errno.EINVAL
  range.type = In.lk_type.get(view, bodyAt)
  range.pid = In.lk_pid.get(view, bodyAt)
  range.ownerLow = view.getUint32(bodyAt + In.owner.offset, true)
  range.ownerHigh = view.getUint32(bodyAt + In.owner.offset + 4, true)
  range.flock = (In.lk_flags.get(view, bodyAt) & FUSE_LK_FLOCK) !== 0
  return range.type > 2 ? -Errno.EINVAL : 0
}

function getlk(call: Call): Outcome {
  const { fs, request } = call
  const fault = decodeRange(call)
  if (fault < 0) return fault
  const fh = fuse_lk_in.f.fh.get(request.context.view, request.bodyAt)
  return fs.getlk(request, request.nodeid, fh, request.range)
}

function setlk(call: Call, wait: boolean): Outcome {
  const { fs, request } = call
  const fault = decodeRange(call)
  if (fault < 0) return fault
  const fh = fuse_lk_in.f.fh.get(request.context.view, request.bodyAt)
  return fs.setlk(request, request.nodeid, fh, request.range, wait)
}

export const lockOperations: OperationTable = {
  [Opcode.FUSE_GETLK]: {
    minBody: fuse_lk_in.SIZE,
    replyBytes: fuse_lk_out.SIZE,
    run: getlk,
    encode({ request }, _outcome, at) {
      const { view } = request.context
      const { range } = request
      const Out = fuse_lk_out.f
      Out.lk_start.set(view, at, BigInt(range.start))
      Out.lk_end.set(view, at, Number.isFinite(range.end) ? BigInt(range.end) : OFFSET_MAX)
      Out.lk_type.set(view, at, range.type)
      Out.lk_pid.set(view, at, range.pid)
      return fuse_lk_out.SIZE
    },
  },
  [Opcode.FUSE_SETLK]: { minBody: fuse_lk_in.SIZE, replyBytes: 0, run: call => setlk(call, false) },
  [Opcode.FUSE_SETLKW]: { minBody: fuse_lk_in.SIZE, replyBytes: 0, run: call => setlk(call, true) },
}
