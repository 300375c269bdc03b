/**
 * Nodes of a host tree: which inode a nodeid stands for, and how to reach it.
 *
 * A node remembers the directory and name it was found under, and holds a descriptor (O_PATH) only
 * when one was needed; a bounded number of them stays open. Whatever is opened again is checked
 * against the inode's identity, so that a name that means another file by now answers ESTALE and the
 * guest looks it up anew. A node whose last name is about to go is opened first (`pin`).
 */
import { Errno } from '../../../protocol/errno.js'
import { O_DIRECTORY, O_NOFOLLOW, O_PATH, S_IFDIR } from '../../../protocol/linux/constants.js'
import { EMPTY_PATH, type Context } from '../../native/context.js'
import { type NodeBase, NodeTable } from '../../vfs/node-table.js'
import { NAME_AT, OTHER_AT, STAT2_AT } from './scratch.js'
import { type Identity, newIdentity, readIdentity, sameIdentity, STATX_WANTED } from './stat.js'

const AT_FDCWD = -100
/** Bytes of a handle as `Context.nameToHandle` writes it. */
const HANDLE_BYTES = 136

export class HostNode implements NodeBase, Identity {
  nodeid = 0
  lookups = 0
  holds = 0
  inoLow = 0
  inoHigh = 0
  devMajor = 0
  devMinor = 0
  mount = 0
  type = 0
  btimeSec = 0
  btimeNsec = 0
  /** Where it was seen last; undefined for the root and for a file without a name. Held. */
  parent: HostNode | undefined
  /** The name there, with its NUL. */
  name: Uint8Array = NO_NAME
  /** O_PATH descriptor, or -1. */
  fd = -1
  /** Its place among the open nodes, or -1. */
  openIndex = -1
  /** Used since the hand of the clock passed. */
  referenced = false
  /** The descriptor is the only way to the inode: it must stay. */
  pinned = false
  /** Descriptors of open files on this node; the last can stand in for `fd`. */
  openFds: number[] = []
  /** File handle taken when the descriptor was given up, or undefined. */
  handle: Uint8Array | undefined
}

const NO_NAME = new Uint8Array(1)

export class HostNodes {
  readonly table = new NodeTable<HostNode>()
  readonly root = new HostNode()
  readonly #context: Context
  readonly #scratchAt: number
  readonly #byInode = new Map<number | string, HostNode>()
  readonly #devices = new Map<string, number>()
  readonly #maxDescriptors: number
  /** Nodes with a descriptor, in no order; the clock's hand goes round them. */
  readonly #open: HostNode[] = []
  #hand = 0
  #canUseHandles = true
  readonly #seen = newIdentity()
  // The device looked up last: nearly always the same.
  #lastMajor = -1
  #lastMinor = -1
  #lastMount = -1
  #lastDevice = 0

  constructor(context: Context, scratchAt: number, maxDescriptors: number) {
    this.#context = context
    this.#scratchAt = scratchAt
    this.#maxDescriptors = Math.max(maxDescriptors, 16)
  }

  /** Opens the shared directory. Errors: those of open(2); ENOTDIR. */
  openRoot(path: string): number {
    const text = new TextEncoder().encode(`${path}\0`)
    const at = this.#scratchAt + OTHER_AT
    this.#context.bytes.set(text, at)
    const fd = this.#context.openat(AT_FDCWD, at, O_PATH | O_DIRECTORY, 0, 0)
    if (fd < 0) return fd
    const fault = this.#statInto(fd, EMPTY_PATH)
    if (fault < 0) {
      this.#context.close(fd)
      return fault
    }
    readIdentity(this.#context.view, this.#scratchAt + STAT2_AT, this.root)
    this.root.fd = fd
    this.root.pinned = true
    this.table.setRoot(this.root)
    this.#byInode.set(this.#key(this.root), this.root)
    return 0
  }

  closeRoot(): void {
    if (this.root.fd >= 0) this.#context.close(this.root.fd)
    this.root.fd = -1
  }

  /** Descriptors kept open for nodes. */
  get openDescriptors(): number {
    return this.#open.length + 1
  }

  get(nodeid: number): HostNode | undefined {
    return this.table.get(nodeid)
  }

  #statInto(dir: number, nameAt: number): number {
    return this.#context.statx(dir, nameAt, 0, STATX_WANTED, this.#scratchAt + STAT2_AT)
  }

