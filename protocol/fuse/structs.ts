/**
 * Structs of requests and replies, by the names and fields of the kernel header.
 *
 * Source: include/uapi/linux/fuse.h up to 7.45 (the header allows BSD terms). A number in brackets is
 * the minor in which a struct appeared or last grew; without one it is older than the oldest guest. Little endian.
 * Notifications, CUSE and io_uring are in structs-device.ts.
 */
import { array, nested } from '../layout.js'
import { bigU64, i32, i64, struct, u16, u32, u64 } from '../struct.js'

/** Version of the protocol: the newest this daemon speaks, and the oldest guest it serves. */
export const FUSE_KERNEL_VERSION = 7
export const FUSE_KERNEL_MINOR_VERSION = 45
/** Linux 4.19; virtio-fs itself is younger (5.4, with 7.31). Ours, not the header's. */
export const FUSE_MIN_MINOR_VERSION = 27
/** Node id of the root directory. */
export const FUSE_ROOT_ID = 1
/** Least bytes a server must have room for in a request. */
export const FUSE_MIN_READ_BUFFER = 8192
/** Sizes, in bytes, that structs had before some minor: 7.9, 7.9, 7.12, 7.9, 7.4, 7.33, 7.5, 7.23. */
export const FUSE_COMPAT_ENTRY_OUT_SIZE = 120
export const FUSE_COMPAT_ATTR_OUT_SIZE = 96
export const FUSE_COMPAT_MKNOD_IN_SIZE = 8
export const FUSE_COMPAT_WRITE_IN_SIZE = 24
export const FUSE_COMPAT_STATFS_SIZE = 48
/** Still in use: guests send it unless FUSE_SETXATTR_EXT was agreed. */
export const FUSE_COMPAT_SETXATTR_IN_SIZE = 8
export const FUSE_COMPAT_INIT_OUT_SIZE = 8
export const FUSE_COMPAT_22_INIT_OUT_SIZE = 24
/** Bytes of fuse_init_in before `flags2`: all that guests older than 7.36 send. Ours. */
export const FUSE_INIT_IN_BASE_SIZE = 16
/** `fuse_in_header.uid` and `gid` that an id-mapped mount cannot express (7.41). */
export const FUSE_INVALID_UIDGID = 0xffff_ffff
/** In the high word of `unique`: the request was sent before and is sent again (7.40). */
export const FUSE_UNIQUE_RESEND_HIGH = 0x8000_0000

/**
 * Starts every request; `len` counts it and all that follows.
 * `total_extlen`: 8-byte units of extensions at the end (7.38, padding before).
 */
export const fuse_in_header = struct('fuse_in_header', {
  len: u32,
  opcode: u32,
  unique: u64, // opaque: copied with copyU64, never computed with
  nodeid: u64,
  uid: u32,
  gid: u32,
  pid: u32,
  total_extlen: u16,
  padding: u16,
})

/** Starts every reply; `error` is 0 or -errno, and with an error nothing follows. */
export const fuse_out_header = struct('fuse_out_header', {
  len: u32,
  error: i32,
  unique: u64,
})

/**
 * Attributes of a node. Sizes in bytes, `blocks` in 512 bytes; seconds are signed, as stat(2) has them,
 * though the header calls them uint64_t. `flags` has FUSE_ATTR_* (7.32, padding before).
 */
export const fuse_attr = struct('fuse_attr', {
  ino: u64,
  size: u64,
  blocks: u64,
  atime: i64,
  mtime: i64,
  ctime: i64,
  atimensec: u32,
  mtimensec: u32,
  ctimensec: u32,
  mode: u32,
  nlink: u32,
  uid: u32,
  gid: u32,
  rdev: u32,
  blksize: u32,
  flags: u32,
})

/** Numbers of statfs(2); blocks are counted in `frsize` bytes. */
export const fuse_kstatfs = struct('fuse_kstatfs', {
  blocks: u64,
  bfree: u64,
  bavail: u64,
  files: u64,
  ffree: u64,
  bsize: u32,
  namelen: u32,
  frsize: u32,
  padding: u32,
  ...array('spare', u32, 6),
})

/** A lock on bytes `start` to `end`, both included; 2^63-1 is "to the end", hence exact scalars. */
export const fuse_file_lock = struct('fuse_file_lock', {
  start: bigU64,
  end: bigU64,
  type: u32, // F_RDLCK, F_WRLCK, F_UNLCK
  pid: u32,
})

