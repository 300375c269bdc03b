/**
 * Events of fanotify(7) as read(2) gives them, for a group that reports inodes by file handle.
 * Source: include/uapi/linux/fanotify.h (Linux 6.1).
 */

/** FAN_*: what happened. */
export const FAN = {
  MODIFY: 0x2,
  ATTRIB: 0x4,
  MOVED_FROM: 0x40,
  MOVED_TO: 0x80,
  CREATE: 0x100,
  DELETE: 0x200,
  DELETE_SELF: 0x400,
  MOVE_SELF: 0x800,
  /** Events were dropped: anything may have happened. */
  Q_OVERFLOW: 0x4000,
  /** For marks of directories: what happens to its entries. */
  EVENT_ON_CHILD: 0x0800_0000,
  RENAME: 0x1000_0000,
  ONDIR: 0x4000_0000,
} as const

/** struct fanotify_event_metadata: u32 event_len, u8 vers, u8, u16 metadata_len, u64 mask, i32 fd, i32 pid. */
export const MASK = 8
export const PID = 20
export const METADATA_LEN = 6
export const EVENT_METADATA_BYTES = 24
/** struct fanotify_event_info_fid: u8 info_type, u8, u16 len; then u64 fsid, struct file_handle, and perhaps a name with NUL. */
export const INFO_LEN = 2
export const INFO_FSID = 4
const INFO_HANDLE = 12
/** struct file_handle: u32 handle_bytes, i32 handle_type, and its bytes (MAX_HANDLE_SZ at most). */
const HANDLE_HEAD_BYTES = 8
const MAX_HANDLE_BYTES = 128
/** FAN_EVENT_INFO_TYPE_FID. */
export const TYPE_FID = 1

/** Longest inode key: fsid and file handle. */
export const MAX_KEY_BYTES = 8 + HANDLE_HEAD_BYTES + MAX_HANDLE_BYTES

export interface ChangeSink {
  /**
   * `mask` happened to an inode by a process `pid`, 0 where that is not told. `key`: its fsid (8 bytes of
   * statfs(2)) and its struct file_handle, each byte a character; undefined when the kernel could not say which one.
   */
  changed(key: string | undefined, mask: number, pid: number): void
}

/** Hands every event in the first `bytes` of `events` to `sink`. */
export function readEvents(events: Buffer, bytes: number, sink: ChangeSink): void {
  for (let at = 0; at + EVENT_METADATA_BYTES <= bytes; ) {
    const length = events.readUInt32LE(at)
    if (length < EVENT_METADATA_BYTES || at + length > bytes) {
      sink.changed(undefined, 0, 0)
      return
    }
    sink.changed(
      inodeKey(events, at + events.readUInt16LE(at + METADATA_LEN), at + length),
      events.readUInt32LE(at + MASK),
      events.readInt32LE(at + PID),
    )
    at += length
  }
}

function inodeKey(events: Buffer, at: number, end: number): string | undefined {
  const keyEnd = endOfHandle(events, at, end)
  if (keyEnd === 0 || events[at] !== TYPE_FID) return undefined
  return events.toString('latin1', at + INFO_FSID, keyEnd)
}

/**
 * Where the file handle of the information record at `record` ends, in an event that ends at `end`. 0: the record has
 * none, or one that is empty, too long, or not all inside the record.
 */
export function endOfHandle(events: Buffer, record: number, end: number): number {
  const handle = record + INFO_HANDLE
  if (handle + HANDLE_HEAD_BYTES > end) return 0
  const recordEnd = Math.min(record + events.readUInt16LE(record + INFO_LEN), end)
  const handleBytes = events.readUInt32LE(handle)
  const handleEnd = handle + HANDLE_HEAD_BYTES + handleBytes
  return handleBytes === 0 || handleBytes > MAX_HANDLE_BYTES || handleEnd > recordEnd
    ? 0
    : handleEnd
}