  #key(identity: Identity): number | string {
    const { devMajor, devMinor, mount, inoLow, inoHigh } = identity
    if (devMajor !== this.#lastMajor || devMinor !== this.#lastMinor || mount !== this.#lastMount) {
      const device = `${devMajor}:${devMinor}:${mount}`
      let index = this.#devices.get(device)
      if (index === undefined) {
        index = this.#devices.size
        this.#devices.set(device, index)
      }
      this.#lastMajor = devMajor
      this.#lastMinor = devMinor
      this.#lastMount = mount
      this.#lastDevice = index
    }
    // 45 bits of inode number and 8 of device make an exact number; the rest takes the long way.
    if (inoHigh < 0x2000 && this.#lastDevice < 256)
      return this.#lastDevice * 0x2000_0000_0000 + inoHigh * 0x1_0000_0000 + inoLow
    return `${this.#lastDevice}:${inoHigh}:${inoLow}`
  }

  /**
   * The node of the inode whose struct statx lies at `statAt`, found in `parent` under the arena name
   * at `nameAt` (`nameBytes` long, NUL after it), or undefined names. Made when it is new. It has one
   * more lookup afterwards.
   */
  adopt(statAt: number, parent: HostNode | undefined, nameAt: number, nameBytes: number): HostNode {
    const { view, bytes } = this.#context
    const seen = this.#seen
    readIdentity(view, statAt, seen)
    const key = this.#key(seen)
    let node = this.#byInode.get(key)
    if (node !== undefined && !sameIdentity(node, seen)) {
      // The inode number was reused: the old node can be reached no more.
      this.#byInode.delete(key)
      node = undefined
    }
    if (node === undefined) {
      node = new HostNode()
      copyIdentity(seen, node)
      this.table.insert(node)
      this.#byInode.set(key, node)
      if (parent !== undefined) this.setName(node, parent, bytes, nameAt, nameBytes)
      this.table.addLookup(node)
      node.holds--
      return node
    }
    if (
      parent !== undefined &&
      !node.pinned &&
      node !== this.root &&
      !this.#hasName(node, parent, bytes, nameAt, nameBytes)
    )
      this.setName(node, parent, bytes, nameAt, nameBytes)
    this.table.addLookup(node)
    return node
  }

  /** The known node of the inode at `statAt`, if any. No lookup is taken. */
  find(statAt: number): HostNode | undefined {
    readIdentity(this.#context.view, statAt, this.#seen)
    const node = this.#byInode.get(this.#key(this.#seen))
    return node !== undefined && sameIdentity(node, this.#seen) ? node : undefined
  }

  #hasName(
    node: HostNode,
    parent: HostNode,
    bytes: Uint8Array,
    at: number,
    length: number,
  ): boolean {
    if (node.parent !== parent || node.name.length !== length + 1) return false
    for (let i = 0; i < length; i++) if (node.name[i] !== bytes[at + i]) return false
    return true
  }

  setName(node: HostNode, parent: HostNode, bytes: Uint8Array, at: number, length: number): void {
    const name = new Uint8Array(length + 1)
    for (let i = 0; i < length; i++) name[i] = bytes[at + i]!
    node.name = name
    if (node.parent === parent) return
    this.table.hold(parent)
    const former = node.parent
    node.parent = parent
    if (former !== undefined) this.#unhold(former)
  }

  forget(node: HostNode, nlookup: number): void {
    if (this.table.forget(node, nlookup)) this.#gone(node)
  }

  #unhold(node: HostNode): void {
    if (this.table.unhold(node)) this.#gone(node)
  }