/** Reply of what finds or makes a node: LOOKUP, MKNOD, MKDIR, SYMLINK, LINK, CREATE, TMPFILE. */
export const fuse_entry_out = struct('fuse_entry_out', {
  nodeid: u64, // 0: the name is not there, and that may be cached
  generation: u64,
  entry_valid: u64, // seconds the name may be cached
  attr_valid: u64,
  entry_valid_nsec: u32,
  attr_valid_nsec: u32,
  ...nested('attr_', fuse_attr.LAYOUT),
})

/** FORGET: lookups to give back. */
export const fuse_forget_in = struct('fuse_forget_in', { nlookup: u64 })

/** One of the nodes of BATCH_FORGET. */
export const fuse_forget_one = struct('fuse_forget_one', { nodeid: u64, nlookup: u64 })

/** BATCH_FORGET: `count` fuse_forget_one follow (7.16). */
export const fuse_batch_forget_in = struct('fuse_batch_forget_in', { count: u32, dummy: u32 })

/** GETATTR; `fh` counts with FUSE_GETATTR_FH. */
export const fuse_getattr_in = struct('fuse_getattr_in', {
  getattr_flags: u32,
  dummy: u32,
  fh: u64,
})

/** Reply of GETATTR and SETATTR. */
export const fuse_attr_out = struct('fuse_attr_out', {
  attr_valid: u64, // seconds
  attr_valid_nsec: u32,
  dummy: u32,
  ...nested('attr_', fuse_attr.LAYOUT),
})

/** A time as statx(2) has it (7.39). */
export const fuse_sx_time = struct('fuse_sx_time', {
  tv_sec: i64,
  tv_nsec: u32,
  __reserved: i32,
})

/** struct statx as it was in Linux 6.6, with the later fields still spare (7.39). */
export const fuse_statx = struct('fuse_statx', {
  mask: u32,
  blksize: u32,
  attributes: u64,
  nlink: u32,
  uid: u32,
  gid: u32,
  mode: u16,
  ...array('__spare0_', u16, 1),
  ino: u64,
  size: u64,
  blocks: u64,
  attributes_mask: u64,
  ...nested('atime_', fuse_sx_time.LAYOUT),
  ...nested('btime_', fuse_sx_time.LAYOUT),
  ...nested('ctime_', fuse_sx_time.LAYOUT),
  ...nested('mtime_', fuse_sx_time.LAYOUT),
  rdev_major: u32,
  rdev_minor: u32,
  dev_major: u32,
  dev_minor: u32,
  ...array('__spare2_', u64, 14),
})

/** STATX: a GETATTR with a mask (7.39). */
export const fuse_statx_in = struct('fuse_statx_in', {
  getattr_flags: u32,
  reserved: u32,
  fh: u64,
  sx_flags: u32,
  sx_mask: u32,
})

/** Reply of STATX (7.39). */
export const fuse_statx_out = struct('fuse_statx_out', {
  attr_valid: u64,
  attr_valid_nsec: u32,
  flags: u32,
  ...array('spare', u64, 2),
  ...nested('stat_', fuse_statx.LAYOUT),
})

/** MKNOD; the name follows (7.12, see FUSE_COMPAT_MKNOD_IN_SIZE). */
export const fuse_mknod_in = struct('fuse_mknod_in', {
  mode: u32,
  rdev: u32, // as huge_encode_dev() has it: minor 8 bits, major 12, minor 12
  umask: u32,
  padding: u32,
})

/** MKDIR; the name follows. `umask` since 7.12. */
export const fuse_mkdir_in = struct('fuse_mkdir_in', { mode: u32, umask: u32 })

/** RENAME; old and new name follow. */
export const fuse_rename_in = struct('fuse_rename_in', { newdir: u64 })

/** RENAME2, with RENAME_* flags; old and new name follow (7.23). */
export const fuse_rename2_in = struct('fuse_rename2_in', {
  newdir: u64,
  flags: u32,
  padding: u32,
})

/** LINK; the new name follows, the header has the directory. */
export const fuse_link_in = struct('fuse_link_in', { oldnodeid: u64 })

/** SETATTR; `valid` has FATTR_* (ctime since 7.23). */
export const fuse_setattr_in = struct('fuse_setattr_in', {
  valid: u32,
  padding: u32,
  fh: u64,
  size: u64,
  lock_owner: u64,
  atime: i64,
  mtime: i64,
  ctime: i64,
  atimensec: u32,
  mtimensec: u32,
  ctimensec: u32,
  mode: u32,
  unused4: u32,
  uid: u32,
  gid: u32,
  unused5: u32,
})

/** OPEN and OPENDIR: O_* and FUSE_OPEN_* (`open_flags` 7.33, unused before). */
export const fuse_open_in = struct('fuse_open_in', { flags: u32, open_flags: u32 })

