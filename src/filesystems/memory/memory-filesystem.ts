/**
 * A file system in memory: names and metadata in JavaScript, file data in memfds that READ and WRITE
 * reach straight from guest pages. Nothing of it survives the daemon. It is small and complete, and
 * keeps the `FileSystem` interface honest: nothing in it knows of the host's tree.
 */
import { Errno } from '../../../protocol/errno.js'
import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  O_ACCMODE,
  O_APPEND,
  O_EXCL,
  O_RDONLY,
  O_TRUNC,
  O_WRONLY,
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
  RENAME_WHITEOUT,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_ISGID,
  S_ISUID,
  S_IXGRP,
  SEEK_DATA,
  SEEK_HOLE,
  XATTR_CREATE,
  XATTR_REPLACE,
} from '../../../protocol/linux/constants.js'
import { native } from '../../native/addon.js'
import type { Context } from '../../native/context.js'
import { type DaxWindow, type MappableFiles, openedEmpty } from '../../vfs/dax.js'
import {
  type Capabilities,
  type FileSystem,
  type Negotiated,
  NO_HANDLE,
  type Outcome,
} from '../../vfs/filesystem.js'
import { HandleTable } from '../../vfs/handle-table.js'
import { NodeTable } from '../../vfs/node-table.js'
import type {
  Attributes,
  EntryReply,
  OpenReply,
  SetAttributes,
  StatfsReply,
} from '../../vfs/replies.js'
import type { DirectorySink, Name, Payload, Request, Span } from '../../vfs/request.js'
import { NO_CAPABILITIES, UnsupportedFileSystem } from '../../vfs/unsupported.js'
import { type DirectoryEntry, KnownNode, type MemoryNode } from './nodes.js'
import { MemoryStore } from './store.js'

interface Handle {
  readonly node: MemoryNode
  readonly directory: boolean
  readonly readable: boolean
  readonly writable: boolean
  readonly append: boolean
}

const STALE = -Errno.ESTALE
const MAX_XATTR_BYTES = 65536

/** As one guest has it. With several on one store each sees at once what another has changed. */
export class MemoryFileSystem extends UnsupportedFileSystem implements FileSystem {
  override readonly capabilities: Capabilities = {
    ...NO_CAPABILITIES,
    readdirplus: true,
    xattr: true,
    killpriv: true,
  }
  readonly mappable: MappableFiles = {
    owned: true,
    open: nodeid => this.#openToMap(nodeid),
    known: nodeid => this.#node(nodeid) !== undefined,
  }
  #dax: DaxWindow | undefined
  readonly #context: Context
  readonly #store: MemoryStore
  readonly #nodes = new NodeTable<KnownNode>()
  /** The same, by what they stand for. */
  readonly #known = new Map<MemoryNode, KnownNode>()
  readonly #handles = new HandleTable<Handle>()
  readonly #root: MemoryNode
  #dontMask = false

