/**
 * `Context`: the typed face of the shim for one device thread. Each method fills the mailbox, makes
 * the call and returns `mail[0]`: `>= 0` or `-errno`.
 *
 * Conventions: `...At` is a byte offset in the arena. A name at `nameAt` ends with NUL inside the
 * arena, at most 4096 bytes on (EFAULT, ENAMETOOLONG otherwise). `nameAt` of EMPTY_PATH means "the
 * descriptor itself" where noted. A descriptor named `node` may be an O_PATH one.
 */
import {
  MAIL_JOBS,
  MAIL_POLLED_US,
  MAIL_SLEPT_US,
  MAIL_SLOTS,
  MAIL_WAITED_US,
  native,
  type PoolCall,
  type RawContext,
  type ContextOptions,
} from './addon.js'

/** `nameAt` for "the descriptor itself" (AT_EMPTY_PATH). */
export const EMPTY_PATH = -1
/** uid, gid: leave as it is. */
export const KEEP_ID = -1
/** tv_nsec for "now" and for "leave": UTIME_NOW, UTIME_OMIT. */
export const UTIME_NOW = 0x3fffffff
export const UTIME_OMIT = 0x3ffffffe

/** Result of `receive`: what came besides the bytes. */
export interface Received {
  bytes: number
  fdCount: number
  /** More descriptors came than fit; the surplus was closed by the kernel. */
  truncated: boolean
}

export class Context {
  readonly raw: RawContext
  readonly bytes: Uint8Array
  readonly view: DataView
  /** (guest address, bytes) pairs. */
  readonly segments: Float64Array
  readonly lastAvail: Int32Array
  readonly ready: Int32Array
  readonly fds: Int32Array
  readonly #mail: Float64Array
  readonly #received = new Int32Array(2)

  constructor(options: ContextOptions) {
    // Spread: what the shim made property by property is a dictionary to V8, in which each call is looked up.
    this.raw = { ...native.createContext(options) }
    this.bytes = new Uint8Array(this.raw.arena)
    this.view = new DataView(this.raw.arena)
    this.segments = new Float64Array(this.raw.segments)
    this.lastAvail = new Int32Array(this.raw.lastAvail)
    this.ready = new Int32Array(this.raw.ready)
    this.fds = new Int32Array(this.raw.fds)
    this.#mail = new Float64Array(this.raw.mail, 0, MAIL_SLOTS)
  }

  // --- guest memory -----------------------------------------------------------------------------

  /**
   * Copies up to `bytes` from the segments `first`...`first + count - 1`, after skipping `skip`
   * bytes of them, to the arena. Returns the bytes copied (fewer when the segments end).
   * Errors: EFAULT an address outside guest memory or the arena.
   */
  copyIn(first: number, count: number, skip: number, arenaAt: number, bytes: number): number {
    const m = this.#mail
    m[1] = first
    m[2] = count
    m[3] = skip
    m[4] = arenaAt
    m[5] = bytes
    this.raw.copyIn()
    return m[0]!
  }

  /** The way back: arena to guest memory. Same arguments and errors as `copyIn`. */
  copyOut(first: number, count: number, skip: number, arenaAt: number, bytes: number): number {
    const m = this.#mail
    m[1] = first
    m[2] = count
    m[3] = skip
    m[4] = arenaAt
    m[5] = bytes
    this.raw.copyOut()
    return m[0]!
  }

  /**
   * preadv2 from `fd` at `offset` into guest memory, at most `bytes`; `flags` are RWF_*. Any number of segments.
   * With `forUs` it is tried again for so many microseconds (at most 10 s) while the answer is EAGAIN: spinning, for
   * data that a disk is about to deliver. EAGAIN it took longer, or a watched ring has moved, or a job is finished.
   */
  readv(
    fd: number,
    first: number,
    count: number,
    skip: number,
    bytes: number,
    offset: number,
    flags: number,
    forUs = 0,
  ): number {
    this.#put7(fd, first, count, skip, bytes, offset, flags)
    this.#mail[8] = forUs
    this.raw.readv()
    return this.#mail[0]!
  }

