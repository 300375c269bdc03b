/**
 * Nodes of a host tree: which inode a nodeid stands for, and how to reach it.
 *
 * A node remembers the directory and name it was found under; when it is looked at closer it gets a
 * descriptor (O_PATH), of which a bounded number stays open (node-descriptors.ts), and when it loses
 * that, a file handle where those work (file-handles.ts). Whatever is opened again is checked against
 * the inode's identity, so that a name that means another file by now answers ESTALE and the guest
 * looks it up anew. A node whose last name is about to go is opened first (`pin`).
 */
import { Errno } from '../../../protocol/errno.js'
import { O_DIRECTORY, O_NOFOLLOW, O_PATH } from '../../../protocol/linux/constants.js'
import { type Context, EMPTY_PATH } from '../../native/context.js'
import type { InodeKey } from '../../vfs/identities.js'
import { NodeTable } from '../../vfs/node-table.js'
import { FileHandles } from './file-handles.js'
import { Inodes } from './inodes.js'
import type { Mounts } from './mounts.js'
import { type HostMount, HostNode } from './node.js'
import { NodeDescriptors } from './node-descriptors.js'
import type { InodeFileHandles } from './options.js'
import { NAME_AT, OTHER_AT, STAT2_AT } from './scratch.js'
import { STATX_WANTED } from './stat.js'

const AT_FDCWD = -100
/** Answer of an attempt to open: its directory must be opened first. No -errno. */
const DIRECTORY_FIRST = -100_000

export function outOfDescriptors(answer: number): boolean {
  return answer === -Errno.EMFILE || answer === -Errno.ENFILE
}

export class HostNodes {
  readonly table = new NodeTable<HostNode>()
  readonly descriptors: NodeDescriptors
  readonly handles: FileHandles
  /** What `both` found. */
  first = -1
  second = -1
  #root: HostNode | undefined
  readonly #context: Context
  readonly #scratchAt: number
  readonly #inodes: Inodes
  readonly #mounts: Mounts
  readonly #arena: Buffer

  constructor(
    context: Context,
    scratchAt: number,
    mounts: Mounts,
    maxDescriptors: number,
    fileHandles: InodeFileHandles,
  ) {
    this.#context = context
    this.#mounts = mounts
    this.#scratchAt = scratchAt
    this.#inodes = new Inodes(context.view)
    this.handles = new FileHandles(context, scratchAt, fileHandles)
    this.descriptors = new NodeDescriptors(context, maxDescriptors, node => this.handles.take(node))
    const { buffer, byteOffset, byteLength } = context.bytes
    this.#arena = Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength)
  }

  get root(): HostNode {
    return this.#root!
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
    this.#see(this.#scratchAt + STAT2_AT, fd, EMPTY_PATH)
    const root = this.#inodes.make()
    root.fd = fd
    this.table.setRoot(root)
    this.#root = root
    return 0
  }

  closeRoot(): void {
    const root = this.#root
    if (root === undefined || root.fd < 0) return
    this.handles.drop(root)
    this.#context.close(root.fd)
    root.fd = -1
  }

  /** Descriptors kept open for nodes and mounts. */
  get openDescriptors(): number {
    return this.descriptors.count + this.handles.openDescriptors + 1
  }

  get(nodeid: number): HostNode | undefined {
    return this.table.get(nodeid)
  }

