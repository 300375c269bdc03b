/**
 * The one place that loads the C++ shim and gives it types.
 *
 * A `Context` belongs to the thread that made it (one per device thread). It owns:
 * - the arena: bytes shared by JavaScript and C++; names, replies and raw kernel structs lie there;
 * - the mailbox: a Float64Array for arguments and results of the hot calls (`NativeCalls`). A call
 *   without N-API arguments costs about 13 ns, each integer argument would add 10;
 * - the guest memory: mapped regions, reached through guest addresses that C++ checks every time;
 * - the segment list: (guest address, bytes) pairs that JavaScript takes from descriptor chains;
 * - the event set that `wait` blocks on, and a thread pool for system calls that may block.
 *
 * C++ checks every arena offset, segment, guest address and count it is handed: memory safety never
 * depends on JavaScript. It knows no FUSE opcode and no policy.
 *
 * Errors are answers: every call returns `>= 0` or `-errno`; nothing throws but a TypeError for an
 * argument of the wrong JavaScript type (a bug of ours).
 */
import { createRequire } from 'node:module'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Slots of the mailbox: `mail[0]` is the result, `mail[1]`... the arguments in order, the last ones are below. */
export const MAIL_SLOTS = 16
/** Slots that keep what the shim put there, whatever is called next: see `Context` for what. */
export const MAIL_JOBS = 12
export const MAIL_SLEPT_US = 13
export const MAIL_WAITED_US = 14
export const MAIL_POLLED_US = 15
/** Rings of a front end: hiprio and up to 64 request queues. */
export const MAX_RINGS = 65
/** Places for rings that `wait` can watch while it spins: the front end's, and two for a guest of our own. */
export const RING_PLACES = MAX_RINGS + 2
/** File descriptors one socket message can carry (the kernel's SCM_MAX_FD is 253; vhost-user needs 8). */
export const MAX_MESSAGE_FDS = 32

export interface ContextOptions {
  /** Bytes of the arena; a multiple of 4096, at most 64 MiB. */
  readonly arenaBytes: number
  /** Pairs in the segment list: the longest chain that can be handled. At most 65536. */
  readonly maxSegments: number
  /** Most threads the pool may start; each is started when first needed. 1 to 256. */
  readonly poolThreads: number
}

/**
 * Calls that take their arguments from `mail[1]`... and leave their result in `mail[0]`.
 * The same system calls can be handed to the pool by number (`submit`, see `PoolCall`).
 */
export interface HotCalls {
  copyIn(): void
  copyOut(): void
  readv(): void
  writev(): void
  readvAfter(): void
  openat(): void
  reopen(): void
  close(): void
  statx(): void
  statfs(): void
  readlink(): void
  mknodat(): void
  mkdirat(): void
  symlinkat(): void
  linkat(): void
  unlinkat(): void
  renameat2(): void
  chmod(): void
  chown(): void
  utimens(): void
  ftruncate(): void
  fallocate(): void
  copyFileRange(): void
  lseek(): void
  fsync(): void
  syncfs(): void
  getdents64(): void
  getxattr(): void
  setxattr(): void
  listxattr(): void
  removexattr(): void
  faccess(): void
  nameToHandle(): void
  openByHandle(): void
  flock(): void
  ofdLock(): void
  ioctl(): void
  setCredentials(): void
  restoreCredentials(): void
  setEffectiveCapability(): void
  umask(): void
  unshareFs(): void
  memfdCreate(): void
  eventSignal(): void
  submit(): void
  submitAlone(): void
  interrupt(): void
  reap(): void
  wait(): void
  nowUs(): void
  preemptions(): void
  pollNow(): void
  readMapped(): void
  markDirty(): void
  fdLink(): void
}

export interface RawContext extends HotCalls {
  readonly arena: ArrayBuffer
  /** Float64 x MAIL_SLOTS. */
  readonly mail: ArrayBuffer
  /** Float64 pairs: guest address, bytes. */
  readonly segments: ArrayBuffer
  /** Int32 x RING_PLACES: the avail.idx last taken from each ring, or -1 when `wait` need not look at it. */
  readonly lastAvail: ArrayBuffer
  /** Int32: tokens of the ready descriptors after `wait`. */
  readonly ready: ArrayBuffer
  /** Int32 x MAX_MESSAGE_FDS: descriptors received, or to be sent. */
  readonly fds: ArrayBuffer