  /**
   * A reply of a head and file data: preadv2 as `readv`, into all but the first `headBytes` (at most 64) of the
   * segments; when that succeeds, the head at `headAt` in the arena goes there, its first u32 changed to the bytes
   * of both. Returns the bytes read. Errors: EINVAL the segments hold less than `headBytes + bytes`; as `readv`.
   */
  readvAfter(
    fd: number,
    first: number,
    count: number,
    bytes: number,
    offset: number,
    flags: number,
    headAt: number,
    headBytes: number,
  ): number {
    const m = this.#mail
    m[1] = fd
    m[2] = first
    m[3] = count
    m[4] = bytes
    m[5] = offset
    m[6] = flags
    m[7] = headAt
    m[8] = headBytes
    this.raw.readvAfter()
    return m[0]!
  }

  /** pwritev2 from guest memory to `fd` at `offset`. */
  writev(
    fd: number,
    first: number,
    count: number,
    skip: number,
    bytes: number,
    offset: number,
    flags: number,
  ): number {
    this.#put7(fd, first, count, skip, bytes, offset, flags)
    this.raw.writev()
    return this.#mail[0]!
  }

  /**
   * As `readv`, from the file that `mapFile` gave `id`, and of all `bytes`: a copy and no system call, which waits
   * where a page is not in memory. Errors: EIO somebody cut the file short: the mapping is of no use any more, and
   * the guest's buffers hold anything; EINVAL past the mapping's end; ENOENT.
   */
  readMapped(
    id: number,
    first: number,
    count: number,
    skip: number,
    bytes: number,
    offset: number,
  ): number {
    this.#put7(id, first, count, skip, bytes, offset, 0)
    this.raw.readMapped()
    return this.#mail[0]!
  }

