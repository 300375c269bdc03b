/** Messages of the control socket as bytes. */
import { Packr } from 'msgpackr/pack'
import { Unpackr } from 'msgpackr/unpack'
import {
  ControlError,
  frame,
  FrameReader,
  MAX_REPLY_BYTES,
  MAX_REQUEST_BYTES,
} from '../../protocol/control/frames.js'
import {
  type Change,
  CONTROL_VERSION,
  type ControlReply,
  type ControlRequest,
  type PackedChange,
  packChange,
  readReply,
  readRequest,
  type RequestType,
} from '../../protocol/control/messages.js'

/** A frame of events holds so many bytes of paths, or one event. */
const EVENTS_BYTES = 32_768
const EVENT_OVERHEAD_BYTES = 16

const OPTIONS = { useRecords: false, moreTypes: false, structuredClone: false } as const
const packr = new Packr(OPTIONS)
const unpackr = new Unpackr({ ...OPTIONS, mapsAsObjects: true, int64AsType: 'number' })

export function encodeRequest(type: RequestType): Uint8Array {
  return frame(packr.pack({ version: CONTROL_VERSION, type }), MAX_REQUEST_BYTES)
}

export function encodeReply(reply: Exclude<ControlReply, { type: 'events' }>): Uint8Array {
  return frame(packr.pack(reply), MAX_REPLY_BYTES)
}

/** Frames of events, each with the number of those in it. */
export function* encodeEvents(
  changes: readonly Change[],
): IterableIterator<{ readonly bytes: Uint8Array; readonly count: number }> {
  let events: PackedChange[] = []
  let bytes = 0
  for (const change of changes) {
    const size = EVENT_OVERHEAD_BYTES + (change.path?.length ?? 0) + (change.to?.length ?? 0)
    if (events.length > 0 && bytes + size > EVENTS_BYTES) {
      yield framed(events)
      events = []
      bytes = 0
    }
    events.push(packChange(change))
    bytes += size
  }
  if (events.length > 0) yield framed(events)
}

function framed(events: readonly PackedChange[]) {
  const bytes = frame(packr.pack({ type: 'events', events }), MAX_REPLY_BYTES)
  return { bytes, count: events.length }
}

function decode(body: Uint8Array): unknown {
  try {
    return unpackr.unpack(body)
  } catch (cause) {
    throw new ControlError('a message that cannot be decoded', { cause })
  }
}

/** Hands the requests in the stream to `take`. `feed` throws ControlError. */
export function requestReader(take: (request: ControlRequest) => void): FrameReader {
  return new FrameReader(MAX_REQUEST_BYTES, body => take(readRequest(decode(body))))
}

/** Hands the daemon's messages in the stream to `take`. `feed` throws ControlError. */
export function replyReader(take: (reply: ControlReply) => void): FrameReader {
  return new FrameReader(MAX_REPLY_BYTES, body => take(readReply(decode(body))))
}
