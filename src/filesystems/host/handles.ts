/** Open files and directories of a host tree. */
import type { HostNode } from './nodes.js'
import type { MountKind } from './mounts.js'

export class HostHandle {
  readonly node: HostNode
  readonly fd: number
  readonly directory: boolean
  readonly kind: MountKind
  /** Writes must reach the disk before they are answered (O_DIRECT, O_SYNC, O_DSYNC): they go to the pool. */
  readonly slowWrites: boolean
  /** RWF_NOWAIT is refused by this file system. */
  noNowait = false
  /** Where the next readdir continues without a seek (the cookie handed out last). */
  cookieLow = 0
  cookieHigh = 0

  constructor(
    node: HostNode,
    fd: number,
    directory: boolean,
    kind: MountKind,
    slowWrites: boolean,
  ) {
    this.node = node
    this.fd = fd
    this.directory = directory
    this.kind = kind
    this.slowWrites = slowWrites
  }
}
