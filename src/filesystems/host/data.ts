/** OPEN to RELEASE of files, and their data. */
import { Errno } from '../../../protocol/errno.js'
import {
  O_ACCMODE,
  O_APPEND,
  O_CREAT,
  O_DIRECT,
  O_DSYNC,
  O_EXCL,
  O_NOATIME,
  O_NOCTTY,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_PATH,
  O_RDWR,
  O_SYNC,
  O_TRUNC,
  O_WRONLY,
  RWF_NOWAIT,
  S_IFDIR,
  S_IFREG,
  S_ISGID,
  S_ISUID,
  S_IXGRP,
  SEEK_DATA,
  SEEK_HOLE,
} from '../../../protocol/linux/constants.js'
import { STATX_MODE, STATX_TYPE, statx } from '../../../protocol/linux/statx.js'
import { native, PoolCall } from '../../native/addon.js'
import { EMPTY_PATH } from '../../native/context.js'
import { type Outcome, PENDING } from '../../vfs/filesystem.js'
import type { OpenReply } from '../../vfs/replies.js'
import type { Payload, Request } from '../../vfs/request.js'
import { HostHandle, REOPEN_FLAGS } from './handles.js'
import type { HostNode } from './node.js'
import { MOST_MAPPED_BYTES, NOT_MAPPED } from './kept-mappings.js'
import { outOfDescriptors } from './nodes.js'
import type { HostState } from './state.js'

/** Flags that make or look at names, or that only matter to the guest's own process. */
const NOT_FOR_THE_HOST = O_CREAT | O_EXCL | O_NOCTTY | O_NOFOLLOW | O_NONBLOCK | O_PATH

/** open(2) flags for the host file, from the guest's. */
export function hostOpenFlags(host: HostState, flags: number): number {
  let wanted = flags & ~NOT_FOR_THE_HOST
  if (!host.options.allowDirectIo) wanted &= ~O_DIRECT
  if (!host.options.preserveNoatime) wanted &= ~O_NOATIME
  if (host.negotiated?.writeback === true) {
    // Dirty pages are read back to be completed, and land where the guest says, not at the end.
    if ((wanted & O_ACCMODE) === O_WRONLY) wanted = (wanted & ~O_ACCMODE) | O_RDWR
    wanted &= ~O_APPEND
  }
  return wanted
}

/** What a bad node type answers to OPEN: a device or a FIFO must never be opened on the host. */
export function openableFault(node: HostNode): number {
  if (node.type === S_IFREG) return 0
  return node.type === S_IFDIR ? -Errno.EISDIR : -Errno.ENXIO
}

export function fileHandle(host: HostState, node: HostNode, fd: number, flags: number): HostHandle {
  const kind = host.mounts.kindOf(node.mount.id, fd)
  const slowWrites =
    ((flags & O_DIRECT) !== 0 && host.options.allowDirectIo) || (flags & (O_SYNC | O_DSYNC)) !== 0
  const handle = new HostHandle(node, fd, false, kind, slowWrites, flags)
  handle.mayLinger = isPlainRead(flags) && host.mounts.isPlain(node.mount.id)
  return handle
}

/** Opened O_RDONLY, with nothing that the next to open it might not want. */
function isPlainRead(flags: number): boolean {
  return (flags & (REOPEN_FLAGS | O_TRUNC)) === 0
}

/** Takes over `fd`, opened with the guest's `flags`: fills `opened`, or closes it and returns -errno. */
export function adoptFile(
  host: HostState,
  node: HostNode,
  fd: number,
  flags: number,
  opened: OpenReply,
): Outcome {
  const handle = fileHandle(host, node, fd, flags)
  const { kind } = handle
  const fh = host.addHandle(handle)
  if (fh < 0) return fh
  opened.fh = fh
  const { cache } = host.options
  opened.directIo =
    cache === 'never' ||
    cache === 'metadata' ||
    ((flags & O_DIRECT) !== 0 && host.options.allowDirectIo)
  opened.keepCache = cache === 'always'
  // Nothing waits for a close on a local file system; remote ones report write errors there.
  // POSIX locks end with any close, which FLUSH tells.
  opened.noFlush = kind !== 'remote' && !host.options.posixLocks
  opened.parallelDirectWrites = opened.directIo
  if (kind !== 'remote') {
    const { direct } = opened
    const access = hostOpenFlags(host, flags) & O_ACCMODE
    direct.fd = fd
    direct.reads = access !== O_WRONLY
    direct.readsFrom = host.metadata.keepsMappings ? MOST_MAPPED_BYTES + 1 : 0
    direct.readFlags = kind === 'memory' ? 0 : RWF_NOWAIT
    direct.writes = access !== 0 && !handle.slowWrites && !host.keepsCapabilities
  }
  return 0
}

