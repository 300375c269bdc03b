/** Nodes of the in-memory file system: metadata here, file data in a memfd each. */
import {
  S_IFDIR,
  S_IFMT,
  S_IFREG,
  S_ISGID,
  S_ISUID,
  S_IXGRP,
} from '../../../protocol/linux/constants.js'
import type { NodeBase } from '../../vfs/node-table.js'
import type { Attributes } from '../../vfs/replies.js'

/** A name in a directory. Its cookie stays the same while other names come and go. */
export interface DirectoryEntry {
  readonly name: string
  readonly node: MemoryNode
  readonly cookie: number
}

/** A node as one guest knows it. */
export class KnownNode implements NodeBase {
  nodeid = 0
  lookups = 0
  holds = 0
  readonly node: MemoryNode

  constructor(node: MemoryNode) {
    this.node = node
  }
}

export class MemoryNode {
  /** Guests that may name it. */
  users = 0
  /** Never used twice. */
  readonly ino: number
  mode: number
  uid = 0
  gid = 0
  nlink = 0
  rdevMajor = 0
  rdevMinor = 0
  atimeMs = 0
  mtimeMs = 0
  ctimeMs = 0
  btimeMs = 0
  /** Below the millisecond, for times that a guest set. */
  atimeNsec = 0
  mtimeNsec = 0
  /** Bytes of a regular file; its data is in `memfd` once there is any. */
  sizeBytes = 0
  memfd = -1
  /** Open handles: data of an unlinked file stays until the last is closed. */
  openCount = 0
  /** Target of a symbolic link. */
  target: Uint8Array = NOTHING
  readonly xattrs = new Map<string, Uint8Array>()
  /** Of a directory: names in the order of their cookies. */
  readonly entries = new Map<string, DirectoryEntry>()
  parent: MemoryNode | undefined
  nextCookie = 3

  constructor(ino: number, mode: number) {
    this.ino = ino
    this.mode = mode
  }

  get type(): number {
    return this.mode & S_IFMT
  }
  get isDirectory(): boolean {
    return this.type === S_IFDIR
  }
  get isFile(): boolean {
    return this.type === S_IFREG
  }

  /** Sets a time in milliseconds to `now`. */
  touch(now: number, what: { atime?: boolean; mtime?: boolean }): void {
    if (what.atime === true) {
      this.atimeMs = now
      this.atimeNsec = 0
    }
    if (what.mtime === true) {
      this.mtimeMs = now
      this.mtimeNsec = 0
    }
    this.ctimeMs = now
  }

  /** Clears set-id bits, as the kernel does for a write by an ordinary user. */
  dropSetId(): void {
    this.mode &= ~S_ISUID
    if ((this.mode & (S_ISGID | S_IXGRP)) === (S_ISGID | S_IXGRP)) this.mode &= ~S_ISGID
  }

  fill(attr: Attributes, blocks: number): void {
    attr.inoLow = this.ino >>> 0
    attr.inoHigh = Math.floor(this.ino / 0x1_0000_0000)
    attr.sizeBytes = this.isDirectory
      ? this.entries.size * 32
      : this.isFile
        ? this.sizeBytes
        : this.target.length
    attr.blocks = blocks
    setTime(attr, 'atime', this.atimeMs, this.atimeNsec)
    setTime(attr, 'mtime', this.mtimeMs, this.mtimeNsec)
    setTime(attr, 'ctime', this.ctimeMs, 0)
    setTime(attr, 'btime', this.btimeMs, 0)
    attr.hasBirth = true
    attr.mode = this.mode
    attr.nlink = this.nlink
    attr.uid = this.uid
    attr.gid = this.gid
    attr.rdevMajor = this.rdevMajor
    attr.rdevMinor = this.rdevMinor
    attr.blksize = 4096
    attr.submount = false
    attr.dax = false
    attr.statxAttributes = 0
    attr.statxAttributesMask = 0
    attr.validSec = 1
    attr.validNsec = 0
  }
}

const NOTHING = new Uint8Array(0)

function setTime(
  attr: Attributes,
  which: 'atime' | 'mtime' | 'ctime' | 'btime',
  ms: number,
  nsec: number,
): void {
  const seconds = Math.floor(ms / 1000)
  attr[`${which}Sec`] = seconds
  attr[`${which}Nsec`] = Math.round((ms - seconds * 1000) * 1e6) + nsec
}
