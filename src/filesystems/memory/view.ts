/** What the operations of the in-memory file system share, and the small steps they all take. */
import { Errno } from '../../../protocol/errno.js'
import { O_ACCMODE, O_APPEND, O_RDONLY, O_WRONLY } from '../../../protocol/linux/constants.js'
import type { Context } from '../../native/context.js'
import type { DaxWindow } from '../../vfs/dax.js'
import type { Negotiated, Outcome } from '../../vfs/filesystem.js'
import { HandleTable } from '../../vfs/handle-table.js'
import { NodeTable } from '../../vfs/node-table.js'
import type { Attributes, EntryReply, OpenReply } from '../../vfs/replies.js'
import type { Name } from '../../vfs/request.js'
import { UnsupportedFileSystem } from '../../vfs/unsupported.js'
import { KnownNode, type MemoryNode } from './nodes.js'
import { MemoryStore } from './store.js'

/** The answer to a nodeid that the guest should not have any more. */
export const STALE = -Errno.ESTALE

interface Handle {
  readonly node: MemoryNode
  readonly directory: boolean
  readonly readable: boolean
  readonly writable: boolean
  readonly append: boolean
}

/** What one guest has of a store: the nodes it may name, what it has open, its window. */
export abstract class MemoryView extends UnsupportedFileSystem {
  protected readonly context: Context
  protected readonly store: MemoryStore
  protected readonly nodes = new NodeTable<KnownNode>()
  /** The same, by what they stand for. */
  protected readonly known = new Map<MemoryNode, KnownNode>()
  protected readonly handles = new HandleTable<Handle>()
  protected dax: DaxWindow | undefined
  protected dontMask = false
  readonly #root: MemoryNode

  /** A store given here may have others, made with contexts of the same thread. */
  constructor(context: Context, store = new MemoryStore()) {
    super()
    this.context = context
    this.store = store
    this.#root = store.root
    const root = new KnownNode(this.#root)
    this.nodes.setRoot(root)
    this.known.set(this.#root, root)
    this.#root.users++
    store.views.add(this)
  }

  /** Nodes the guest may name, the root included. */
  get nodeCount(): number {
    let count = 0
    for (const node of this.nodes) if (node.lookups > 0) count++
    return count
  }

  get handleCount(): number {
    return this.handles.size
  }

  override init(negotiated: Negotiated): void {
    this.dontMask = negotiated.dontMask
    this.dax = negotiated.dax
  }

  override destroy(): void {
    this.handles.clear(handle => this.closed(handle.node))
    for (const known of [...this.nodes])
      if (known.node !== this.#root) this.forget(known.nodeid, known.lookups)
  }

  /** The file system is of no use any more; the last one of its store gives back every file's memory. */
  dispose(): void {
    this.destroy()
    this.store.views.delete(this)
    if (this.store.views.size === 0) this.#drop(this.#root)
  }

  #drop(node: MemoryNode): void {
    for (const { node: child } of node.entries.values()) this.#drop(child)
    if (node.memfd >= 0) this.context.close(node.memfd)
    node.memfd = -1
  }

  // --- nodes --------------------------------------------------------------------------------------

  protected node(nodeid: number): MemoryNode | undefined {
    return this.nodes.get(nodeid)?.node
  }

  protected directory(nodeid: number): MemoryNode | Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    return node.isDirectory ? node : -Errno.ENOTDIR
  }

  protected key(name: Name): string {
    return name.key(this.context.bytes)
  }

  /** Takes a lookup on `node` and fills the reply with it. */
  protected enter(node: MemoryNode, entry: EntryReply): Outcome {
    let known = this.known.get(node)
    if (known === undefined) {
      known = new KnownNode(node)
      this.known.set(node, known)
      node.users++
      this.nodes.insert(known)
      this.nodes.addLookup(known)
      known.holds--
    } else {
      this.nodes.addLookup(known)
    }
    entry.nodeid = known.nodeid
    entry.generation = 0
    entry.entryValidSec = this.#shared ? 0 : 1
    entry.entryValidNsec = 0
    this.fill(entry.attr, known.nodeid, node)
    return 0
  }

  /** Other guests have it, too: this one caches nothing. */
  get #shared(): boolean {
    return this.store.views.size > 1
  }

  protected fill(attr: Attributes, nodeid: number, node: MemoryNode): void {
    node.fill(attr, node.isFile ? Math.ceil(node.sizeBytes / 4096) * 8 : 0)
    if (this.#shared) attr.validSec = 0
    this.dax?.describe(nodeid, attr)
  }

  override forget(nodeid: number, nlookup: number): void {
    const known = this.nodes.get(nodeid)
    if (known === undefined || !this.nodes.forget(known, nlookup)) return
    const { node } = known
    this.known.delete(node)
    node.users--
    this.reclaim(node)
  }

  /** Gives a file's memory back when no name, no handle and no lookup leads to it. */
  protected reclaim(node: MemoryNode): void {
    if (node.nlink > 0 || node.openCount > 0 || node.users > 0) return
    if (node.memfd >= 0) this.context.close(node.memfd)
    node.memfd = -1
    this.store.bytes -= node.sizeBytes
    node.sizeBytes = 0
    this.store.nodeTotal--
  }

  // --- files --------------------------------------------------------------------------------------

  protected handle(fh: number, directory: boolean): Handle | undefined {
    const handle = this.handles.get(fh)
    return handle !== undefined && handle.directory === directory ? handle : undefined
  }

  protected opened(node: MemoryNode, flags: number, opened: OpenReply): Outcome {
    const mode = flags & O_ACCMODE
    opened.fh = this.handles.insert({
      node,
      directory: node.isDirectory,
      readable: mode !== O_WRONLY,
      writable: mode !== O_RDONLY,
      append: (flags & O_APPEND) !== 0,
    })
    opened.noFlush = true
    node.openCount++
    return 0
  }

  protected closed(node: MemoryNode): void {
    node.openCount--
    this.reclaim(node)
  }

  /** Other guests have nothing in their windows that is cut off; the own one's has been seen to. */
  protected resize(node: MemoryNode, size: number): Outcome {
    const cut = size < node.sizeBytes
    const tell = (what: (dax: DaxWindow, nodeid: number) => void): void => {
      for (const view of this.store.views) {
        const known = view === this ? undefined : view.known.get(node)
        if (known !== undefined && view.dax !== undefined) what(view.dax, known.nodeid)
      }
    }
    if (cut) tell((dax, nodeid) => dax.revoke(nodeid, Math.ceil(size / 4096) * 4096))
    const outcome = this.#resizeAlone(node, size)
    tell((dax, nodeid) => dax.restore(nodeid))
    return outcome
  }

  #resizeAlone(node: MemoryNode, size: number): Outcome {
    if (!node.isFile) return node.isDirectory ? -Errno.EISDIR : -Errno.EINVAL
    if (this.store.bytes + size - node.sizeBytes > this.store.options.maxBytes) return -Errno.ENOSPC
    if (node.memfd < 0) {
      if (size === 0) return 0
      const fd = this.context.memfdCreate()
      if (fd < 0) return fd
      node.memfd = fd
    }
    const fault = this.context.ftruncate(node.memfd, size)
    if (fault < 0) return fault
    this.store.bytes += size - node.sizeBytes
    node.sizeBytes = size
    return 0
  }
}
