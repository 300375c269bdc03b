/**
 * Structs of the FUSE protocol, by the names and fields of the kernel header.
 * Source: include/uapi/linux/fuse.h up to 7.45. Little endian; every struct is padded to 8 bytes.
 */
import { bigU64, i32, i64, type Scalar, struct, u16, u32, u64 } from '../struct.js'

export const FUSE_KERNEL_VERSION = 7
export const FUSE_KERNEL_MINOR_VERSION = 45
/** Node of the root directory. */
export const FUSE_ROOT_ID = 1
/** Least room for a request a device may offer. */
export const FUSE_MIN_READ_BUFFER = 8192
/** Sizes of structs as older minors sent them. */
export const FUSE_COMPAT_ENTRY_OUT_SIZE = 120
export const FUSE_COMPAT_ATTR_OUT_SIZE = 96
export const FUSE_COMPAT_MKNOD_IN_SIZE = 8
export const FUSE_COMPAT_WRITE_IN_SIZE = 24
export const FUSE_COMPAT_STATFS_SIZE = 48
export const FUSE_COMPAT_SETXATTR_IN_SIZE = 8
export const FUSE_COMPAT_INIT_OUT_SIZE = 8
export const FUSE_COMPAT_22_INIT_OUT_SIZE = 24

type Prefixed<P extends string, L> = { readonly [K in keyof L & string as `${P}${K}`]: L[K] }

/** The fields of a struct inside another one: `attr` of fuse_attr_out gives `attr_ino`... */
// biome-ignore lint/suspicious/noExplicitAny: layouts mix number and bigint scalars
function nested<const P extends string, L extends Record<string, Scalar<any>>>(
  prefix: P,
  layout: L,
): Prefixed<P, L> {
  return Object.fromEntries(
    Object.entries(layout).map(([name, scalar]) => [`${prefix}${name}`, scalar]),
  ) as Prefixed<P, L>
}

/** Attributes of a node: the start of every attribute reply. Seconds are signed, as stat(2) has them. */
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

/** statfs(2) numbers; blocks are counted in `frsize` bytes. */
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
  spare0: u32,
  spare1: u32,
  spare2: u32,
  spare3: u32,
  spare4: u32,
  spare5: u32,
})

/** A lock: `end` is inclusive, OFFSET_MAX for "to the end". */
export const fuse_file_lock = struct('fuse_file_lock', {
  start: bigU64,
  end: bigU64,
  type: u32,
  pid: u32,
})

/** Reply of everything that finds or makes a node. */
export const fuse_entry_out = struct('fuse_entry_out', {
  nodeid: u64,
  generation: u64,
  entry_valid: u64,
  attr_valid: u64,
  entry_valid_nsec: u32,
  attr_valid_nsec: u32,
  ...nested('attr_', fuse_attr.LAYOUT),
})

/** Arguments of FORGET. */
export const fuse_forget_in = struct('fuse_forget_in', {
  nlookup: u64,
})

/** struct fuse_forget_one. */
export const fuse_forget_one = struct('fuse_forget_one', {
  nodeid: u64,
  nlookup: u64,
})

/** Arguments of BATCH_FORGET. */
export const fuse_batch_forget_in = struct('fuse_batch_forget_in', {
  count: u32,
  dummy: u32,
})

/** Arguments of GETATTR. */
export const fuse_getattr_in = struct('fuse_getattr_in', {
  getattr_flags: u32,
  dummy: u32,
  fh: u64,
})

/** Reply of ATTR. */
export const fuse_attr_out = struct('fuse_attr_out', {
  attr_valid: u64,
  attr_valid_nsec: u32,
  dummy: u32,
  ...nested('attr_', fuse_attr.LAYOUT),
})

/** Arguments of MKNOD. */
export const fuse_mknod_in = struct('fuse_mknod_in', {
  mode: u32,
  rdev: u32,
  umask: u32,
  padding: u32,
})

/** Arguments of MKDIR. */
export const fuse_mkdir_in = struct('fuse_mkdir_in', {
  mode: u32,
  umask: u32,
})

