/**
 * Locks of the guest's processes as locks of the host, so that other guests and the host's processes
 * heed them and are heeded.
 *
 * flock(2) locks belong to an open file, and each open file of the guest is one of ours: they are taken on
 * its descriptor. POSIX locks belong to an owner (a process, or an open file with F_OFD_SETLK), whatever
 * it opened the file by: each owner gets an open file of its own for each node it has locks on, and
 * open-file-description locks on that. The kernel drops them all with the process.
 *
 * Who must wait does so without a thread while an owner of this guest is in the way: that one's release
 * passes through here. Else a thread of its own waits in the kernel, unless an earlier request that
 * waits there is in the way of no more than this one: as long as that one waits, this one would.
 *
 * Source: fs/fuse/file.c of Linux 6.1 (fuse_setlk, fuse_getlk, fuse_flush), fcntl(2), flock(2).
 */
import { Errno } from '../../../protocol/errno.js'
import {
  F_OFD_GETLK,
  F_RDLCK,
  F_UNLCK,
  F_WRLCK,
  O_ACCMODE,
  O_RDWR,
} from '../../../protocol/linux/constants.js'
import { native, PoolCall } from '../../native/addon.js'
import { type Outcome, OWN_JOBS, PENDING } from '../../vfs/filesystem.js'
import type { LockRange, Request } from '../../vfs/request.js'
import type { HostHandle } from './handles.js'
import { FLOCK_OPERATIONS, LockCalls } from './lock-calls.js'
import { allows, deadlock, Holder, length, LockSpace, ownerKey, type Wait } from './lock-owners.js'
import type { HostNode } from './node.js'
import { OTHER_AT } from './scratch.js'
import type { HostState } from './state.js'

/** Pieces of files one guest may have locked: the host keeps each in a list that it walks. */
const MAX_RANGES = 16384
const MAX_JOB_NUMBER = 2 ** 29
const NO_JOB = -1
/** An interrupted thread is waited for so long: it need only be scheduled. */
const INTERRUPT_MS = 200

/** What a thread waits for. */
interface WaitJob {
  /** A duplicate: the guest may close its file meanwhile. */
  fd: number
  readonly wait: Wait
  /** The wait was given up; should the lock come all the same, it must go back. */
  abandoned: boolean
}

export class HostLocks {
  readonly #host: HostState
  readonly #kernel: LockCalls
  readonly #posix = new Map<HostNode, LockSpace>()
  readonly #flock = new Map<HostNode, LockSpace>()
  readonly #waits = new Map<number, Wait>()
  readonly #jobs = new Map<number, WaitJob>()
  #nextJob = 0
  #clearing = false
  /** The last thread to be interrupted hung in a file system that is gone: the next is not waited for. */
  #heedless = false

  constructor(host: HostState) {
    this.#host = host
    this.#kernel = new LockCalls(host)
  }

  /** Descriptors in use besides those of open files. */
  get descriptors(): number {
    return this.#kernel.opened + this.#jobs.size
  }
  /** Pieces of files that are locked. */
  get heldCount(): number {
    return this.#kernel.rangeCount
  }
  get waitingCount(): number {
    return this.#waits.size
  }
  /** Threads that wait in the kernel. */
  get threadCount(): number {
    return this.#jobs.size
  }

