/** MKNOD MKDIR SYMLINK LINK UNLINK RMDIR RENAME RENAME2 CREATE TMPFILE. */
import { Errno } from '../../protocol/errno.js'
import { FUSE_OPEN_KILL_SUIDGID } from '../../protocol/fuse/flags.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import {
  fuse_create_in,
  fuse_entry_out,
  fuse_link_in,
  fuse_mkdir_in,
  fuse_mknod_in,
  fuse_open_out,
  fuse_rename2_in,
  fuse_rename_in,
} from '../../protocol/fuse/structs.js'
import {
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
  RENAME_WHITEOUT,
} from '../../protocol/linux/constants.js'
import type { Outcome } from '../vfs/filesystem.js'
import { takeComponent, takeString } from './decode.js'
import { deviceMajor, deviceMinor, encodeEntry, encodeOpen } from './encode.js'
import { takeExtensions } from './extensions.js'
import type { Call, OperationTable } from './operation.js'
import { ENTRY_REPLY } from './ops-inode.js'

/** PATH_MAX without its NUL: the longest link target. */
const MAX_TARGET_BYTES = 4095

/** The name after a fixed struct, and the creation context after the name. */
function takeNewName(call: Call, fixedBytes: number): number {
  const { request } = call
  const end = takeComponent(request, request.bodyAt + fixedBytes, request.name)
  return end < 0 ? end : takeExtensions(call, end)
}

function mknod(call: Call): Outcome {
  const { fs, request } = call
  const { view } = request.context
  const In = fuse_mknod_in.f
  const fault = takeNewName(call, fuse_mknod_in.SIZE)
  if (fault < 0) return fault
  const rdev = In.rdev.get(view, request.bodyAt)
  request.umask = In.umask.get(view, request.bodyAt)
  const mode = In.mode.get(view, request.bodyAt)
  return fs.mknod(
    request,
    request.nodeid,
    request.name,
    mode,
    deviceMajor(rdev),
    deviceMinor(rdev),
    request.entry,
  )
}

function mkdir(call: Call): Outcome {
  const { fs, request } = call
  const { view } = request.context
  const In = fuse_mkdir_in.f
  const fault = takeNewName(call, fuse_mkdir_in.SIZE)
  if (fault < 0) return fault
  request.umask = In.umask.get(view, request.bodyAt)
  return fs.mkdir(
    request,
    request.nodeid,
    request.name,
    In.mode.get(view, request.bodyAt),
    request.entry,
  )
}

function symlink(call: Call): Outcome {
  const { fs, request } = call
  const afterName = takeComponent(request, request.bodyAt, request.name)
  if (afterName < 0) return afterName
  const afterTarget = takeString(request, afterName, request.name2)
  if (afterTarget < 0) return afterTarget
  if (request.name2.bytes === 0) return -Errno.ENOENT
  if (request.name2.bytes > MAX_TARGET_BYTES) return -Errno.ENAMETOOLONG
  const fault = takeExtensions(call, afterTarget)
  if (fault < 0) return fault
  return fs.symlink(request, request.nodeid, request.name, request.name2, request.entry)
}

function link({ fs, request }: Call): Outcome {
  const end = takeComponent(request, request.bodyAt + fuse_link_in.SIZE, request.name)
  if (end < 0) return end
  const nodeid = fuse_link_in.f.oldnodeid.get(request.context.view, request.bodyAt)
  return fs.link(request, nodeid, request.nodeid, request.name, request.entry)
}

function unlink({ fs, request }: Call): Outcome {
  const end = takeComponent(request, request.bodyAt, request.name)
  return end < 0 ? end : fs.unlink(request, request.nodeid, request.name)
}

function rmdir({ fs, request }: Call): Outcome {
  const end = takeComponent(request, request.bodyAt, request.name)
  return end < 0 ? end : fs.rmdir(request, request.nodeid, request.name)
}

function renameNames(
  { fs, request }: Call,
  fixedBytes: number,
  newDir: number,
  flags: number,
): Outcome {
  const afterOld = takeComponent(request, request.bodyAt + fixedBytes, request.name)
  if (afterOld < 0) return afterOld
  const afterNew = takeComponent(request, afterOld, request.name2)
  if (afterNew < 0) return afterNew
  return fs.rename(request, request.nodeid, request.name, newDir, request.name2, flags)
}

function rename(call: Call): Outcome {
  const { request } = call
  const newDir = fuse_rename_in.f.newdir.get(request.context.view, request.bodyAt)
  return renameNames(call, fuse_rename_in.SIZE, newDir, 0)
}

const RENAME_FLAGS = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT

function rename2(call: Call): Outcome {
  const { request } = call
  const { view } = request.context
  const flags = fuse_rename2_in.f.flags.get(view, request.bodyAt)
  if ((flags & ~RENAME_FLAGS) !== 0) return -Errno.EINVAL
  const newDir = fuse_rename2_in.f.newdir.get(view, request.bodyAt)
  return renameNames(call, fuse_rename2_in.SIZE, newDir, flags)
}

const CREATE_REPLY = {
  replyBytes: fuse_entry_out.SIZE + fuse_open_out.SIZE,
  encode({ request }: Call, _outcome: Outcome, at: number): number {
    const { view } = request.context
    const entry = encodeEntry(view, at, request.entry)
    return entry + encodeOpen(view, at + entry, request.opened)
  },
  undo({ fs, session, request }: Call): void {
    session.passthrough.remove(request.opened.fh)
    fs.release(request, request.entry.nodeid, request.opened.fh)
    fs.forget(request.entry.nodeid, 1)
  },
} as const

function create(call: Call): Outcome {
  const { fs, session, request } = call
  const { view } = request.context
  const In = fuse_create_in.f
  const fault = takeNewName(call, fuse_create_in.SIZE)
  if (fault < 0) return fault
  request.umask = In.umask.get(view, request.bodyAt)
  request.opened.reset()
  const killSuid = (In.open_flags.get(view, request.bodyAt) & FUSE_OPEN_KILL_SUIDGID) !== 0
  const flags = In.flags.get(view, request.bodyAt)
  const mode = In.mode.get(view, request.bodyAt)
  const outcome = fs.create(
    request,
    request.nodeid,
    request.name,
    flags,
    mode,
    killSuid,
    request.entry,
    request.opened,
  )
  if (outcome === 0) session.opened(fs, request, request.entry.nodeid, flags)
  return outcome
}

/** As long as the guest can count. */
const FOREVER_SEC = 0x7fffffff

/** The kernel sends TMPFILE with the struct and name of CREATE; the name only serves its own dentry. */
function tmpfile(call: Call): Outcome {
  const { fs, session, request } = call
  const { view } = request.context
  const In = fuse_create_in.f
  const afterName = takeString(request, request.bodyAt + fuse_create_in.SIZE, request.name)
  if (afterName < 0) return afterName
  const fault = takeExtensions(call, afterName)
  if (fault < 0) return fault
  request.umask = In.umask.get(view, request.bodyAt)
  request.opened.reset()
  const flags = In.flags.get(view, request.bodyAt)
  const outcome = fs.tmpfile(
    request,
    request.nodeid,
    flags,
    In.mode.get(view, request.bodyAt),
    request.entry,
    request.opened,
  )
  // Without a name there is nothing to look up anew. The guest would try (its name for it is "/"):
  // overlayfs keeps the dentry of a file copied up so, and would answer ESTALE from then on.
  request.entry.entryValidSec = FOREVER_SEC
  if (outcome === 0) session.opened(fs, request, request.entry.nodeid, flags)
  return outcome
}

export const namespaceOperations: OperationTable = {
  [Opcode.FUSE_MKNOD]: {
    minBody: fuse_mknod_in.SIZE + 1,
    writes: true,
    run: mknod,
    ...ENTRY_REPLY,
  },
  [Opcode.FUSE_MKDIR]: {
    minBody: fuse_mkdir_in.SIZE + 1,
    writes: true,
    run: mkdir,
    ...ENTRY_REPLY,
  },
  [Opcode.FUSE_SYMLINK]: { minBody: 2, writes: true, run: symlink, ...ENTRY_REPLY },
  [Opcode.FUSE_LINK]: { minBody: fuse_link_in.SIZE + 1, writes: true, run: link, ...ENTRY_REPLY },
  [Opcode.FUSE_UNLINK]: { minBody: 1, replyBytes: 0, writes: true, run: unlink },
  [Opcode.FUSE_RMDIR]: { minBody: 1, replyBytes: 0, writes: true, run: rmdir },
  [Opcode.FUSE_RENAME]: {
    minBody: fuse_rename_in.SIZE + 2,
    replyBytes: 0,
    writes: true,
    run: rename,
  },
  [Opcode.FUSE_RENAME2]: {
    minBody: fuse_rename2_in.SIZE + 2,
    replyBytes: 0,
    writes: true,
    run: rename2,
  },
  [Opcode.FUSE_CREATE]: {
    minBody: fuse_create_in.SIZE + 1,
    writes: true,
    run: create,
    ...CREATE_REPLY,
  },
  [Opcode.FUSE_TMPFILE]: {
    minBody: fuse_create_in.SIZE + 1,
    writes: true,
    run: tmpfile,
    ...CREATE_REPLY,
  },
}