/** CREATE and TMPFILE (7.37); a name follows, for TMPFILE one without meaning ("/" from Linux). */
export const fuse_create_in = struct('fuse_create_in', {
  flags: u32,
  mode: u32,
  umask: u32, // 7.12
  open_flags: u32, // 7.33
})

/** Reply of OPEN and OPENDIR; behind a fuse_entry_out, of CREATE and TMPFILE. */
export const fuse_open_out = struct('fuse_open_out', {
  fh: u64,
  open_flags: u32, // FOPEN_*
  backing_id: i32, // 7.40, padding before; only with FOPEN_PASSTHROUGH
})

/** RELEASE and RELEASEDIR. */
export const fuse_release_in = struct('fuse_release_in', {
  fh: u64,
  flags: u32,
  release_flags: u32,
  lock_owner: u64,
})

/** FLUSH: a descriptor was closed, perhaps not the last. */
export const fuse_flush_in = struct('fuse_flush_in', {
  fh: u64,
  unused: u32,
  padding: u32,
  lock_owner: u64,
})

/** READ, READDIR and READDIRPLUS; `size` bytes are wanted at `offset`, a cookie for directories. */
export const fuse_read_in = struct('fuse_read_in', {
  fh: u64,
  offset: u64,
  size: u32,
  read_flags: u32,
  lock_owner: u64,
  flags: u32,
  padding: u32,
})

/** WRITE; `size` bytes of data follow (7.9, see FUSE_COMPAT_WRITE_IN_SIZE). */
export const fuse_write_in = struct('fuse_write_in', {
  fh: u64,
  offset: u64,
  size: u32,
  write_flags: u32,
  lock_owner: u64,
  flags: u32,
  padding: u32,
})

/** Reply of WRITE and COPY_FILE_RANGE: bytes done. */
export const fuse_write_out = struct('fuse_write_out', { size: u32, padding: u32 })

/** Reply of STATFS. */
export const fuse_statfs_out = struct('fuse_statfs_out', {
  ...nested('st_', fuse_kstatfs.LAYOUT),
})

/** FSYNC and FSYNCDIR. */
export const fuse_fsync_in = struct('fuse_fsync_in', {
  fh: u64,
  fsync_flags: u32,
  padding: u32,
})

/** SETXATTR; name, then `size` bytes of value (7.33, see FUSE_COMPAT_SETXATTR_IN_SIZE). */
export const fuse_setxattr_in = struct('fuse_setxattr_in', {
  size: u32,
  flags: u32, // XATTR_CREATE, XATTR_REPLACE
  setxattr_flags: u32,
  padding: u32,
})

/** GETXATTR (the name follows) and LISTXATTR; `size` 0 asks for the size. */
export const fuse_getxattr_in = struct('fuse_getxattr_in', { size: u32, padding: u32 })

/** Reply of GETXATTR and LISTXATTR that were asked for the size. */
export const fuse_getxattr_out = struct('fuse_getxattr_out', { size: u32, padding: u32 })

/** GETLK, SETLK and SETLKW. */
export const fuse_lk_in = struct('fuse_lk_in', {
  fh: u64,
  owner: u64,
  ...nested('lk_', fuse_file_lock.LAYOUT),
  lk_flags: u32, // FUSE_LK_FLOCK
  padding: u32,
})

/** Reply of GETLK: the lock in the way, or F_UNLCK. */
export const fuse_lk_out = struct('fuse_lk_out', { ...nested('lk_', fuse_file_lock.LAYOUT) })

/** ACCESS: mask of R_OK 4, W_OK 2, X_OK 1. */
export const fuse_access_in = struct('fuse_access_in', { mask: u32, padding: u32 })

/** INIT, the first request. From `flags2` on since 7.36, with FUSE_INIT_EXT. */
export const fuse_init_in = struct('fuse_init_in', {
  major: u32,
  minor: u32,
  max_readahead: u32,
  flags: u32,
  flags2: u32,
  ...array('unused', u32, 11),
})

/** Reply of INIT: 64 bytes since 7.23, the later fields were unused before. */
export const fuse_init_out = struct('fuse_init_out', {
  major: u32,
  minor: u32,
  max_readahead: u32, // bytes
  flags: u32,
  max_background: u16,
  congestion_threshold: u16,
  max_write: u32, // bytes
  time_gran: u32, // nanoseconds
  max_pages: u16, // 7.28
  map_alignment: u16, // log2 of bytes; 7.31
  flags2: u32, // 7.36
  max_stack_depth: u32, // 7.40
  request_timeout: u16, // seconds, 0 none; 7.43
  ...array('unused', u16, 11),
})

/** INTERRUPT: `unique` of the request to give up. */
export const fuse_interrupt_in = struct('fuse_interrupt_in', { unique: u64 })

