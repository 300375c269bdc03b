/** Operations on names: finding, making, moving and removing them. */
import { Errno } from '../../../protocol/errno.js'
import {
  O_EXCL,
  O_TRUNC,
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
  RENAME_WHITEOUT,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_ISGID,
} from '../../../protocol/linux/constants.js'
import { openedEmpty } from '../../vfs/dax.js'
import type { Outcome } from '../../vfs/filesystem.js'
import type { EntryReply, OpenReply } from '../../vfs/replies.js'
import type { Name, Request } from '../../vfs/request.js'
import type { DirectoryEntry, MemoryNode } from './nodes.js'
import { MemoryFileOperations } from './ops-file.js'
import { STALE } from './view.js'

export abstract class MemoryNamespaceOperations extends MemoryFileOperations {
  override lookup(_request: Request, parent: number, name: Name, entry: EntryReply): Outcome {
    const dir = this.directory(parent)
    if (typeof dir === 'number') return dir
    const found = dir.entries.get(this.key(name))
    return found === undefined ? -Errno.ENOENT : this.enter(found.node, entry)
  }

  /** Makes a node under a new name. Errors: ESTALE; ENOTDIR; EEXIST; ENOENT in a removed directory; ENOSPC. */
  #make(request: Request, parent: number, name: Name, mode: number): MemoryNode | Outcome {
    const dir = this.directory(parent)
    if (typeof dir === 'number') return dir
    const key = this.key(name)
    if (dir.entries.has(key)) return -Errno.EEXIST
    if (dir.nlink === 0) return -Errno.ENOENT
    const node = this.#newOwned(request, dir, mode)
    if (typeof node === 'number') return node
    this.#addEntry(dir, key, node)
    return node
  }

  #newOwned(request: Request, dir: MemoryNode, mode: number): MemoryNode | Outcome {
    if (this.store.nodeTotal >= this.store.options.maxNodes) return -Errno.ENOSPC
    const masked = this.dontMask && (mode & S_IFMT) !== S_IFLNK ? mode & ~request.umask : mode
    const node = this.store.newNode(masked)
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
    this.reclaim(node)
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
    return this.enter(node, entry)
  }

  override mkdir(
    request: Request,
    parent: number,
    name: Name,
    mode: number,
    entry: EntryReply,
  ): Outcome {
    const node = this.#make(request, parent, name, S_IFDIR | (mode & 0o7777))
    return typeof node === 'number' ? node : this.enter(node, entry)
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
    node.target = this.context.bytes.slice(target.at, target.at + target.bytes)
    return this.enter(node, entry)
  }

  override link(
    _request: Request,
    nodeid: number,
    newParent: number,
    newName: Name,
    entry: EntryReply,
  ): Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    const dir = this.directory(newParent)
    if (typeof dir === 'number') return dir
    if (node.isDirectory) return -Errno.EPERM
    const key = this.key(newName)
    if (dir.entries.has(key)) return -Errno.EEXIST
    if (dir.nlink === 0) return -Errno.ENOENT
    this.#addEntry(dir, key, node)
    node.ctimeMs = Date.now()
    return this.enter(node, entry)
  }

  override unlink(_request: Request, parent: number, name: Name): Outcome {
    const dir = this.directory(parent)
    if (typeof dir === 'number') return dir
    const entry = dir.entries.get(this.key(name))
    if (entry === undefined) return -Errno.ENOENT
    if (entry.node.isDirectory) return -Errno.EISDIR
    this.#removeEntry(dir, entry)
    return 0
  }

  override rmdir(_request: Request, parent: number, name: Name): Outcome {
    const dir = this.directory(parent)
    if (typeof dir === 'number') return dir
    const entry = dir.entries.get(this.key(name))
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
    const from = this.directory(parent)
    if (typeof from === 'number') return from
    const to = this.directory(newParent)
    if (typeof to === 'number') return to
    if ((flags & RENAME_EXCHANGE) !== 0 && (flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)) !== 0)
      return -Errno.EINVAL
    const moved = from.entries.get(this.key(name))
    if (moved === undefined) return -Errno.ENOENT
    const target = to.entries.get(this.key(newName))
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
    this.#move(from, moved, to, this.key(newName), target)
    if ((flags & RENAME_WHITEOUT) !== 0)
      this.#addEntry(from, moved.name, this.store.newNode(S_IFCHR))
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
      const outcome = (flags & O_TRUNC) === 0 ? open() : openedEmpty(this.dax, entry.nodeid, open)
      if (outcome < 0) this.forget(entry.nodeid, 1)
      else this.fill(entry.attr, entry.nodeid, this.node(entry.nodeid)!)
      return outcome
    }
    if (typeof node === 'number') return node
    this.enter(node, entry)
    return this.opened(node, flags, opened)
  }

  override tmpfile(
    request: Request,
    parent: number,
    flags: number,
    mode: number,
    entry: EntryReply,
    opened: OpenReply,
  ): Outcome {
    const dir = this.directory(parent)
    if (typeof dir === 'number') return dir
    const node = this.#newOwned(request, dir, S_IFREG | (mode & 0o7777))
    if (typeof node === 'number') return node
    this.enter(node, entry)
    return this.opened(node, flags, opened)
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
