/** LOOKUP FORGET BATCH_FORGET GETATTR SETATTR READLINK ACCESS STATFS STATX. */
import { Errno } from '../../protocol/errno.js'
import { FATTR, FUSE_GETATTR_FH } from '../../protocol/fuse/flags.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import {
  fuse_access_in,
  fuse_attr_out,
  fuse_batch_forget_in,
  fuse_entry_out,
  fuse_forget_in,
  fuse_forget_one,
  fuse_getattr_in,
  fuse_setattr_in,
  fuse_statfs_out,
  fuse_statx_in,
  fuse_statx_out,
} from '../../protocol/fuse/structs.js'
import { resized } from '../vfs/dax.js'
import { NO_HANDLE, type Outcome } from '../vfs/filesystem.js'
import type { SetAttributes } from '../vfs/replies.js'
import { takeComponent } from './decode.js'
import { encodeAttrOut, encodeEntry } from './encode.js'
import type { Call, OperationTable } from './operation.js'
import { encodeStatx } from './statx.js'

const W_OK = 2

/** How every reply that carries an entry is built, and taken back when it cannot be delivered. */
export const ENTRY_REPLY = {
  replyBytes: fuse_entry_out.SIZE,
  encode: ({ request }: Call, _outcome: Outcome, at: number): number =>
    encodeEntry(request.context.view, at, request.entry),
  undo({ fs, request }: Call): void {
    if (request.entry.nodeid !== 0) fs.forget(request.entry.nodeid, 1)
  },
} as const

const ATTR_REPLY = {
  replyBytes: fuse_attr_out.SIZE,
  encode: ({ request }: Call, _outcome: Outcome, at: number): number =>
    encodeAttrOut(request.context.view, at, request.attr),
} as const

function lookup({ fs, request }: Call): Outcome {
  const end = takeComponent(request, request.bodyAt, request.name)
  if (end < 0) return end
  return fs.lookup(request, request.nodeid, request.name, request.entry)
}

function forget({ fs, session, request }: Call): Outcome {
  fs.forget(request.nodeid, fuse_forget_in.f.nlookup.get(request.context.view, request.bodyAt))
  session.dax?.forgotten(request.nodeid)
  return 0
}

function batchForget({ fs, session, request }: Call): Outcome {
  const { view } = request.context
  const count = fuse_batch_forget_in.f.count.get(view, request.bodyAt)
  const first = request.bodyAt + fuse_batch_forget_in.SIZE
  const present = Math.floor((request.bodyBytes - fuse_batch_forget_in.SIZE) / fuse_forget_one.SIZE)
  if (count > present) return -Errno.EINVAL
  for (let i = 0; i < count; i++) {
    const at = first + i * fuse_forget_one.SIZE
    fs.forget(fuse_forget_one.f.nodeid.get(view, at), fuse_forget_one.f.nlookup.get(view, at))
    session.dax?.forgotten(fuse_forget_one.f.nodeid.get(view, at))
  }
  return 0
}

function getattr({ fs, request }: Call): Outcome {
  const { view } = request.context
  const In = fuse_getattr_in.f
  const flags = In.getattr_flags.get(view, request.bodyAt)
  const fh = (flags & FUSE_GETATTR_FH) !== 0 ? In.fh.get(view, request.bodyAt) : NO_HANDLE
  return fs.getattr(request, request.nodeid, fh, request.attr)
}

const BILLION = 1_000_000_000

function decodeSetattr(view: DataView, at: number, valid: number, change: SetAttributes): boolean {
  const In = fuse_setattr_in.f
  change.setMode = (valid & FATTR.FATTR_MODE) !== 0
  change.mode = In.mode.get(view, at)
  change.setUid = (valid & FATTR.FATTR_UID) !== 0
  change.uid = In.uid.get(view, at)
  change.setGid = (valid & FATTR.FATTR_GID) !== 0
  change.gid = In.gid.get(view, at)
  change.setSize = (valid & FATTR.FATTR_SIZE) !== 0
  change.sizeBytes = In.size.get(view, at)
  change.setAtime = (valid & (FATTR.FATTR_ATIME | FATTR.FATTR_ATIME_NOW)) !== 0
  change.atimeNow = (valid & FATTR.FATTR_ATIME_NOW) !== 0
  change.atimeSec = signedSeconds(view, at + In.atime.offset)
  change.atimeNsec = In.atimensec.get(view, at)
  change.setMtime = (valid & (FATTR.FATTR_MTIME | FATTR.FATTR_MTIME_NOW)) !== 0
  change.mtimeNow = (valid & FATTR.FATTR_MTIME_NOW) !== 0
  change.mtimeSec = signedSeconds(view, at + In.mtime.offset)
  change.mtimeNsec = In.mtimensec.get(view, at)
  change.setCtime = (valid & FATTR.FATTR_CTIME) !== 0
  change.ctimeSec = signedSeconds(view, at + In.ctime.offset)
  change.ctimeNsec = In.ctimensec.get(view, at)
  change.killSuidgid = (valid & FATTR.FATTR_KILL_SUIDGID) !== 0
  return (
    change.atimeNsec < BILLION &&
    change.mtimeNsec < BILLION &&
    (!change.setCtime || change.ctimeNsec < BILLION)
  )
}