export function open(
  host: HostState,
  node: HostNode,
  flags: number,
  killSuid: boolean,
  opened: OpenReply,
): Outcome {
  const fault = openableFault(node)
  if (fault < 0) return fault
  // Before anything is truncated.
  if (host.full) return -Errno.ENFILE
  let fd = isPlainRead(flags) ? host.released.take(node) : -1
  if (fd < 0) fd = host.nodes.reopen(node, hostOpenFlags(host, flags))
  if (fd === -Errno.ENFILE && host.released.clear())
    fd = host.nodes.reopen(node, hostOpenFlags(host, flags))
  if (fd < 0) return fd
  if (killSuid && (flags & O_TRUNC) !== 0) dropSetId(host, fd)
  if ((flags & O_TRUNC) !== 0) {
    host.metadata.renew()
    const kept = host.dropCapabilities(fd)
    if (kept < 0) {
      host.context.close(fd)
      return kept
    }
  }
  const outcome = adoptFile(host, node, fd, flags, opened)
  if (outcome >= 0 && host.options.cache === 'auto')
    opened.keepCache = host.metadata.dataUnchanged(node, fd)
  return outcome
}

/** Clears set-user-id, and set-group-id where it means that, as a write by an ordinary user does. */
export function dropSetId(host: HostState, fd: number): void {
  const { context, statAt } = host
  if (context.statx(fd, EMPTY_PATH, 0, STATX_TYPE | STATX_MODE, statAt) < 0) return
  const mode = statx.f.stx_mode.get(context.view, statAt)
  let kept = mode & 0o7777 & ~S_ISUID
  if ((mode & (S_ISGID | S_IXGRP)) === (S_ISGID | S_IXGRP)) kept &= ~S_ISGID
  if (kept !== (mode & 0o7777)) context.chmod(fd, kept)
}

/**
 * For FALLOCATE and COPY_FILE_RANGE, which do not say whether set-id bits are to go: the guest leaves
 * that to us as it does with WRITE. Root's writes keep them.
 */
function dropSetIdOfStranger(host: HostState, request: Request, fd: number): void {
  if (host.negotiated?.killpriv === true && request.uid !== 0) dropSetId(host, fd)
}

/** Hands a call to the pool on behalf of `request`; PENDING, or why it cannot be. */
function inPool(
  request: Request,
  call: PoolCall,
  a: number,
  b = 0,
  c = 0,
  d = 0,
  e = 0,
  f = 0,
  g = 0,
): Outcome {
  const token = request.suspend()
  if (token < 0) return token
  const fault = request.context.submit(call, token, a, b, c, d, e, f, g)
  if (fault >= 0) return PENDING
  request.cancel(token)
  return fault
}

export function read(
  host: HostState,
  request: Request,
  fh: number,
  offset: number,
  into: Payload,
): Outcome {
  const handle = host.handle(fh, false)
  if (handle === undefined) return host.noHandle(fh)
  const { first, count, skip, bytes } = into
  if (request.spreads(bytes)) {
    const { fd } = handle
    const outcome = inPool(request, PoolCall.readv, fd, first, count, skip, bytes, offset, 0)
    if (outcome === PENDING) return PENDING
  }
  let call: PoolCall = PoolCall.readv
  if (handle.kind !== 'remote') {
    const { mappings } = host.metadata
    const mapped = handle.slowWrites ? NOT_MAPPED : mappings.read(handle, offset, into)
    if (mapped !== NOT_MAPPED) return mapped
    let done = request.begun ? -Errno.EAGAIN : readNow(host, handle, offset, into, 0)
    if (done === -Errno.EAGAIN && request.alone) done = readSoon(host, handle, offset, into)
    mappings.wasRead(handle.node, offset, done)
    if (done !== -Errno.EAGAIN) return done
    // The attempt has set the kernel's read-ahead going, which is what takes the time.
    if (!handle.noNowait) call = PoolCall.readBegun
  }
  return inPool(request, call, handle.fd, first, count, skip, bytes, offset, 0)
}

/** As `readNow`, where an attempt has just answered EAGAIN, with a short wait if that is worth while. */
function readSoon(host: HostState, handle: HostHandle, offset: number, into: Payload): Outcome {
  const { waits } = handle.node.mount
  const waitUs = handle.noNowait ? 0 : waits.next()
  if (waitUs === 0) return -Errno.EAGAIN
  const done = readNow(host, handle, offset, into, waitUs)
  if (done >= 0) waits.paid()
  else if (done === -Errno.EAGAIN) waits.inVain()
  return done
}

