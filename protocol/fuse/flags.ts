/** Flags and codes of the FUSE protocol. Source: include/uapi/linux/fuse.h up to 7.45. */

/** INIT flags, low word (`fuse_init_in.flags`, `fuse_init_out.flags`). Bit 22 on since 7.28. */
export const InitFlag = {
  FUSE_ASYNC_READ: 1 << 0,
  FUSE_POSIX_LOCKS: 1 << 1,
  FUSE_FILE_OPS: 1 << 2,
  FUSE_ATOMIC_O_TRUNC: 1 << 3,
  FUSE_EXPORT_SUPPORT: 1 << 4,
  FUSE_BIG_WRITES: 1 << 5,
  FUSE_DONT_MASK: 1 << 6,
  FUSE_SPLICE_WRITE: 1 << 7,
  FUSE_SPLICE_MOVE: 1 << 8,
  FUSE_SPLICE_READ: 1 << 9,
  FUSE_FLOCK_LOCKS: 1 << 10,
  FUSE_HAS_IOCTL_DIR: 1 << 11,
  FUSE_AUTO_INVAL_DATA: 1 << 12,
  FUSE_DO_READDIRPLUS: 1 << 13,
  FUSE_READDIRPLUS_AUTO: 1 << 14,
  FUSE_ASYNC_DIO: 1 << 15,
  FUSE_WRITEBACK_CACHE: 1 << 16,
  FUSE_NO_OPEN_SUPPORT: 1 << 17,
  FUSE_PARALLEL_DIROPS: 1 << 18,
  FUSE_HANDLE_KILLPRIV: 1 << 19,
  FUSE_POSIX_ACL: 1 << 20,
  FUSE_ABORT_ERROR: 1 << 21,
  FUSE_MAX_PAGES: 1 << 22,
  FUSE_CACHE_SYMLINKS: 1 << 23,
  FUSE_NO_OPENDIR_SUPPORT: 1 << 24,
  FUSE_EXPLICIT_INVAL_DATA: 1 << 25,
  FUSE_MAP_ALIGNMENT: 1 << 26,
  FUSE_SUBMOUNTS: 1 << 27,
  FUSE_HANDLE_KILLPRIV_V2: 1 << 28,
  FUSE_SETXATTR_EXT: 1 << 29,
  /** `flags2` is there (7.36). */
  FUSE_INIT_EXT: 1 << 30,
  /** Never to be used: it would be the sign of a 32-bit int. */
  FUSE_INIT_RESERVED: 0x8000_0000,
} as const

/**
 * INIT flags, high word (`flags2`): bits 32 to 63 of the header, shifted down. SECURITY_CTX and
 * HAS_INODE_DAX 7.36, the next two 7.38, ALLOW_MMAP 7.39 (once DIRECT_IO_RELAX), to RESEND 7.40, then
 * one for each minor.
 */
export const InitFlag2 = {
  FUSE_SECURITY_CTX: 1 << 0,
  FUSE_HAS_INODE_DAX: 1 << 1,
  FUSE_CREATE_SUPP_GROUP: 1 << 2,
  FUSE_HAS_EXPIRE_ONLY: 1 << 3,
  FUSE_DIRECT_IO_ALLOW_MMAP: 1 << 4,
  FUSE_PASSTHROUGH: 1 << 5,
  FUSE_NO_EXPORT_SUPPORT: 1 << 6,
  FUSE_HAS_RESEND: 1 << 7,
  FUSE_ALLOW_IDMAP: 1 << 8,
  FUSE_OVER_IO_URING: 1 << 9,
  FUSE_REQUEST_TIMEOUT: 1 << 10,
} as const

/** `fuse_setattr_in.valid`. CTIME 7.23, KILL_SUIDGID 7.33. */
export const FATTR = {
  FATTR_MODE: 1 << 0,
  FATTR_UID: 1 << 1,
  FATTR_GID: 1 << 2,
  FATTR_SIZE: 1 << 3,
  FATTR_ATIME: 1 << 4,
  FATTR_MTIME: 1 << 5,
  FATTR_FH: 1 << 6,
  FATTR_ATIME_NOW: 1 << 7,
  FATTR_MTIME_NOW: 1 << 8,
  FATTR_LOCKOWNER: 1 << 9,
  FATTR_CTIME: 1 << 10,
  FATTR_KILL_SUIDGID: 1 << 11,
} as const

