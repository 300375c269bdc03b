/** FUSE request numbers. Source: include/uapi/linux/fuse.h, enum fuse_opcode, up to 7.45. */
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
  FUSE_COPY_FILE_RANGE: 47,
  FUSE_SETUPMAPPING: 48,
  FUSE_REMOVEMAPPING: 49,
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
export type Opcode = (typeof Opcode)[keyof typeof Opcode]

/** One more than the highest opcode of a virtio-fs queue: the length of a table by opcode. */
export const OPCODE_LIMIT = 64

const NAMES = new Map<number, string>(
  Object.entries(Opcode).map(([name, number]) => [number, name.replace(/^FUSE_/, '')]),
)

/** `LOOKUP`, or `opcode 77` for one the protocol does not have. */
export function opcodeName(opcode: number): string {
  return NAMES.get(opcode) ?? `opcode ${opcode}`
}
