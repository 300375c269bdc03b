/**
 * The interface every back end implements and the FUSE layer calls: host trees, the in-memory file
 * system, and what users write.
 *
 * One method per operation. Calls come from one device thread, one at a time; nothing is re-entered.
 * What a back end does not implement answers ENOSYS (`unsupported`), and what it can do is data
 * (`capabilities`), so that the session offers the guest nothing that will fail.
 *
 * Objects handed to a method (request, name, payload, reply objects) are reused for the next request:
 * a back end must not keep them. Names are bytes, not text: any byte but NUL and `/`.
 *
 * Lookup counts. A node that a reply names (`EntryReply`) has one more lookup after the call when the
 * outcome is 0, and an unchanged count on error. `forget` takes them back; a node with no lookups left
 * may go. `destroy` takes all of them back.
 */
import type { DaxWindow, MappableFiles } from './dax.js'
import type { Identities } from './identities.js'
import type { Migratable } from './migration.js'
import type { Attributes, EntryReply, OpenReply, SetAttributes, StatfsReply } from './replies.js'
import type { DirectorySink, LockRange, Name, Payload, Request, Span } from './request.js'

/**
 * `>= 0`: the result (bytes where bytes are asked for, else 0). `< 0`: `-errno`, Linux numbers.
 * PENDING: the back end called `request.suspend()` and the result comes later. DEFERRED: see there.
 */
export type Outcome = number

/** Not an errno (those end at 4095): the request is answered later. */
export const PENDING = -65536
/** Nothing was done: hand the same request in again after `Waits.againMs`. Needs `FileSystem.waits`. */
export const DEFERRED = -65537

/** From here on the tokens of pool jobs are the back end's own (see `FileSystem.finished`). */
export const OWN_JOBS = 2 ** 30

/** Root of every back end (FUSE_ROOT_ID). */
export const ROOT_NODEID = 1
/** `fh` of a request that carries no handle. */
export const NO_HANDLE = -1

/** What a back end can do; read once, when the guest's INIT arrives. */
export interface Capabilities {
  /** Operations with an implementation worth offering by INIT flag. */
  readonly readdirplus: boolean
  readonly xattr: boolean
  readonly posixAcl: boolean
  /** The back end takes a security context for new nodes. */
  readonly securityContext: boolean
  /** Clears set-id bits on write, truncate and chown when asked (FUSE_HANDLE_KILLPRIV_V2). */
  readonly killpriv: boolean
  /** The guest may keep dirty pages and own mtime (FUSE_WRITEBACK_CACHE). */
  readonly writeback: boolean
  /** Some directories are other file systems (FUSE_ATTR_SUBMOUNT). */
  readonly submounts: boolean
  /** mmap of files opened for direct I/O (FUSE_DIRECT_IO_ALLOW_MMAP). */
  readonly directIoMmap: boolean
  readonly flockLocks: boolean
  readonly posixLocks: boolean
  /** Refuses every change with EROFS before the back end is called. */
  readonly readOnly: boolean
}

/** What guest and daemon agreed on at INIT. */
export interface Negotiated {
  readonly minor: number
  readonly posixAcl: boolean
  readonly killpriv: boolean
  readonly writeback: boolean
  readonly submounts: boolean
  /** The guest leaves the umask to us (FUSE_DONT_MASK): apply `request.umask` unless a default ACL rules. */
  readonly dontMask: boolean
  readonly createSuppGroup: boolean
  readonly securityContext: boolean
  readonly maxWriteBytes: number
  /** `describe` is called with the attributes of every reply; undefined: no window is in use. */
  readonly dax?: DaxWindow | undefined
}

/** What a file system that makes requests wait, or has something to do now and then, is to the device thread. */
export interface Waits {
  /** After DEFERRED: milliseconds, at least 1. */
  readonly againMs: number
  /** `upkeep` may be due at any time: else it is enough to look before each sleep, and now and then. */
  readonly busy: boolean
  /** Does what is due, and says in how many milliseconds it wants to be called again; of CLOCK_MONOTONIC. */
  upkeep(nowMs: number): number
  /** A request that was suspended has its outcome, which the guest does not know yet. */
  completed(token: number): void
  /** An answer given since the last call is good for a limited time, which has begun: the guest is to have it soon. */
  promised(): boolean
}

