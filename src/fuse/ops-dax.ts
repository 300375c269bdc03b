/** SETUPMAPPING REMOVEMAPPING, and what other opcodes owe the DAX window. */
import { Errno } from '../../protocol/errno.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import {
  fuse_removemapping_in,
  fuse_removemapping_one,
  fuse_setupmapping_in,
} from '../../protocol/fuse/structs.js'
import { isSafeU64 } from '../../protocol/struct.js'
import type { Outcome } from '../vfs/filesystem.js'
import type { Call, OperationTable } from './operation.js'

function setupMapping({ session, request }: Call): Outcome {
  if (session.dax === undefined) return -Errno.ENOSYS
  const { view } = request.context
  const In = fuse_setupmapping_in.f
  const at = request.bodyAt
  const foffset = In.foffset.get(view, at)
  const moffset = In.moffset.get(view, at)
  const length = In.len.get(view, at)
  if (!isSafeU64(foffset) || !isSafeU64(moffset) || !isSafeU64(length)) return -Errno.EINVAL
  return session.dax.setup(request.nodeid, moffset, foffset, length)
}

function removeMapping({ session, request }: Call): Outcome {
  if (session.dax === undefined) return -Errno.ENOSYS
  const { view } = request.context
  const count = fuse_removemapping_in.f.count.get(view, request.bodyAt)
  const first = request.bodyAt + fuse_removemapping_in.SIZE
  const room = request.bodyBytes - fuse_removemapping_in.SIZE
  if (count > Math.floor(room / fuse_removemapping_one.SIZE)) return -Errno.EINVAL
  const One = fuse_removemapping_one.f
  for (let i = 0; i < count; i++) {
    const at = first + i * fuse_removemapping_one.SIZE
    session.dax.remove(One.moffset.get(view, at), One.len.get(view, at))
  }
  return 0
}

export const daxOperations: OperationTable = {
  [Opcode.FUSE_SETUPMAPPING]: {
    minBody: fuse_setupmapping_in.SIZE,
    replyBytes: 0,
    run: setupMapping,
  },
  [Opcode.FUSE_REMOVEMAPPING]: {
    minBody: fuse_removemapping_in.SIZE,
    replyBytes: 0,
    run: removeMapping,
  },
}
