/**
 * Structs of the kernel header that no virtio-fs guest of today sends or reads: notifications (there is
 * no queue for them), CUSE and what belongs to /dev/fuse. Source: include/uapi/linux/fuse.h up to 7.45.
 */
import { array, nested } from '../layout.js'
import { i32, i64, struct, u8, u16, u32, u64 } from '../struct.js'

/** FUSE_NOTIFY_POLL: wakes the poll with this `kh` (7.11). */
export const fuse_notify_poll_wakeup_out = struct('fuse_notify_poll_wakeup_out', { kh: u64 })

/** FUSE_NOTIFY_INVAL_INODE: drops attributes, and the data from `off` on when it is not negative (7.12). */
export const fuse_notify_inval_inode_out = struct('fuse_notify_inval_inode_out', {
  ino: u64,
  off: i64,
  len: i64,
})

/** FUSE_NOTIFY_INVAL_ENTRY; the name follows (7.12, `flags` 7.38). */
export const fuse_notify_inval_entry_out = struct('fuse_notify_inval_entry_out', {
  parent: u64,
  namelen: u32,
  flags: u32,
})

/** FUSE_NOTIFY_DELETE; the name follows (7.18). */
export const fuse_notify_delete_out = struct('fuse_notify_delete_out', {
  parent: u64,
  child: u64,
  namelen: u32,
  padding: u32,
})

/** FUSE_NOTIFY_STORE; `size` bytes for the page cache follow (7.15). */
export const fuse_notify_store_out = struct('fuse_notify_store_out', {
  nodeid: u64,
  offset: u64,
  size: u32,
  padding: u32,
})

/** FUSE_NOTIFY_RETRIEVE: asks for `size` bytes of the page cache (7.15). */
export const fuse_notify_retrieve_out = struct('fuse_notify_retrieve_out', {
  notify_unique: u64,
  nodeid: u64,
  offset: u64,
  size: u32,
  padding: u32,
})

/** NOTIFY_REPLY: what FUSE_NOTIFY_RETRIEVE asked for; shaped as fuse_write_in (7.15). */
export const fuse_notify_retrieve_in = struct('fuse_notify_retrieve_in', {
  dummy1: u64,
  offset: u64,
  size: u32,
  dummy2: u32,
  dummy3: u64,
  dummy4: u64,
})

/** FUSE_NOTIFY_PRUNE: `count` node ids follow, to be forgotten if not in use (7.45). */
export const fuse_notify_prune_out = struct('fuse_notify_prune_out', {
  count: u32,
  padding: u32,
  spare: u64,
})

/** Most bytes of device information in the reply of CUSE_INIT. */
export const CUSE_INIT_INFO_MAX = 4096

/** CUSE_INIT. */
export const cuse_init_in = struct('cuse_init_in', {
  major: u32,
  minor: u32,
  unused: u32,
  flags: u32,
})

/** Reply of CUSE_INIT. */
export const cuse_init_out = struct('cuse_init_out', {
  major: u32,
  minor: u32,
  unused: u32,
  flags: u32,
  max_read: u32,
  max_write: u32,
  dev_major: u32,
  dev_minor: u32,
  ...array('spare', u32, 10),
})

/** Argument of FUSE_DEV_IOC_BACKING_OPEN (7.40). */
export const fuse_backing_map = struct('fuse_backing_map', { fd: i32, flags: u32, padding: u64 })

/** FUSE over io_uring: bytes of each of the two header areas (7.42). */
export const FUSE_URING_IN_OUT_HEADER_SZ = 128
export const FUSE_URING_OP_IN_OUT_SZ = 128

/** Ring entry of FUSE over io_uring, behind the two header areas (7.42). */
export const fuse_uring_ent_in_out = struct('fuse_uring_ent_in_out', {
  flags: u64,
  commit_id: u64,
  payload_sz: u32,
  padding: u32,
  reserved: u64,
})

/** What precedes the payload in FUSE over io_uring: two areas of bytes, here in words of 8 (7.42). */
export const fuse_uring_req_header = struct('fuse_uring_req_header', {
  ...array('in_out', u64, FUSE_URING_IN_OUT_HEADER_SZ / 8),
  ...array('op_in', u64, FUSE_URING_OP_IN_OUT_SZ / 8),
  ...nested('ring_ent_in_out_', fuse_uring_ent_in_out.LAYOUT),
})

/** Command of FUSE over io_uring (7.42). */
export const fuse_uring_cmd_req = struct('fuse_uring_cmd_req', {
  flags: u64,
  commit_id: u64,
  qid: u16,
  ...array('padding', u8, 6),
})
