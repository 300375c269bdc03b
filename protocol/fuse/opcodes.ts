/**
 * FUSE request numbers and the outer shape of each request and reply.
 * Source: include/uapi/linux/fuse.h `enum fuse_opcode` up to 7.45; shapes from what fs/fuse sends.
 */
import type { Field } from '../struct.js'
import { fuse_notify_retrieve_in } from './structs-device.js'
import * as S from './structs.js'

/** Opcodes. A comment gives the minor of those younger than 7.27. */
export const Opcode = {
  FUSE_LOOKUP: 1,
  /** No reply. */
  FUSE_FORGET: 2,
  FUSE_GETATTR: 3,
  FUSE_SETATTR: 4,
  FUSE_READLINK: 5,
  FUSE_SYMLINK: 6,
  FUSE_MKNOD: 8,
  FUSE_MKDIR: 9,
  FUSE_UNLINK: 10,
  FUSE_RMDIR: 11,
  FUSE_RENAME: 12,
  FUSE_LINK: 13,
  FUSE_OPEN: 14,
  FUSE_READ: 15,
  FUSE_WRITE: 16,
  FUSE_STATFS: 17,
  FUSE_RELEASE: 18,
  FUSE_FSYNC: 20,
  FUSE_SETXATTR: 21,
  FUSE_GETXATTR: 22,
  FUSE_LISTXATTR: 23,
  FUSE_REMOVEXATTR: 24,
  FUSE_FLUSH: 25,
  FUSE_INIT: 26,
  FUSE_OPENDIR: 27,
  FUSE_READDIR: 28,
  FUSE_RELEASEDIR: 29,
  FUSE_FSYNCDIR: 30,
  FUSE_GETLK: 31,
  FUSE_SETLK: 32,
  FUSE_SETLKW: 33,
  FUSE_ACCESS: 34,
  FUSE_CREATE: 35,
  /** No reply. */
  FUSE_INTERRUPT: 36,
  FUSE_BMAP: 37,
  FUSE_DESTROY: 38,
  FUSE_IOCTL: 39,
  FUSE_POLL: 40,
  /** No reply; answers a notification of ours. */
  FUSE_NOTIFY_REPLY: 41,
  /** No reply. */
  FUSE_BATCH_FORGET: 42,
  FUSE_FALLOCATE: 43,
  FUSE_READDIRPLUS: 44,
  FUSE_RENAME2: 45,
  FUSE_LSEEK: 46,
  /** Since 7.28. */
  FUSE_COPY_FILE_RANGE: 47,
  /** Since 7.31, as REMOVEMAPPING. */
  FUSE_SETUPMAPPING: 48,
  FUSE_REMOVEMAPPING: 49,
  /** Since 7.34. */
  FUSE_SYNCFS: 50,
  /** Since 7.37. */
  FUSE_TMPFILE: 51,
  /** Since 7.39. */
  FUSE_STATX: 52,
  /** Since 7.45: as COPY_FILE_RANGE, with a 64-bit count in the reply. */
  FUSE_COPY_FILE_RANGE_64: 53,

  /** Character devices in user space: never on a virtio-fs queue. */
  CUSE_INIT: 4096,
  /** INIT of a peer of the other byte order (CUSE_INIT << 8, FUSE_INIT << 24). */
  CUSE_INIT_BSWAP_RESERVED: 1048576,
  FUSE_INIT_BSWAP_RESERVED: 436207616,
} as const
/** A number of `Opcode`. */
export type Opcode = (typeof Opcode)[keyof typeof Opcode]

/** One more than the highest opcode of a virtio-fs queue: the length of a table by opcode. */
export const OPCODE_LIMIT = 64

/** Names without `FUSE_`, by number. */
export const OPCODE_NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(Opcode).map(([name, number]) => [number, name.replace(/^FUSE_/, '')]),
)

