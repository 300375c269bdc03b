/** Operations on open files and directories, and what opens them. */
import { Errno } from '../../../protocol/errno.js'
import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  O_RDONLY,
  O_TRUNC,
  SEEK_DATA,
  SEEK_HOLE,
} from '../../../protocol/linux/constants.js'
import type { Outcome } from '../../vfs/filesystem.js'
import type { OpenReply } from '../../vfs/replies.js'
import type { DirectorySink, Payload, Request } from '../../vfs/request.js'
import type { MemoryNode } from './nodes.js'
import { MemoryInodeOperations } from './ops-inode.js'
import { STALE } from './view.js'

export abstract class MemoryFileOperations extends MemoryInodeOperations {
  override open(
    _request: Request,
    nodeid: number,
    flags: number,
    killSuid: boolean,
    opened: OpenReply,
  ): Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    if (!node.isFile) return node.isDirectory ? -Errno.EISDIR : -Errno.ENXIO
    if ((flags & O_TRUNC) !== 0) {
      const fault = this.resize(node, 0)
      if (fault < 0) return fault
      if (killSuid) node.dropSetId()
      node.touch(Date.now(), { mtime: true })
    }
    return this.opened(node, flags, opened)
  }

  override read(
    _request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    into: Payload,
  ): Outcome {
    const handle = this.handle(fh, false)
    if (handle === undefined || !handle.readable) return -Errno.EBADF
    const { node } = handle
    const bytes = Math.min(into.bytes, Math.max(node.sizeBytes - offset, 0))
    if (bytes === 0 || node.memfd < 0) return bytes === 0 ? 0 : -Errno.EIO
    node.atimeMs = Date.now()
    node.atimeNsec = 0
    return this.context.readv(node.memfd, into.first, into.count, into.skip, bytes, offset, 0)
  }

  override write(
    _request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    from: Payload,
    killSuid: boolean,
  ): Outcome {
    const handle = this.handle(fh, false)
    if (handle === undefined || !handle.writable) return -Errno.EBADF
    const { node } = handle
    const at = handle.append ? node.sizeBytes : offset
    const before = node.sizeBytes
    const fault = this.#grow(node, at + from.bytes)
    if (fault < 0) return fault
    const done = this.context.writev(
      node.memfd,
      from.first,
      from.count,
      from.skip,
      from.bytes,
      at,
      0,
    )
    if (done < 0) {
      this.resize(node, before)
      return done
    }
    if (killSuid) node.dropSetId()
    node.touch(Date.now(), { mtime: true })
    return done
  }

  /** Makes sure the file has a memfd of at least `size` bytes. */
  #grow(node: MemoryNode, size: number): Outcome {
    return size > node.sizeBytes || node.memfd < 0
      ? this.resize(node, Math.max(size, node.sizeBytes))
      : 0
  }

  override flush(_request: Request, _nodeid: number, fh: number): Outcome {
    return this.handle(fh, false) === undefined ? -Errno.EBADF : 0
  }

  override release(_request: Request, _nodeid: number, fh: number): Outcome {
    const handle = this.handle(fh, false)
    if (handle === undefined) return -Errno.EBADF
    this.handles.remove(fh)
    this.closed(handle.node)
    return 0
  }

  override fsync(_request: Request, _nodeid: number, fh: number): Outcome {
    return this.handle(fh, false) === undefined ? -Errno.EBADF : 0
  }

  override lseek(
    _request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    whence: number,
  ): Outcome {
    const handle = this.handle(fh, false)
    if (handle === undefined) return -Errno.EBADF
    if (whence !== SEEK_DATA && whence !== SEEK_HOLE) return -Errno.EINVAL
    const { node } = handle
    return node.memfd < 0 ? -Errno.ENXIO : this.context.lseek(node.memfd, offset, whence)
  }

  override fallocate(
    _request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    length: number,
    mode: number,
  ): Outcome {
    const handle = this.handle(fh, false)
    if (handle === undefined || !handle.writable) return -Errno.EBADF
    const { node } = handle
    if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)) !== 0) return -Errno.EOPNOTSUPP
    if ((mode & FALLOC_FL_KEEP_SIZE) === 0) {
      const fault = this.#grow(node, offset + length)
      if (fault < 0) return fault
    }
    const fault = node.memfd < 0 ? 0 : this.context.fallocate(node.memfd, mode, offset, length)
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
    const from = this.handle(fhIn, false)
    const to = this.handle(fhOut, false)
    if (from === undefined || to === undefined || !from.readable || !to.writable)
      return -Errno.EBADF
    const bytes = Math.min(length, Math.max(from.node.sizeBytes - offsetIn, 0))
    if (bytes === 0) return 0
    if (from.node === to.node && offsetIn < offsetOut + bytes && offsetOut < offsetIn + bytes)
      return -Errno.EINVAL
    const fault = this.#grow(to.node, offsetOut + bytes)
    if (fault < 0) return fault
    const done = this.context.copyFileRange(
      from.node.memfd,
      offsetIn,
      to.node.memfd,
      offsetOut,
      bytes,
    )
    if (done > 0) to.node.touch(Date.now(), { mtime: true })
    return done
  }

  override syncfs(_request: Request, nodeid: number): Outcome {
    return this.node(nodeid) === undefined ? STALE : 0
  }

  // --- directories --------------------------------------------------------------------------------

  override opendir(_request: Request, nodeid: number, _flags: number, opened: OpenReply): Outcome {
    const dir = this.directory(nodeid)
    if (typeof dir === 'number') return dir
    return this.opened(dir, O_RDONLY, opened)
  }

  override readdir(
    request: Request,
    _nodeid: number,
    fh: number,
    cookieLow: number,
    cookieHigh: number,
    sink: DirectorySink,
  ): Outcome {
    const handle = this.handle(fh, true)
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
    const { bytes } = this.context
    for (let i = 0; i < name.length; i++) bytes[request.scratchAt + i] = name.charCodeAt(i)
    if (withEntry) this.enter(node, sink.entry)
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
    const handle = this.handle(fh, true)
    if (handle === undefined) return -Errno.EBADF
    this.handles.remove(fh)
    this.closed(handle.node)
    return 0
  }

  override fsyncdir(_request: Request, _nodeid: number, fh: number): Outcome {
    return this.handle(fh, true) === undefined ? -Errno.EBADF : 0
  }
}
