/** One inode of a host tree that the guest knows, and the mount it lies on. */
import type { NodeBase } from '../../vfs/node-table.js'
import { DiskWaits } from './disk-waits.js'
import type { KeptInode } from './kept-inode.js'

/** A mount as nodes see it. On btrfs each subvolume, having a device number of its own, counts as one. */
export class HostMount {
  readonly index: number
  readonly devMajor: number
  readonly devMinor: number
  /** Mount id of statx(2) and name_to_handle_at(2). */
  readonly id: number
  /** An ordinary descriptor on it, for open_by_handle_at(2), or -1. */
  handleFd = -1
  /** Nodes that have a handle and so need `handleFd`. */
  handleUsers = 0
  /**
   * Overlayfs: a file that is first written moves to the upper layer, where it has another birth time. Undefined: the
   * mount was not asked.
   */
  movesFiles: boolean | undefined = undefined
  /** It was found that handles do not work here. */
  withoutHandles = false
  /** f_fsid of statfs(2), each byte a character; '' until something of the mount is kept (metadata-cache.ts). */
  fsid = ''
  noAtime = false
  relAtime = false
  inMemory = false
  readonly waits = new DiskWaits()

  constructor(index: number, devMajor: number, devMinor: number, id: number) {
    this.index = index
    this.devMajor = devMajor
    this.devMinor = devMinor
    this.id = id
  }
}

/**
 * There may be half a million of these: every field counts.
 *
 * What grows beyond small integers is a fraction from the start: the first object with such a value would make all others
 * ones of an old kind, of which the root is in use for ever, and the code void that was compiled for them.
 */
export class HostNode implements NodeBase {
  nodeid = 0.5
  lookups = 0.5
  holds = 0
  inoLow = 0
  inoHigh = 0
  readonly mount: HostMount
  type = 0
  btimeSec = 0
  btimeNsec = 0
  /** Where it was seen last; undefined for the root and for a file without a name. Held. */
  parent: HostNode | undefined = undefined
  /** The name there: bytes as characters 0 to 255. */
  name = ''
  /** O_PATH descriptor, or -1. */
  fd = -1
  /** Its place among the nodes with a descriptor, or -1. */
  openIndex = -1
  /** Used since the hand of the clock passed. */
  referenced = false
  /** It has no name that we know of: without a descriptor it may be lost. */
  nameless = false
  /** Descriptors of open files on this node; the last can stand in for `fd`. */
  openFds: number[] | undefined = undefined
  /** Times the host was asked for it while nothing of it was kept. */
  asks = 0
  /** What is kept of it; see metadata-cache.ts. */
  kept: KeptInode | undefined = undefined
  /** File handle, as `FileHandles.read` gives it; undefined when none was taken. */
  handle: string | undefined = undefined

  constructor(mount: HostMount) {
    this.mount = mount
  }

  /** Its file system keeps birth times, and they tell its inodes apart. */
  get hasBirth(): boolean {
    return this.btimeSec !== 0 || this.btimeNsec !== 0
  }

  /** A descriptor on it that is open now, or -1. */
  get fdAtHand(): number {
    if (this.fd >= 0) return this.fd
    const { openFds } = this
    return openFds === undefined || openFds.length === 0 ? -1 : openFds[openFds.length - 1]!
  }
}