/** `LOOKUP`, or `opcode 77` for one the protocol does not have. */
export function opcodeName(opcode: number): string {
  return OPCODE_NAMES.get(opcode) ?? `opcode ${opcode}`
}

/** A struct as far as a printer needs it: names and ways to read. */
export interface AnyStruct {
  readonly NAME: string
  readonly SIZE: number
  readonly f: Readonly<Record<string, Field<number> | Field<bigint>>>
}

/** The outer shape of one opcode's request and reply. */
export interface OpcodeShape {
  /** Without `FUSE_`. */
  readonly name: string
  /** Fixed struct behind fuse_in_header, if there is one. */
  readonly in: AnyStruct | undefined
  /** Least bytes of that struct that a guest of a served minor sends. */
  readonly inBytes: number
  /** NUL-terminated names behind the struct. */
  readonly names: number
  /** Whether anything else follows: data, or an array of structs. */
  readonly data: boolean
  /** Whether creation context (extensions) may follow the names. */
  readonly extensions: boolean
  readonly reply: boolean
  /** Fixed structs of the reply, behind fuse_out_header. */
  readonly out: readonly AnyStruct[]
  /** Bytes of those structs. */
  readonly outBytes: number
  /** Whether bytes of variable length follow them, or stand in their place (GETXATTR). */
  readonly payload: boolean
}

interface ShapeOptions {
  readonly in?: AnyStruct
  readonly inBytes?: number
  readonly names?: number
  readonly data?: true
  readonly extensions?: true
  readonly silent?: true
  readonly out?: readonly AnyStruct[]
  readonly payload?: true
}

const ENTRY = [S.fuse_entry_out] as const
const NODE = { names: 1, extensions: true, out: ENTRY } as const