  /** A store given here may have others, made with contexts of the same thread. */
  constructor(context: Context, store = new MemoryStore()) {
    super()
    this.#context = context
    this.#store = store
    this.#root = store.root
    const root = new KnownNode(this.#root)
    this.#nodes.setRoot(root)
    this.#known.set(this.#root, root)
    this.#root.users++
    store.views.add(this)
  }

  /** Nodes the guest may name, the root included. */
  get nodeCount(): number {
    let count = 0
    for (const node of this.#nodes) if (node.lookups > 0) count++
    return count
  }
  get handleCount(): number {
    return this.#handles.size
  }

  override init(negotiated: Negotiated): void {
    this.#dontMask = negotiated.dontMask
    this.#dax = negotiated.dax
  }

  override destroy(): void {
    this.#handles.clear(handle => this.#closed(handle.node))
    for (const known of [...this.#nodes])
      if (known.node !== this.#root) this.forget(known.nodeid, known.lookups)
  }

  /** The file system is of no use any more; the last one of its store gives back every file's memory. */
  dispose(): void {
    this.destroy()
    this.#store.views.delete(this)
    if (this.#store.views.size === 0) this.#drop(this.#root)
  }

  #drop(node: MemoryNode): void {
    for (const { node: child } of node.entries.values()) this.#drop(child)
    if (node.memfd >= 0) this.#context.close(node.memfd)
    node.memfd = -1
  }

  // --- nodes --------------------------------------------------------------------------------------

  #node(nodeid: number): MemoryNode | undefined {
    return this.#nodes.get(nodeid)?.node
  }

  #directory(nodeid: number): MemoryNode | Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    return node.isDirectory ? node : -Errno.ENOTDIR
  }

  #key(name: Name): string {
    return name.key(this.#context.bytes)
  }

  /** Takes a lookup on `node` and fills the reply with it. */
  #enter(node: MemoryNode, entry: EntryReply): Outcome {
    let known = this.#known.get(node)
    if (known === undefined) {
      known = new KnownNode(node)
      this.#known.set(node, known)
      node.users++
      this.#nodes.insert(known)
      this.#nodes.addLookup(known)
      known.holds--
    } else {
      this.#nodes.addLookup(known)
    }
    entry.nodeid = known.nodeid
    entry.generation = 0
    entry.entryValidSec = this.#shared ? 0 : 1
    entry.entryValidNsec = 0
    this.#fill(entry.attr, known.nodeid, node)
    return 0
  }

  /** Other guests have it, too: this one caches nothing. */
  get #shared(): boolean {
    return this.#store.views.size > 1
  }

  #fill(attr: Attributes, nodeid: number, node: MemoryNode): void {
    node.fill(attr, node.isFile ? Math.ceil(node.sizeBytes / 4096) * 8 : 0)
    if (this.#shared) attr.validSec = 0
    this.#dax?.describe(nodeid, attr)
  }

  override lookup(_request: Request, parent: number, name: Name, entry: EntryReply): Outcome {
    const dir = this.#directory(parent)
    if (typeof dir === 'number') return dir
    const found = dir.entries.get(this.#key(name))
    return found === undefined ? -Errno.ENOENT : this.#enter(found.node, entry)
  }

  override forget(nodeid: number, nlookup: number): void {
    const known = this.#nodes.get(nodeid)
    if (known === undefined || !this.#nodes.forget(known, nlookup)) return
    const { node } = known
    this.#known.delete(node)
    node.users--
    this.#release(node)
  }

  /** Gives a file's memory back when no name, no handle and no lookup leads to it. */
  #release(node: MemoryNode): void {
    if (node.nlink > 0 || node.openCount > 0 || node.users > 0) return
    if (node.memfd >= 0) this.#context.close(node.memfd)
    node.memfd = -1
    this.#store.bytes -= node.sizeBytes
    node.sizeBytes = 0
    this.#store.nodeTotal--
  }

  override getattr(_request: Request, nodeid: number, _fh: number, attr: Attributes): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    this.#fill(attr, nodeid, node)
    return 0
  }

  override setattr(
    _request: Request,
    nodeid: number,
    fh: number,
    change: SetAttributes,
    attr: Attributes,
  ): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    const now = Date.now()
    if (change.setMode) node.mode = node.type | (change.mode & 0o7777)
    if (change.setUid || change.setGid) {
      if (change.setUid) node.uid = change.uid
      if (change.setGid) node.gid = change.gid
      if (!node.isDirectory) dropSetId(node)
    }
    if (change.setSize) {
      const handle = fh === NO_HANDLE ? undefined : this.#handles.get(fh)
      if (handle !== undefined && !handle.writable) return -Errno.EINVAL
      const fault = this.#resize(node, change.sizeBytes)
      if (fault < 0) return fault
      if (change.killSuidgid) dropSetId(node)
      node.touch(now, { mtime: true })
    }
    if (change.setAtime)
      setStamp(
        node,
        'atime',
        change.atimeNow ? now : change.atimeSec * 1000,
        change.atimeNow ? 0 : change.atimeNsec,
      )
    if (change.setMtime)
      setStamp(
        node,
        'mtime',
        change.mtimeNow ? now : change.mtimeSec * 1000,
        change.mtimeNow ? 0 : change.mtimeNsec,
      )
    node.ctimeMs = now
    this.#fill(attr, nodeid, node)
    return 0
  }