  /**
   * Maps a memory region of the front end, shared and read-write. Takes no ownership of `fd`: the
   * caller closes it afterwards. Errors, in order: EINVAL zero size, wrapped or unsafe address,
   * not a plain file; EEXIST overlaps a region's guest or user addresses; ENOSPC
   * more than 512 regions (or 4,096 mappings in the process); EOVERFLOW the file behind `fd` ends before offset + size; errno of mmap.
   * With `viewsLast` views are never detached but keep the memory mapped until they are garbage: for memory
   * of our own.
   */
  addRegion(
    fd: number,
    fdOffset: bigint,
    guestAddress: bigint,
    userAddress: bigint,
    bytes: bigint,
    viewsLast?: boolean,
  ): number
  /**
   * Unmaps the region with exactly this guest address, user address and size. Ring views on it are
   * detached (their length becomes 0). Pool jobs in flight keep the mapping alive until they end.
   * Errors: ENOENT no such region.
   */
  removeRegion(guestAddress: bigint, userAddress: bigint, bytes: bigint): number
  /** Removes every region, as `removeRegion` does. Returns how many there were. */
  clearRegions(): number
  /**
   * An ArrayBuffer over front-end addresses `userAddress`... for a ring part. Must lie inside one
   * region and be aligned to `alignment`. Errors (returned as a number): EFAULT, EINVAL.
   */
  mapView(userAddress: bigint, bytes: number, alignment: number): ArrayBuffer | number
  /** Detaches a view made by `mapView`; its length becomes 0. Unknown buffers are ignored. */
  unmapView(view: ArrayBuffer): void
  /**
   * Tells `wait` where ring `index` keeps its avail.idx: `view` is the avail ring's view from
   * `mapView` (idx at byte 2), or null to forget the ring. Forgotten by itself when the view is detached.
   */
  watchRing(index: number, view: ArrayBuffer | null): number

  /**
   * Adds `fd` to the event set; `wait` reports `token` (>= 0) when it is readable or hung up. An
   * eventfd is watched edge-triggered and need not be read; other descriptors are level-triggered,
   * and with `drain` C++ reads and drops what is there (kicks that come through a pipe). With
   * `forWriting` it is watched for room instead. Errors: EPERM a plain file: it is always ready.
   */
  watchFd(fd: number, token: number, drain: boolean, forWriting?: boolean): number
  unwatchFd(fd: number): number

  /** Reads up to `bytes` into the arena; descriptors go to `fds`. See `Received`. */
  receive(fd: number, arenaAt: number, bytes: number, result: Int32Array): number
  /** Sends arena bytes with the first `fdCount` of `fds`. Returns bytes or -errno; ETIMEDOUT when the peer does not take all of it within 5 s. */
  send(fd: number, arenaAt: number, bytes: number, fdCount: number): number

  /**
   * An ArrayBuffer over the first `bytes` bytes of `fd`, shared with every process that maps it, until
   * `dispose`. Takes no ownership of `fd`. When somebody makes the file shorter, the whole view turns into
   * zero bytes of this process' own. Errors (returned as a number): EINVAL no plain file, no bytes;
   * EOVERFLOW the file ends before; ENOSPC too many mappings; errno of mmap.
   */
  mapShared(fd: number, bytes: number): ArrayBuffer | number

  /** An inotify descriptor, non-blocking and close-on-exec; the caller's. */
  inotifyInit(): number
  /** Watches the file behind `fd` for IN_MODIFY (data or size). The watch's id. ENOSPC: the limit of watches. */
  inotifyAdd(inotifyFd: number, fd: number): number
  inotifyRemove(inotifyFd: number, id: number): number

