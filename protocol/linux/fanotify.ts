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
/** struct fanotify_event_info_fid: u8 type, u8, u16 len, then u64 fsid and struct file_handle. */
const INFO_LEN = 2
const INFO_FSID = 4
const INFO_HANDLE = 12
/** FAN_EVENT_INFO_TYPE_FID. */
const TYPE_FID = 1

/** Longest inode key: fsid, u32 handle_bytes, i32 handle_type, MAX_HANDLE_SZ. */
export const MAX_KEY_BYTES = 8 + 8 + 128

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
  if (at + INFO_HANDLE + 8 > end || events[at] !== TYPE_FID) return undefined
  const handleBytes = events.readUInt32LE(at + INFO_HANDLE)
  const keyEnd = at + INFO_HANDLE + 8 + handleBytes
  if (handleBytes === 0 || keyEnd > at + events.readUInt16LE(at + INFO_LEN)) return undefined
  return events.toString('latin1', at + INFO_FSID, keyEnd)
}
