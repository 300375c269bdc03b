/**
 * One line for a request and one for its reply, for trace logs:
 *
 *     rx 12: LOOKUP n1 uid0 pid42 "file"
 *     tx 12: OK n5 gen0 tv1.0s attr{tv1.0s ino5 mode0100644 nlink1 uid0 gid0 size12}
 *     tx 13: -2 ENOENT
 *
 * The bytes are whatever the peer sent: nothing here trusts a length, throws, or prints a control
 * character. It allocates freely; call it when tracing is on and not otherwise.
 */
import { errnoName } from '../errno.js'
import * as L from '../linux/constants.js'
import type { Field } from '../struct.js'
import { readDirent, readDirentPlus } from './dirent.js'
import * as F from './flags.js'
import { findNul, printableName } from './names.js'
import { type AnyStruct, OPCODE_SHAPE, type OpcodeShape, Opcode, opcodeName } from './opcodes.js'
import * as S from './structs.js'

type Flags = readonly [table: Readonly<Record<string, number>>, prefix: string]

/** O_*; the two of several bits stand first. */
const OPEN_FLAGS: Flags = [
  {
    TMPFILE: L.O_TMPFILE,
    SYNC: L.O_SYNC,
    WRONLY: L.O_WRONLY,
    RDWR: L.O_RDWR,
    CREAT: L.O_CREAT,
    EXCL: L.O_EXCL,
    NOCTTY: L.O_NOCTTY,
    TRUNC: L.O_TRUNC,
    APPEND: L.O_APPEND,
    NONBLOCK: L.O_NONBLOCK,
    DSYNC: L.O_DSYNC,
    ASYNC: L.O_ASYNC,
    DIRECT: L.O_DIRECT,
    LARGEFILE: L.O_LARGEFILE,
    DIRECTORY: L.O_DIRECTORY,
    NOFOLLOW: L.O_NOFOLLOW,
    NOATIME: L.O_NOATIME,
    CLOEXEC: L.O_CLOEXEC,
    PATH: L.O_PATH,
  },
  '',
]
const RENAME_FLAGS: Flags = [
  {
    NOREPLACE: L.RENAME_NOREPLACE,
    EXCHANGE: L.RENAME_EXCHANGE,
    WHITEOUT: L.RENAME_WHITEOUT,
  },
  '',
]
const FALLOC_FLAGS: Flags = [
  {
    KEEP_SIZE: L.FALLOC_FL_KEEP_SIZE,
    PUNCH_HOLE: L.FALLOC_FL_PUNCH_HOLE,
    NO_HIDE_STALE: L.FALLOC_FL_NO_HIDE_STALE,
    COLLAPSE_RANGE: L.FALLOC_FL_COLLAPSE_RANGE,
    ZERO_RANGE: L.FALLOC_FL_ZERO_RANGE,
    INSERT_RANGE: L.FALLOC_FL_INSERT_RANGE,
    UNSHARE_RANGE: L.FALLOC_FL_UNSHARE_RANGE,
    WRITE_ZEROES: L.FALLOC_FL_WRITE_ZEROES,
  },
  '',
]
const XATTR_FLAGS: Flags = [{ CREATE: L.XATTR_CREATE, REPLACE: L.XATTR_REPLACE }, '']