/** `fuse_open_out.open_flags`. CACHE_DIR 7.28, STREAM 7.31, NOFLUSH 7.35, PARALLEL 7.38, PASSTHROUGH 7.40. */
export const FOPEN = {
  FOPEN_DIRECT_IO: 1 << 0,
  FOPEN_KEEP_CACHE: 1 << 1,
  FOPEN_NONSEEKABLE: 1 << 2,
  FOPEN_CACHE_DIR: 1 << 3,
  FOPEN_STREAM: 1 << 4,
  FOPEN_NOFLUSH: 1 << 5,
  FOPEN_PARALLEL_DIRECT_WRITES: 1 << 6,
  FOPEN_PASSTHROUGH: 1 << 7,
} as const

/** `fuse_release_in.release_flags`: a FLUSH of `lock_owner` is due (7.8); flock(2) is to be dropped (7.17). */
export const FUSE_RELEASE_FLUSH = 1 << 0
export const FUSE_RELEASE_FLOCK_UNLOCK = 1 << 1
/** `fuse_getattr_in.getattr_flags`: `fh` is valid (7.9). */
export const FUSE_GETATTR_FH = 1 << 0
/** `fuse_lk_in.lk_flags`: flock(2), not a POSIX lock (7.9). */
export const FUSE_LK_FLOCK = 1 << 0
/** `fuse_write_in.write_flags`: from the page cache, `fh` is a guess (7.9). */
export const FUSE_WRITE_CACHE = 1 << 0
/** `fuse_write_in.write_flags`: `lock_owner` is valid (7.9). */
export const FUSE_WRITE_LOCKOWNER = 1 << 1
/** `fuse_write_in.write_flags`: drop set-user-id and set-group-id (7.31, as FUSE_WRITE_KILL_PRIV). */
export const FUSE_WRITE_KILL_SUIDGID = 1 << 2
/** `fuse_read_in.read_flags`: `lock_owner` is valid (7.9). Bit 1, not bit 0. */
export const FUSE_READ_LOCKOWNER = 1 << 1
/** `fuse_ioctl_in.flags` and `fuse_ioctl_out.flags` (7.11; 32BIT 7.16, DIR 7.18, COMPAT_X32 7.30). */
export const FUSE_IOCTL_COMPAT = 1 << 0
export const FUSE_IOCTL_UNRESTRICTED = 1 << 1
export const FUSE_IOCTL_RETRY = 1 << 2
export const FUSE_IOCTL_32BIT = 1 << 3
export const FUSE_IOCTL_DIR = 1 << 4
export const FUSE_IOCTL_COMPAT_X32 = 1 << 5
/** Most vectors of an unrestricted ioctl, in and out together. */
export const FUSE_IOCTL_MAX_IOV = 256
/** `fuse_poll_in.flags`: a FUSE_NOTIFY_POLL is wanted (7.11). */
export const FUSE_POLL_SCHEDULE_NOTIFY = 1 << 0
/** `fuse_fsync_in.fsync_flags`: data only. */
export const FUSE_FSYNC_FDATASYNC = 1 << 0
/** `fuse_attr.flags`: root of a submount (7.32). */
export const FUSE_ATTR_SUBMOUNT = 1 << 0
/** `fuse_attr.flags`: use DAX for this file (7.36). */
export const FUSE_ATTR_DAX = 1 << 1
/** `fuse_open_in.open_flags`, `fuse_create_in.open_flags`: drop set-user-id and set-group-id (7.33). */
export const FUSE_OPEN_KILL_SUIDGID = 1 << 0
/** `fuse_setxattr_in.setxattr_flags`: the ACL drops set-group-id (7.33). */
export const FUSE_SETXATTR_ACL_KILL_SGID = 1 << 0
/** `fuse_notify_inval_entry_out.flags`: let the entry expire, do not drop it (7.38). */
export const FUSE_EXPIRE_ONLY = 1 << 0
/** Extension types: up to this number it is a count of security contexts, above it a kind (7.38). */
export const FUSE_MAX_NR_SECCTX = 31
/** Extension type of fuse_supp_groups (7.38). */
export const FUSE_EXT_GROUPS = 32
/** `fuse_setupmapping_in.flags` (7.31). */
export const FUSE_SETUPMAPPING_FLAG_WRITE = 1 << 0
export const FUSE_SETUPMAPPING_FLAG_READ = 1 << 1
/** CUSE_INIT flag: any ioctl. */
export const CUSE_UNRESTRICTED_IOCTL = 1 << 0

