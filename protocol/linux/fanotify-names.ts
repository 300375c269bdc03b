/**
 * Events of a fanotify(7) group that names directory, entry and inode (FAN_REPORT_DFID_NAME_TARGET).
 * Source: include/uapi/linux/fanotify.h, fs/notify/fanotify/fanotify_user.c (Linux 6.1).
 */
import {
  endOfHandle,
  EVENT_METADATA_BYTES,
  FAN,
  INFO_FSID,
  INFO_LEN,
  MASK,
  METADATA_LEN,
  PID,
  TYPE_FID,
} from './fanotify.js'

/** struct fanotify_event_info_header: what comes before the fsid. */
const INFO_HEADER_BYTES = INFO_FSID

/** FAN_EVENT_INFO_TYPE_*. */
const INFO = { FID: TYPE_FID, DFID_NAME: 2, DFID: 3, OLD_DFID_NAME: 10, NEW_DFID_NAME: 12 } as const

/** An entry of a directory. */
export interface EventPlace {
  /** Of the directory; see `ChangeSink`. */
  readonly directory: string
  /** Bytes as characters 0 to 255; '' or '.' for the directory itself. */
  readonly name: string
}

export interface NamedEvent {
  readonly mask: number
  readonly pid: number
  /** Where it happened; a RENAME has the next two instead. */
  readonly place: EventPlace | undefined
  /** Undefined: a directory without a mark. */
  readonly from: EventPlace | undefined
  readonly to: EventPlace | undefined
  /** Key of the inode that came, went or changed. */
  readonly inode: string | undefined
}

export const OVERFLOW: NamedEvent = {
  mask: FAN.Q_OVERFLOW,
  pid: 0,
  place: undefined,
  from: undefined,
  to: undefined,
  inode: undefined,
}

/** The events in the first `bytes` of `events`; one that cannot be read comes as OVERFLOW, and ends it. */
export function* readNamedEvents(events: Buffer, bytes: number): IterableIterator<NamedEvent> {
  for (let at = 0; at + EVENT_METADATA_BYTES <= bytes; ) {
    const length = events.readUInt32LE(at)
    const records = events.readUInt16LE(at + METADATA_LEN)
    if (length < EVENT_METADATA_BYTES || records < EVENT_METADATA_BYTES || at + length > bytes) {
      yield OVERFLOW
      return
    }
    yield readEvent(events, at, at + records, at + length)
    at += length
  }
}

function readEvent(events: Buffer, at: number, records: number, end: number): NamedEvent {
  const event = {
    mask: events.readUInt32LE(at + MASK),
    pid: events.readInt32LE(at + PID),
    place: undefined as EventPlace | undefined,
    from: undefined as EventPlace | undefined,
    to: undefined as EventPlace | undefined,
    inode: undefined as string | undefined,
  }
  for (let record = records; record + INFO_HEADER_BYTES <= end; ) {
    const length = events.readUInt16LE(record + INFO_LEN)
    if (length < INFO_HEADER_BYTES || record + length > end) return OVERFLOW
    const next = record + length
    const handleEnd = endOfHandle(events, record, next)
    if (handleEnd > 0) {
      const key = events.toString('latin1', record + INFO_FSID, handleEnd)
      const type = events[record]
      if (type === INFO.FID) event.inode = key
      else if (type === INFO.DFID) event.place = { directory: key, name: '' }
      else if (type === INFO.DFID_NAME) event.place = placeOf(events, key, handleEnd, next)
      else if (type === INFO.OLD_DFID_NAME) event.from = placeOf(events, key, handleEnd, next)
      else if (type === INFO.NEW_DFID_NAME) event.to = placeOf(events, key, handleEnd, next)
    }
    record = next
  }
  return event
}

function placeOf(events: Buffer, directory: string, at: number, end: number): EventPlace {
  const nul = events.subarray(at, end).indexOf(0)
  return { directory, name: events.toString('latin1', at, nul < 0 ? end : at + nul) }
}