  /** Of them, those that were interrupted and have not been seen to end. */
  get abandonedCount(): number {
    let count = 0
    for (const { abandoned } of this.#jobs.values()) if (abandoned) count++
    return count
  }

  // --- requests -------------------------------------------------------------------------------------

  setlk(request: Request, nodeid: number, fh: number, range: LockRange, wait: boolean): Outcome {
    const handle = this.#handle(nodeid, fh, range)
    if (typeof handle === 'number') return handle
    const { type, start, end, pid } = range
    const key = range.flock ? handle : ownerKey(range.ownerLow, range.ownerHigh)
    const spaces = range.flock ? this.#flock : this.#posix
    let space = spaces.get(handle.node)
    let holder = space?.holders.get(key)
    if (type === F_UNLCK) return holder === undefined ? 0 : this.#unlock(holder, start, end)
    // Its descriptor has a lock: nobody else gets it.
    if (range.flock) handle.mayLinger = false
    const mode = handle.flags & O_ACCMODE
    if (!range.flock && mode !== O_RDWR && !allows(mode, type)) return -Errno.EBADF
    if (this.#kernel.rangeCount >= MAX_RANGES) return -Errno.ENOLCK
    if (space === undefined) {
      space = new LockSpace(handle.node, range.flock)
      spaces.set(handle.node, space)
    }
    if (holder === undefined) {
      holder = new Holder(space, key, handle)
      space.holders.set(key, holder)
    }
    const { fd } = holder
    let answer = this.#kernel.openFor(holder, handle, type)
    if (holder.fd !== fd && holder.waiting > 0) this.#waitAnew(holder)
    if (answer >= 0) answer = this.#kernel.take(holder, type, start, end, pid)
    if (answer === -Errno.EAGAIN && wait)
      answer = this.#wait(request, holder, type, start, end, pid)
    // What this owner has now may be in the way of the thread that its other waits rely on.
    if (holder.waiting > 0) space.changed = true
    this.#schedule(space)
    this.#tidy(holder)
    return answer
  }

  getlk(nodeid: number, fh: number, range: LockRange): Outcome {
    const handle = this.#handle(nodeid, fh, range)
    if (typeof handle === 'number') return handle
    if (range.flock || range.type === F_UNLCK) return -Errno.EINVAL
    const { context, scratchAt } = this.#host
    const space = this.#posix.get(handle.node)
    const own = space?.holders.get(ownerKey(range.ownerLow, range.ownerHigh))
    // On the owner's descriptor its own locks are not in its way; the handle's has none.
    const fd = own !== undefined && own.fd >= 0 ? own.fd : handle.fd
    const at = scratchAt + OTHER_AT
    const { start, end } = range
    const fault = context.ofdLock(fd, F_OFD_GETLK, range.type, start, length(start, end), at)
    if (fault < 0) return fault
    const { view } = context
    range.type = view.getInt32(at, true)
    if (range.type === F_UNLCK) return 0
    const bytes = Number(view.getBigInt64(at + 16, true))
    range.start = Number(view.getBigInt64(at + 8, true))
    range.end = bytes === 0 ? Number.POSITIVE_INFINITY : range.start + bytes - 1
    // A process of the host or of another guest has no number that means anything in this one.
    range.pid = 0
    for (const holder of space?.holders.values() ?? []) {
      const seen =
        holder === own ? undefined : holder.ranges.conflict(range.start, range.end, F_WRLCK)
      if (seen !== undefined && seen.start === range.start && seen.type === range.type)
        range.pid = holder.pid
    }
    return 0
  }

  #handle(nodeid: number, fh: number, { flock }: LockRange): HostHandle | number {
    const { flockLocks, posixLocks } = this.#host.options
    if (!(flock ? flockLocks : posixLocks)) return -Errno.ENOSYS
    const handle = this.#host.handle(fh, false)
    if (handle === undefined) return this.#host.noHandle(fh)
    return handle.node.nodeid === nodeid ? handle : -Errno.EBADF
  }

  /** FLUSH: a process has closed the node's file, once: its POSIX locks there go, whatever else it has open. */
  flushed(node: HostNode, ownerLow: number, ownerHigh: number): void {
    if (this.#posix.size === 0) return
    const space = this.#posix.get(node)
    if (space === undefined) return
    const holder = space.holders.get(ownerKey(ownerLow, ownerHigh))
    if (holder === undefined) return
    if (holder.waiting > 0) {
      this.#unlock(holder, 0, Number.POSITIVE_INFINITY)
      return
    }
    this.#drop(holder)
    this.#schedule(space)
  }

  /** The handle is about to be closed: what was locked through it goes. */
  released(handle: HostHandle): void {
    if (this.#posix.size + this.#flock.size === 0) return
    for (const spaces of [this.#posix, this.#flock]) {
      const space = spaces.get(handle.node)
      if (space === undefined) continue
      let found = false
      for (const holder of space.holders.values()) {
        if (holder.handle !== handle) continue
        found = true
        for (const wait of space.waits.filter(one => one.holder === holder))
          this.#giveUp(wait, -Errno.EBADF)
        this.#drop(holder)
      }
      if (found) this.#schedule(space)
    }
  }

  /** See FileSystem.interrupt. */
  interrupt(token: number, outcome: Outcome): boolean {
    const wait = this.#waits.get(token)
    if (wait === undefined) return false
    const { space } = wait.holder
    this.#giveUp(wait, outcome)
    this.#schedule(space)
    this.#tidy(wait.holder)
    return true
  }

  /** Nothing of the guest is left; who still waits is answered ENOLCK. */
  clear(): void {
    this.#clearing = true
    this.#heedless = false
    for (const wait of [...this.#waits.values()]) this.#giveUp(wait, -Errno.ENOLCK)
    for (const spaces of [this.#posix, this.#flock])
      for (const space of [...spaces.values()])
        for (const holder of [...space.holders.values()]) this.#drop(holder)
    this.#clearing = false
  }

  /** Closes what is open for owners without a lock. */
  closeIdle(): void {
    for (const { holders } of [...this.#posix.values()])
      for (const holder of [...holders.values()])
        if (holder.ranges.held.length === 0 && holder.waiting === 0) this.#drop(holder)
  }

  // --- taking and giving back -----------------------------------------------------------------------

  #unlock(holder: Holder, start: number, end: number): number {
    const answer = this.#kernel.unlock(holder, start, end)
    this.#schedule(holder.space)
    this.#tidy(holder)
    return answer
  }

  #drop(holder: Holder): void {
    this.#kernel.close(holder)
    this.#forget(holder)
  }

  /** An owner without lock and descriptor need not be remembered. */
  #tidy(holder: Holder): void {
    if (holder.waiting > 0 || holder.ranges.held.length > 0) return
    if (holder.space.flock || holder.fd < 0) this.#forget(holder)
  }

  #forget(holder: Holder): void {
    const { space, key } = holder
    if (space.holders.get(key) !== holder) return
    space.holders.delete(key)
    if (space.holders.size > 0) return
    const spaces = space.flock ? this.#flock : this.#posix
    if (spaces.get(space.node) === space) spaces.delete(space.node)
  }

  // --- waiting --------------------------------------------------------------------------------------

  #wait(
    request: Request,
    holder: Holder,
    type: number,
    start: number,
    end: number,
    pid: number,
  ): Outcome {
    if (!holder.space.flock && deadlock(this.#waits.values(), holder, { type, start, end }))
      return -Errno.EDEADLK
    const token = request.suspend(true)
    if (token < 0) return token === -Errno.EAGAIN ? -Errno.ENOLCK : token
    const wait: Wait = { holder, type, start, end, pid, request, token, job: NO_JOB }
    this.#waits.set(token, wait)
    holder.waiting++
    holder.space.waits.push(wait)
    return PENDING
  }

  /** Takes the wait off the lists and answers it. */
  #finish(wait: Wait, outcome: Outcome): void {
    const { holder, token, request } = wait
    const { waits } = holder.space
    waits.splice(waits.indexOf(wait), 1)
    this.#waits.delete(token)
    holder.waiting--
    request.complete(token, outcome)
  }

  #giveUp(wait: Wait, outcome: Outcome): void {
    const job = this.#jobs.get(wait.job)
    if (job !== undefined) this.#abandon(job)
    // Others may have relied on its thread.
    wait.holder.space.changed = true
    this.#finish(wait, outcome)
  }

  #abandon(job: WaitJob): void {
    job.abandoned = true
    // What it came to is seen by `finished`, soon or, if it does not heed that, later.
    const waitMs = this.#clearing && this.#heedless ? 0 : INTERRUPT_MS
    const over = this.#host.context.interrupt(OWN_JOBS + job.wait.job, waitMs) >= 0
    if (over) this.#closeJob(job)
    this.#heedless = !over
  }

  /** The owner's locks lie on another descriptor now: on the former one they would be in its own way. */
  #waitAnew(holder: Holder): void {
    for (const job of this.#jobs.values()) {
      if (job.wait.holder !== holder || job.abandoned) continue
      this.#abandon(job)
      job.wait.job = NO_JOB
    }
    holder.space.changed = true
  }

  /** Looks at who waits, in the order they came, if anything was released. */
  #schedule(space: LockSpace): void {
    if (space.scheduling) return
    space.scheduling = true
    while (space.changed && !this.#clearing) {
      space.changed = false
      for (const wait of [...space.waits]) if (wait.job === NO_JOB) this.#tryAgain(wait)
    }
    space.scheduling = false
  }

  #tryAgain(wait: Wait): void {
    const { holder, type, start, end, pid } = wait
    if (this.#localObstacle(wait)) return
    let answer = this.#kernel.take(holder, type, start, end, pid)
    if (answer === -Errno.EAGAIN) {
      if (this.#isCovered(wait)) return
      answer = this.#startThread(wait)
      if (answer >= 0) return
      if (answer === -Errno.EAGAIN) answer = -Errno.ENOLCK
    }
    this.#finish(wait, Math.min(answer, 0))
    this.#tidy(holder)
  }

  /** Another owner of this guest is in the way. */
  #localObstacle({ holder, type, start, end }: Wait): boolean {
    const { flock, holders } = holder.space
    for (const other of holders.values()) {
      // One that waits to change its flock may have lost what it has without our knowing.
      if (other === holder || (flock && other.waiting > 0)) continue
      if (other.ranges.conflict(start, end, type) !== undefined) return true
    }
    return false
  }

  /**
   * An earlier wait has a thread, and whatever stops it stops this one: it wants no byte that this one does
   * not want, no stronger, and this one's owner has nothing that could be in its way.
   */
  #isCovered(wait: Wait): boolean {
    const { holder, type, start, end } = wait
    if (holder.ranges.held.length > 0) return false
    for (const other of holder.space.waits) {
      if (other === wait) return false
      if (
        other.job !== NO_JOB &&
        other.start >= start &&
        other.end <= end &&
        (type === F_WRLCK || other.type === F_RDLCK)
      )
        return true
    }
    return false
  }

  #startThread(wait: Wait): number {
    const { holder, type, start, end } = wait
    const { context, nodes } = this.#host
    let fd = native.dupFd(holder.fd)
    if (fd === -Errno.EMFILE && nodes.relieve(undefined)) fd = native.dupFd(holder.fd)
    if (fd < 0) return -Errno.ENOLCK
    while (this.#jobs.has(this.#nextJob)) this.#nextJob = (this.#nextJob + 1) % MAX_JOB_NUMBER
    const number = this.#nextJob
    const token = OWN_JOBS + number
    const fault = holder.space.flock
      ? context.submitAlone(PoolCall.flock, token, fd, FLOCK_OPERATIONS[type]!)
      : context.submitAlone(PoolCall.ofdLock, token, fd, type, start, length(start, end))
    if (fault < 0) {
      context.close(fd)
      return fault
    }
    this.#nextJob = (number + 1) % MAX_JOB_NUMBER
    this.#jobs.set(number, { fd, wait, abandoned: false })
    wait.job = number
    return 0
  }

  #closeJob(job: WaitJob): void {
    if (job.fd >= 0) this.#host.context.close(job.fd)
    job.fd = -1
  }

  /** See FileSystem.finished. */
  finished(number: number, result: number): void {
    const job = this.#jobs.get(number)
    if (job === undefined) throw new Error(`lock job ${number} ended twice`)
    this.#jobs.delete(number)
    const { wait, abandoned } = job
    const { holder } = wait
    const { space } = holder
    if (abandoned) {
      if ((result >= 0 || space.flock) && holder.fd >= 0) this.#kernel.restore(holder, wait)
    } else if (result >= 0 || result === -Errno.EINTR) {
      // The guest may have unlocked since: it is taken, or waited for, once more.
      wait.job = NO_JOB
      this.#tryAgain(wait)
    } else {
      this.#finish(wait, result)
      if (space.flock) this.#kernel.restore(holder, wait)
    }
    this.#closeJob(job)
    space.changed = true
    this.#schedule(space)
    this.#tidy(holder)
  }
}
