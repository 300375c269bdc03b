/**
 * What daemon and clients of the control socket say to each other: each message is a msgpack map, its `type`
 * says which one.
 *
 * A client asks, with the version it speaks; the daemon answers `error` to what it does not have. `status`
 * is answered once. `events` is answered with `watching` as soon as every directory is watched, and with
 * `events` and `lost` from then on, until the client closes the connection.
 */
import { ControlError } from './frames.js'

export const CONTROL_VERSION = 1

export type RequestType = 'status' | 'events'

export interface ControlRequest {
  readonly version: number
  readonly type: RequestType
}

/** The numbers are those on the wire. */
export const ChangeKind = { create: 0, delete: 1, rename: 2, modify: 3, attrib: 4 } as const
export type ChangeKindName = keyof typeof ChangeKind
const KINDS = Object.keys(ChangeKind) as ChangeKindName[]

/** Something in the share changed. It says where to look, not what is there by now. */
export interface Change {
  readonly kind: ChangeKindName
  readonly isDirectory: boolean
  /** It came through this daemon; otherwise of a process of the host, or of another guest. */
  readonly byGuest: boolean
  /**
   * Relative to the share, empty for its root: bytes, which need not be text. Of a rename the former name;
   * undefined when that is outside what is watched.
   */
  readonly path: Uint8Array | undefined
  /** Of a rename the new name; undefined when that is outside what is watched. */
  readonly to: Uint8Array | undefined
}

export interface Watching {
  readonly type: 'watching'
  readonly directories: number
  /** Directories whose changes are not told: past the limit, or the kernel refused. */
  readonly unwatched: number
}

export interface Status {
  readonly type: 'status'
  readonly version: string
  readonly pid: number
  readonly uptimeSeconds: number
  readonly frontEnd: 'connected' | 'waiting'
  /** Clients of the control socket that are told of changes. */
  readonly listeners: number
  /** Why changes cannot be told; '' when they can. */
  readonly eventsFault: string
  /** By opcode name: requests taken, and how many of them were answered with an error. */
  readonly requests: Readonly<Record<string, readonly [taken: number, failed: number]>>
  /** Numbers of the back end: nodes, openFiles, nodeDescriptors, and what is kept of metadata. */
  readonly counters: Readonly<Record<string, number>>
}

export type ControlReply =
  | Status
  | Watching
  | { readonly type: 'events'; readonly events: readonly Change[] }
  /** So many changes were not told, as this client was too slow; null: the kernel dropped some. */
  | { readonly type: 'lost'; readonly changes: number | null }
  | { readonly type: 'error'; readonly message: string }

/** A change as it is packed: kind, bits, path, and for a rename the new path. */
export type PackedChange = readonly (number | Uint8Array | null)[]

const IS_DIRECTORY = 1
const BY_GUEST = 2

export function packChange({ kind, isDirectory, byGuest, path, to }: Change): PackedChange {
  const bits = (isDirectory ? IS_DIRECTORY : 0) | (byGuest ? BY_GUEST : 0)
  const fields = [ChangeKind[kind], bits, path ?? null]
  return kind === 'rename' ? [...fields, to ?? null] : fields
}

function unpackChange(value: unknown): Change {
  if (!Array.isArray(value)) throw new ControlError('a change that is no array')
  const [number, bits, path, to] = value as unknown[]
  const kind = typeof number === 'number' ? KINDS[number] : undefined
  if (kind === undefined || typeof bits !== 'number')
    throw new ControlError('a change of a kind that does not exist')
  const change = {
    kind,
    isDirectory: (bits & IS_DIRECTORY) !== 0,
    byGuest: (bits & BY_GUEST) !== 0,
    path: pathOf(path),
    to: pathOf(to),
  }
  if (change.path === undefined && (kind !== 'rename' || change.to === undefined))
    throw new ControlError('a change without a path')
  return change
}

function pathOf(value: unknown): Uint8Array | undefined {
  if (value === null || value === undefined) return undefined
  if (!(value instanceof Uint8Array)) throw new ControlError('a path that is not bytes')
  return value
}

/** What a client asks. Errors: ControlError. */
export function readRequest(value: unknown): ControlRequest {
  const { version, type } = mapOf(value)
  if (typeof version !== 'number') throw new ControlError('a request without a version')
  if (version !== CONTROL_VERSION)
    throw new ControlError(
      `version ${version} of the protocol: this daemon speaks ${CONTROL_VERSION}`,
    )
  if (type !== 'status' && type !== 'events') throw new ControlError('a request of unknown type')
  return { version, type }
}

/** What the daemon says. Errors: ControlError. */
export function readReply(value: unknown): ControlReply {
  const map = mapOf(value)
  switch (map.type) {
    case 'error':
      return { type: 'error', message: String(map.message) }
    case 'lost':
      return { type: 'lost', changes: map.changes === null ? null : numberOf(map.changes) }
    case 'watching':
      return {
        type: 'watching',
        directories: numberOf(map.directories),
        unwatched: numberOf(map.unwatched),
      }
    case 'events':
      if (!Array.isArray(map.events)) throw new ControlError('events that are no array')
      return { type: 'events', events: map.events.map(unpackChange) }
    case 'status':
      return readStatus(map)
    default:
      throw new ControlError('a reply of unknown type')
  }
}

function readStatus(map: Readonly<Record<string, unknown>>): Status {
  const requests: Record<string, readonly [number, number]> = {}
  for (const [name, value] of Object.entries(mapOf(map.requests))) {
    if (!Array.isArray(value)) throw new ControlError('a count of requests that is no array')
    requests[name] = [numberOf(value[0]), numberOf(value[1])]
  }
  const counters: Record<string, number> = {}
  for (const [name, value] of Object.entries(mapOf(map.counters))) counters[name] = numberOf(value)
  return {
    type: 'status',
    version: String(map.version),
    pid: numberOf(map.pid),
    uptimeSeconds: numberOf(map.uptimeSeconds),
    frontEnd: map.frontEnd === 'connected' ? 'connected' : 'waiting',
    listeners: numberOf(map.listeners),
    eventsFault: String(map.eventsFault),
    requests,
    counters,
  }
}

function mapOf(value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new ControlError('a message that is no map')
  return value as Readonly<Record<string, unknown>>
}

function numberOf(value: unknown): number {
  if (typeof value !== 'number') throw new ControlError('no number where one belongs')
  return value
}
