/** statx(2): struct statx and its flags. Source: include/uapi/linux/stat.h (Linux 6.x). */
import { i32, i64, struct, u16, u32, u64 } from '../struct.js'

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
  stx_mnt_id: u64,
  stx_dio_mem_align: u32,
  stx_dio_offset_align: u32,
})

/** Bytes the kernel writes: the struct with its spare words. */
export const STATX_BYTES = 256

export const STATX_TYPE = 0x1
export const STATX_MODE = 0x2
export const STATX_INO = 0x100
export const STATX_SIZE = 0x200
export const STATX_BASIC_STATS = 0x7ff
export const STATX_BTIME = 0x800
export const STATX_MNT_ID = 0x1000
/** `stx_attributes`: the directory is the root of a mount. */
export const STATX_ATTR_MOUNT_ROOT = 0x2000
