/** Operations on open files and directories, and what opens and locks them. */
import { Errno } from '../../../protocol/errno.js'
import { ioctlChanges, O_NONBLOCK } from '../../../protocol/linux/constants.js'
import { PoolCall } from '../../native/addon.js'
import { type Outcome, PENDING } from '../../vfs/filesystem.js'
import type { OpenReply } from '../../vfs/replies.js'
import type { DirectorySink, LockRange, Payload, Request, Span } from '../../vfs/request.js'
import * as data from './data.js'
import * as directory from './directory.js'
import { HostInodeOperations } from './ops-inode.js'
import { STALE } from './operations.js'

export abstract class HostFileOperations extends HostInodeOperations {
  override open(
    _request: Request,
    nodeid: number,
    flags: number,
    killSuid: boolean,
    opened: OpenReply,
  ): Outcome {
    const node = this.node(nodeid)
    return node === undefined ? STALE : data.open(this.host, node, flags, killSuid, opened)
  }

  override read(
    request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    into: Payload,
  ): Outcome {
    return data.read(this.host, request, fh, offset, into)
  }

  override write(
    request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    from: Payload,
    killSuid: boolean,
  ): Outcome {
    return data.write(this.host, request, fh, offset, from, killSuid)
  }

  override flush(
    request: Request,
    _nodeid: number,
    fh: number,
    ownerLow: number,
    ownerHigh: number,
  ): Outcome {
    return data.flush(this.host, request, fh, ownerLow, ownerHigh)
  }

  override release(_request: Request, _nodeid: number, fh: number): Outcome {
    return data.release(this.host, fh, false)
  }

  override fsync(request: Request, _nodeid: number, fh: number, dataOnly: boolean): Outcome {
    return data.fsync(this.host, request, fh, false, dataOnly)
  }

  override lseek(
    _request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    whence: number,
  ): Outcome {
    return data.lseek(this.host, fh, offset, whence)
  }

  override fallocate(
    request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    length: number,
    mode: number,
  ): Outcome {
    return data.fallocate(this.host, request, fh, offset, length, mode)
  }

  override copyFileRange(
    request: Request,
    _nodeidIn: number,
    fhIn: number,
    offsetIn: number,
    _nodeidOut: number,
    fhOut: number,
    offsetOut: number,
    length: number,
  ): Outcome {
    return data.copyFileRange(this.host, request, fhIn, offsetIn, fhOut, offsetOut, length)
  }

  override ioctl(
    _request: Request,
    _nodeid: number,
    fh: number,
    command: number,
    input: Span,
    out: Span,
  ): Outcome {
    const handle = this.host.handles.get(fh)
    if (handle === undefined || handle.fd < 0) return this.host.noHandle(fh)
    const changes = ioctlChanges(command)
    if (changes && this.capabilities.readOnly) return -Errno.EROFS
    if (changes) this.host.metadata.willChange(handle.node)
    // In and out share one buffer, as in the system call.
    const { bytes } = this.context
    bytes.copyWithin(out.at, input.at, input.at + Math.min(input.bytes, out.bytes))
    const at = out.bytes >= input.bytes ? out.at : input.at
    const answer = this.context.ioctl(handle.fd, command, at, Math.max(input.bytes, out.bytes))
    return answer < 0 ? answer : out.bytes
  }

  override syncfs(request: Request, nodeid: number): Outcome {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    // syncfs(2) refuses O_PATH; the descriptor is left to the pool for the call and closed after it.
    const fd = this.host.nodes.reopen(node, O_NONBLOCK)
    if (fd < 0) return fd
    const token = request.suspend()
    const fault = token < 0 ? token : this.context.submit(PoolCall.syncfs, token, fd, 1)
    if (fault >= 0) return PENDING
    if (token >= 0) request.cancel(token)
    this.context.close(fd)
    return fault
  }

  // --- directories --------------------------------------------------------------------------------

  override opendir(_request: Request, nodeid: number, _flags: number, opened: OpenReply): Outcome {
    const node = this.node(nodeid)
    return node === undefined ? STALE : directory.opendir(this.host, node, opened)
  }

  override readdir(
    _request: Request,
    _nodeid: number,
    fh: number,
    cookieLow: number,
    cookieHigh: number,
    sink: DirectorySink,
  ): Outcome {
    return directory.readdir(this.host, fh, cookieLow, cookieHigh, sink)
  }

  override releasedir(_request: Request, _nodeid: number, fh: number): Outcome {
    return data.release(this.host, fh, true)
  }

  override fsyncdir(request: Request, _nodeid: number, fh: number, dataOnly: boolean): Outcome {
    return data.fsync(this.host, request, fh, true, dataOnly)
  }

  // --- locks --------------------------------------------------------------------------------------

  override getlk(_request: Request, nodeid: number, fh: number, range: LockRange): Outcome {
    return this.host.locks.getlk(nodeid, fh, range)
  }

  override setlk(
    request: Request,
    nodeid: number,
    fh: number,
    range: LockRange,
    wait: boolean,
  ): Outcome {
    return this.host.locks.setlk(request, nodeid, fh, range, wait)
  }

  override interrupt(token: number, outcome: Outcome): boolean {
    return this.host.locks.interrupt(token, outcome)
  }

  override finished(job: number, result: number): void {
    this.host.locks.finished(job, result)
  }

  /** What is locked and waited for now. */
  get locks(): {
    readonly held: number
    readonly waiting: number
    readonly threads: number
    readonly abandoned: number
  } {
    const { heldCount, waitingCount, threadCount, abandonedCount } = this.host.locks
    return {
      held: heldCount,
      waiting: waitingCount,
      threads: threadCount,
      abandoned: abandonedCount,
    }
  }
}