/** BMAP: block device file systems only. */
export const fuse_bmap_in = struct('fuse_bmap_in', { block: u64, blocksize: u32, padding: u32 })

/** Reply of BMAP. */
export const fuse_bmap_out = struct('fuse_bmap_out', { block: u64 })

/** IOCTL; `in_size` bytes follow. */
export const fuse_ioctl_in = struct('fuse_ioctl_in', {
  fh: u64,
  flags: u32, // FUSE_IOCTL_*
  cmd: u32,
  arg: u64, // an address in the caller, or a plain number
  in_size: u32,
  out_size: u32,
})

/** A span of the caller's memory that FUSE_IOCTL_RETRY asks for (7.16). */
export const fuse_ioctl_iovec = struct('fuse_ioctl_iovec', { base: u64, len: u64 })

/** Reply of IOCTL; at most `out_size` bytes follow. */
export const fuse_ioctl_out = struct('fuse_ioctl_out', {
  result: i32,
  flags: u32,
  in_iovs: u32,
  out_iovs: u32,
})

/** POLL; `events` has POLL* (7.21, padding before). */
export const fuse_poll_in = struct('fuse_poll_in', {
  fh: u64,
  kh: u64,
  flags: u32,
  events: u32,
})

/** Reply of POLL. */
export const fuse_poll_out = struct('fuse_poll_out', { revents: u32, padding: u32 })

/** FALLOCATE; `mode` has FALLOC_FL_* (7.19). */
export const fuse_fallocate_in = struct('fuse_fallocate_in', {
  fh: u64,
  offset: u64,
  length: u64,
  mode: u32,
  padding: u32,
})

/** LSEEK: only SEEK_DATA and SEEK_HOLE come from Linux (7.24). */
export const fuse_lseek_in = struct('fuse_lseek_in', {
  fh: u64,
  offset: u64,
  whence: u32,
  padding: u32,
})

/** Reply of LSEEK. */
export const fuse_lseek_out = struct('fuse_lseek_out', { offset: u64 })

/** COPY_FILE_RANGE (7.28) and COPY_FILE_RANGE_64 (7.45); the header has the source node. */
export const fuse_copy_file_range_in = struct('fuse_copy_file_range_in', {
  fh_in: u64,
  off_in: u64,
  nodeid_out: u64,
  fh_out: u64,
  off_out: u64,
  len: u64,
  flags: u64,
})

/** Reply of COPY_FILE_RANGE_64 (7.45). */
export const fuse_copy_file_range_out = struct('fuse_copy_file_range_out', { bytes_copied: u64 })

/** SETUPMAPPING: file bytes `foffset`, `len` to the window at `moffset` (7.31). `fh` from Linux is -1. */
export const fuse_setupmapping_in = struct('fuse_setupmapping_in', {
  fh: u64,
  foffset: u64,
  len: u64,
  flags: u64, // FUSE_SETUPMAPPING_FLAG_*
  moffset: u64,
})

/** REMOVEMAPPING: `count` fuse_removemapping_one follow at once, so at offset 4 (7.31). */
export const fuse_removemapping_in = struct('fuse_removemapping_in', { count: u32 })

/** A piece of the window that is not used any more; `len` bytes. */
export const fuse_removemapping_one = struct('fuse_removemapping_one', { moffset: u64, len: u64 })

/** SYNCFS (7.34). */
export const fuse_syncfs_in = struct('fuse_syncfs_in', { padding: u64 })

/** One security context: its name with NUL, then `size` bytes of value follow (7.36). */
export const fuse_secctx = struct('fuse_secctx', { size: u32, padding: u32 })

/** Starts the security contexts of a creating request; `size` counts it (7.36). See extensions.ts. */
export const fuse_secctx_header = struct('fuse_secctx_header', { size: u32, nr_secctx: u32 })

/** Starts an extension of a creating request; `size` counts it (7.38). */
export const fuse_ext_header = struct('fuse_ext_header', { size: u32, type: u32 })

/** Extension FUSE_EXT_GROUPS: `nr_groups` u32 follow (7.38). */
export const fuse_supp_groups = struct('fuse_supp_groups', { nr_groups: u32 })

/** An entry of READDIR; `namelen` bytes of name follow, padded to 8. See dirent.ts. */
export const fuse_dirent = struct('fuse_dirent', {
  ino: u64,
  off: u64, // opaque cookie of the next entry
  namelen: u32,
  type: u32, // DT_*
})

/** An entry of READDIRPLUS (7.21). */
export const fuse_direntplus = struct('fuse_direntplus', {
  ...nested('entry_out_', fuse_entry_out.LAYOUT),
  ...nested('dirent_', fuse_dirent.LAYOUT),
})
