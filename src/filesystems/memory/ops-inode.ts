/** Operations on a node by its id: attributes, links' targets, access, statfs, extended attributes. */
import { Errno } from '../../../protocol/errno.js'
import { S_IFLNK, XATTR_CREATE, XATTR_REPLACE } from '../../../protocol/linux/constants.js'
import { NO_HANDLE, type Outcome } from '../../vfs/filesystem.js'
import type { Attributes, SetAttributes, StatfsReply } from '../../vfs/replies.js'
import type { Name, Request, Span } from '../../vfs/request.js'
import type { MemoryNode } from './nodes.js'
import { MemoryView, STALE } from './view.js'

const MAX_XATTR_BYTES = 65536

export abstract class MemoryInodeOperations extends MemoryView {
  override getattr(_request: Request, nodeid: number, _fh: number, attr: Attributes): Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    this.fill(attr, nodeid, node)
    return 0
  }

  override setattr(
    _request: Request,
    nodeid: number,
    fh: number,
    change: SetAttributes,
    attr: Attributes,
  ): Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    const now = Date.now()
    if (change.setMode) node.mode = node.type | (change.mode & 0o7777)
    if (change.setUid || change.setGid) {
      if (change.setUid) node.uid = change.uid
      if (change.setGid) node.gid = change.gid
      if (!node.isDirectory) node.dropSetId()
    }
    if (change.setSize) {
      const handle = fh === NO_HANDLE ? undefined : this.handles.get(fh)
      if (handle !== undefined && !handle.writable) return -Errno.EINVAL
      const fault = this.resize(node, change.sizeBytes)
      if (fault < 0) return fault
      if (change.killSuidgid) node.dropSetId()
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
    this.fill(attr, nodeid, node)
    return 0
  }

  override readlink(_request: Request, nodeid: number, out: Span): Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    if (node.type !== S_IFLNK) return -Errno.EINVAL
    if (node.target.length > out.bytes) return -Errno.ENAMETOOLONG
    this.context.bytes.set(node.target, out.at)
    return node.target.length
  }

  override access(_request: Request, nodeid: number, _mask: number): Outcome {
    // The guest checks permissions by the attributes it has (default_permissions).
    return this.node(nodeid) === undefined ? STALE : 0
  }

  override statfs(_request: Request, _nodeid: number, reply: StatfsReply): Outcome {
    reply.bsize = 4096
    reply.frsize = 4096
    reply.blocks = Math.floor(this.store.options.maxBytes / 4096)
    reply.bfree = Math.floor((this.store.options.maxBytes - this.store.bytes) / 4096)
    reply.bavail = reply.bfree
    reply.files = this.store.options.maxNodes
    reply.ffree = this.store.options.maxNodes - this.store.nodeTotal
    reply.namelen = 255
    return 0
  }

  // --- extended attributes ------------------------------------------------------------------------

  override getxattr(_request: Request, nodeid: number, name: Name, out: Span): Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    const value = node.xattrs.get(this.key(name))
    if (value === undefined) return -Errno.ENODATA
    if (out.bytes === 0) return value.length
    if (value.length > out.bytes) return -Errno.ERANGE
    this.context.bytes.set(value, out.at)
    return value.length
  }

  override listxattr(_request: Request, nodeid: number, out: Span): Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    let total = 0
    for (const name of node.xattrs.keys()) total += name.length + 1
    if (out.bytes === 0) return total
    if (total > out.bytes) return -Errno.ERANGE
    let at = out.at
    for (const name of node.xattrs.keys()) {
      for (let i = 0; i < name.length; i++) this.context.bytes[at++] = name.charCodeAt(i)
      this.context.bytes[at++] = 0
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
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    if (value.bytes > MAX_XATTR_BYTES) return -Errno.E2BIG
    const key = this.key(name)
    const known = node.xattrs.has(key)
    if ((flags & XATTR_CREATE) !== 0 && known) return -Errno.EEXIST
    if ((flags & XATTR_REPLACE) !== 0 && !known) return -Errno.ENODATA
    node.xattrs.set(key, this.context.bytes.slice(value.at, value.at + value.bytes))
    node.ctimeMs = Date.now()
    return 0
  }

  override removexattr(_request: Request, nodeid: number, name: Name): Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    if (!node.xattrs.delete(this.key(name))) return -Errno.ENODATA
    node.ctimeMs = Date.now()
    return 0
  }
}

function setStamp(node: MemoryNode, which: 'atime' | 'mtime', ms: number, nsec: number): void {
  node[`${which}Ms`] = ms
  node[`${which}Nsec`] = nsec
}