/** Which words are flags, by `struct.field`. */
const FLAG_FIELDS: Readonly<Record<string, Flags>> = {
  'fuse_init_in.flags': [F.InitFlag, 'FUSE_'],
  'fuse_init_out.flags': [F.InitFlag, 'FUSE_'],
  'fuse_init_in.flags2': [F.InitFlag2, 'FUSE_'],
  'fuse_init_out.flags2': [F.InitFlag2, 'FUSE_'],
  'fuse_setattr_in.valid': [F.FATTR, 'FATTR_'],
  'fuse_getattr_in.getattr_flags': [F.GetattrFlag, 'FUSE_GETATTR_'],
  'fuse_statx_in.getattr_flags': [F.GetattrFlag, 'FUSE_GETATTR_'],
  'fuse_open_in.flags': OPEN_FLAGS,
  'fuse_open_in.open_flags': [F.OpenInFlag, 'FUSE_OPEN_'],
  'fuse_create_in.flags': OPEN_FLAGS,
  'fuse_create_in.open_flags': [F.OpenInFlag, 'FUSE_OPEN_'],
  'fuse_open_out.open_flags': [F.FOPEN, 'FOPEN_'],
  'fuse_release_in.flags': OPEN_FLAGS,
  'fuse_release_in.release_flags': [F.ReleaseFlag, 'FUSE_RELEASE_'],
  'fuse_read_in.flags': OPEN_FLAGS,
  'fuse_read_in.read_flags': [F.ReadFlag, 'FUSE_READ_'],
  'fuse_write_in.flags': OPEN_FLAGS,
  'fuse_write_in.write_flags': [F.WriteFlag, 'FUSE_WRITE_'],
  'fuse_fsync_in.fsync_flags': [F.FsyncFlag, 'FUSE_FSYNC_'],
  'fuse_setxattr_in.flags': XATTR_FLAGS,
  'fuse_setxattr_in.setxattr_flags': [F.SetxattrFlag, 'FUSE_SETXATTR_'],
  'fuse_lk_in.lk_flags': [F.LkFlag, 'FUSE_LK_'],
  'fuse_ioctl_in.flags': [F.IoctlFlag, 'FUSE_IOCTL_'],
  'fuse_ioctl_out.flags': [F.IoctlFlag, 'FUSE_IOCTL_'],
  'fuse_poll_in.flags': [F.PollFlag, 'FUSE_POLL_'],
  'fuse_fallocate_in.mode': FALLOC_FLAGS,
  'fuse_rename2_in.flags': RENAME_FLAGS,
  'fuse_setupmapping_in.flags': [F.SetupmappingFlag, 'FUSE_SETUPMAPPING_FLAG_'],
}

const FILLER = /^(__|padding|dummy|unused|spare|reserved)/
const OCTAL = new Set(['mode', 'umask'])
const HEX = new Set(['lock_owner', 'owner', 'kh', 'cmd', 'arg', 'sx_mask', 'sx_flags', 'events'])

/** Which bit of `valid` makes a field of SETATTR count. */
const SETATTR_FIELD: Readonly<Record<string, number>> = {
  fh: F.FATTR.FATTR_FH,
  size: F.FATTR.FATTR_SIZE,
  lock_owner: F.FATTR.FATTR_LOCKOWNER,
  atime: F.FATTR.FATTR_ATIME,
  mtime: F.FATTR.FATTR_MTIME,
  ctime: F.FATTR.FATTR_CTIME,
  atimensec: F.FATTR.FATTR_ATIME,
  mtimensec: F.FATTR.FATTR_MTIME,
  ctimensec: F.FATTR.FATTR_CTIME,
  mode: F.FATTR.FATTR_MODE,
  uid: F.FATTR.FATTR_UID,
  gid: F.FATTR.FATTR_GID,
}

const IN_HEADER_BYTES = S.fuse_in_header.SIZE
const OUT_HEADER_BYTES = S.fuse_out_header.SIZE
/** Names of a request are cut here: a line stays a line. */
const NAME_BYTES = 80

function bytesOf(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
}

/** A u64 in full. */
function exact(view: DataView, at: number): string {
  return view.getBigUint64(at, true).toString()
}

function fieldText(
  owner: string,
  name: string,
  field: Field<number> | Field<bigint>,
  view: DataView,
  base: number,
): string {
  const value = field.get(view, base)
  const flags = FLAG_FIELDS[`${owner}.${name}`]
  if (flags) {
    // A flag word of 8 bytes has nothing defined in its high half.
    const high = field.bytes === 8 ? view.getUint32(base + field.offset + 4, true) : 0
    const low = view.getUint32(base + field.offset, true)
    const more = high === 0 ? '' : `|0x${high.toString(16)}00000000`
    return F.flagNames(flags[0], low, flags[1]) + more
  }
  if (OCTAL.has(name)) return `0${value.toString(8)}`
  if (HEX.has(name)) return `0x${exactHex(view, base + field.offset, field.bytes)}`
  if (typeof value === 'number' && !Number.isSafeInteger(value))
    return `0x${exactHex(view, base + field.offset, field.bytes)}`
  return value.toString()
}

function exactHex(view: DataView, at: number, bytes: number): string {
  if (bytes === 8) return view.getBigUint64(at, true).toString(16)
  return view.getUint32(at, true).toString(16)
}