/** Names of single-purpose flag words, for the printer; the field is in the name. */
export const ReleaseFlag = { FUSE_RELEASE_FLUSH, FUSE_RELEASE_FLOCK_UNLOCK } as const
/** `getattr_flags`. */
export const GetattrFlag = { FUSE_GETATTR_FH } as const
/** `lk_flags`. */
export const LkFlag = { FUSE_LK_FLOCK } as const
/** `write_flags`. */
export const WriteFlag = {
  FUSE_WRITE_CACHE,
  FUSE_WRITE_LOCKOWNER,
  FUSE_WRITE_KILL_SUIDGID,
} as const
/** `read_flags`. */
export const ReadFlag = { FUSE_READ_LOCKOWNER } as const
/** `flags` of IOCTL. */
export const IoctlFlag = {
  FUSE_IOCTL_COMPAT,
  FUSE_IOCTL_UNRESTRICTED,
  FUSE_IOCTL_RETRY,
  FUSE_IOCTL_32BIT,
  FUSE_IOCTL_DIR,
  FUSE_IOCTL_COMPAT_X32,
} as const
/** `flags` of POLL. */
export const PollFlag = { FUSE_POLL_SCHEDULE_NOTIFY } as const
/** `fsync_flags`. */
export const FsyncFlag = { FUSE_FSYNC_FDATASYNC } as const
/** `fuse_attr.flags`. */
export const AttrFlag = { FUSE_ATTR_SUBMOUNT, FUSE_ATTR_DAX } as const
/** `open_flags` of OPEN, CREATE and TMPFILE. */
export const OpenInFlag = { FUSE_OPEN_KILL_SUIDGID } as const
/** `setxattr_flags`. */
export const SetxattrFlag = { FUSE_SETXATTR_ACL_KILL_SGID } as const
/** `flags` of SETUPMAPPING. */
export const SetupmappingFlag = {
  FUSE_SETUPMAPPING_FLAG_WRITE,
  FUSE_SETUPMAPPING_FLAG_READ,
} as const

/** Messages from the daemon to the guest (`fuse_out_header.error`); no guest of today has a queue for them. */
export const NotifyCode = {
  FUSE_NOTIFY_POLL: 1,
  FUSE_NOTIFY_INVAL_INODE: 2,
  FUSE_NOTIFY_INVAL_ENTRY: 3,
  FUSE_NOTIFY_STORE: 4,
  FUSE_NOTIFY_RETRIEVE: 5,
  FUSE_NOTIFY_DELETE: 6,
  FUSE_NOTIFY_RESEND: 7,
  FUSE_NOTIFY_INC_EPOCH: 8,
  FUSE_NOTIFY_PRUNE: 9,
} as const

/**
 * `A|B|0x80`: the names in `table` of what is set in the 32 bits of `word`, without `prefix`; bits
 * without a name in hex at the end; `0` for none. A name of several bits counts when all are set, and
 * must stand before names of its parts.
 */
export function flagNames(
  table: Readonly<Record<string, number>>,
  word: number,
  prefix = '',
): string {
  const found: string[] = []
  let rest = word >>> 0
  for (const [name, bit] of Object.entries(table)) {
    if (bit === 0 || (rest & bit) >>> 0 !== bit) continue
    found.push(name.startsWith(prefix) ? name.slice(prefix.length) : name)
    rest = (rest & ~bit) >>> 0
  }
  if (rest !== 0) found.push(`0x${rest.toString(16)}`)
  return found.length === 0 ? '0' : found.join('|')
}