  #put7(a: number, b: number, c: number, d: number, e: number, f: number, g: number): void {
    const m = this.#mail
    m[1] = a
    m[2] = b
    m[3] = c
    m[4] = d
    m[5] = e
    m[6] = f
    m[7] = g
  }

  // --- the pool -----------------------------------------------------------------------------------

  /**
   * Hands a system call to the pool with the arguments `a`...`g` of the method of the same name.
   * Guest segments are resolved now. `token` (0 to 2^31-1) comes back through `reap`.
   * Errors: EFAULT bad segments; EINVAL unknown call; EAGAIN too many jobs (16384).
   */
  submit(
    call: PoolCall,
    token: number,
    a: number,
    b = 0,
    c = 0,
    d = 0,
    e = 0,
    f = 0,
    g = 0,
  ): number {
    this.#job(call, token, a, b, c, d, e, f, g)
    this.raw.submit()
    return this.#mail[0]!
  }

  /**
   * As `submit`, on a thread that is there for this job alone: for a wait that may never end. Only
   * `PoolCall.flock` and `ofdLock`. Errors: EINVAL another call; EAGAIN too many such jobs (256).
   */
  submitAlone(call: PoolCall, token: number, a: number, b = 0, c = 0, d = 0): number {
    this.#job(call, token, a, b, c, d, 0, 0, 0)
    this.raw.submitAlone()
    return this.#mail[0]!
  }

  #job(
    call: PoolCall,
    token: number,
    a: number,
    b: number,
    c: number,
    d: number,
    e: number,
    f: number,
    g: number,
  ): void {
    this.#put7(a, b, c, d, e, f, g)
    this.#mail[8] = call
    this.#mail[9] = token
  }

  /**
   * Ends the job of `submitAlone` with this token: 0, it is done, with EINTR or what it came to just
   * before, and comes through `reap`. Errors: EAGAIN its system call does not heed signals within
   * `waitMs` (it got one at least).
   */
  interrupt(token: number, waitMs: number): number {
    this.#put2(token, waitMs)
    this.raw.interrupt()
    return this.#mail[0]!
  }

  /** Takes one finished job: its token, or -1 when there is none; the result is then in `reapedResult`. */
  reap(): number {
    if (this.#mail[MAIL_JOBS] === 0) return -1
    this.raw.reap()
    return this.#mail[0]!
  }
  get reapedResult(): number {
    return this.#mail[1]!
  }

  /**
   * Waits until a watched descriptor is ready, a job is finished, or a watched ring's avail.idx
   * differs from `lastAvail`. Spins up to `spinUs` microseconds on ring indices and jobs first, then
   * blocks up to `timeoutMs` (-1: for ever, 0: do not block). Returns the number of tokens in
   * `ready` (a finished job and a moved ring have none: 0 may mean either of them, or the timeout).
   */
  wait(timeoutMs: number, spinUs: number): number {
    const m = this.#mail
    m[1] = timeoutMs
    m[2] = spinUs
    this.raw.wait()
    return m[0]!
  }
  /** For how long the last `wait` blocked. */
  get sleptUs(): number {
    return this.#mail[MAIL_SLEPT_US]!
  }
  /** When the last `wait` ended, if it was to block, or began, as `nowUs`. */
  get waitedUs(): number {
    return this.#mail[MAIL_WAITED_US]!
  }

  /**
   * poll(2) of two descriptors (-1: none) without waiting. Bit 0: the first has something to read; bit 1: the
   * second has something exceptional to tell (POLLPRI, as /proc/self/mountinfo after a change). When it was
   * asked is then in `polledUs`.
   */
  pollNow(first: number, second: number): number {
    this.#put2(first, second)
    this.raw.pollNow()
    return this.#mail[0]!
  }
  /** When `pollNow` was called last, as `nowUs`. */
  get polledUs(): number {
    return this.#mail[MAIL_POLLED_US]!
  }

  /** How often another thread got this one's CPU before it gave it up (getrusage(2), ru_nivcsw). */
  preemptions(): number {
    this.raw.preemptions()
    return this.#mail[0]!
  }

  /** CLOCK_MONOTONIC in microseconds: for time spans. Unlike `performance.now` it allocates nothing. */
  nowUs(): number {
    this.raw.nowUs()
    return this.#mail[0]!
  }

  /**
   * Signals a call descriptor: adds 1 to an eventfd, writes 8 bytes to a pipe or socket. `kind` is what
   * `native.signalKind` said of it. Never blocks, unless an eventfd's kind is wrong.
   */
  eventSignal(fd: number, kind: number): number {
    const m = this.#mail
    m[1] = fd
    m[2] = kind
    this.raw.eventSignal()
    return m[0]!
  }

  /** Marks the pages of a piece of guest memory that was written by other means, if writes are logged now. */
  markDirty(guestAddress: number, bytes: number): number {
    this.#put2(guestAddress, bytes)
    this.raw.markDirty()
    return this.#mail[0]!
  }

  /** recvmsg: `result.bytes` is 0 at end of stream. The received descriptors are in `fds`, close-on-exec, the caller's. */
  receive(fd: number, arenaAt: number, bytes: number, result: Received): number {
    const answer = this.raw.receive(fd, arenaAt, bytes, this.#received)
    result.bytes = Math.max(answer, 0)
    result.fdCount = this.#received[0]!
    result.truncated = this.#received[1] !== 0
    return answer
  }

  // --- names and nodes ----------------------------------------------------------------------------

  /** openat2(2), always with O_CLOEXEC. `resolve` are RESOLVE_* flags. Returns the descriptor. */
  openat(dir: number, nameAt: number, flags: number, mode: number, resolve: number): number {
    this.#put5(dir, nameAt, flags, mode, resolve)
    this.raw.openat()
    return this.#mail[0]! | 0
  }
  /** Opens the file behind `node` (O_PATH or not) anew with `flags`, through /proc/self/fd. */
  reopen(node: number, flags: number): number {
    this.#put2(node, flags)
    this.raw.reopen()
    return this.#mail[0]! | 0
  }
  close(fd: number): number {
    this.#put1(fd)
    this.raw.close()
    return this.#mail[0]!
  }
  /** statx(2) into 256 arena bytes (struct statx). `nameAt` may be EMPTY_PATH. `flags` are AT_* (AT_SYMLINK_NOFOLLOW is always added). */
  statx(dir: number, nameAt: number, flags: number, mask: number, outAt: number): number {
    this.#put5(dir, nameAt, flags, mask, outAt)
    this.raw.statx()
    return this.#mail[0]!
  }
  /** fstatfs(2) into 120 arena bytes: struct statfs of the machine (x86_64, arm64 layout). */
  statfs(node: number, outAt: number): number {
    this.#put2(node, outAt)
    this.raw.statfs()
    return this.#mail[0]!
  }
  /** readlinkat(node, ""): bytes of the target, no NUL. ENAMETOOLONG when it does not fit `bytes`. */
  readlink(node: number, outAt: number, bytes: number): number {
    this.#put3(node, outAt, bytes)
    this.raw.readlink()
    return this.#mail[0]!
  }
  /** Where the kernel says `fd` lies: the target of /proc/self/fd/FD, as seen from this thread's root. No NUL. ENAMETOOLONG. */
  fdLink(fd: number, outAt: number, bytes: number): number {
    this.#put3(fd, outAt, bytes)
    this.raw.fdLink()
    return this.#mail[0]!
  }
  /** mknodat(2); `major`, `minor` for device nodes. */
  mknodat(dir: number, nameAt: number, mode: number, major: number, minor: number): number {
    this.#put5(dir, nameAt, mode, major, minor)
    this.raw.mknodat()
    return this.#mail[0]!
  }
  mkdirat(dir: number, nameAt: number, mode: number): number {
    this.#put3(dir, nameAt, mode)
    this.raw.mkdirat()
    return this.#mail[0]!
  }
  symlinkat(targetAt: number, dir: number, nameAt: number): number {
    this.#put3(targetAt, dir, nameAt)
    this.raw.symlinkat()
    return this.#mail[0]!
  }
  /** Links `node` under a new name, by AT_EMPTY_PATH, or through /proc/self/fd where that is not permitted. */
  linkat(node: number, dir: number, nameAt: number): number {
    this.#put3(node, dir, nameAt)
    this.raw.linkat()
    return this.#mail[0]!
  }
  /** unlinkat(2); `flags` 0 or AT_REMOVEDIR. */
  unlinkat(dir: number, nameAt: number, flags: number): number {
    this.#put3(dir, nameAt, flags)
    this.raw.unlinkat()
    return this.#mail[0]!
  }
  renameat2(oldDir: number, oldAt: number, newDir: number, newAt: number, flags: number): number {
    this.#put5(oldDir, oldAt, newDir, newAt, flags)
    this.raw.renameat2()
    return this.#mail[0]!
  }
  /** Mode bits of `node`, which may be O_PATH: fchmodat2(AT_EMPTY_PATH), else through /proc/self/fd. EOPNOTSUPP on symbolic links. */
  chmod(node: number, mode: number): number {
    this.#put2(node, mode)
    this.raw.chmod()
    return this.#mail[0]!
  }
  /** Owner and group of `node` itself, never of what a link points to. KEEP_ID leaves one alone. */
  chown(node: number, uid: number, gid: number): number {
    this.#put3(node, uid, gid)
    this.raw.chown()
    return this.#mail[0]!
  }
  /** Times of `node` itself. Seconds may be negative; nsec may be UTIME_NOW or UTIME_OMIT. */
  utimens(
    node: number,
    atimeSec: number,
    atimeNsec: number,
    mtimeSec: number,
    mtimeNsec: number,
  ): number {
    this.#put5(node, atimeSec, atimeNsec, mtimeSec, mtimeNsec)
    this.raw.utimens()
    return this.#mail[0]!
  }
  ftruncate(fd: number, size: number): number {
    this.#put2(fd, size)
    this.raw.ftruncate()
    return this.#mail[0]!
  }
  fallocate(fd: number, mode: number, offset: number, length: number): number {
    this.#put4(fd, mode, offset, length)
    this.raw.fallocate()
    return this.#mail[0]!
  }
  copyFileRange(
    fdIn: number,
    offsetIn: number,
    fdOut: number,
    offsetOut: number,
    length: number,
  ): number {
    this.#put5(fdIn, offsetIn, fdOut, offsetOut, length)
    this.raw.copyFileRange()
    return this.#mail[0]!
  }
  /** lseek(2). For directory cookies, which are opaque 64-bit values, see `getdents64`. */
  lseek(fd: number, offset: number, whence: number): number {
    this.#put3(fd, offset, whence)
    this.raw.lseek()
    return this.#mail[0]!
  }
  /** fsync(2), or fdatasync(2) when `dataOnly` is 1. */
  fsync(fd: number, dataOnly: number): number {
    this.#put2(fd, dataOnly)
    this.raw.fsync()
    return this.#mail[0]!
  }
  /** syncfs(2); `andClose` 1 closes `fd` afterwards, whatever the result. */
  syncfs(fd: number, andClose: number): number {
    this.#put2(fd, andClose)
    this.raw.syncfs()
    return this.#mail[0]!
  }
  /**
   * Reads directory entries (linux_dirent64) into the arena. With `seek` 1 the position is first set
   * to the cookie (low, high words of the u64 d_off); with 0 it reads on.
   */
  getdents64(
    fd: number,
    outAt: number,
    bytes: number,
    seek: number,
    cookieLow: number,
    cookieHigh: number,
  ): number {
    const m = this.#mail
    m[6] = cookieHigh
    this.#put5(fd, outAt, bytes, seek, cookieLow)
    this.raw.getdents64()
    return this.#mail[0]!
  }
  /** Extended attributes of `node` itself, through /proc/self/fd. `bytes` 0 asks for the size. */
  getxattr(node: number, nameAt: number, outAt: number, bytes: number): number {
    this.#put4(node, nameAt, outAt, bytes)
    this.raw.getxattr()
    return this.#mail[0]!
  }
  setxattr(node: number, nameAt: number, valueAt: number, bytes: number, flags: number): number {
    this.#put5(node, nameAt, valueAt, bytes, flags)
    this.raw.setxattr()
    return this.#mail[0]!
  }
  listxattr(node: number, outAt: number, bytes: number): number {
    this.#put3(node, outAt, bytes)
    this.raw.listxattr()
    return this.#mail[0]!
  }
  removexattr(node: number, nameAt: number): number {
    this.#put2(node, nameAt)
    this.raw.removexattr()
    return this.#mail[0]!
  }
  /** faccessat2(node, "", mode, AT_EACCESS | AT_EMPTY_PATH): R_OK 4, W_OK 2, X_OK 1, with the thread's credentials. */
  faccess(node: number, mode: number): number {
    this.#put2(node, mode)
    this.raw.faccess()
    return this.#mail[0]!
  }
  /**
   * name_to_handle_at(2): writes u32 handle_bytes, i32 handle_type, then the handle (<= 128 bytes) at
   * `outAt` (136 bytes), and returns the mount id. `nameAt` may be EMPTY_PATH.
   */
  nameToHandle(dir: number, nameAt: number, outAt: number): number {
    this.#put3(dir, nameAt, outAt)
    this.raw.nameToHandle()
    return this.#mail[0]!
  }
  /** open_by_handle_at(2) with a handle in the form `nameToHandle` writes. */
  openByHandle(mount: number, handleAt: number, flags: number): number {
    this.#put3(mount, handleAt, flags)
    this.raw.openByHandle()
    return this.#mail[0]!
  }
  /** flock(2); add LOCK_NB unless in the pool. */
  flock(fd: number, operation: number): number {
    this.#put2(fd, operation)
    this.raw.flock()
    return this.#mail[0]!
  }
  /**
   * fcntl(2) with an open-file-description lock. `command` F_OFD_GETLK 36, F_OFD_SETLK 37; type
   * F_RDLCK 0, F_WRLCK 1, F_UNLCK 2; `length` 0 means to the end. F_OFD_GETLK writes i32 type, i32 pid,
   * i64 start, i64 length at `outAt` (24 bytes); others ignore `outAt`.
   */
  ofdLock(
    fd: number,
    command: number,
    type: number,
    start: number,
    length: number,
    outAt: number,
  ): number {
    const m = this.#mail
    m[6] = outAt
    this.#put5(fd, command, type, start, length)
    this.raw.ofdLock()
    return this.#mail[0]!
  }
  /**
   * ioctl(2) on `bytes` arena bytes at `argAt`. Only FS_IOC_GETFLAGS, SETFLAGS, GETVERSION, FSGETXATTR,
   * FSSETXATTR, ENABLE_VERITY (salt and signature follow the struct) and MEASURE_VERITY: others may
   * hold pointers. Errors: ENOTTY another command; EINVAL too few bytes.
   */
  ioctl(fd: number, command: number, argAt: number, bytes: number): number {
    this.#put4(fd, command, argAt, bytes)
    this.raw.ioctl()
    return this.#mail[0]!
  }

  // --- the calling thread -------------------------------------------------------------------------

  /**
   * Makes this thread act as (uid, gid) with `groupCount` supplementary groups (u32 at `groupsAt`;
   * -1: leave the groups alone): effective ids only, by the raw system calls, so other threads keep
   * theirs. On any error the thread is as it was before.
   */
  setCredentials(uid: number, gid: number, groupsAt: number, groupCount: number): number {
    this.#put4(uid, gid, groupsAt, groupCount)
    this.raw.setCredentials()
    return this.#mail[0]!
  }
  /** Back to the credentials the context was made with. A failure here aborts the process: going on would be unsafe. */
  restoreCredentials(): number {
    this.raw.restoreCredentials()
    return this.#mail[0]!
  }
  /** Raises (1) or drops (0) one effective capability of this thread. EPERM when it is not permitted. Returns the former state. */
  setEffectiveCapability(capability: number, on: number): number {
    this.#put2(capability, on)
    this.raw.setEffectiveCapability()
    return this.#mail[0]!
  }
  /** umask(2): of the process, or of the thread after `unshareFs`. Returns the former mask. */
  umask(mask: number): number {
    this.#put1(mask)
    this.raw.umask()
    return this.#mail[0]!
  }
  /**
   * unshare(CLONE_FS): this thread gets a root, working directory and umask of its own, and stands in
   * /proc/self/fd from then on, so that it reaches its descriptors' links under any root.
   */
  unshareFs(): number {
    this.raw.unshareFs()
    return this.#mail[0]!
  }
  /** memfd_create(2) with MFD_CLOEXEC; size 0. */
  memfdCreate(): number {
    this.raw.memfdCreate()
    return this.#mail[0]!
  }

  dispose(): void {
    this.raw.dispose()
  }

  // The call itself stays with each method: made here, by a function handed in, V8 could not tell which one it is.
  #put1(a: number): void {
    const m = this.#mail
    m[1] = a
  }
  #put2(a: number, b: number): void {
    const m = this.#mail
    m[1] = a
    m[2] = b
  }
  #put3(a: number, b: number, c: number): void {
    const m = this.#mail
    m[1] = a
    m[2] = b
    m[3] = c
  }
  #put4(a: number, b: number, c: number, d: number): void {
    const m = this.#mail
    m[1] = a
    m[2] = b
    m[3] = c
    m[4] = d
  }
  #put5(a: number, b: number, c: number, d: number, e: number): void {
    const m = this.#mail
    m[1] = a
    m[2] = b
    m[3] = c
    m[4] = d
    m[5] = e
  }
}