/** ` name=value` for each field that is wholly before `limit`, fillers left out. */
function structText(
  struct: AnyStruct,
  view: DataView,
  base: number,
  limit: number,
  wanted?: (name: string) => boolean,
): string {
  let text = ''
  for (const [name, field] of Object.entries(struct.f)) {
    if (FILLER.test(name) || base + field.offset + field.bytes > limit) continue
    if (wanted && !wanted(name)) continue
    text += ` ${name}=${fieldText(struct.NAME, name, field, view, base)}`
  }
  return text
}

function seconds(sec: number, nsec: number): string {
  return `tv${sec}.${Math.floor(nsec / 100_000_000)}s`
}

function attrText(view: DataView, at: number): string {
  const A = S.fuse_attr.f
  const flags = A.flags.get(view, at)
  const marks = flags === 0 ? '' : ` ${F.flagNames(F.AttrFlag, flags, 'FUSE_ATTR_')}`
  return (
    `ino${exact(view, at + A.ino.offset)} mode0${A.mode.get(view, at).toString(8)} ` +
    `nlink${A.nlink.get(view, at)} uid${A.uid.get(view, at)} gid${A.gid.get(view, at)} ` +
    `size${A.size.get(view, at)}${marks}`
  )
}

function entryText(view: DataView, at: number): string {
  const E = S.fuse_entry_out.f
  const name = seconds(E.entry_valid.get(view, at), E.entry_valid_nsec.get(view, at))
  const attr = seconds(E.attr_valid.get(view, at), E.attr_valid_nsec.get(view, at))
  return (
    ` n${exact(view, at)} gen${exact(view, at + E.generation.offset)} ${name} ` +
    `attr{${attr} ${attrText(view, at + E.attr_ino.offset)}}`
  )
}

function outText(struct: AnyStruct, view: DataView, at: number, limit: number): string {
  if (at + struct.SIZE <= limit) {
    if (struct.NAME === 'fuse_entry_out') return entryText(view, at)
    if (struct.NAME === 'fuse_attr_out') {
      const O = S.fuse_attr_out.f
      const valid = seconds(O.attr_valid.get(view, at), O.attr_valid_nsec.get(view, at))
      return ` attr{${valid} ${attrText(view, at + O.attr_ino.offset)}}`
    }
  }
  return structText(struct, view, at, limit)
}

/** ` "name"` for each name that ends before `limit`; `rest` is where the last one ended. */
function namesText(
  shape: OpcodeShape,
  bytes: Uint8Array,
  at: number,
  limit: number,
): [string, number] {
  let text = ''
  let from = at
  for (let i = 0; i < shape.names; i++) {
    const nul = findNul(bytes, from, limit)
    if (nul < 0)
      return [`${text} "${printableName(bytes, from, limit - from, NAME_BYTES)}" no NUL`, limit]
    text += ` "${printableName(bytes, from, nul - from, NAME_BYTES)}"`
    from = nul + 1
  }
  return [text, from]
}

/** How much of the fixed struct a request has: SETXATTR and INIT come in two sizes. */
function inBytes(shape: OpcodeShape, view: DataView, at: number, limit: number): number {
  const full = shape.in?.SIZE ?? 0
  if (full === shape.inBytes || limit - at < full) return Math.min(shape.inBytes, limit - at)
  if (shape.in?.NAME !== 'fuse_setxattr_in') return full
  // The printer does not know whether FUSE_SETXATTR_EXT was agreed. A name follows the short form at
  // once, and has neither NULs nor more than one bit of flags where the long form has its second half.
  const extended = view.getUint32(at + 8, true) <= 1 && view.getUint32(at + 12, true) === 0
  return extended ? full : shape.inBytes
}

function bodyText(
  shape: OpcodeShape,
  view: DataView,
  at: number,
  end: number,
  limit: number,
): string {
  const bytes = bytesOf(view)
  const size = inBytes(shape, view, at, limit)
  let text = ''
  if (shape.in) {
    const valid =
      shape.in.NAME === 'fuse_setattr_in' && limit - at >= 4 ? view.getUint32(at, true) : -1
    const wanted = (name: string): boolean => ((SETATTR_FIELD[name] ?? -1) & valid) !== 0
    text += structText(shape.in, view, at, at + size, valid === -1 ? undefined : wanted)
  }
  if (size < shape.inBytes) return `${text} short by ${shape.inBytes - size}`
  const [names, rest] = namesText(shape, bytes, at + size, limit)
  text += names
  if (end > rest) text += ` +${end - rest}B`
  return text
}