  #statInto(dir: number, nameAt: number): number {
    return this.#context.statx(dir, nameAt, 0, STATX_WANTED, this.#scratchAt + STAT2_AT)
  }

  // --- which node -----------------------------------------------------------------------------------

  /** Looks at the struct statx at `statAt`, got of `nameAt` (or EMPTY_PATH) at `fd`. */
  #see(statAt: number, fd: number, nameAt: number): void {
    const inodes = this.#inodes
    inodes.see(statAt)
    if (inodes.seenMount.movesFiles !== undefined) return
    this.#askMount(inodes.seenMount, fd, nameAt)
    inodes.see(statAt)
  }

  /** What kind of file system `mount` is. Asked again next time when there are no descriptors. */
  #askMount(mount: HostMount, fd: number, nameAt: number): void {
    const context = this.#context
    const own = nameAt === EMPTY_PATH ? fd : context.openat(fd, nameAt, O_PATH | O_NOFOLLOW, 0, 0)
    if (own < 0) return
    mount.movesFiles = this.#mounts.isOverlay(own)
    if (own !== fd) context.close(own)
  }

  /**
   * What tells the inode of the struct statx at `statAt`, got of `nameAt` at `fd`, from every other, as its node would
   * have it, to `key`; and the node, if it is known.
   */
  identify(statAt: number, fd: number, nameAt: number, key: InodeKey): HostNode | undefined {
    this.#see(statAt, fd, nameAt)
    this.#inodes.identify(key)
    return this.#inodes.find()
  }

  /**
   * The node of the inode whose struct statx lies at `statAt`, found in `parent` under the arena name
   * at `nameAt` (`nameBytes` long, NUL after it), or undefined names. Made when it is new. `fd` and
   * `fdNameAt` lead to the inode too. It has one more lookup afterwards. Undefined only with mandatory
   * file handles, where there is none: `handles.fault` says why.
   */
  adopt(
    statAt: number,
    parent: HostNode | undefined,
    nameAt: number,
    nameBytes: number,
    fd: number,
    fdNameAt: number,
  ): HostNode | undefined {
    const inodes = this.#inodes
    this.#see(statAt, fd, fdNameAt)
    const mandatory = this.handles.mode === 'mandatory'
    // Without a birth time only the handle (which has the inode's generation) tells who took over a number.
    const seenHandle =
      mandatory || !inodes.seenBirth ? this.handles.read(fd, fdNameAt, inodes.seenMount) : undefined
    if (mandatory && seenHandle === undefined) return undefined
    let node = inodes.find()
    if (
      node?.handle !== undefined &&
      seenHandle !== undefined &&
      node.handle !== seenHandle &&
      !inodes.seenBirth
    ) {
      inodes.remove(node)
      node = undefined
    }
    if (node !== undefined) {
      this.table.addLookup(node)
      if (
        parent !== undefined &&
        node !== this.root &&
        !this.isNamed(node, parent, nameAt, nameBytes)
      )
        this.setName(node, parent, nameAt, nameBytes)
    } else {
      node = inodes.make()
      this.table.insert(node)
      this.table.addLookup(node)
      node.holds--
      if (parent === undefined) node.nameless = true
      else this.setName(node, parent, nameAt, nameBytes)
    }
    if (seenHandle === undefined || node.handle !== undefined) return node
    const fault = this.#giveHandle(node, seenHandle, parent, fd)
    if (fault >= 0 || !mandatory) return node
    this.handles.fault = fault
    this.forget(node, 1)
    return undefined
  }

  /** `fd`: on the directory `parent`, or without that on the node. */
  #giveHandle(node: HostNode, handle: string, parent: HostNode | undefined, fd: number): number {
    if (node.mount.handleFd >= 0 || parent === undefined || parent.mount === node.mount)
      return this.handles.give(node, handle, fd)
    const own = this.pathFdOf(node)
    return own < 0 ? own : this.handles.give(node, handle, own)
  }

  /** The known node of the inode at `statAt`, if any. No lookup is taken. */
  find(statAt: number): HostNode | undefined {
    this.#inodes.see(statAt)
    return this.#inodes.find()
  }

  /** It is known by this name, not only by others. */
  isNamed(node: HostNode, parent: HostNode, nameAt: number, nameBytes: number): boolean {
    const { name } = node
    if (node.nameless || node.parent !== parent || name.length !== nameBytes) return false
    const { bytes } = this.#context
    for (let i = 0; i < nameBytes; i++) if (name.charCodeAt(i) !== bytes[nameAt + i]) return false
    return true
  }

  setName(node: HostNode, parent: HostNode, nameAt: number, nameBytes: number): void {
    node.name = this.#arena.toString('latin1', nameAt, nameAt + nameBytes)
    this.descriptors.setNameless(node, false)
    const former = node.parent
    if (former === parent) return
    this.table.hold(parent)
    node.parent = parent
    // Held: what it was known by may be all that keeps it.
    this.table.hold(node)
    if (former !== undefined) this.#unhold(former)
    if (node.holds > 1) this.#breakCycle(node)
    this.#unhold(node)
  }

  /**
   * The host has moved directories about: where the node's new directory was last seen below the node
   * itself, that is out of date. The one just below loses its place; the next lookup finds it again.
   */
  #breakCycle(node: HostNode): void {
    let below = node.parent
    while (below !== undefined && below.parent !== node) below = below.parent
    if (below === undefined) return
    below.parent = undefined
    this.descriptors.setNameless(below, true)
    this.#unhold(node)
  }

  /**
   * The node of a guest that comes from another daemon, under the nodeid it has there: of the inode whose
   * struct statx lies at `statAt`, got of `fd` and `fdNameAt`, found in `parent` under the arena name at
   * `nameAt`; without a parent, of a file without a name that `fd` is on. -errno: EEXIST the nodeid is taken,
   * or as `handles.fault`.
   */
  restore(
    nodeid: number,
    statAt: number,
    parent: HostNode | undefined,
    nameAt: number,
    nameBytes: number,
    fd: number,
    fdNameAt: number,
  ): number {
    this.#see(statAt, fd, fdNameAt)
    const mandatory = this.handles.mode === 'mandatory'
    const seenHandle =
      mandatory || !this.#inodes.seenBirth
        ? this.handles.read(fd, fdNameAt, this.#inodes.seenMount)
        : undefined
    if (mandatory && seenHandle === undefined) return this.handles.fault
    const node = this.#inodes.make()
    if (!this.table.insertAt(node, nodeid)) {
      this.#inodes.remove(node)
      return -Errno.EEXIST
    }
    if (parent === undefined) node.nameless = true
    else this.setName(node, parent, nameAt, nameBytes)
    if (seenHandle !== undefined) this.#giveHandle(node, seenHandle, parent, fd)
    node.holds--
    return 0
  }

  /** As `restore`, for a file that was not found: every use of the node answers ESTALE. */
  restoreLost(nodeid: number, type: number): number {
    const node = new HostNode(this.root.mount)
    node.type = type
    node.nameless = true
    if (!this.table.insertAt(node, nodeid)) return -Errno.EEXIST
    node.holds--
    return 0
  }

  forget(node: HostNode, nlookup: number): void {
    if (this.table.forget(node, nlookup)) this.#gone(node)
  }

  hold(node: HostNode): void {
    this.table.hold(node)
  }

  unhold(node: HostNode): void {
    this.#unhold(node)
  }

  #unhold(node: HostNode): void {
    if (this.table.unhold(node)) this.#gone(node)
  }

  /** Lets go of a node that left the table, and of the directories that were only held by it. */
  #gone(node: HostNode): void {
    for (let left: HostNode | undefined = node; left !== undefined; ) {
      this.#inodes.remove(left)
      this.descriptors.close(left)
      this.handles.drop(left)
      const { parent }: HostNode = left
      left.parent = undefined
      left = parent !== undefined && this.table.unhold(parent) ? parent : undefined
    }
  }

  /** Forgets every node but the root. */
  clear(): void {
    this.table.forgetAll(node => this.#gone(node))
  }

  // --- descriptors ----------------------------------------------------------------------------------

  /**
   * A descriptor on the node: O_PATH, or one of its open files. It is good until another node's is
   * asked for; for two see `both`. Errors: ESTALE the inode cannot be reached any more; ENFILE.
   */
  fdOf(node: HostNode): number {
    if (node.fd >= 0) {
      node.referenced = true
      return node.fd
    }
    const { fdAtHand } = node
    return fdAtHand >= 0 ? fdAtHand : this.#open(node)
  }

  /** As `fdOf`, but never an open file's descriptor: it stays valid when that file is closed. */
  pathFdOf(node: HostNode): number {
    return node.fd >= 0 ? this.fdOf(node) : this.#open(node)
  }

  /** Descriptors on two nodes, to `first` and `second`. 0 or -errno. */
  both(one: HostNode, other: HostNode): number {
    this.first = this.fdOf(one)
    if (this.first < 0) return this.first
    this.descriptors.guarded = one
    this.second = this.fdOf(other)
    this.descriptors.guarded = undefined
    return Math.min(this.second, 0)
  }

  /** Opens the node's file with `flags`. The node's own descriptor stays. Errors: those of open(2), ENFILE. */
  reopen(node: HostNode, flags: number): number {
    const path = this.fdOf(node)
    if (path < 0) return path
    let fd = this.#context.reopen(path, flags)
    if (outOfDescriptors(fd) && this.relieve(node)) fd = this.#context.reopen(path, flags)
    return fd === -Errno.EMFILE ? -Errno.ENFILE : fd
  }

  /** Gives up descriptors, but not that of `spare`: open(2) found that there are no more. False: there were none. */
  relieve(spare: HostNode | undefined): boolean {
    return this.descriptors.relieve(spare)
  }

  /** Opens `node` and, first, what leads there. */
  #open(node: HostNode): number {
    let fd = this.#openStep(node)
    while (fd === DIRECTORY_FIRST) {
      // No recursion: the guest decides how deep its directories are.
      const way = [node]
      for (let above = node.parent; above !== undefined; above = above.parent) {
        if (above.fdAtHand >= 0) break
        way.push(above)
        if (above.handle !== undefined) break
      }
      fd = 0
      for (let i = way.length - 1; i >= 0 && fd >= 0; i--) fd = this.#openStep(way[i]!)
    }
    return fd
  }

  /** Opens `node` by handle or by name, or answers DIRECTORY_FIRST. */
  #openStep(node: HostNode): number {
    let fd = this.#openOnce(node)
    if (outOfDescriptors(fd) && this.relieve(node.parent)) fd = this.#openOnce(node)
    if (fd >= 0) this.descriptors.add(node, fd)
    return fd === -Errno.EMFILE ? -Errno.ENFILE : fd
  }

  #openOnce(node: HostNode): number {
    if (node.handle !== undefined) {
      const fd = this.#checked(node, this.handles.open(node))
      if (fd >= 0 || outOfDescriptors(fd)) return fd
      // It led nowhere, and will not again. A name alone tells nothing without a birth time.
      if (!node.hasBirth) return fd
      this.handles.drop(node)
    }
    const { openFds, parent } = node
    if (openFds !== undefined && openFds.length > 0)
      return this.#checked(node, this.#context.reopen(openFds[openFds.length - 1]!, O_PATH))
    if (parent === undefined) return -Errno.ESTALE
    const dir = parent.fdAtHand
    if (dir < 0) return DIRECTORY_FIRST
    parent.referenced = true
    return this.#checked(
      node,
      this.#context.openat(dir, this.#placeName(node), O_PATH | O_NOFOLLOW, 0, 0),
    )
  }

  /** `fd` if it is the node's inode, whose struct statx is then at STAT2_AT; else closes it: -ESTALE. */
  #checked(node: HostNode, fd: number): number {
    if (fd < 0)
      return fd === -Errno.ENOENT || fd === -Errno.ENOTDIR || fd === -Errno.ELOOP
        ? -Errno.ESTALE
        : fd
    const fault = this.#statInto(fd, EMPTY_PATH)
    if (fault >= 0 && this.#isSame(node, this.#scratchAt + STAT2_AT, fd, EMPTY_PATH)) return fd
    this.#context.close(fd)
    return fault < 0 ? fault : -Errno.ESTALE
  }

  /** The struct statx at `statAt`, got of `fd` and `nameAt`, is that of the node's inode. */
  #isSame(node: HostNode, statAt: number, fd: number, nameAt: number): boolean {
    this.#inodes.see(statAt)
    if (!this.#inodes.isSeen(node)) return false
    if (this.#inodes.seenBirth || node.handle === undefined) return true
    const handle = this.handles.read(fd, nameAt, node.mount)
    return handle === undefined || handle === node.handle
  }

  #placeName(node: HostNode): number {
    const at = this.#scratchAt + NAME_AT
    const { bytes } = this.#context
    const { name } = node
    for (let i = 0; i < name.length; i++) bytes[at + i] = name.charCodeAt(i)
    bytes[at + name.length] = 0
    return at
  }

  /**
   * struct statx of the node at `outAt`, by a descriptor if there is one, else by its name and checked.
   * Errors: ESTALE.
   */
  stat(node: HostNode, outAt: number): number {
    const { fdAtHand, parent } = node
    if (fdAtHand >= 0) return this.#context.statx(fdAtHand, EMPTY_PATH, 0, STATX_WANTED, outAt)
    if (parent !== undefined && (node.handle === undefined || parent.fdAtHand >= 0)) {
      const dir = this.fdOf(parent)
      if (dir >= 0) {
        const nameAt = this.#placeName(node)
        const answer = this.#context.statx(dir, nameAt, 0, STATX_WANTED, outAt)
        if (answer >= 0 && this.#isSame(node, outAt, dir, nameAt)) return 0
      }
    }
    const opened = this.#open(node)
    if (opened < 0) return opened
    const from = this.#scratchAt + STAT2_AT
    this.#context.bytes.copyWithin(outAt, from, from + 256)
    return 0
  }

  // --- nodes without a name -------------------------------------------------------------------------

  /** Makes sure the node can be reached without its name, which is about to go. A failure is no harm to others. */
  pin(node: HostNode): void {
    if (node.fdAtHand < 0 && this.#open(node) < 0) return
    this.descriptors.setNameless(node, true)
  }

  /** The name did not go. */
  unpin(node: HostNode): void {
    this.descriptors.setNameless(node, false)
  }

  /** An open file or directory of the node is about to be closed; it is in `openFds` no more. */
  beforeClose(node: HostNode, fd: number): void {
    if (!node.nameless || node.lookups === 0 || node.fdAtHand >= 0) return
    const kept = this.#context.reopen(fd, O_PATH)
    if (kept >= 0) this.descriptors.add(node, kept)
  }
}
