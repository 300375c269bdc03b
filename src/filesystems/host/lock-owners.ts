/** Who has locks on a file, and who waits for some. */
import { F_RDLCK, O_RDONLY, O_RDWR, O_WRONLY } from '../../../protocol/linux/constants.js'
import type { Request } from '../../vfs/request.js'
import type { HostHandle } from './handles.js'
import { type HeldRange, LockRanges } from './lock-ranges.js'
import type { HostNode } from './node.js'

/** Owners looked at for a deadlock; the kernel gives up after 10. */
const MAX_DEADLOCK_OWNERS = 64

/** Open for reading only refuses F_WRLCK, for writing only F_RDLCK. */
export function allows(mode: number, type: number): boolean {
  return mode === O_RDWR || (type === F_RDLCK ? mode === O_RDONLY : mode === O_WRONLY)
}

/** Bytes as fcntl(2) counts them: 0 is "to the end". */
export function length(start: number, end: number): number {
  return Number.isFinite(end) ? end - start + 1 : 0
}

/** The owners of one kind of locks on one node, and who waits for them. */
export class LockSpace {
  readonly node: HostNode
  readonly flock: boolean
  readonly holders = new Map<HostHandle | string, Holder>()
  /** In the order they came. */
  readonly waits: Wait[] = []
  scheduling = false
  /** Something was released since the waits were looked at. */
  changed = false

  constructor(node: HostNode, flock: boolean) {
    this.node = node
    this.flock = flock
  }
}

export class Holder {
  readonly space: LockSpace
  /** The handle whose flock locks these are, or the POSIX owner. */
  readonly key: HostHandle | string
  /** Where it was first used; what is left goes with it. */
  readonly handle: HostHandle
  readonly ranges = new LockRanges()
  /** What it locks on: the handle's own, or one opened for this; -1: not yet. */
  fd: number
  mode: number
  /** In the guest, of the last to lock. */
  pid = 0
  waiting = 0

  constructor(space: LockSpace, key: HostHandle | string, handle: HostHandle) {
    this.space = space
    this.key = key
    this.handle = handle
    this.fd = space.flock ? handle.fd : -1
    this.mode = O_RDWR
  }
}

export interface Wait {
  readonly holder: Holder
  readonly type: number
  readonly start: number
  readonly end: number
  readonly pid: number
  readonly request: Request
  readonly token: number
  /** Its thread's job, or NO_JOB. */
  job: number
}

/** A POSIX owner, by the two words that FUSE names it with. */
export function ownerKey(low: number, high: number): string {
  return `${high}:${low}`
}

/** If `holder` waited for `wanted`, beside all `waits`, owners of POSIX locks would wait for each other in a circle. */
export function deadlock(waits: Iterable<Wait>, holder: Holder, wanted: HeldRange): boolean {
  const { key } = holder
  const known = new Set<HostHandle | string>()
  const left: (HostHandle | string)[] = []
  /** Who stands in the way of such a lock. True: the one it is all about. */
  const add = (own: Holder, { start, end, type }: HeldRange): boolean => {
    for (const other of own.space.holders.values()) {
      if (other === own || known.has(other.key)) continue
      if (other.ranges.conflict(start, end, type) === undefined) continue
      if (other.key === key) return true
      known.add(other.key)
      left.push(other.key)
    }
    return false
  }
  if (add(holder, wanted)) return true
  const all = [...waits].filter(wait => !wait.holder.space.flock)
  for (let next = left.pop(); next !== undefined; next = left.pop()) {
    if (known.size > MAX_DEADLOCK_OWNERS) return false
    for (const wait of all) if (wait.holder.key === next && add(wait.holder, wait)) return true
  }
  return false
}