const SHAPES = {
  FUSE_LOOKUP: { names: 1, out: ENTRY },
  FUSE_FORGET: { in: S.fuse_forget_in, silent: true },
  FUSE_GETATTR: { in: S.fuse_getattr_in, out: [S.fuse_attr_out] },
  FUSE_SETATTR: { in: S.fuse_setattr_in, out: [S.fuse_attr_out] },
  FUSE_READLINK: { payload: true },
  FUSE_SYMLINK: { ...NODE, names: 2 },
  FUSE_MKNOD: { ...NODE, in: S.fuse_mknod_in },
  FUSE_MKDIR: { ...NODE, in: S.fuse_mkdir_in },
  FUSE_UNLINK: { names: 1 },
  FUSE_RMDIR: { names: 1 },
  FUSE_RENAME: { in: S.fuse_rename_in, names: 2 },
  FUSE_LINK: { in: S.fuse_link_in, names: 1, out: ENTRY },
  FUSE_OPEN: { in: S.fuse_open_in, out: [S.fuse_open_out] },
  FUSE_READ: { in: S.fuse_read_in, payload: true },
  FUSE_WRITE: { in: S.fuse_write_in, data: true, out: [S.fuse_write_out] },
  FUSE_STATFS: { out: [S.fuse_statfs_out] },
  FUSE_RELEASE: { in: S.fuse_release_in },
  FUSE_FSYNC: { in: S.fuse_fsync_in },
  FUSE_SETXATTR: {
    in: S.fuse_setxattr_in,
    inBytes: S.FUSE_COMPAT_SETXATTR_IN_SIZE,
    names: 1,
    data: true,
  },
  FUSE_GETXATTR: { in: S.fuse_getxattr_in, names: 1, out: [S.fuse_getxattr_out], payload: true },
  FUSE_LISTXATTR: { in: S.fuse_getxattr_in, out: [S.fuse_getxattr_out], payload: true },
  FUSE_REMOVEXATTR: { names: 1 },
  FUSE_FLUSH: { in: S.fuse_flush_in },
  FUSE_INIT: { in: S.fuse_init_in, inBytes: S.FUSE_INIT_IN_BASE_SIZE, out: [S.fuse_init_out] },
  FUSE_OPENDIR: { in: S.fuse_open_in, out: [S.fuse_open_out] },
  FUSE_READDIR: { in: S.fuse_read_in, payload: true },
  FUSE_RELEASEDIR: { in: S.fuse_release_in },
  FUSE_FSYNCDIR: { in: S.fuse_fsync_in },
  FUSE_GETLK: { in: S.fuse_lk_in, out: [S.fuse_lk_out] },
  FUSE_SETLK: { in: S.fuse_lk_in },
  FUSE_SETLKW: { in: S.fuse_lk_in },
  FUSE_ACCESS: { in: S.fuse_access_in },
  FUSE_CREATE: { ...NODE, in: S.fuse_create_in, out: [S.fuse_entry_out, S.fuse_open_out] },
  FUSE_INTERRUPT: { in: S.fuse_interrupt_in, silent: true },
  FUSE_BMAP: { in: S.fuse_bmap_in, out: [S.fuse_bmap_out] },
  FUSE_DESTROY: {},
  FUSE_IOCTL: { in: S.fuse_ioctl_in, data: true, out: [S.fuse_ioctl_out], payload: true },
  FUSE_POLL: { in: S.fuse_poll_in, out: [S.fuse_poll_out] },
  FUSE_NOTIFY_REPLY: { in: fuse_notify_retrieve_in, data: true, silent: true },
  FUSE_BATCH_FORGET: { in: S.fuse_batch_forget_in, data: true, silent: true },
  FUSE_FALLOCATE: { in: S.fuse_fallocate_in },
  FUSE_READDIRPLUS: { in: S.fuse_read_in, payload: true },
  FUSE_RENAME2: { in: S.fuse_rename2_in, names: 2 },
  FUSE_LSEEK: { in: S.fuse_lseek_in, out: [S.fuse_lseek_out] },
  FUSE_COPY_FILE_RANGE: { in: S.fuse_copy_file_range_in, out: [S.fuse_write_out] },
  FUSE_SETUPMAPPING: { in: S.fuse_setupmapping_in },
  FUSE_REMOVEMAPPING: { in: S.fuse_removemapping_in, data: true },
  FUSE_SYNCFS: { in: S.fuse_syncfs_in },
  FUSE_TMPFILE: { ...NODE, in: S.fuse_create_in, out: [S.fuse_entry_out, S.fuse_open_out] },
  FUSE_STATX: { in: S.fuse_statx_in, out: [S.fuse_statx_out] },
  FUSE_COPY_FILE_RANGE_64: {
    in: S.fuse_copy_file_range_in,
    out: [S.fuse_copy_file_range_out],
  },
} as const satisfies Readonly<Partial<Record<keyof typeof Opcode, ShapeOptions>>>

function shape(name: string, options: ShapeOptions): OpcodeShape {
  const out = options.out ?? []
  return Object.freeze({
    name,
    in: options.in,
    inBytes: options.inBytes ?? options.in?.SIZE ?? 0,
    names: options.names ?? 0,
    data: options.data ?? false,
    extensions: options.extensions ?? false,
    reply: options.silent !== true,
    out,
    outBytes: out.reduce((bytes, { SIZE }) => bytes + SIZE, 0),
    payload: options.payload ?? false,
  })
}

function shapes(): readonly (OpcodeShape | undefined)[] {
  const table = new Array<OpcodeShape | undefined>(OPCODE_LIMIT).fill(undefined)
  for (const [name, options] of Object.entries(SHAPES)) {
    const opcode = Opcode[name as keyof typeof SHAPES]
    table[opcode] = shape(name.replace(/^FUSE_/, ''), options)
  }
  return Object.freeze(table)
}

/** Shapes by opcode, OPCODE_LIMIT long; undefined where the protocol has no opcode. */
export const OPCODE_SHAPE: readonly (OpcodeShape | undefined)[] = shapes()