  /**
   * A fanotify group that reports inodes by file handle (FAN_REPORT_FID), non-blocking and close-on-exec;
   * the caller's. Without limits where CAP_SYS_ADMIN allows it. Errors: EPERM Linux before 5.13 without that
   * capability; EINVAL before 5.1; EMFILE the limit of groups.
   */
  fanotifyInit(): number
  /**
   * Adds `mask` (FAN_*) to what is reported of the inode behind `fd`, or takes it away. Errors: ENOSPC the limit of
   * marks; ENODEV, EOPNOTSUPP, EXDEV this file system has no handles to report by; EACCES it may not be read; ENOENT.
   */
  fanotifyMark(group: number, fd: number, mask: number, add: boolean): number
  /**
   * A fanotify group whose events name the directory and the entry, and the entry's inode
   * (FAN_REPORT_DFID_NAME_TARGET); the caller's. Its queue has the limit of fs.fanotify.max_queued_events.
   * Errors: as `fanotifyInit`; EINVAL before Linux 5.17.
   */
  fanotifyInitNamed(): number
  /** Adds `mask` for the inode of `fd`, which must not be O_PATH. Needs no /proc. Errors: as `fanotifyMark`. */
  fanotifyMarkOpen(group: number, fd: number, mask: number): number
  /** Takes all marks away. */
  fanotifyClear(group: number): number

  /**
   * Maps the first `bytes` of `fd` for reading; an id for `readMapped`. Takes no ownership of `fd`. Errors: those of
   * mmap(2); ENOSPC 1024 files are mapped.
   */
  mapFile(fd: number, bytes: number): number
  unmapFile(id: number): number

  /**
   * The bitmap of pages written: `bytes` bytes of `fd` from `fdOffset` on, one bit for each 4 KiB of guest
   * address space. `fd` -1 gives it up. Takes no ownership of `fd`. Errors: EINVAL no plain file, no
   * bytes; EOVERFLOW the file ends before; errno of mmap.
   */
  setDirtyLog(fd: number, fdOffset: bigint, bytes: bigint): number
  /**
   * While on, every byte that `copyOut`, `readv` and finished `readv` jobs put into guest memory is
   * marked in the log after it was written. Errors: ENOENT there is no log.
   */
  enableDirtyLog(on: boolean): number
  /** Writes since it was enabled that the log has no bit for, as it is too short or was cut. */
  dirtyLogMisses(): number

  /**
   * Ends the pool, detaches views, unmaps regions, closes the event set. Idempotent; later calls answer
   * -EBADF. Jobs get half a second to end, then their system calls are interrupted; after two seconds a
   * thread that hangs in the kernel is left behind.
   */
  dispose(): void
}

/** System calls `submit` accepts: those that use no arena memory after they were submitted. */
export const PoolCall = {
  readv: 0,
  writev: 1,
  fsync: 2,
  syncfs: 3,
  fallocate: 4,
  copyFileRange: 5,
  close: 6,
  flock: 7,
  ftruncate: 8,
  /** F_OFD_SETLKW: descriptor, type, start, length. */
  ofdLock: 9,
  /**
   * A `readv` that RWF_NOWAIT has begun and found to take time. `reap` takes what has come by then; while the caller
   * sleeps in `wait`, few threads take all of these in turn.
   */
  readBegun: 10,
} as const
export type PoolCall = (typeof PoolCall)[keyof typeof PoolCall]

/** What `isolate` does. */
export const IsolationMode = {
  /** Capabilities alone. */
  none: 0,
  /** chroot(2). */
  chroot: 1,
  /** A mount namespace whose root is the shared directory; mounts made on the host later appear in it. */
  mounts: 2,
  /** That, and a network namespace with nothing in it. */
  mountsAndNet: 3,
} as const

/** How a descriptor takes a signal; see `signalKind`. */
export const SignalKind = { eventFd: 1, socket: 2, other: 3 } as const

