/** What a back end is handed with each call. All of it is reused: keep nothing past the call (but see `Request.complete`). */
import type { Context } from '../native/context.js'
import type { Attributes, EntryReply } from './replies.js'

/** Bytes in the arena. */
export class Span {
  /** Arena offset. */
  at = 0
  bytes = 0
}

/** A name in the arena: `bytes` long, NUL at `at + bytes`. Checked: no `/`, not empty, at most 255 bytes (4095 for link targets). */
export class Name extends Span {
  /** Each byte as one UTF-16 unit: exact, reversible, fit as a Map key; not for display. */
  key(arena: Uint8Array): string {
    let text = ''
    for (let i = this.at; i < this.at + this.bytes; i++) text += String.fromCharCode(arena[i]!)
    return text
  }
}

/** Guest buffers of READ (to fill) and WRITE (to take): part of the context's segment list. */
export class Payload {
  /** Index of the first segment. */
  first = 0
  count = 0
  /** Bytes of the first segments that are not part of it. */
  skip = 0
  bytes = 0
}

/** A POSIX or flock lock, as FUSE carries it. `end` is inclusive; OFFSET_MAX (2^63 - 1) is given as Infinity. */
export class LockRange {
  start = 0
  end = 0
  /** F_RDLCK 0, F_WRLCK 1, F_UNLCK 2. */
  type = 0
  pid = 0
  /** Lock owner, two opaque words. */
  ownerLow = 0
  ownerHigh = 0
  flock = false
}

/** Takes directory entries; the FUSE layer packs them as READDIR or READDIRPLUS wants. */
export interface DirectorySink {
  /** Entries carry attributes and a lookup. */
  readonly plus: boolean
  /** The entry object to fill before `add` in plus mode. */
  readonly entry: EntryReply
  /** Whether an entry with a name of so many bytes still fits: ask before taking a lookup. */
  fits(nameBytes: number): boolean
  /** Of what was added nothing may be cached, neither names nor attributes. */
  expire(): void
  /**
   * Adds one entry. `type` is DT_*; the cookie is where a later readdir continues, opaque.
   * `withEntry`: `entry` was filled and carries a lookup (plus mode; never for `.` and `..`).
   * Returns false when it did not fit; then nothing was taken and a lookup must be given back.
   */
  add(
    nameAt: number,
    nameBytes: number,
    type: number,
    inoLow: number,
    inoHigh: number,
    cookieLow: number,
    cookieHigh: number,
    withEntry: boolean,
  ): boolean
}

/** Who asks, and the means to answer later. */
export interface Request {
  /** Arena, guest memory and system calls of this device thread. */
  readonly context: Context
  readonly uid: number
  readonly gid: number
  readonly pid: number
  /** Of the calling process; 0 when the guest applied it already. */
  readonly umask: number
  /** Supplementary groups for a new node: `groupCount` u32 at arena offset `groupsAt`; -1 when none were sent. */
  readonly groupsAt: number
  readonly groupCount: number
  /** Security context for a new node: xattr name and value; `bytes` 0 when none. */
  readonly securityName: Name
  readonly securityValue: Span
  /** No other request of the guest waits for the pool. */
  readonly alone: boolean
  /** READ: an attempt with RWF_NOWAIT has just found that the data must be waited for. */
  readonly begun: boolean
  /** Milliseconds since the request was handed in first; above 0 it was DEFERRED before. */
  readonly waitedMs: number
  /** What `suspend` answered last. */
  readonly token: number
  /** Scratch for raw kernel structs: SCRATCH_BYTES bytes of arena at this offset, free during the call. */
  readonly scratchAt: number

  /**
   * Detaches the request: the method then returns PENDING. The token (>= 0) is what the thread pool
   * reports when it is done (`Context.submit`), or what `complete` takes. -EAGAIN (as a number < 0)
   * when too many requests are pending: answer it.
   * `mayLast`: it waits for what others do, perhaps for ever. Some of the ring is kept free of such
   * requests (-EAGAIN), and the guest may interrupt them (-EINTR: it did already); see `FileSystem.interrupt`.
   */
  suspend(mayLast?: boolean): number
  /**
   * Whether `bytes` of data are better moved by the pool, although that would not wait: CPUs stand idle, and the
   * guest has asked for more meanwhile. After true the request should be suspended.
   */
  spreads(bytes: number): boolean
  /** Answers a suspended request once. For this the object may be kept. */
  complete(token: number, outcome: number): void
  /** Takes `suspend` back within the same call: the method's outcome answers after all. */
  cancel(token: number): void
}

/** Bytes at `Request.scratchAt`: room for one getdents64 buffer or a handle, two statx and a statfs. */
export const SCRATCH_BYTES = 65536 + 4096

export type { Attributes }