  override readlink(_request: Request, nodeid: number, out: Span): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    if (node.type !== S_IFLNK) return -Errno.EINVAL
    if (node.target.length > out.bytes) return -Errno.ENAMETOOLONG
    this.#context.bytes.set(node.target, out.at)
    return node.target.length
  }

  override access(_request: Request, nodeid: number, _mask: number): Outcome {
    // The guest checks permissions by the attributes it has (default_permissions).
    return this.#node(nodeid) === undefined ? STALE : 0
  }

  override statfs(_request: Request, _nodeid: number, reply: StatfsReply): Outcome {
    reply.bsize = 4096
    reply.frsize = 4096
    reply.blocks = Math.floor(this.#store.options.maxBytes / 4096)
    reply.bfree = Math.floor((this.#store.options.maxBytes - this.#store.bytes) / 4096)
    reply.bavail = reply.bfree
    reply.files = this.#store.options.maxNodes
    reply.ffree = this.#store.options.maxNodes - this.#store.nodeTotal
    reply.namelen = 255
    return 0
  }

  // --- names --------------------------------------------------------------------------------------

  /** Makes a node under a new name. Errors: ESTALE; ENOTDIR; EEXIST; ENOENT in a removed directory; ENOSPC. */
  #make(request: Request, parent: number, name: Name, mode: number): MemoryNode | Outcome {
    const dir = this.#directory(parent)
    if (typeof dir === 'number') return dir
    const key = this.#key(name)
    if (dir.entries.has(key)) return -Errno.EEXIST
    if (dir.nlink === 0) return -Errno.ENOENT
    const node = this.#newOwned(request, dir, mode)
    if (typeof node === 'number') return node
    this.#addEntry(dir, key, node)
    return node
  }

  #newOwned(request: Request, dir: MemoryNode, mode: number): MemoryNode | Outcome {
    if (this.#store.nodeTotal >= this.#store.options.maxNodes) return -Errno.ENOSPC
    const masked = this.#dontMask && (mode & S_IFMT) !== S_IFLNK ? mode & ~request.umask : mode
    const node = this.#store.newNode(masked)
    node.uid = request.uid
    node.gid = request.gid
    if ((dir.mode & S_ISGID) !== 0) {
      node.gid = dir.gid
      if (node.isDirectory) node.mode |= S_ISGID
    }
    return node
  }

  #addEntry(dir: MemoryNode, key: string, node: MemoryNode): void {
    dir.entries.set(key, { name: key, node, cookie: dir.nextCookie++ })
    node.nlink += node.isDirectory ? 2 : 1
    if (node.isDirectory) {
      node.parent = dir
      dir.nlink++
    }
    dir.touch(Date.now(), { mtime: true })
  }

  #removeEntry(dir: MemoryNode, entry: DirectoryEntry): void {
    const { node } = entry
    dir.entries.delete(entry.name)
    node.nlink -= node.isDirectory ? 2 : 1
    if (node.isDirectory) dir.nlink--
    const now = Date.now()
    dir.touch(now, { mtime: true })
    node.ctimeMs = now
    this.#release(node)
  }

  override mknod(
    request: Request,
    parent: number,
    name: Name,
    mode: number,
    major: number,
    minor: number,
    entry: EntryReply,
  ): Outcome {
    const typed = (mode & S_IFMT) === 0 ? mode | S_IFREG : mode
    const node = this.#make(request, parent, name, typed)
    if (typeof node === 'number') return node
    node.rdevMajor = major
    node.rdevMinor = minor
    return this.#enter(node, entry)
  }

  override mkdir(
    request: Request,
    parent: number,
    name: Name,
    mode: number,
    entry: EntryReply,
  ): Outcome {
    const node = this.#make(request, parent, name, S_IFDIR | (mode & 0o7777))
    return typeof node === 'number' ? node : this.#enter(node, entry)
  }

  override symlink(
    request: Request,
    parent: number,
    name: Name,
    target: Name,
    entry: EntryReply,
  ): Outcome {
    const node = this.#make(request, parent, name, S_IFLNK | 0o777)
    if (typeof node === 'number') return node
    node.target = this.#context.bytes.slice(target.at, target.at + target.bytes)
    return this.#enter(node, entry)
  }

  override link(
    _request: Request,
    nodeid: number,
    newParent: number,
    newName: Name,
    entry: EntryReply,
  ): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    const dir = this.#directory(newParent)
    if (typeof dir === 'number') return dir
    if (node.isDirectory) return -Errno.EPERM
    const key = this.#key(newName)
    if (dir.entries.has(key)) return -Errno.EEXIST
    if (dir.nlink === 0) return -Errno.ENOENT
    this.#addEntry(dir, key, node)
    node.ctimeMs = Date.now()
    return this.#enter(node, entry)
  }

  override unlink(_request: Request, parent: number, name: Name): Outcome {
    const dir = this.#directory(parent)
    if (typeof dir === 'number') return dir
    const entry = dir.entries.get(this.#key(name))
    if (entry === undefined) return -Errno.ENOENT
    if (entry.node.isDirectory) return -Errno.EISDIR
    this.#removeEntry(dir, entry)
    return 0
  }

  override rmdir(_request: Request, parent: number, name: Name): Outcome {
    const dir = this.#directory(parent)
    if (typeof dir === 'number') return dir
    const entry = dir.entries.get(this.#key(name))
    if (entry === undefined) return -Errno.ENOENT
    if (!entry.node.isDirectory) return -Errno.ENOTDIR
    if (entry.node.entries.size > 0) return -Errno.ENOTEMPTY
    this.#removeEntry(dir, entry)
    return 0
  }

  override rename(
    _request: Request,
    parent: number,
    name: Name,
    newParent: number,
    newName: Name,
    flags: number,
  ): Outcome {
    const from = this.#directory(parent)
    if (typeof from === 'number') return from
    const to = this.#directory(newParent)
    if (typeof to === 'number') return to
    if ((flags & RENAME_EXCHANGE) !== 0 && (flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)) !== 0)
      return -Errno.EINVAL
    const moved = from.entries.get(this.#key(name))
    if (moved === undefined) return -Errno.ENOENT
    const target = to.entries.get(this.#key(newName))
    if (moved.node.isDirectory && contains(moved.node, to)) return -Errno.EINVAL
    if ((flags & RENAME_EXCHANGE) !== 0) return this.#exchange(from, moved, to, target)
    if (target !== undefined) {
      if ((flags & RENAME_NOREPLACE) !== 0) return -Errno.EEXIST
      if (target.node === moved.node) return 0
      if (target.node.isDirectory && !moved.node.isDirectory) return -Errno.EISDIR
      if (!target.node.isDirectory && moved.node.isDirectory) return -Errno.ENOTDIR
      if (target.node.entries.size > 0) return -Errno.ENOTEMPTY
    }
    if (to.nlink === 0) return -Errno.ENOENT
    this.#move(from, moved, to, this.#key(newName), target)
    if ((flags & RENAME_WHITEOUT) !== 0)
      this.#addEntry(from, moved.name, this.#store.newNode(S_IFCHR))
    return 0
  }

  #move(
    from: MemoryNode,
    moved: DirectoryEntry,
    to: MemoryNode,
    key: string,
    target: DirectoryEntry | undefined,
  ): void {
    if (target !== undefined) this.#removeEntry(to, target)
    // The node keeps a link throughout, so that it is not released on the way.
    moved.node.openCount++
    this.#removeEntry(from, moved)
    this.#addEntry(to, key, moved.node)
    moved.node.openCount--
  }

  #exchange(
    from: MemoryNode,
    moved: DirectoryEntry,
    to: MemoryNode,
    target: DirectoryEntry | undefined,
  ): Outcome {
    if (target === undefined) return -Errno.ENOENT
    if (target.node === moved.node) return 0
    if (target.node.isDirectory && contains(target.node, from)) return -Errno.EINVAL
    moved.node.openCount++
    target.node.openCount++
    this.#removeEntry(from, moved)
    this.#removeEntry(to, target)
    this.#addEntry(to, target.name, moved.node)
    this.#addEntry(from, moved.name, target.node)
    moved.node.openCount--
    target.node.openCount--
    return 0
  }

  // --- files --------------------------------------------------------------------------------------

  override open(
    _request: Request,
    nodeid: number,
    flags: number,
    killSuid: boolean,
    opened: OpenReply,
  ): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    if (!node.isFile) return node.isDirectory ? -Errno.EISDIR : -Errno.ENXIO
    if ((flags & O_TRUNC) !== 0) {
      const fault = this.#resize(node, 0)
      if (fault < 0) return fault
      if (killSuid) dropSetId(node)
      node.touch(Date.now(), { mtime: true })
    }
    return this.#opened(node, flags, opened)
  }

  #opened(node: MemoryNode, flags: number, opened: OpenReply): Outcome {
    const mode = flags & O_ACCMODE
    opened.fh = this.#handles.insert({
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

  override create(
    request: Request,
    parent: number,
    name: Name,
    flags: number,
    mode: number,
    killSuid: boolean,
    entry: EntryReply,
    opened: OpenReply,
  ): Outcome {
    const node = this.#make(request, parent, name, S_IFREG | (mode & 0o7777))
    if (node === -Errno.EEXIST && (flags & O_EXCL) === 0) {
      const found = this.lookup(request, parent, name, entry)
      if (found < 0) return found
      const open = () => this.open(request, entry.nodeid, flags, killSuid, opened)
      const outcome = (flags & O_TRUNC) === 0 ? open() : openedEmpty(this.#dax, entry.nodeid, open)
      if (outcome < 0) this.forget(entry.nodeid, 1)
      else this.#fill(entry.attr, entry.nodeid, this.#node(entry.nodeid)!)
      return outcome
    }
    if (typeof node === 'number') return node
    this.#enter(node, entry)
    return this.#opened(node, flags, opened)
  }

  override tmpfile(
    request: Request,
    parent: number,
    flags: number,
    mode: number,
    entry: EntryReply,
    opened: OpenReply,
  ): Outcome {
    const dir = this.#directory(parent)
    if (typeof dir === 'number') return dir
    const node = this.#newOwned(request, dir, S_IFREG | (mode & 0o7777))
    if (typeof node === 'number') return node
    this.#enter(node, entry)
    return this.#opened(node, flags, opened)
  }

  #handle(fh: number, directory: boolean): Handle | undefined {
    const handle = this.#handles.get(fh)
    return handle !== undefined && handle.directory === directory ? handle : undefined
  }

  override read(
    _request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    into: Payload,
  ): Outcome {
    const handle = this.#handle(fh, false)
    if (handle === undefined || !handle.readable) return -Errno.EBADF
    const { node } = handle
    const bytes = Math.min(into.bytes, Math.max(node.sizeBytes - offset, 0))
    if (bytes === 0 || node.memfd < 0) return bytes === 0 ? 0 : -Errno.EIO
    node.atimeMs = Date.now()
    node.atimeNsec = 0
    return this.#context.readv(node.memfd, into.first, into.count, into.skip, bytes, offset, 0)
  }

  override write(
    _request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    from: Payload,
    killSuid: boolean,
  ): Outcome {
    const handle = this.#handle(fh, false)
    if (handle === undefined || !handle.writable) return -Errno.EBADF
    const { node } = handle
    const at = handle.append ? node.sizeBytes : offset
    const before = node.sizeBytes
    const fault = this.#grow(node, at + from.bytes)
    if (fault < 0) return fault
    const done = this.#context.writev(
      node.memfd,
      from.first,
      from.count,
      from.skip,
      from.bytes,
      at,
      0,
    )
    if (done < 0) {
      this.#resize(node, before)
      return done
    }
    if (killSuid) dropSetId(node)
    node.touch(Date.now(), { mtime: true })
    return done
  }

  #openToMap(nodeid: number): number {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    return node.isFile && node.memfd >= 0 ? native.dupFd(node.memfd) : -Errno.EACCES
  }

  /** Makes sure the file has a memfd of at least `size` bytes. */
  #grow(node: MemoryNode, size: number): Outcome {
    return size > node.sizeBytes || node.memfd < 0
      ? this.#resize(node, Math.max(size, node.sizeBytes))
      : 0
  }

  /** Other guests have nothing in their windows that is cut off; the own one's has been seen to. */
  #resize(node: MemoryNode, size: number): Outcome {
    const cut = size < node.sizeBytes
    const tell = (what: (dax: DaxWindow, nodeid: number) => void): void => {
      for (const view of this.#store.views) {
        const known = view === this ? undefined : view.#known.get(node)
        if (known !== undefined && view.#dax !== undefined) what(view.#dax, known.nodeid)
      }
    }
    if (cut) tell((dax, nodeid) => dax.revoke(nodeid, Math.ceil(size / 4096) * 4096))
    const outcome = this.#resizeAlone(node, size)
    tell((dax, nodeid) => dax.restore(nodeid))
    return outcome
  }

  #resizeAlone(node: MemoryNode, size: number): Outcome {
    if (!node.isFile) return node.isDirectory ? -Errno.EISDIR : -Errno.EINVAL
    if (this.#store.bytes + size - node.sizeBytes > this.#store.options.maxBytes)
      return -Errno.ENOSPC
    if (node.memfd < 0) {
      if (size === 0) return 0
      const fd = this.#context.memfdCreate()
      if (fd < 0) return fd
      node.memfd = fd
    }
    const fault = this.#context.ftruncate(node.memfd, size)
    if (fault < 0) return fault
    this.#store.bytes += size - node.sizeBytes
    node.sizeBytes = size
    return 0
  }

  override flush(_request: Request, _nodeid: number, fh: number): Outcome {
    return this.#handle(fh, false) === undefined ? -Errno.EBADF : 0
  }

  override release(_request: Request, _nodeid: number, fh: number): Outcome {
    const handle = this.#handle(fh, false)
    if (handle === undefined) return -Errno.EBADF
    this.#handles.remove(fh)
    this.#closed(handle.node)
    return 0
  }

  #closed(node: MemoryNode): void {
    node.openCount--
    this.#release(node)
  }

  override fsync(_request: Request, _nodeid: number, fh: number): Outcome {
    return this.#handle(fh, false) === undefined ? -Errno.EBADF : 0
  }

  override lseek(
    _request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    whence: number,
  ): Outcome {
    const handle = this.#handle(fh, false)
    if (handle === undefined) return -Errno.EBADF
    if (whence !== SEEK_DATA && whence !== SEEK_HOLE) return -Errno.EINVAL
    const { node } = handle
    return node.memfd < 0 ? -Errno.ENXIO : this.#context.lseek(node.memfd, offset, whence)
  }

  override fallocate(
    _request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    length: number,
    mode: number,
  ): Outcome {
    const handle = this.#handle(fh, false)
    if (handle === undefined || !handle.writable) return -Errno.EBADF
    const { node } = handle
    if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)) !== 0) return -Errno.EOPNOTSUPP
    if ((mode & FALLOC_FL_KEEP_SIZE) === 0) {
      const fault = this.#grow(node, offset + length)
      if (fault < 0) return fault
    }
    const fault = node.memfd < 0 ? 0 : this.#context.fallocate(node.memfd, mode, offset, length)
    if (fault < 0) return fault
    node.touch(Date.now(), { mtime: true })
    return 0
  }

  override copyFileRange(
    _request: Request,
    _nodeidIn: number,
    fhIn: number,
    offsetIn: number,
    _nodeidOut: number,
    fhOut: number,
    offsetOut: number,
    length: number,
  ): Outcome {
    const from = this.#handle(fhIn, false)
    const to = this.#handle(fhOut, false)
    if (from === undefined || to === undefined || !from.readable || !to.writable)
      return -Errno.EBADF
    const bytes = Math.min(length, Math.max(from.node.sizeBytes - offsetIn, 0))
    if (bytes === 0) return 0
    if (from.node === to.node && offsetIn < offsetOut + bytes && offsetOut < offsetIn + bytes)
      return -Errno.EINVAL
    const fault = this.#grow(to.node, offsetOut + bytes)
    if (fault < 0) return fault
    const done = this.#context.copyFileRange(
      from.node.memfd,
      offsetIn,
      to.node.memfd,
      offsetOut,
      bytes,
    )
    if (done > 0) to.node.touch(Date.now(), { mtime: true })
    return done
  }

  // --- directories --------------------------------------------------------------------------------

  override opendir(_request: Request, nodeid: number, _flags: number, opened: OpenReply): Outcome {
    const dir = this.#directory(nodeid)
    if (typeof dir === 'number') return dir
    return this.#opened(dir, O_RDONLY, opened)
  }

  override readdir(
    request: Request,
    _nodeid: number,
    fh: number,
    cookieLow: number,
    cookieHigh: number,
    sink: DirectorySink,
  ): Outcome {
    const handle = this.#handle(fh, true)
    if (handle === undefined) return -Errno.EBADF
    const { node } = handle
    const after = cookieHigh * 0x1_0000_0000 + cookieLow
    if (after < 1 && !this.#add(request, sink, '.', node, 1, false)) return 0
    if (after < 2 && !this.#add(request, sink, '..', node.parent ?? node, 2, false)) return 0
    for (const entry of node.entries.values()) {
      if (entry.cookie <= after) continue
      if (!this.#add(request, sink, entry.name, entry.node, entry.cookie, sink.plus)) return 0
    }
    return 0
  }

  /** False when the sink is full. */
  #add(
    request: Request,
    sink: DirectorySink,
    name: string,
    node: MemoryNode,
    cookie: number,
    withEntry: boolean,
  ): boolean {
    if (!sink.fits(name.length)) return false
    const { bytes } = this.#context
    for (let i = 0; i < name.length; i++) bytes[request.scratchAt + i] = name.charCodeAt(i)
    if (withEntry) this.#enter(node, sink.entry)
    sink.add(
      request.scratchAt,
      name.length,
      node.type >>> 12,
      node.ino >>> 0,
      Math.floor(node.ino / 0x1_0000_0000),
      cookie >>> 0,
      Math.floor(cookie / 0x1_0000_0000),
      withEntry,
    )
    return true
  }

  override releasedir(_request: Request, _nodeid: number, fh: number): Outcome {
    const handle = this.#handle(fh, true)
    if (handle === undefined) return -Errno.EBADF
    this.#handles.remove(fh)
    this.#closed(handle.node)
    return 0
  }

  override fsyncdir(_request: Request, _nodeid: number, fh: number): Outcome {
    return this.#handle(fh, true) === undefined ? -Errno.EBADF : 0
  }

  override syncfs(_request: Request, nodeid: number): Outcome {
    return this.#node(nodeid) === undefined ? STALE : 0
  }

  // --- extended attributes ------------------------------------------------------------------------

  override getxattr(_request: Request, nodeid: number, name: Name, out: Span): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    const value = node.xattrs.get(this.#key(name))
    if (value === undefined) return -Errno.ENODATA
    if (out.bytes === 0) return value.length
    if (value.length > out.bytes) return -Errno.ERANGE
    this.#context.bytes.set(value, out.at)
    return value.length
  }

  override listxattr(_request: Request, nodeid: number, out: Span): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    let total = 0
    for (const name of node.xattrs.keys()) total += name.length + 1
    if (out.bytes === 0) return total
    if (total > out.bytes) return -Errno.ERANGE
    let at = out.at
    for (const name of node.xattrs.keys()) {
      for (let i = 0; i < name.length; i++) this.#context.bytes[at++] = name.charCodeAt(i)
      this.#context.bytes[at++] = 0
    }
    return total
  }

  override setxattr(
    _request: Request,
    nodeid: number,
    name: Name,
    value: Span,
    flags: number,
  ): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    if (value.bytes > MAX_XATTR_BYTES) return -Errno.E2BIG
    const key = this.#key(name)
    const known = node.xattrs.has(key)
    if ((flags & XATTR_CREATE) !== 0 && known) return -Errno.EEXIST
    if ((flags & XATTR_REPLACE) !== 0 && !known) return -Errno.ENODATA
    node.xattrs.set(key, this.#context.bytes.slice(value.at, value.at + value.bytes))
    node.ctimeMs = Date.now()
    return 0
  }

  override removexattr(_request: Request, nodeid: number, name: Name): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    if (!node.xattrs.delete(this.#key(name))) return -Errno.ENODATA
    node.ctimeMs = Date.now()
    return 0
  }
}

/** Whether `inner` is `outer` or lies below it. */
function contains(outer: MemoryNode, inner: MemoryNode): boolean {
  for (
    let node: MemoryNode | undefined = inner;
    node !== undefined;
    node = node.parent === node ? undefined : node.parent
  )
    if (node === outer) return true
  return false
}

/** As the kernel does for a write by an ordinary user. */
function dropSetId(node: MemoryNode): void {
  node.mode &= ~S_ISUID
  if ((node.mode & (S_ISGID | S_IXGRP)) === (S_ISGID | S_IXGRP)) node.mode &= ~S_ISGID
}

function setStamp(node: MemoryNode, which: 'atime' | 'mtime', ms: number, nsec: number): void {
  node[`${which}Ms`] = ms
  node[`${which}Nsec`] = nsec
}
