/** The system calls behind the locks of an owner, and what they have come to. */
import { Errno } from '../../../protocol/errno.js'
import {
  F_OFD_SETLK,
  F_RDLCK,
  F_UNLCK,
  F_WRLCK,
  LOCK_EX,
  LOCK_NB,
  LOCK_SH,
  LOCK_UN,
  O_ACCMODE,
  O_RDONLY,
  O_RDWR,
} from '../../../protocol/linux/constants.js'
import type { HostHandle } from './handles.js'
import { allows, type Holder, length, type Wait } from './lock-owners.js'
import type { HostState } from './state.js'

/** Of F_RDLCK, F_WRLCK, F_UNLCK. */
export const FLOCK_OPERATIONS = [LOCK_SH, LOCK_EX, LOCK_UN] as const

export class LockCalls {
  /** Descriptors opened for locks. */
  opened = 0
  /** Pieces of files that are locked. */
  rangeCount = 0
  readonly #host: HostState

  constructor(host: HostState) {
    this.#host = host
  }

  /** Sees to a descriptor that can have a lock of `type`. 0 or -errno. */
  openFor(holder: Holder, handle: HostHandle, type: number): number {
    if (holder.space.flock) return 0
    if (holder.fd >= 0 && allows(holder.mode, type)) return 0
    // Not to be closed with the idle ones.
    holder.waiting++
    const { full } = this.#host
    holder.waiting--
    if (full) return -Errno.ENOLCK
    const own = handle.flags & O_ACCMODE
    // A process may have the file open twice, but all its locks lie on this one: both ways, if that can be.
    // Who only reads does not open for writing: that keeps others from executing the file.
    const mode = own === O_RDONLY && type === F_RDLCK ? O_RDONLY : O_RDWR
    const { nodes, context } = this.#host
    let fd = nodes.reopen(holder.space.node, mode)
    let opened = mode
    if (fd < 0 && allows(own, type)) {
      fd = nodes.reopen(holder.space.node, own)
      opened = own
    }
    if (fd < 0) return fd === -Errno.ENFILE ? -Errno.ENOLCK : fd
    const fault = this.#move(holder, fd)
    if (fault < 0) {
      context.close(fd)
      return fault
    }
    if (holder.fd >= 0) context.close(holder.fd)
    else this.opened++
    holder.fd = fd
    holder.mode = opened
    return 0
  }

  /** Takes the holder's locks on `fd`, too: read locks, that do not exclude each other. */
  #move({ ranges }: Holder, fd: number): number {
    for (const { start, end, type } of ranges.held) {
      if (type !== F_RDLCK) return -Errno.ENOLCK
      const fault = this.#host.context.ofdLock(fd, F_OFD_SETLK, type, start, length(start, end), 0)
      if (fault < 0) return fault
    }
    return 0
  }

  #apply({ space, fd }: Holder, type: number, start: number, end: number): number {
    const { context } = this.#host
    return space.flock
      ? context.flock(fd, FLOCK_OPERATIONS[type]! | LOCK_NB)
      : context.ofdLock(fd, F_OFD_SETLK, type, start, length(start, end), 0)
  }

  /** 0, or -errno: EAGAIN somebody is in the way. */
  take(holder: Holder, type: number, start: number, end: number, pid: number): number {
    const answer = this.#apply(holder, type, start, end)
    if (answer >= 0) {
      holder.pid = pid
      this.#note(holder, start, end, type)
    } else if (holder.space.flock && holder.ranges.held.some(one => one.type !== type)) {
      // flock(2) gives up what it had before it asks for the other.
      this.#note(holder, 0, Number.POSITIVE_INFINITY, F_UNLCK)
    }
    return answer
  }

  /** Gives back what the holder has there. 0 or -errno. */
  unlock(holder: Holder, start: number, end: number): number {
    const answer = holder.fd < 0 ? 0 : this.#apply(holder, F_UNLCK, start, end)
    if (answer >= 0) this.#note(holder, start, end, F_UNLCK)
    return answer
  }

  /** Gives back all of it; what was opened for it is closed. */
  close(holder: Holder): void {
    const { space, ranges } = holder
    if (space.flock) this.#apply(holder, F_UNLCK, 0, 0)
    else if (holder.fd >= 0) {
      this.#host.context.close(holder.fd)
      this.opened--
    }
    holder.fd = -1
    this.rangeCount -= ranges.held.length
    ranges.held.length = 0
    space.changed = true
  }

  /** A lock may have come after it was given up, or a flock lost that was to change: back to what the owner had. */
  restore(holder: Holder, { start, end }: Wait): void {
    const had = holder.ranges.held.filter(one => one.end >= start && one.start <= end)
    if (holder.space.flock) {
      const kept = this.#apply(holder, had[0]?.type ?? F_UNLCK, 0, 0)
      if (kept < 0) this.#note(holder, 0, Number.POSITIVE_INFINITY, F_UNLCK)
      return
    }
    let from = start
    for (const one of had) {
      if (one.start > from) this.#apply(holder, F_UNLCK, from, one.start - 1)
      this.#apply(holder, one.type, Math.max(one.start, start), Math.min(one.end, end))
      from = one.end + 1
    }
    if (from <= end) this.#apply(holder, F_UNLCK, from, end)
  }

  /** What the kernel has done. */
  #note(holder: Holder, start: number, end: number, type: number): void {
    const { ranges, space } = holder
    const before = ranges.held.length
    ranges.set(start, end, type)
    this.rangeCount += ranges.held.length - before
    // A smaller lock is a release, too.
    if (type !== F_WRLCK) space.changed = true
  }
}
