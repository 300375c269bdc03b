/** statx(2): struct statx and its flags. Source: include/uapi/linux/stat.h up to Linux 6.16. */
import { array } from '../layout.js'
import { i32, i64, struct, u16, u32, u64 } from '../struct.js'

/**
 * What statx(2) fills in. Times are a struct statx_timestamp each: its tv_sec is `stx_atime_sec` here.
 * `stx_blocks` counts 512 bytes, alignments are in bytes. A field is valid when its bit of `stx_mask`
 * is set; the kernel zeroes what it does not know, so an older kernel gives zeroes at the end.
 */
export const statx = struct('statx', {
  stx_mask: u32,
  stx_blksize: u32,
  stx_attributes: u64,
  stx_nlink: u32,
  stx_uid: u32,
  stx_gid: u32,
  stx_mode: u16,
  spare0: u16,
  stx_ino: u64,
  stx_size: u64,
  stx_blocks: u64,
  stx_attributes_mask: u64,
  stx_atime_sec: i64,
  stx_atime_nsec: u32,
  stx_atime_reserved: i32,
  stx_btime_sec: i64,
  stx_btime_nsec: u32,
  stx_btime_reserved: i32,
  stx_ctime_sec: i64,
  stx_ctime_nsec: u32,
  stx_ctime_reserved: i32,
  stx_mtime_sec: i64,
  stx_mtime_nsec: u32,
  stx_mtime_reserved: i32,
  stx_rdev_major: u32,
  stx_rdev_minor: u32,
  stx_dev_major: u32,
  stx_dev_minor: u32,
  stx_mnt_id: u64, // Linux 5.8
  stx_dio_mem_align: u32, // Linux 6.1
  stx_dio_offset_align: u32,
  stx_subvol: u64, // Linux 6.10
  stx_atomic_write_unit_min: u32, // Linux 6.11
  stx_atomic_write_unit_max: u32,
  stx_atomic_write_segments_max: u32,
  stx_dio_read_offset_align: u32, // Linux 6.14
  stx_atomic_write_unit_max_opt: u32, // Linux 6.16
  spare2: u32,
  ...array('spare3_', u64, 8),
})

/** Bytes the kernel writes: all of the struct. */
export const STATX_BYTES = statx.SIZE

/** `stx_mask` and the mask argument of statx(2). */
export const STATX_TYPE = 0x1
export const STATX_MODE = 0x2
export const STATX_NLINK = 0x4
export const STATX_UID = 0x8
export const STATX_GID = 0x10
export const STATX_ATIME = 0x20
export const STATX_MTIME = 0x40
export const STATX_CTIME = 0x80
export const STATX_INO = 0x100
export const STATX_SIZE = 0x200
export const STATX_BLOCKS = 0x400
/** All of stat(2). */
export const STATX_BASIC_STATS = 0x7ff
export const STATX_BTIME = 0x800
export const STATX_MNT_ID = 0x1000
/** Linux 6.1. */
export const STATX_DIOALIGN = 0x2000
/** `stx_mnt_id` is one that is never used again (Linux 6.8). */
export const STATX_MNT_ID_UNIQUE = 0x4000
/** Linux 6.10. */
export const STATX_SUBVOL = 0x8000
/** Linux 6.11. */
export const STATX_WRITE_ATOMIC = 0x10000
/** Linux 6.14. */
export const STATX_DIO_READ_ALIGN = 0x20000

/** `stx_attributes`; `stx_attributes_mask` says which the file system knows. */
export const STATX_ATTR_COMPRESSED = 0x4
export const STATX_ATTR_IMMUTABLE = 0x10
export const STATX_ATTR_APPEND = 0x20
export const STATX_ATTR_NODUMP = 0x40
export const STATX_ATTR_ENCRYPTED = 0x800
export const STATX_ATTR_AUTOMOUNT = 0x1000
/** The directory is the root of a mount (Linux 5.8). */
export const STATX_ATTR_MOUNT_ROOT = 0x2000
export const STATX_ATTR_VERITY = 0x100000
export const STATX_ATTR_DAX = 0x200000
/** Linux 6.11. */
export const STATX_ATTR_WRITE_ATOMIC = 0x400000