  #gone(node: HostNode): void {
    const key = this.#key(node)
    if (this.#byInode.get(key) === node) this.#byInode.delete(key)
    this.#closeNode(node)
    const { parent } = node
    node.parent = undefined
    if (parent !== undefined) this.#unhold(parent)
  }

  #closeNode(node: HostNode): void {
    if (node.fd < 0) return
    this.#context.close(node.fd)
    node.fd = -1
    this.#dropOpen(node)
  }

  #dropOpen(node: HostNode): void {
    const index = node.openIndex
    if (index < 0) return
    node.openIndex = -1
    const last = this.#open.pop()!
    if (last === node) return
    this.#open[index] = last
    last.openIndex = index
  }

  /**
   * A descriptor on the node, for the duration of the call: O_PATH, or one of its open files.
   * Errors: ESTALE the inode cannot be reached any more; EMFILE.
   */
  fdOf(node: HostNode): number {
    if (node.fd >= 0) {
      node.referenced = true
      return node.fd
    }
    const open = node.openFds.length
    if (open > 0) return node.openFds[open - 1]!
    return this.#openNode(node)
  }

  /** As `fdOf`, but never an open file's descriptor: it stays valid when that file is closed. */
  pathFdOf(node: HostNode): number {
    return node.fd >= 0 ? this.fdOf(node) : this.#openNode(node)
  }

  #openNode(node: HostNode): number {
    let fd = this.#openByName(node)
    if (fd === -Errno.EMFILE && this.relieve()) fd = this.#openByName(node)
    if (fd < 0 && node.handle !== undefined) fd = this.#openByHandle(node)
    if (fd < 0 && node.openFds.length > 0)
      fd = this.#context.reopen(node.openFds[node.openFds.length - 1]!, O_PATH)
    if (fd < 0)
      return fd === -Errno.ENOENT || fd === -Errno.ENOTDIR || fd === -Errno.ELOOP
        ? -Errno.ESTALE
        : fd
    this.#keep(node, fd)
    return fd
  }

  #keep(node: HostNode, fd: number): void {
    node.fd = fd
    node.referenced = true
    if (this.#open.length >= this.#maxDescriptors) this.#evict(node)
    node.openIndex = this.#open.length
    this.#open.push(node)
  }

  #openByName(node: HostNode): number {
    if (node.parent === undefined) return -Errno.ESTALE
    const dir = this.fdOf(node.parent)
    if (dir < 0) return dir
    const nameAt = this.#placeName(node)
    const fd = this.#context.openat(dir, nameAt, O_PATH | O_NOFOLLOW, 0, 0)
    return fd < 0 ? fd : this.#checked(node, fd)
  }

  #openByHandle(node: HostNode): number {
    const at = this.#scratchAt + OTHER_AT
    this.#context.bytes.set(node.handle!, at)
    const mount = this.#context.reopen(this.root.fd, O_DIRECTORY)
    if (mount < 0) return mount
    const fd = this.#context.openByHandle(mount, at, O_PATH | O_NOFOLLOW)
    this.#context.close(mount)
    return fd < 0 ? fd : this.#checked(node, fd)
  }

  /** `fd` if it is the node's inode; else closes it: -ESTALE. */
  #checked(node: HostNode, fd: number): number {
    const fault = this.#statInto(fd, EMPTY_PATH)
    if (fault >= 0) {
      readIdentity(this.#context.view, this.#scratchAt + STAT2_AT, this.#seen)
      if (sameIdentity(node, this.#seen)) return fd
    }
    this.#context.close(fd)
    return fault < 0 ? fault : -Errno.ESTALE
  }

  #placeName(node: HostNode): number {
    const at = this.#scratchAt + NAME_AT
    const { bytes } = this.#context
    const { name } = node
    for (let i = 0; i < name.length; i++) bytes[at + i] = name[i]!
    return at
  }

  /**
   * struct statx of the node at `outAt`, by a descriptor if there is one, else by its name and checked.
   * Errors: ESTALE.
   */
  stat(node: HostNode, outAt: number): number {
    const open = node.openFds.length
    const fd = node.fd >= 0 ? node.fd : open > 0 ? node.openFds[open - 1]! : -1
    if (fd >= 0) return this.#context.statx(fd, EMPTY_PATH, 0, STATX_WANTED, outAt)
    if (node.parent !== undefined) {
      const dir = this.fdOf(node.parent)
      if (dir >= 0) {
        const answer = this.#context.statx(dir, this.#placeName(node), 0, STATX_WANTED, outAt)
        if (answer >= 0) {
          readIdentity(this.#context.view, outAt, this.#seen)
          if (sameIdentity(node, this.#seen)) return 0
        }
      }
    }
    const opened = this.#openNode(node)
    return opened < 0 ? opened : this.#context.statx(opened, EMPTY_PATH, 0, STATX_WANTED, outAt)
  }

  /** Makes sure the node can be reached without its name, which is about to go. A failure is no harm to others. */
  pin(node: HostNode): void {
    if (node.fd < 0 && this.pathFdOf(node) < 0) return
    if (node.pinned) return
    node.pinned = true
    this.#dropOpen(node)
  }

  /** The node got a name again (LINK of a file without one). */
  unpin(node: HostNode): void {
    if (!node.pinned || node === this.root) return
    node.pinned = false
    if (node.fd >= 0) {
      const { fd } = node
      this.#keep(node, fd)
    }
  }

  /** Gives up one descriptor that was not used lately, taking the file's handle where that works. */
  #evict(spare: HostNode | undefined): void {
    for (let steps = this.#open.length * 2; steps > 0; steps--) {
      if (this.#hand >= this.#open.length) this.#hand = 0
      const node = this.#open[this.#hand]!
      if (node === spare || node.referenced) {
        node.referenced = false
        this.#hand++
        continue
      }
      this.#takeHandle(node)
      this.#context.close(node.fd)
      node.fd = -1
      this.#dropOpen(node)
      return
    }
  }

  /** The process is out of descriptors: gives up a quarter of ours. False when there are none to give. */
  relieve(): boolean {
    const before = this.#open.length
    for (let i = Math.ceil(before / 4); i > 0; i--) this.#evict(undefined)
    return this.#open.length < before
  }

  /** Handles only lead back within the share's own mount. */
  #takeHandle(node: HostNode): void {
    if (!this.#canUseHandles || node.handle !== undefined || node.mount !== this.root.mount) return
    const at = this.#scratchAt + OTHER_AT
    const answer = this.#context.nameToHandle(node.fd, EMPTY_PATH, at)
    if (answer >= 0) node.handle = this.#context.bytes.slice(at, at + HANDLE_BYTES)
    else if (answer === -Errno.EOPNOTSUPP) this.#canUseHandles = false
  }

  /** Forgets every node but the root. */
  clear(): void {
    for (const node of [...this.table]) {
      if (node === this.root) continue
      node.lookups = 0
      node.openFds = []
    }
    // A node goes when its children let go of it, so the leaves lead the way.
    for (const node of [...this.table])
      if (node !== this.root && node.holds === 0) this.forget(node, 0)
  }
}

function copyIdentity(from: Identity, to: Identity): void {
  to.inoLow = from.inoLow
  to.inoHigh = from.inoHigh
  to.devMajor = from.devMajor
  to.devMinor = from.devMinor
  to.mount = from.mount
  to.type = from.type
  to.btimeSec = from.btimeSec
  to.btimeNsec = from.btimeNsec
}

export function isDirectory(node: HostNode): boolean {
  return node.type === S_IFDIR
}
