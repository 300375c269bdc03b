/** Open files and directories of a host tree. */
import type { HostNode } from './node.js'
import type { MountKind } from './mounts.js'
import {
  O_ACCMODE,
  O_APPEND,
  O_DIRECT,
  O_DSYNC,
  O_NOATIME,
  O_SYNC,
} from '../../../protocol/linux/constants.js'

/** What of the flags matters to a file that is opened again; all else acts once. */
export const REOPEN_FLAGS = O_ACCMODE | O_APPEND | O_DIRECT | O_DSYNC | O_SYNC | O_NOATIME

export class HostHandle {
  readonly node: HostNode
  /** -1: the file was not found when the guest came here from another daemon; every use answers EIO. */
  readonly fd: number
  readonly directory: boolean
  readonly kind: MountKind
  /** Writes must reach the disk before they are answered (O_DIRECT, O_SYNC, O_DSYNC): they go to the pool. */
  readonly slowWrites: boolean
  /** open(2) flags of the guest: how it is opened elsewhere (see `REOPEN_FLAGS`). */
  readonly flags: number
  /** RWF_NOWAIT is refused by this file system. */
  noNowait = false
  /** When the guest closes it, the descriptor may wait for its next OPEN (see released-files.ts); no more once it was locked. */
  mayLinger = false
  /** Where the next readdir continues without a seek (the cookie handed out last). */
  cookieLow = 0
  cookieHigh = 0

  constructor(
    node: HostNode,
    fd: number,
    directory: boolean,
    kind: MountKind,
    slowWrites: boolean,
    flags: number,
  ) {
    this.node = node
    this.fd = fd
    this.directory = directory
    this.kind = kind
    this.slowWrites = slowWrites
    this.flags = flags & REOPEN_FLAGS
  }
}