/** Arguments of RENAME. */
export const fuse_rename_in = struct('fuse_rename_in', {
  newdir: u64,
})

/** Arguments of RENAME2. */
export const fuse_rename2_in = struct('fuse_rename2_in', {
  newdir: u64,
  flags: u32,
  padding: u32,
})

/** Arguments of LINK. */
export const fuse_link_in = struct('fuse_link_in', {
  oldnodeid: u64,
})

/** Arguments of SETATTR. */
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

/** Arguments of OPEN. */
export const fuse_open_in = struct('fuse_open_in', {
  flags: u32,
  open_flags: u32,
})

/** CREATE and TMPFILE: the name follows. */
export const fuse_create_in = struct('fuse_create_in', {
  flags: u32,
  mode: u32,
  umask: u32,
  open_flags: u32,
})

/** Reply of OPEN and OPENDIR. `backing_id` since 7.40, padding before. */
export const fuse_open_out = struct('fuse_open_out', {
  fh: u64,
  open_flags: u32,
  backing_id: i32,
})

/** Arguments of RELEASE. */
export const fuse_release_in = struct('fuse_release_in', {
  fh: u64,
  flags: u32,
  release_flags: u32,
  lock_owner: u64,
})

/** Arguments of FLUSH. */
export const fuse_flush_in = struct('fuse_flush_in', {
  fh: u64,
  unused: u32,
  padding: u32,
  lock_owner: u64,
})

/** READ, READDIR and READDIRPLUS. */
export const fuse_read_in = struct('fuse_read_in', {
  fh: u64,
  offset: u64,
  size: u32,
  read_flags: u32,
  lock_owner: u64,
  flags: u32,
  padding: u32,
})

/** WRITE: the data follow. */
export const fuse_write_in = struct('fuse_write_in', {
  fh: u64,
  offset: u64,
  size: u32,
  write_flags: u32,
  lock_owner: u64,
  flags: u32,
  padding: u32,
})

/** Reply of WRITE. */
export const fuse_write_out = struct('fuse_write_out', {
  size: u32,
  padding: u32,
})

/** Reply of STATFS. */
export const fuse_statfs_out = struct('fuse_statfs_out', {
  ...nested('st_', fuse_kstatfs.LAYOUT),
})

/** Arguments of FSYNC. */
export const fuse_fsync_in = struct('fuse_fsync_in', {
  fh: u64,
  fsync_flags: u32,
  padding: u32,
})

/** SETXATTR. Only the first 8 bytes without FUSE_SETXATTR_EXT. */
export const fuse_setxattr_in = struct('fuse_setxattr_in', {
  size: u32,
  flags: u32,
  setxattr_flags: u32,
  padding: u32,
})

/** Arguments of GETXATTR. */
export const fuse_getxattr_in = struct('fuse_getxattr_in', {
  size: u32,
  padding: u32,
})

/** Reply of GETXATTR. */
export const fuse_getxattr_out = struct('fuse_getxattr_out', {
  size: u32,
  padding: u32,
})

/** Arguments of LK. */
export const fuse_lk_in = struct('fuse_lk_in', {
  fh: u64,
  owner: u64,
  ...nested('lk_', fuse_file_lock.LAYOUT),
  lk_flags: u32,
  padding: u32,
})

/** Reply of LK. */
export const fuse_lk_out = struct('fuse_lk_out', {
  ...nested('lk_', fuse_file_lock.LAYOUT),
})

/** Arguments of ACCESS. */
export const fuse_access_in = struct('fuse_access_in', {
  mask: u32,
  padding: u32,
})

/** INIT. Guests before 7.36 send the first 16 bytes. */
export const fuse_init_in = struct('fuse_init_in', {
  major: u32,
  minor: u32,
  max_readahead: u32,
  flags: u32,
  flags2: u32,
  unused0: u32,
  unused1: u32,
  unused2: u32,
  unused3: u32,
  unused4: u32,
  unused5: u32,
  unused6: u32,
  unused7: u32,
  unused8: u32,
  unused9: u32,
  unused10: u32,
})

