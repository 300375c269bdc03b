/** What tells the inodes behind a back end's nodes from every other of the host. */
import type { Name } from './request.js'

/** Reused: whoever is handed one fills every field. What may be more than a small integer is a fraction from the start. */
export class InodeKey {
  devMajor = 0
  devMinor = 0
  inoLow = 0.5
  inoHigh = 0.5
  /** Birth time, or 0 where the file system keeps none: an inode number used again then looks the same. */
  btimeSec = 0.5
  btimeNsec = 0
}

/** When an inode changed last (ctime), by the clock of its file system. Reused. */
export class ChangeTime {
  sec = 0.5
  nsec = 0
}

/** There is no such inode. */
export const NO_INODE = -1

/** Each fills `key` and answers the inode's nodeid, 0 where the guest has none for it, or NO_INODE. */
export interface Identities {
  ofNode(nodeid: number, key: InodeKey): number
  /** The inode behind an open file or directory. */
  ofHandle(fh: number, key: InodeKey): number
  /** What `name` in directory `parent` stands for now. */
  ofName(parent: number, name: Name, key: InodeKey): number
  /** Fills `time`, as good as an answer to GETATTR. False: it cannot be told; or, unless `ask`, not at once. */
  lastChange(nodeid: number, time: ChangeTime, ask: boolean): boolean
}