export interface FileSystem {
  readonly capabilities: Capabilities
  /** undefined: it never answers DEFERRED. */
  readonly waits?: Waits | undefined
  /** undefined: it cannot say which inodes it shows. */
  readonly identities?: Identities | undefined
  /** How a guest takes its nodes and open files along to another daemon; undefined: it cannot. */
  readonly migration?: Migratable | undefined
  /** How files get into a DAX window; undefined: they cannot. */
  readonly mappable?: MappableFiles | undefined

  /** Where a node lies below the root, as far as is known: `/a/b`; undefined: it has no name. For policies and people. */
  pathOf?(nodeid: number): string | undefined

  /** The guest mounted: called at INIT, after `destroy` if it had mounted before. */
  init(negotiated: Negotiated): void
  /** The guest unmounted, or is gone: closes every handle and forgets every node but the root. Idempotent. */
  destroy(): void

  /**
   * What the back end keeps of things that others change too may be out of date from here on. Called before
   * requests that have come are carried out, and after each operation that changes something.
   */
  renew(): void
  /**
   * Time for what was put off: called before the device thread sleeps, and now and then while it works.
   * Returns in how many milliseconds it wants to be called again at the latest, -1: no need.
   */
  tidy(nowMs: number): number

  /**
   * Finds `name` in directory `parent`. `.` and `..` arrive only for NFS-style reconnects and never
   * leave the share. Errors: ESTALE `parent` is gone; ENOTDIR; ENAMETOOLONG; ENOENT.
   * A back end may answer 0 with `entry.nodeid` 0 and a time limit: a negative entry to be cached.
   */
  lookup(request: Request, parent: number, name: Name, entry: EntryReply): Outcome
  /** Takes back `nlookup` lookups; more than there are counts as all. The root is never forgotten. */
  forget(nodeid: number, nlookup: number): void

  /** Attributes of a node, through the open handle `fh` when there is one. Errors: ESTALE; EBADF. */
  getattr(request: Request, nodeid: number, fh: number, attr: Attributes): Outcome
  /** Applies `change` and reports the attributes after it. Errors: ESTALE; EBADF; EPERM; EFBIG; EINVAL. */
  setattr(
    request: Request,
    nodeid: number,
    fh: number,
    change: SetAttributes,
    attr: Attributes,
  ): Outcome
  /** Writes the target to `out`; returns its bytes. Errors: EINVAL not a symbolic link. */
  readlink(request: Request, nodeid: number, out: Span): Outcome
  access(request: Request, nodeid: number, mask: number): Outcome
  statfs(request: Request, nodeid: number, reply: StatfsReply): Outcome

  /** Creation: as `request.uid`, `gid`, groups, umask and security context. Errors: EEXIST; ENOTDIR; EROFS; ENOSPC. */
  mknod(
    request: Request,
    parent: number,
    name: Name,
    mode: number,
    major: number,
    minor: number,
    entry: EntryReply,
  ): Outcome
  mkdir(request: Request, parent: number, name: Name, mode: number, entry: EntryReply): Outcome
  symlink(request: Request, parent: number, name: Name, target: Name, entry: EntryReply): Outcome
  link(
    request: Request,
    nodeid: number,
    newParent: number,
    newName: Name,
    entry: EntryReply,
  ): Outcome
  unlink(request: Request, parent: number, name: Name): Outcome
  rmdir(request: Request, parent: number, name: Name): Outcome
  /** `flags`: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT. */
  rename(
    request: Request,
    parent: number,
    name: Name,
    newParent: number,
    newName: Name,
    flags: number,
  ): Outcome