/** Exports of the shim that belong to no context. All return `>= 0` or `-errno` unless noted. */
export interface NativeModule {
  createContext(options: ContextOptions): RawContext
  /** Binds and listens on a UNIX stream socket (close-on-exec); returns the descriptor. EADDRINUSE etc. */
  unixListen(path: string, backlog: number): number
  /** Accepts one connection (blocking unless the listener is not ready: waits by poll up to timeoutMs, -1 for ever; ETIMEDOUT). */
  unixAccept(listener: number, timeoutMs: number): number
  unixConnect(path: string): number
  /** A UNIX datagram socket (close-on-exec) connected to `path`; returns the descriptor. */
  unixDatagram(path: string): number
  /** Checks that `fd` is a listening UNIX stream socket: 0, or ENOTSOCK, EINVAL. */
  checkListener(fd: number): number
  /** A connected pair of UNIX stream sockets (close-on-exec) in `out[0]`, `out[1]`. */
  socketPair(out: Int32Array): number
  eventFd(): number
  /** Adds 1 to an eventfd, or writes 8 bytes to a pipe or socket. EAGAIN counts as success: a signal is pending already. */
  eventWrite(fd: number): number
  /** What kind of signal descriptor this is, for `Context.eventSignal`: a SignalKind. */
  signalKind(fd: number): number
  /** Reads an eventfd (or 8 bytes of a pipe): the value, -EAGAIN when nothing came within timeoutMs. */
  eventRead(fd: number, timeoutMs: number): number
  /** An anonymous memory file of `bytes` bytes. */
  memfd(name: string, bytes: number): number
  /** Non-blocking mode; returns 0. */
  setNonBlocking(fd: number, on: boolean): number
  closeFd(fd: number): number
  dupFd(fd: number): number
  /** prctl(PR_SET_NAME) of the process' main thread. */
  setProcessName(name: string): number
  /**
   * Writes `text` to any descriptor without ever waiting, whatever its O_NONBLOCK flag says. Returns the
   * bytes written, fewer than there are if no more would fit. Errors: EAGAIN nothing fits now; EPIPE,
   * ECONNREFUSED and others nobody reads.
   */
  writeNow(fd: number, text: string): number
  /** flock(2) for this open file alone, without waiting. EWOULDBLOCK (= EAGAIN): somebody has it. */
  lockFile(fd: number): number
  /** The id of the group called `name`. ENOENT: there is none. */
  groupId(name: string): number
  /** Soft and hard RLIMIT_NOFILE into `out[0]`, `out[1]`. */
  getNoFileLimit(out: Float64Array): number
  setNoFileLimit(soft: number, hard: number): number
  /**
   * Isolates every thread of the process; call it on the main thread, when no other starts one. `mode`
   * is an IsolationMode; `sharedDir` becomes the root (an absolute path). Capabilities outside the mask
   * are lost for good, for every thread, and no_new_privs is set. `landlock`: where the kernel has
   * Landlock (ABI 2 and newer) no file outside `sharedDir` can be opened any more. Answers 0 or -errno, and the step that
   * failed: the process is then half isolated and must end. `stage` is a descriptor on the root of an empty
   * tmpfs of 1 MiB that is mounted nowhere, the caller's to close, or -errno: it takes CAP_SYS_ADMIN.
   */
  isolate(
    mode: number,
    sharedDir: string,
    capabilities: bigint,
    landlock: boolean,
  ): [answer: number, step: string, stage: number]
  /** The permitted capabilities of this thread as a mask, or -errno. */
  getCapabilities(): bigint | number
  /** Installs a seccomp filter on every thread: BPF instructions of 8 bytes. 0 or -errno (EBUSY: a thread has another filter). */
  installFilter(program: Uint8Array): number
  /**
   * execv(3): comes back with -errno only. The environment is this process'; standard input, output and
   * error stay open, and `fd` (-1: none).
   */
  execute(file: string, argv: readonly string[], fd: number): number
  /** _exit(2): ends the process at once, whatever its threads do. */
  exitNow(status: number): never
}

function packageRoot(): string {
  // dist/src/native in a build, dist/bundle/bin in the installed program.
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'native', 'binding.gyp'))) {
    const up = dirname(folder)
    if (up === folder) throw new Error('virtiofsd-ts: cannot find the package folder')
    folder = up
  }
  return folder
}

/** A file of the installed package. */
export function packageFile(...path: string[]): string {
  return join(packageRoot(), ...path)
}

function load(): NativeModule {
  const file =
    process.env.VIRTIOFSD_NATIVE ??
    packageFile('native', 'build', 'Release', 'virtiofsd_native.node')
  try {
    return createRequire(import.meta.url)(file) as NativeModule
  } catch (cause) {
    throw new Error(
      `cannot load the native shim ${file}: run "npm run build:native" in the package folder`,
      { cause },
    )
  }
}

export const native: NativeModule = load()
