/** Operations on names: finding, making, moving and removing them. */
import type { Outcome } from '../../vfs/filesystem.js'
import type { EntryReply, OpenReply } from '../../vfs/replies.js'
import type { Name, Request } from '../../vfs/request.js'
import * as namespace from './namespace.js'
import { HostFileOperations } from './ops-file.js'
import { STALE } from './operations.js'

export abstract class HostNamespaceOperations extends HostFileOperations {
  override lookup(_request: Request, parent: number, name: Name, entry: EntryReply): Outcome {
    const dir = this.node(parent)
    return dir === undefined ? STALE : namespace.lookup(this.host, dir, name, entry)
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
    const dir = this.node(parent)
    if (dir === undefined) return STALE
    return namespace.mknod(this.host, request, dir, name, mode, major, minor, entry)
  }

  override mkdir(
    request: Request,
    parent: number,
    name: Name,
    mode: number,
    entry: EntryReply,
  ): Outcome {
    const dir = this.node(parent)
    if (dir === undefined) return STALE
    return namespace.makeNode(this.host, request, dir, name, entry, fd =>
      this.context.mkdirat(fd, name.at, mode & 0o7777),
    )
  }

  override symlink(
    request: Request,
    parent: number,
    name: Name,
    target: Name,
    entry: EntryReply,
  ): Outcome {
    const dir = this.node(parent)
    if (dir === undefined) return STALE
    return namespace.makeNode(this.host, request, dir, name, entry, fd =>
      this.context.symlinkat(target.at, fd, name.at),
    )
  }

  override link(
    _request: Request,
    nodeid: number,
    newParent: number,
    newName: Name,
    entry: EntryReply,
  ): Outcome {
    const node = this.node(nodeid)
    const dir = this.node(newParent)
    if (node === undefined || dir === undefined) return STALE
    return namespace.link(this.host, node, dir, newName, entry)
  }

  override unlink(_request: Request, parent: number, name: Name): Outcome {
    const dir = this.node(parent)
    return dir === undefined ? STALE : namespace.unlink(this.host, dir, name, false)
  }

  override rmdir(_request: Request, parent: number, name: Name): Outcome {
    const dir = this.node(parent)
    return dir === undefined ? STALE : namespace.unlink(this.host, dir, name, true)
  }

  override rename(
    _request: Request,
    parent: number,
    name: Name,
    newParent: number,
    newName: Name,
    flags: number,
  ): Outcome {
    const from = this.node(parent)
    const to = this.node(newParent)
    if (from === undefined || to === undefined) return STALE
    return namespace.rename(this.host, from, name, to, newName, flags)
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
    const dir = this.node(parent)
    if (dir === undefined) return STALE
    return namespace.create(this.host, request, dir, name, flags, mode, killSuid, entry, opened)
  }

  override tmpfile(
    request: Request,
    parent: number,
    flags: number,
    mode: number,
    entry: EntryReply,
    opened: OpenReply,
  ): Outcome {
    const dir = this.node(parent)
    if (dir === undefined) return STALE
    return namespace.tmpfile(this.host, request, dir, flags, mode, entry, opened)
  }
}