  /** Opens a regular file. `flags` are open(2) flags of the guest; `killSuid` asks to clear set-id bits with O_TRUNC. */
  open(
    request: Request,
    nodeid: number,
    flags: number,
    killSuid: boolean,
    opened: OpenReply,
  ): Outcome
  create(
    request: Request,
    parent: number,
    name: Name,
    flags: number,
    mode: number,
    killSuid: boolean,
    entry: EntryReply,
    opened: OpenReply,
  ): Outcome
  tmpfile(
    request: Request,
    parent: number,
    flags: number,
    mode: number,
    entry: EntryReply,
    opened: OpenReply,
  ): Outcome
  /** Fills `into` from `offset`; returns bytes, fewer than asked only at the end of the file. Errors: EBADF; EINVAL. */
  read(request: Request, nodeid: number, fh: number, offset: number, into: Payload): Outcome
  /** Writes all of `from` at `offset`; returns bytes. `killSuid` asks to clear set-id bits; `fromCache`: write-back of a dirty page. */
  write(
    request: Request,
    nodeid: number,
    fh: number,
    offset: number,
    from: Payload,
    killSuid: boolean,
    fromCache: boolean,
  ): Outcome
  /** A descriptor of the file was closed, perhaps not the last. The owner's (two opaque words) POSIX locks on it end. */
  flush(request: Request, nodeid: number, fh: number, ownerLow: number, ownerHigh: number): Outcome
  release(request: Request, nodeid: number, fh: number): Outcome
  fsync(request: Request, nodeid: number, fh: number, dataOnly: boolean): Outcome
  /** Returns the new offset. `whence`: SEEK_DATA or SEEK_HOLE. Errors: ENXIO past the end. */
  lseek(request: Request, nodeid: number, fh: number, offset: number, whence: number): Outcome
  fallocate(
    request: Request,
    nodeid: number,
    fh: number,
    offset: number,
    length: number,
    mode: number,
  ): Outcome
  /** Returns bytes copied. */
  copyFileRange(
    request: Request,
    nodeidIn: number,
    fhIn: number,
    offsetIn: number,
    nodeidOut: number,
    fhOut: number,
    offsetOut: number,
    length: number,
  ): Outcome
  /** `command` with `input` bytes; the answer goes to `out`. Returns bytes of the answer. Errors: ENOTTY unknown command. */
  ioctl(
    request: Request,
    nodeid: number,
    fh: number,
    command: number,
    input: Span,
    out: Span,
  ): Outcome

  opendir(request: Request, nodeid: number, flags: number, opened: OpenReply): Outcome
  /**
   * Hands entries to `sink` until it is full or the directory ends, starting after the entry whose
   * cookie is (`cookieLow`, `cookieHigh`), 0 for the start. `.` and `..` included. With `sink.plus`
   * each entry but those two carries a lookup. Returns 0.
   */
  readdir(
    request: Request,
    nodeid: number,
    fh: number,
    cookieLow: number,
    cookieHigh: number,
    sink: DirectorySink,
  ): Outcome
  releasedir(request: Request, nodeid: number, fh: number): Outcome
  fsyncdir(request: Request, nodeid: number, fh: number, dataOnly: boolean): Outcome
  syncfs(request: Request, nodeid: number): Outcome

  /** Returns the value's bytes, written to `out`; with `out.bytes` 0 only the count. Errors: ENODATA; ERANGE; ENOTSUP. */
  getxattr(request: Request, nodeid: number, name: Name, out: Span): Outcome
  listxattr(request: Request, nodeid: number, out: Span): Outcome
  setxattr(
    request: Request,
    nodeid: number,
    name: Name,
    value: Span,
    flags: number,
    killSgid: boolean,
  ): Outcome
  removexattr(request: Request, nodeid: number, name: Name): Outcome

  /**
   * POSIX or flock locks (`range.flock`). `getlk` changes `range` into the conflicting lock, or F_UNLCK; its
   * pid is 0 unless a process of this guest has the lock. `setlk` with `wait` suspends the request until
   * nobody is in the way. Errors: EBADF; EAGAIN somebody is in the way; ENOLCK too many locks or waits;
   * EDEADLK.
   */
  getlk(request: Request, nodeid: number, fh: number, range: LockRange): Outcome
  setlk(request: Request, nodeid: number, fh: number, range: LockRange, wait: boolean): Outcome

  /**
   * Gives up the wait of suspended request `token` and answers it with `outcome`. False: it does not wait for
   * what others do, and ends in its time.
   */
  interrupt(token: number, outcome: Outcome): boolean
  /** The pool job that the back end submitted with the token OWN_JOBS + `job` has ended. */
  finished(job: number, result: number): void
}