/** Reply of INIT: 64 bytes since 7.23. request_timeout (seconds) since 7.43. */
export const fuse_init_out = struct('fuse_init_out', {
  major: u32,
  minor: u32,
  max_readahead: u32,
  flags: u32,
  max_background: u16,
  congestion_threshold: u16,
  max_write: u32,
  time_gran: u32,
  max_pages: u16,
  map_alignment: u16,
  flags2: u32,
  /** Stacking depth for passthrough (7.40). */
  max_stack_depth: u32,
  /** Seconds; 0 for none (7.43). */
  request_timeout: u16,
  unused0: u16,
  unused1: u32,
  unused2: u32,
  unused3: u32,
  unused4: u32,
  unused5: u32,
})

/** Arguments of INTERRUPT. */
export const fuse_interrupt_in = struct('fuse_interrupt_in', {
  unique: u64,
})

/** Arguments of BMAP. */
export const fuse_bmap_in = struct('fuse_bmap_in', {
  block: u64,
  blocksize: u32,
  padding: u32,
})

/** Reply of BMAP. */
export const fuse_bmap_out = struct('fuse_bmap_out', {
  block: u64,
})

/** Arguments of IOCTL. */
export const fuse_ioctl_in = struct('fuse_ioctl_in', {
  fh: u64,
  flags: u32,
  cmd: u32,
  arg: u64,
  in_size: u32,
  out_size: u32,
})

/** struct fuse_ioctl_iovec. */
export const fuse_ioctl_iovec = struct('fuse_ioctl_iovec', {
  base: u64,
  len: u64,
})

/** Reply of IOCTL. */
export const fuse_ioctl_out = struct('fuse_ioctl_out', {
  result: i32,
  flags: u32,
  in_iovs: u32,
  out_iovs: u32,
})

/** Arguments of POLL. */
export const fuse_poll_in = struct('fuse_poll_in', {
  fh: u64,
  kh: u64,
  flags: u32,
  events: u32,
})

/** Reply of POLL. */
export const fuse_poll_out = struct('fuse_poll_out', {
  revents: u32,
  padding: u32,
})

/** Notification POLL_WAKEUP. */
export const fuse_notify_poll_wakeup_out = struct('fuse_notify_poll_wakeup_out', {
  kh: u64,
})

/** Arguments of FALLOCATE. */
export const fuse_fallocate_in = struct('fuse_fallocate_in', {
  fh: u64,
  offset: u64,
  length: u64,
  mode: u32,
  padding: u32,
})

/** Every request begins with it. `total_extlen` (7.38) counts 8-byte units of extensions. */
export const fuse_in_header = struct('fuse_in_header', {
  len: u32,
  opcode: u32,
  unique: u64,
  nodeid: u64,
  uid: u32,
  gid: u32,
  pid: u32,
  total_extlen: u16,
  padding: u16,
})

/** Every reply begins with it. `error` is 0 or -errno. */
export const fuse_out_header = struct('fuse_out_header', {
  len: u32,
  error: i32,
  unique: u64,
})

/** struct fuse_dirent. */
export const fuse_dirent = struct('fuse_dirent', {
  ino: u64,
  off: u64,
  namelen: u32,
  type: u32,
})

/** Notification INVAL_INODE. */
export const fuse_notify_inval_inode_out = struct('fuse_notify_inval_inode_out', {
  ino: u64,
  off: i64,
  len: i64,
})

/** Notification INVAL_ENTRY. */
export const fuse_notify_inval_entry_out = struct('fuse_notify_inval_entry_out', {
  parent: u64,
  namelen: u32,
  flags: u32,
})

/** Notification DELETE. */
export const fuse_notify_delete_out = struct('fuse_notify_delete_out', {
  parent: u64,
  child: u64,
  namelen: u32,
  padding: u32,
})