/**
 * The line of a request whose fuse_in_header is at `at` of `view`; bytes up to `limit` are there (fewer
 * than `len` says, when the data stayed in guest memory). `+4096B` is what follows unprinted.
 */
export function printRequest(view: DataView, at: number, limit: number): string {
  const end = Math.min(limit, view.byteLength)
  if (at < 0 || end - at < IN_HEADER_BYTES)
    return `rx ?: short request of ${Math.max(0, end - at)}B`
  const H = S.fuse_in_header.f
  const opcode = H.opcode.get(view, at)
  const shape = OPCODE_SHAPE[opcode]
  const length = H.len.get(view, at)
  const high = view.getUint32(at + H.unique.offset + 4, true)
  const again = high >= S.FUSE_UNIQUE_RESEND_HIGH ? ' resend' : ''
  const head =
    `rx ${exact(view, at + H.unique.offset)}: ${opcodeName(opcode)} ` +
    `n${exact(view, at + H.nodeid.offset)} uid${H.uid.get(view, at)} pid${H.pid.get(view, at)}${again}`
  if (length < IN_HEADER_BYTES) return `${head} len=${length}`
  const body = at + IN_HEADER_BYTES
  if (!shape) return length > IN_HEADER_BYTES ? `${head} +${length - IN_HEADER_BYTES}B` : head
  return head + bodyText(shape, view, body, at + length, Math.min(end, at + length))
}

function entriesText(plus: boolean, view: DataView, at: number, limit: number): string {
  let count = 0
  for (let from = at; ; count++) {
    const entry = plus ? readDirentPlus(view, from, limit) : readDirent(view, from, limit)
    if (!entry) return ` ${count} entries`
    from += entry.bytes
  }
}

function payloadText(
  opcode: number,
  view: DataView,
  at: number,
  end: number,
  limit: number,
): string {
  if (opcode === Opcode.FUSE_READLINK && limit >= end)
    return ` "${printableName(bytesOf(view), at, end - at, NAME_BYTES)}"`
  const size = ` +${end - at}B`
  if (opcode === Opcode.FUSE_READDIR || opcode === Opcode.FUSE_READDIRPLUS)
    return size + entriesText(opcode === Opcode.FUSE_READDIRPLUS, view, at, limit)
  return end > at ? size : ''
}

/**
 * The line of a reply to `opcode` whose fuse_out_header is at `at` of `view`; bytes up to `limit` are
 * there. A reply without `unique` is a notification and has its code in `error`.
 */
export function printReply(view: DataView, at: number, limit: number, opcode: number): string {
  const end = Math.min(limit, view.byteLength)
  if (at < 0 || end - at < OUT_HEADER_BYTES) return `tx ?: short reply of ${Math.max(0, end - at)}B`
  const H = S.fuse_out_header.f
  const length = H.len.get(view, at)
  const error = H.error.get(view, at)
  const unique = exact(view, at + H.unique.offset)
  const body = at + OUT_HEADER_BYTES
  const replyEnd = at + Math.max(length, OUT_HEADER_BYTES)
  const rest = replyEnd > body ? ` +${replyEnd - body}B` : ''
  if (unique === '0' && error > 0) return `tx notify: ${notifyName(error)}${rest}`
  if (error !== 0) return `tx ${unique}: ${error} ${errnoName(error)}${rest}`
  const head = `tx ${unique}: OK`
  const shape = OPCODE_SHAPE[opcode]
  if (!shape) return head + rest
  const there = Math.min(end, replyEnd)
  // The two xattr replies are a size or bytes, and nothing in the reply says which.
  const variable = opcode === Opcode.FUSE_GETXATTR || opcode === Opcode.FUSE_LISTXATTR
  let text = head
  let from = body
  if (!variable) {
    for (const struct of shape.out) {
      if (from >= replyEnd) break
      text += outText(struct, view, from, there)
      from += struct.SIZE
    }
  }
  return shape.payload || from < replyEnd
    ? text + payloadText(opcode, view, Math.min(from, replyEnd), replyEnd, there)
    : text
}

function notifyName(code: number): string {
  for (const [name, number] of Object.entries(F.NotifyCode))
    if (number === code) return name.slice('FUSE_NOTIFY_'.length)
  return `code ${code}`
}
