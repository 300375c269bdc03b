/** Operations on a node by its id: attributes, links' targets, access, statfs, extended attributes. */
import { Errno } from '../../../protocol/errno.js'
import {
  CAP_FSETID,
  O_NONBLOCK,
  O_WRONLY,
  S_IFDIR,
  S_IFREG,
} from '../../../protocol/linux/constants.js'
import { EMPTY_PATH, KEEP_ID, UTIME_NOW, UTIME_OMIT } from '../../native/context.js'
import { NO_HANDLE, type Outcome } from '../../vfs/filesystem.js'
import type { Attributes, SetAttributes, StatfsReply } from '../../vfs/replies.js'
import type { Name, Request, Span } from '../../vfs/request.js'
import { dropSetId } from './data.js'
import { FORBIDDEN_ID } from './id-translation.js'
import type { HostNode } from './node.js'
import { HostOperations, STALE } from './operations.js'
import { OTHER_AT } from './scratch.js'
import { STATX_WANTED } from './stat.js'
import * as xattrs from './xattrs.js'

function readWord(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 0x1_0000_0000
}

export abstract class HostInodeOperations extends HostOperations {
  override forget(nodeid: number, nlookup: number): void {
    const node = this.node(nodeid)
    if (node === undefined) return
    this.host.nodes.forget(node, nlookup)
    if (node.lookups === 0) this.host.released.drop(node)
    this.host.metadata.forgotten(node)
  }