/** Notification STORE. */
export const fuse_notify_store_out = struct('fuse_notify_store_out', {
  nodeid: u64,
  offset: u64,
  size: u32,
  padding: u32,
})

/** Notification RETRIEVE. */
export const fuse_notify_retrieve_out = struct('fuse_notify_retrieve_out', {
  notify_unique: u64,
  nodeid: u64,
  offset: u64,
  size: u32,
  padding: u32,
})

/** Arguments of NOTIFY_RETRIEVE. */
export const fuse_notify_retrieve_in = struct('fuse_notify_retrieve_in', {
  dummy1: u64,
  offset: u64,
  size: u32,
  dummy2: u32,
  dummy3: u64,
  dummy4: u64,
})

/** Arguments of LSEEK. */
export const fuse_lseek_in = struct('fuse_lseek_in', {
  fh: u64,
  offset: u64,
  whence: u32,
  padding: u32,
})

/** Reply of LSEEK. */
export const fuse_lseek_out = struct('fuse_lseek_out', {
  offset: u64,
})

/** Arguments of COPY_FILE_RANGE. */
export const fuse_copy_file_range_in = struct('fuse_copy_file_range_in', {
  fh_in: u64,
  off_in: u64,
  nodeid_out: u64,
  fh_out: u64,
  off_out: u64,
  len: u64,
  flags: u64,
})

/** Arguments of SETUPMAPPING. */
export const fuse_setupmapping_in = struct('fuse_setupmapping_in', {
  fh: u64,
  foffset: u64,
  len: u64,
  flags: u64,
  moffset: u64,
})

/** Arguments of REMOVEMAPPING. */
export const fuse_removemapping_in = struct('fuse_removemapping_in', {
  count: u32,
})

/** struct fuse_removemapping_one. */
export const fuse_removemapping_one = struct('fuse_removemapping_one', {
  moffset: u64,
  len: u64,
})

/** Arguments of SYNCFS. */
export const fuse_syncfs_in = struct('fuse_syncfs_in', {
  padding: u64,
})

/** struct fuse_secctx. */
export const fuse_secctx = struct('fuse_secctx', {
  size: u32,
  padding: u32,
})

/** struct fuse_secctx_header. */
export const fuse_secctx_header = struct('fuse_secctx_header', {
  size: u32,
  nr_secctx: u32,
})

/** struct fuse_ext_header. */
export const fuse_ext_header = struct('fuse_ext_header', {
  size: u32,
  type: u32,
})

/** A time of statx(2). */
export const fuse_sx_time = struct('fuse_sx_time', {
  tv_sec: i64,
  tv_nsec: u32,
  reserved: i32,
})

/** statx(2) as STATX carries it (7.39). */
export const fuse_statx = struct('fuse_statx', {
  mask: u32,
  blksize: u32,
  attributes: u64,
  nlink: u32,
  uid: u32,
  gid: u32,
  mode: u16,
  spare0: u16,
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
  spare2_0: u64,
  spare2_1: u64,
  spare2_2: u64,
  spare2_3: u64,
  spare2_4: u64,
  spare2_5: u64,
  spare2_6: u64,
  spare2_7: u64,
  spare2_8: u64,
  spare2_9: u64,
  spare2_10: u64,
  spare2_11: u64,
  spare2_12: u64,
  spare2_13: u64,
})

/** Arguments of STATX (7.39). */
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
  spare0: u64,
  spare1: u64,
  ...nested('stat_', fuse_statx.LAYOUT),
})

/** Reply of COPY_FILE_RANGE_64 (7.45). */
export const fuse_copy_file_range_out = struct('fuse_copy_file_range_out', {
  bytes_copied: u64,
})

/** Notification PRUNE: `count` node ids follow (7.45). */
export const fuse_notify_prune_out = struct('fuse_notify_prune_out', {
  count: u32,
  padding: u32,
  spare: u64,
})

/** The group extension: `nr_groups` u32 follow (7.38). */
export const fuse_supp_groups = struct('fuse_supp_groups', {
  nr_groups: u32,
})