/**
 * Reads what is in the page cache, or comes there within `waitUs` microseconds: all of it, or up to the end of the
 * file, or -EAGAIN.
 */
function readNow(
  host: HostState,
  handle: HostHandle,
  offset: number,
  into: Payload,
  waitUs: number,
): Outcome {
  const { first, count, skip, bytes } = into
  if (handle.kind === 'memory')
    return host.context.readv(handle.fd, first, count, skip, bytes, offset, 0)
  if (handle.noNowait) return -Errno.EAGAIN
  const until = waitUs === 0 ? 0 : host.context.nowUs() + waitUs
  let done = 0
  while (done < bytes) {
    const got = host.context.readv(
      handle.fd,
      first,
      count,
      skip + done,
      bytes - done,
      offset + done,
      RWF_NOWAIT,
      waitUs === 0 ? 0 : Math.max(until - host.context.nowUs(), 0),
    )
    if (got === -Errno.EOPNOTSUPP) {
      handle.noNowait = true
      return -Errno.EAGAIN
    }
    if (got < 0) return got
    // Short is not yet the end: it may be a page that is not cached. Zero is.
    if (got === 0) break
    done += got
  }
  return done
}

export function write(
  host: HostState,
  request: Request,
  fh: number,
  offset: number,
  from: Payload,
  killSuid: boolean,
): Outcome {
  const handle = host.handle(fh, false)
  if (handle === undefined) return host.noHandle(fh)
  if (killSuid) dropSetId(host, handle.fd)
  const kept = host.dropCapabilities(handle.fd)
  if (kept < 0) return kept
  const { first, count, skip, bytes } = from
  if (handle.kind === 'remote' || handle.slowWrites)
    return inPool(request, PoolCall.writev, handle.fd, first, count, skip, bytes, offset, 0)
  return host.context.writev(handle.fd, first, count, skip, bytes, offset, 0)
}

/** Write errors of a remote file system, which a close there would report, come out here. */
export function flush(
  host: HostState,
  request: Request,
  fh: number,
  ownerLow: number,
  ownerHigh: number,
): Outcome {
  const handle = host.handle(fh, false)
  if (handle === undefined) return host.noHandle(fh)
  host.locks.flushed(handle.node, ownerLow, ownerHigh)
  if (handle.kind !== 'remote') return 0
  let second = native.dupFd(handle.fd)
  if (outOfDescriptors(second) && host.nodes.relieve(undefined)) second = native.dupFd(handle.fd)
  return second < 0 ? second : inPool(request, PoolCall.close, second)
}

export function release(host: HostState, fh: number, directory: boolean): Outcome {
  const handle = host.handles.get(fh)
  if (handle === undefined || handle.directory !== directory) return -Errno.EBADF
  host.handles.remove(fh)
  host.closeHandle(handle)
  return 0
}

export function fsync(
  host: HostState,
  request: Request,
  fh: number,
  directory: boolean,
  dataOnly: boolean,
): Outcome {
  const handle = host.handle(fh, directory)
  if (handle === undefined) return host.noHandle(fh)
  if (handle.kind === 'memory') return host.context.fsync(handle.fd, dataOnly ? 1 : 0)
  return inPool(request, PoolCall.fsync, handle.fd, dataOnly ? 1 : 0)
}

export function lseek(host: HostState, fh: number, offset: number, whence: number): Outcome {
  const handle = host.handle(fh, false)
  if (handle === undefined) return host.noHandle(fh)
  if (whence !== SEEK_DATA && whence !== SEEK_HOLE) return -Errno.EINVAL
  return host.context.lseek(handle.fd, offset, whence)
}

export function fallocate(
  host: HostState,
  request: Request,
  fh: number,
  offset: number,
  length: number,
  mode: number,
): Outcome {
  const handle = host.handle(fh, false)
  if (handle === undefined) return host.noHandle(fh)
  dropSetIdOfStranger(host, request, handle.fd)
  const kept = host.dropCapabilities(handle.fd)
  if (kept < 0) return kept
  return inPool(request, PoolCall.fallocate, handle.fd, mode, offset, length)
}

export function copyFileRange(
  host: HostState,
  request: Request,
  fhIn: number,
  offsetIn: number,
  fhOut: number,
  offsetOut: number,
  length: number,
): Outcome {
  const from = host.handle(fhIn, false)
  const to = host.handle(fhOut, false)
  if (from === undefined) return host.noHandle(fhIn)
  if (to === undefined) return host.noHandle(fhOut)
  dropSetIdOfStranger(host, request, to.fd)
  const kept = host.dropCapabilities(to.fd)
  if (kept < 0) return kept
  return inPool(request, PoolCall.copyFileRange, from.fd, offsetIn, to.fd, offsetOut, length)
}
