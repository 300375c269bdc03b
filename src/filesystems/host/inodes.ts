/** Nodes by inode: dev, ino, mount, type and birth time together, so that a number used again is told apart. */
import { statx, STATX_BTIME, STATX_MNT_ID } from '../../../protocol/linux/statx.js'
import { S_IFLNK, S_IFMT } from '../../../protocol/linux/constants.js'
import type { InodeKey } from '../../vfs/identities.js'
import { HostMount, HostNode } from './node.js'

const F = statx.f
const TWO32 = 0x1_0000_0000

export class Inodes {
  readonly #view: DataView
  readonly #nodes = new Map<number | string, HostNode>()
  readonly #mounts = new Map<string, HostMount>()
  #mount = new HostMount(-1, -1, -1, -1)
  #inoLow = 0
  #inoHigh = 0
  #type = 0
  #btimeSec = 0
  #btimeNsec = 0
  /** The inode seen last has a birth time that tells it apart. */
  seenBirth = false

  constructor(view: DataView) {
    this.#view = view
  }

  /** Of the inode seen last. */
  get seenMount(): HostMount {
    return this.#mount
  }

  /** Reads what tells the inode of the struct statx at `at` from every other. */
  see(at: number): void {
    const view = this.#view
    const mask = F.stx_mask.get(view, at)
    const devMajor = F.stx_dev_major.get(view, at)
    const devMinor = F.stx_dev_minor.get(view, at)
    const id = (mask & STATX_MNT_ID) !== 0 ? F.stx_mnt_id.get(view, at) : 0
    this.#inoLow = view.getUint32(at + F.stx_ino.offset, true)
    this.#inoHigh = view.getUint32(at + F.stx_ino.offset + 4, true)
    this.#type = F.stx_mode.get(view, at) & S_IFMT
    const last = this.#mount
    if (devMinor !== last.devMinor || devMajor !== last.devMajor || id !== last.id)
      this.#mount = this.#mountOf(devMajor, devMinor, id)
    // What a symbolic link says never changes, and guests keep it: a number used again must show there.
    const tells = this.#mount.movesFiles !== true || this.#type === S_IFLNK
    this.seenBirth = (mask & STATX_BTIME) !== 0 && tells
    this.#btimeSec = this.seenBirth ? F.stx_btime_sec.get(view, at) : 0
    this.#btimeNsec = this.seenBirth ? F.stx_btime_nsec.get(view, at) : 0
  }

  #mountOf(devMajor: number, devMinor: number, id: number): HostMount {
    const key = `${devMajor}:${devMinor}:${id}`
    let mount = this.#mounts.get(key)
    if (mount === undefined) {
      mount = new HostMount(this.#mounts.size, devMajor, devMinor, id)
      this.#mounts.set(key, mount)
    }
    return mount
  }

  /** Of the inode seen last. */
  identify(key: InodeKey): void {
    key.devMajor = this.#mount.devMajor
    key.devMinor = this.#mount.devMinor
    key.inoLow = this.#inoLow
    key.inoHigh = this.#inoHigh
    key.btimeSec = this.#btimeSec
    key.btimeNsec = this.#btimeNsec
  }

  /** `node` is the inode seen last. */
  isSeen(node: HostNode): boolean {
    return (
      node.inoLow === this.#inoLow &&
      node.inoHigh === this.#inoHigh &&
      node.mount === this.#mount &&
      node.type === this.#type &&
      node.btimeSec === this.#btimeSec &&
      node.btimeNsec === this.#btimeNsec
    )
  }

  /** The node of the inode seen last. One whose number this inode took over can be found no more. */
  find(): HostNode | undefined {
    const key = keyOf(this.#mount, this.#inoHigh, this.#inoLow)
    const node = this.#nodes.get(key)
    if (node === undefined || this.isSeen(node)) return node
    this.#nodes.delete(key)
    return undefined
  }

  /** A new node for the inode seen last. */
  make(): HostNode {
    const node = new HostNode(this.#mount)
    node.inoLow = this.#inoLow
    node.inoHigh = this.#inoHigh
    node.type = this.#type
    node.btimeSec = this.#btimeSec
    node.btimeNsec = this.#btimeNsec
    this.#nodes.set(keyOf(node.mount, node.inoHigh, node.inoLow), node)
    return node
  }

  remove(node: HostNode): void {
    const key = keyOf(node.mount, node.inoHigh, node.inoLow)
    if (this.#nodes.get(key) === node) this.#nodes.delete(key)
  }
}

/** 45 bits of inode number and 8 of mount make an exact number; the rest takes the long way. */
function keyOf(mount: HostMount, inoHigh: number, inoLow: number): number | string {
  return inoHigh < 0x2000 && mount.index < 256
    ? mount.index * 0x2000_0000_0000 + inoHigh * TWO32 + inoLow
    : `${mount.index}:${inoHigh}:${inoLow}`
}