/** Seconds since 1970 are signed, though the header says u64. */
function signedSeconds(view: DataView, at: number): number {
  return view.getInt32(at + 4, true) * 0x1_0000_0000 + view.getUint32(at, true)
}

function setattr({ fs, session, request }: Call): Outcome {
  const { view } = request.context
  const In = fuse_setattr_in.f
  const valid = In.valid.get(view, request.bodyAt)
  if (!decodeSetattr(view, request.bodyAt, valid, request.change)) return -Errno.EINVAL
  if (request.change.setSize && !(request.change.sizeBytes <= Number.MAX_SAFE_INTEGER))
    return -Errno.EFBIG
  const fh = (valid & FATTR.FATTR_FH) !== 0 ? In.fh.get(view, request.bodyAt) : NO_HANDLE
  if (!request.change.setSize)
    return fs.setattr(request, request.nodeid, fh, request.change, request.attr)
  return resized(session.dax, request.nodeid, request.change.sizeBytes, () =>
    fs.setattr(request, request.nodeid, fh, request.change, request.attr),
  )
}

function readlink({ fs, request }: Call): Outcome {
  return fs.readlink(request, request.nodeid, request.outputSpan(4096))
}

function access({ fs, request }: Call): Outcome {
  const mask = fuse_access_in.f.mask.get(request.context.view, request.bodyAt)
  if ((mask & ~7) !== 0) return -Errno.EINVAL
  if ((mask & W_OK) !== 0 && fs.capabilities.readOnly) return -Errno.EROFS
  return fs.access(request, request.nodeid, mask)
}

function encodeStatfs({ request }: Call, _outcome: Outcome, at: number): number {
  const { view, bytes } = request.context
  const Out = fuse_statfs_out.f
  const { statfs } = request
  bytes.fill(0, at, at + fuse_statfs_out.SIZE)
  Out.st_blocks.set(view, at, statfs.blocks)
  Out.st_bfree.set(view, at, statfs.bfree)
  Out.st_bavail.set(view, at, statfs.bavail)
  Out.st_files.set(view, at, statfs.files)
  Out.st_ffree.set(view, at, statfs.ffree)
  Out.st_bsize.set(view, at, statfs.bsize)
  Out.st_namelen.set(view, at, statfs.namelen)
  Out.st_frsize.set(view, at, statfs.frsize)
  return fuse_statfs_out.SIZE
}

function statx({ fs, request }: Call): Outcome {
  const { view } = request.context
  const In = fuse_statx_in.f
  const flags = In.getattr_flags.get(view, request.bodyAt)
  const fh = (flags & FUSE_GETATTR_FH) !== 0 ? In.fh.get(view, request.bodyAt) : NO_HANDLE
  return fs.getattr(request, request.nodeid, fh, request.attr)
}

/** The body of a reply that the outcome counts and the back end has written in place. */
export const BYTES_IN_PLACE = (_call: Call, outcome: Outcome): number => outcome

export const inodeOperations: OperationTable = {
  [Opcode.FUSE_LOOKUP]: { minBody: 1, run: lookup, ...ENTRY_REPLY },
  [Opcode.FUSE_FORGET]: { minBody: fuse_forget_in.SIZE, replyBytes: 0, silent: true, run: forget },
  [Opcode.FUSE_BATCH_FORGET]: {
    minBody: fuse_batch_forget_in.SIZE,
    replyBytes: 0,
    silent: true,
    run: batchForget,
  },
  [Opcode.FUSE_GETATTR]: { minBody: fuse_getattr_in.SIZE, run: getattr, ...ATTR_REPLY },
  [Opcode.FUSE_SETATTR]: {
    minBody: fuse_setattr_in.SIZE,
    run: setattr,
    writes: true,
    ...ATTR_REPLY,
  },
  [Opcode.FUSE_READLINK]: { minBody: 0, replyBytes: 0, run: readlink, encode: BYTES_IN_PLACE },
  [Opcode.FUSE_ACCESS]: { minBody: fuse_access_in.SIZE, replyBytes: 0, run: access },
  [Opcode.FUSE_STATFS]: {
    minBody: 0,
    replyBytes: fuse_statfs_out.SIZE,
    run: ({ fs, request }) => fs.statfs(request, request.nodeid, request.statfs),
    encode: encodeStatfs,
  },
  [Opcode.FUSE_STATX]: {
    minBody: fuse_statx_in.SIZE,
    replyBytes: fuse_statx_out.SIZE,
    run: statx,
    encode: encodeStatx,
  },
}