  override getattr(_request: Request, nodeid: number, fh: number, attr: Attributes): Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    if (this.host.fillKept(attr, node)) return 0
    const fault = this.#stat(node, fh)
    if (fault < 0) return fault
    this.host.fillAttributes(attr, node)
    return 0
  }

  /** struct statx at `statAt`, through an open file when one is named and is of this node. */
  #stat(node: HostNode, fh: number): number {
    const { statAt, handles, nodes } = this.host
    const handle = fh === NO_HANDLE ? undefined : handles.get(fh)
    if (handle !== undefined && handle.node === node && handle.fd >= 0)
      return this.context.statx(handle.fd, EMPTY_PATH, 0, STATX_WANTED, statAt)
    return nodes.stat(node, statAt)
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
    const fault = this.#change(node, fh, change)
    if (fault < 0) return fault
    const statted = this.#stat(node, fh)
    if (statted < 0) return statted
    this.host.fillAttributes(attr, node)
    return 0
  }

  #change(node: HostNode, fh: number, change: SetAttributes): Outcome {
    const handle = fh === NO_HANDLE ? undefined : this.host.handles.get(fh)
    const fd =
      handle !== undefined && handle.node === node && handle.fd >= 0
        ? handle.fd
        : this.host.nodes.fdOf(node)
    if (fd < 0) return fd
    const { uids, gids } = this.host
    const uid = uids !== undefined && change.setUid ? uids.toHost(change.uid) : change.uid
    const gid = gids !== undefined && change.setGid ? gids.toHost(change.gid) : change.gid
    if (uid === FORBIDDEN_ID || gid === FORBIDDEN_ID) return -Errno.EPERM
    let fault = 0
    // Only regular files have capabilities, and user attributes of links cannot even be removed.
    if ((change.setUid || change.setGid || change.setSize) && node.type === S_IFREG)
      fault = this.host.dropCapabilities(fd)
    if (fault >= 0 && change.setMode) fault = this.context.chmod(fd, change.mode & 0o7777)
    if (fault >= 0 && (change.setUid || change.setGid))
      fault = this.context.chown(fd, change.setUid ? uid : KEEP_ID, change.setGid ? gid : KEEP_ID)
    if (fault >= 0 && change.setSize) fault = this.#truncate(node, fd, handle?.fd === fd, change)
    if (fault >= 0 && (change.setAtime || change.setMtime)) fault = this.#setTimes(fd, change)
    return fault
  }

  #truncate(node: HostNode, fd: number, isOpen: boolean, change: SetAttributes): Outcome {
    if (node.type !== S_IFREG) return node.type === S_IFDIR ? -Errno.EISDIR : -Errno.EINVAL
    // The guest's handle may be read-only only for a truncate by path, which comes without it.
    const file = isOpen ? fd : this.host.nodes.reopen(node, O_WRONLY | O_NONBLOCK)
    if (file < 0) return file
    const outcome = this.context.ftruncate(file, change.sizeBytes)
    if (outcome >= 0 && change.killSuidgid) dropSetId(this.host, file)
    if (!isOpen) this.context.close(file)
    return outcome
  }

  #setTimes(fd: number, change: SetAttributes): Outcome {
    const atimeNsec = !change.setAtime ? UTIME_OMIT : change.atimeNow ? UTIME_NOW : change.atimeNsec
    const mtimeNsec = !change.setMtime ? UTIME_OMIT : change.mtimeNow ? UTIME_NOW : change.mtimeNsec
    return this.context.utimens(fd, change.atimeSec, atimeNsec, change.mtimeSec, mtimeNsec)
  }

  override readlink(_request: Request, nodeid: number, out: Span): Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    const path = this.host.nodes.fdOf(node)
    if (path < 0) return path
    this.host.metadata.willRead(node)
    return this.context.readlink(path, out.at, out.bytes)
  }

  override access(request: Request, nodeid: number, mask: number): Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    const path = this.host.nodes.fdOf(node)
    if (path < 0) return path
    const denied = this.host.caller.enter(request)
    if (denied < 0) return denied
    const outcome = this.context.faccess(path, mask)
    this.host.caller.leave()
    return outcome
  }

  override statfs(request: Request, nodeid: number, reply: StatfsReply): Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    const path = this.host.nodes.fdOf(node)
    if (path < 0) return path
    const at = request.scratchAt + OTHER_AT
    const fault = this.context.statfs(path, at)
    if (fault < 0) return fault
    const { view } = this.context
    // struct statfs of 64-bit machines: eight-byte words.
    reply.bsize = readWord(view, at + 8)
    reply.blocks = readWord(view, at + 16)
    reply.bfree = readWord(view, at + 24)
    reply.bavail = readWord(view, at + 32)
    reply.files = readWord(view, at + 40)
    reply.ffree = readWord(view, at + 48)
    reply.namelen = readWord(view, at + 64)
    const frsize = readWord(view, at + 72)
    reply.frsize = frsize === 0 ? reply.bsize : frsize
    return 0
  }

  // --- extended attributes ------------------------------------------------------------------------

  /** A path descriptor for xattr calls, or why there is none. */
  #attributeFd(nodeid: number): number {
    if (!this.host.xattr) return -Errno.ENOSYS
    const node = this.node(nodeid)
    return node === undefined ? STALE : this.host.nodes.fdOf(node)
  }

  override getxattr(_request: Request, nodeid: number, name: Name, out: Span): Outcome {
    const path = this.#attributeFd(nodeid)
    return path < 0 ? path : xattrs.getxattr(this.host, path, name, out)
  }

  override listxattr(_request: Request, nodeid: number, out: Span): Outcome {
    const path = this.#attributeFd(nodeid)
    return path < 0 ? path : xattrs.listxattr(this.host, path, out)
  }

  override setxattr(
    _request: Request,
    nodeid: number,
    name: Name,
    value: Span,
    flags: number,
    killSgid: boolean,
  ): Outcome {
    const path = this.#attributeFd(nodeid)
    if (path < 0) return path
    // Without CAP_FSETID the kernel clears set-group-id as it does for an ordinary caller.
    const had = killSgid ? this.context.setEffectiveCapability(CAP_FSETID, 0) : 0
    const outcome = xattrs.setxattr(this.host, path, name, value, flags)
    if (had === 1) this.context.setEffectiveCapability(CAP_FSETID, 1)
    return outcome
  }

  override removexattr(_request: Request, nodeid: number, name: Name): Outcome {
    const path = this.#attributeFd(nodeid)
    return path < 0 ? path : xattrs.removexattr(this.host, path, name)
  }
}
