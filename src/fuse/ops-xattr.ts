/** GETXATTR LISTXATTR SETXATTR REMOVEXATTR. */
import { Errno } from '../../protocol/errno.js'
import { FUSE_SETXATTR_ACL_KILL_SGID } from '../../protocol/fuse/flags.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import {
  FUSE_COMPAT_SETXATTR_IN_SIZE,
  fuse_getxattr_in,
  fuse_getxattr_out,
  fuse_setxattr_in,
} from '../../protocol/fuse/structs.js'
import type { Outcome } from '../vfs/filesystem.js'
import { takeString } from './decode.js'
import type { Call, OperationTable } from './operation.js'
import type { FuseRequest } from './request.js'

/** XATTR_NAME_MAX, XATTR_SIZE_MAX of include/uapi/linux/limits.h. */
const MAX_NAME_BYTES = 255
const MAX_VALUE_BYTES = 65536

function takeAttributeName(request: FuseRequest, at: number): number {
  const end = takeString(request, at, request.name)
  if (end < 0) return end
  if (request.name.bytes === 0 || request.name.bytes > MAX_NAME_BYTES) return -Errno.ERANGE
  return end
}

/** The guest asks with size 0 how much there is; the answer is then a struct, not the value. */
function askedBytes(request: FuseRequest): number {
  return fuse_getxattr_in.f.size.get(request.context.view, request.bodyAt)
}

function getxattr({ fs, request }: Call): Outcome {
  const end = takeAttributeName(request, request.bodyAt + fuse_getxattr_in.SIZE)
  if (end < 0) return end
  const asked = askedBytes(request)
  if (asked > request.replyCapacity) return -Errno.EINVAL
  return fs.getxattr(request, request.nodeid, request.name, request.outputSpan(asked))
}

function listxattr({ fs, request }: Call): Outcome {
  const asked = askedBytes(request)
  if (asked > request.replyCapacity) return -Errno.EINVAL
  return fs.listxattr(request, request.nodeid, request.outputSpan(asked))
}

function encodeAttributeBytes({ request }: Call, outcome: Outcome, at: number): number {
  if (request.output.bytes !== 0) return outcome
  fuse_getxattr_out.f.size.set(request.context.view, at, outcome)
  fuse_getxattr_out.f.padding.set(request.context.view, at, 0)
  return fuse_getxattr_out.SIZE
}

function setxattr({ fs, session, request }: Call): Outcome {
  const { view } = request.context
  const In = fuse_setxattr_in.f
  const fixed = session.setxattrExt ? fuse_setxattr_in.SIZE : FUSE_COMPAT_SETXATTR_IN_SIZE
  if (request.bodyBytes < fixed) return -Errno.EINVAL
  const afterName = takeAttributeName(request, request.bodyAt + fixed)
  if (afterName < 0) return afterName
  const size = In.size.get(view, request.bodyAt)
  if (size > MAX_VALUE_BYTES) return -Errno.E2BIG
  if (size > request.bodyAt + request.bodyBytes - afterName) return -Errno.EINVAL
  request.input.at = afterName
  request.input.bytes = size
  const flags = In.flags.get(view, request.bodyAt)
  const extended = session.setxattrExt ? In.setxattr_flags.get(view, request.bodyAt) : 0
  const killSgid = (extended & FUSE_SETXATTR_ACL_KILL_SGID) !== 0
  return fs.setxattr(request, request.nodeid, request.name, request.input, flags, killSgid)
}

function removexattr({ fs, request }: Call): Outcome {
  const end = takeAttributeName(request, request.bodyAt)
  return end < 0 ? end : fs.removexattr(request, request.nodeid, request.name)
}

export const xattrOperations: OperationTable = {
  [Opcode.FUSE_GETXATTR]: {
    minBody: fuse_getxattr_in.SIZE + 1,
    replyBytes: 0,
    run: getxattr,
    encode: encodeAttributeBytes,
  },
  [Opcode.FUSE_LISTXATTR]: {
    minBody: fuse_getxattr_in.SIZE,
    replyBytes: 0,
    run: listxattr,
    encode: encodeAttributeBytes,
  },
  [Opcode.FUSE_SETXATTR]: {
    minBody: FUSE_COMPAT_SETXATTR_IN_SIZE + 1,
    replyBytes: 0,
    writes: true,
    run: setxattr,
  },
  [Opcode.FUSE_REMOVEXATTR]: { minBody: 1, replyBytes: 0, writes: true, run: removexattr },
}
