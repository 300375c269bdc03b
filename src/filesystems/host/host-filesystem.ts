/**
 * The host back end: a directory tree of the host, with local file-system semantics.
 *
 * Nothing outside the shared directory is ever reached: names are single components, opened relative
 * to a descriptor without following links; what is opened anew is checked to be the same inode.
 */
import { Errno, errnoName } from '../../../protocol/errno.js'
import {
  CAP_FSETID,
  ioctlChanges,
  O_NONBLOCK,
  O_RDWR,
  O_WRONLY,
  S_IFDIR,
  S_IFREG,
} from '../../../protocol/linux/constants.js'
import { PoolCall } from '../../native/addon.js'
import { type Context, EMPTY_PATH, KEEP_ID, UTIME_NOW, UTIME_OMIT } from '../../native/context.js'
import {
  type Capabilities,
  type FileSystem,
  type Negotiated,
  NO_HANDLE,
  type Outcome,
  PENDING,
} from '../../vfs/filesystem.js'
import type { MappableFiles } from '../../vfs/dax.js'
import type { Migratable } from '../../vfs/migration.js'
import type {
  Attributes,
  EntryReply,
  OpenReply,
  SetAttributes,
  StatfsReply,
} from '../../vfs/replies.js'
import type { DirectorySink, LockRange, Name, Payload, Request, Span } from '../../vfs/request.js'
import { NO_CAPABILITIES, UnsupportedFileSystem } from '../../vfs/unsupported.js'
import * as data from './data.js'
import * as directory from './directory.js'
import * as namespace from './namespace.js'
import type { HostChanges } from './host-changes.js'
import { FORBIDDEN_ID } from './id-translation.js'
import { HostIdentities } from './identities.js'
import type { MetadataCache } from './metadata-cache.js'
import type { HostNode } from './node.js'
import { HostMigration } from './migration.js'
import type { HostOptions } from './options.js'
import { OTHER_AT } from './scratch.js'
import { HostState } from './state.js'
import { STATX_WANTED } from './stat.js'
import { handlesRefused } from './file-handles.js'
import * as xattrs from './xattrs.js'

export interface MetadataCounters extends Readonly<MetadataCache['counters']> {
  /** Inodes that are kept. */
  readonly kept: number
  /** Reads copied from a mapping, those that failed as the file was cut short, and files mapped. */
  readonly mappedReads: number
  readonly torn: number
  readonly mappings: number
}

const STALE = -Errno.ESTALE

function readWord(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 0x1_0000_0000
}

export class HostFileSystem extends UnsupportedFileSystem implements FileSystem {
  override readonly capabilities: Capabilities
  readonly migration: Migratable
  readonly mappable: MappableFiles
  readonly identities: HostIdentities
  readonly #host: HostState
  readonly #context: Context
  #startFault = ''

  /**
   * `scratchAt`: SCRATCH_BYTES of the context's arena, the same as `Request.scratchAt`. `changes`: the caller's;
   * without it no metadata is kept. Call `start` next.
   * Errors thrown: XattrMapError, IdTranslationError; posixAcl together with a translation.
   */
  constructor(
    context: Context,
    scratchAt: number,
    options: HostOptions,
    changes?: HostChanges | undefined,
  ) {
    super()
    this.#context = context
    this.#host = new HostState(context, scratchAt, options, changes)
    this.migration = new HostMigration(this.#host)
    this.identities = new HostIdentities(this.#host)
    this.mappable = {
      owned: false,
      open: nodeid => this.#openToMap(nodeid),
      known: nodeid => this.#node(nodeid) !== undefined,
    }
    this.capabilities = {
      ...NO_CAPABILITIES,
      readdirplus: options.cache !== 'never',
      xattr: this.#host.xattr,
      posixAcl: options.posixAcl && this.#host.xattr,
      securityContext: options.securityContext,
      killpriv: true,
      writeback: true,
      submounts: true,
      directIoMmap: true,
      flockLocks: options.flockLocks,
      posixLocks: options.posixLocks,
      readOnly: options.readOnly,
    }
  }

  /**
   * Opens the shared directory. 0, or -errno and `startFault` says what is wrong. The capability
   * CAP_DAC_READ_SEARCH must be there already, and stay, if file handles are to be used.
   */
  start(): number {
    const { nodes, options } = this.#host
    const { sharedDir } = options
    const fault = nodes.openRoot(sharedDir)
    if (fault < 0) {
      this.#startFault = `cannot open the shared directory ${sharedDir}: ${errnoName(fault)}`
      return fault
    }
    const refused = nodes.handles.start(nodes.root)
    if (refused < 0) {
      nodes.closeRoot()
      this.#startFault = handlesRefused(sharedDir, refused)
    }
    return refused
  }

  /** Why `start` failed, for people. */
  get startFault(): string {
    return this.#startFault
  }

  /** What was kept and used of metadata, for tests and the log. */
  get metadataCounters(): MetadataCounters {
    const { counters, mappings, size } = this.#host.metadata
    const { reads, torn } = mappings.counters
    return { ...counters, kept: size, mappedReads: reads, torn, mappings: mappings.size }
  }

  /** Descriptors kept for nodes and mounts, open files not counted. */
  get nodeDescriptorCount(): number {
    return this.#host.nodes.openDescriptors
  }

  /** Nodes the guest may name, the root included. */
  get nodeCount(): number {
    let count = 0
    for (const node of this.#host.nodes.table) if (node.lookups > 0) count++
    return count
  }
  /** Nodes in memory: those, and what leads to them. */
  get knownNodeCount(): number {
    return this.#host.nodes.table.size
  }
  get handleCount(): number {
    return this.#host.handles.size
  }

  /** Files that the guest has closed and that are open still, and OPENs answered with one. */
  get released(): { readonly count: number; readonly hits: number } {
    return this.#host.released
  }

  override init(negotiated: Negotiated): void {
    this.#host.negotiated = negotiated
    const { metadata, options } = this.#host
    metadata.filesUnseen = options.mappedStores || negotiated.dax !== undefined
  }

  pathOf(nodeid: number): string | undefined {
    const names: string[] = []
    const { root } = this.#host.nodes
    let node = this.#node(nodeid)
    for (; node !== undefined && node !== root; node = node.parent)
      names.push(Buffer.from(node.name, 'latin1').toString())
    return node === undefined ? undefined : `/${names.reverse().join('/')}`
  }

  override tidy(nowMs: number): number {
    return this.#host.released.tidy(nowMs)
  }

  override renew(): void {
    this.#host.metadata.renew()
  }

  override destroy(): void {
    const { handles, locks, metadata, nodes } = this.#host
    locks.clear()
    handles.clear(handle => this.#host.closeHandle(handle))
    this.#host.released.clear()
    metadata.clear()
    nodes.clear()
  }

  /** After `destroy`: closes the shared directory too. The back end is of no use any more. */
  dispose(): void {
    this.destroy()
    this.#host.nodes.closeRoot()
  }

  #node(nodeid: number): HostNode | undefined {
    return this.#host.nodes.get(nodeid)
  }

  // --- nodes --------------------------------------------------------------------------------------

  override lookup(_request: Request, parent: number, name: Name, entry: EntryReply): Outcome {
    const dir = this.#node(parent)
    return dir === undefined ? STALE : namespace.lookup(this.#host, dir, name, entry)
  }

  override forget(nodeid: number, nlookup: number): void {
    const node = this.#node(nodeid)
    if (node === undefined) return
    this.#host.nodes.forget(node, nlookup)
    if (node.lookups === 0) this.#host.released.drop(node)
    this.#host.metadata.forgotten(node)
  }

  override getattr(_request: Request, nodeid: number, fh: number, attr: Attributes): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    if (this.#host.fillKept(attr, node)) return 0
    const fault = this.#stat(node, fh)
    if (fault < 0) return fault
    this.#host.fillAttributes(attr, node)
    return 0
  }

  /** struct statx at `statAt`, through an open file when one is named and is of this node. */
  #stat(node: HostNode, fh: number): number {
    const { statAt, handles, nodes } = this.#host
    const handle = fh === NO_HANDLE ? undefined : handles.get(fh)
    if (handle !== undefined && handle.node === node && handle.fd >= 0)
      return this.#context.statx(handle.fd, EMPTY_PATH, 0, STATX_WANTED, statAt)
    return nodes.stat(node, statAt)
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
    const fault = this.#change(node, fh, change)
    if (fault < 0) return fault
    const statted = this.#stat(node, fh)
    if (statted < 0) return statted
    this.#host.fillAttributes(attr, node)
    return 0
  }

  #change(node: HostNode, fh: number, change: SetAttributes): Outcome {
    const handle = fh === NO_HANDLE ? undefined : this.#host.handles.get(fh)
    const fd =
      handle !== undefined && handle.node === node && handle.fd >= 0
        ? handle.fd
        : this.#host.nodes.fdOf(node)
    if (fd < 0) return fd
    const { uids, gids } = this.#host
    const uid = uids !== undefined && change.setUid ? uids.toHost(change.uid) : change.uid
    const gid = gids !== undefined && change.setGid ? gids.toHost(change.gid) : change.gid
    if (uid === FORBIDDEN_ID || gid === FORBIDDEN_ID) return -Errno.EPERM
    let fault = 0
    // Only regular files have capabilities, and user attributes of links cannot even be removed.
    if ((change.setUid || change.setGid || change.setSize) && node.type === S_IFREG)
      fault = this.#host.dropCapabilities(fd)
    if (fault >= 0 && change.setMode) fault = this.#context.chmod(fd, change.mode & 0o7777)
    if (fault >= 0 && (change.setUid || change.setGid))
      fault = this.#context.chown(fd, change.setUid ? uid : KEEP_ID, change.setGid ? gid : KEEP_ID)
    if (fault >= 0 && change.setSize) fault = this.#truncate(node, fd, handle?.fd === fd, change)
    if (fault >= 0 && (change.setAtime || change.setMtime)) fault = this.#setTimes(fd, change)
    return fault
  }

  #truncate(node: HostNode, fd: number, isOpen: boolean, change: SetAttributes): Outcome {
    if (node.type !== S_IFREG) return node.type === S_IFDIR ? -Errno.EISDIR : -Errno.EINVAL
    // The guest's handle may be read-only only for a truncate by path, which comes without it.
    const file = isOpen ? fd : this.#host.nodes.reopen(node, O_WRONLY | O_NONBLOCK)
    if (file < 0) return file
    const outcome = this.#context.ftruncate(file, change.sizeBytes)
    if (outcome >= 0 && change.killSuidgid) data.dropSetId(this.#host, file)
    if (!isOpen) this.#context.close(file)
    return outcome
  }

  #setTimes(fd: number, change: SetAttributes): Outcome {
    const atimeNsec = !change.setAtime ? UTIME_OMIT : change.atimeNow ? UTIME_NOW : change.atimeNsec
    const mtimeNsec = !change.setMtime ? UTIME_OMIT : change.mtimeNow ? UTIME_NOW : change.mtimeNsec
    return this.#context.utimens(fd, change.atimeSec, atimeNsec, change.mtimeSec, mtimeNsec)
  }

  override readlink(_request: Request, nodeid: number, out: Span): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    const path = this.#host.nodes.fdOf(node)
    if (path < 0) return path
    this.#host.metadata.willRead(node)
    return this.#context.readlink(path, out.at, out.bytes)
  }

  override access(request: Request, nodeid: number, mask: number): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    const path = this.#host.nodes.fdOf(node)
    if (path < 0) return path
    const denied = this.#host.caller.enter(request)
    if (denied < 0) return denied
    const outcome = this.#context.faccess(path, mask)
    this.#host.caller.leave()
    return outcome
  }

  override statfs(request: Request, nodeid: number, reply: StatfsReply): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    const path = this.#host.nodes.fdOf(node)
    if (path < 0) return path
    const at = request.scratchAt + OTHER_AT
    const fault = this.#context.statfs(path, at)
    if (fault < 0) return fault
    const { view } = this.#context
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

  // --- names --------------------------------------------------------------------------------------

  override mknod(
    request: Request,
    parent: number,
    name: Name,
    mode: number,
    major: number,
    minor: number,
    entry: EntryReply,
  ): Outcome {
    const dir = this.#node(parent)
    if (dir === undefined) return STALE
    return namespace.mknod(this.#host, request, dir, name, mode, major, minor, entry)
  }

  override mkdir(
    request: Request,
    parent: number,
    name: Name,
    mode: number,
    entry: EntryReply,
  ): Outcome {
    const dir = this.#node(parent)
    if (dir === undefined) return STALE
    return namespace.makeNode(this.#host, request, dir, name, entry, fd =>
      this.#context.mkdirat(fd, name.at, mode & 0o7777),
    )
  }

  override symlink(
    request: Request,
    parent: number,
    name: Name,
    target: Name,
    entry: EntryReply,
  ): Outcome {
    const dir = this.#node(parent)
    if (dir === undefined) return STALE
    return namespace.makeNode(this.#host, request, dir, name, entry, fd =>
      this.#context.symlinkat(target.at, fd, name.at),
    )
  }

  override link(
    _request: Request,
    nodeid: number,
    newParent: number,
    newName: Name,
    entry: EntryReply,
  ): Outcome {
    const node = this.#node(nodeid)
    const dir = this.#node(newParent)
    if (node === undefined || dir === undefined) return STALE
    return namespace.link(this.#host, node, dir, newName, entry)
  }

  override unlink(_request: Request, parent: number, name: Name): Outcome {
    const dir = this.#node(parent)
    return dir === undefined ? STALE : namespace.unlink(this.#host, dir, name, false)
  }

  override rmdir(_request: Request, parent: number, name: Name): Outcome {
    const dir = this.#node(parent)
    return dir === undefined ? STALE : namespace.unlink(this.#host, dir, name, true)
  }

  override rename(
    _request: Request,
    parent: number,
    name: Name,
    newParent: number,
    newName: Name,
    flags: number,
  ): Outcome {
    const from = this.#node(parent)
    const to = this.#node(newParent)
    if (from === undefined || to === undefined) return STALE
    return namespace.rename(this.#host, from, name, to, newName, flags)
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
    return node === undefined ? STALE : data.open(this.#host, node, flags, killSuid, opened)
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
    const dir = this.#node(parent)
    if (dir === undefined) return STALE
    return namespace.create(this.#host, request, dir, name, flags, mode, killSuid, entry, opened)
  }

  override tmpfile(
    request: Request,
    parent: number,
    flags: number,
    mode: number,
    entry: EntryReply,
    opened: OpenReply,
  ): Outcome {
    const dir = this.#node(parent)
    if (dir === undefined) return STALE
    return namespace.tmpfile(this.#host, request, dir, flags, mode, entry, opened)
  }

  override read(
    request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    into: Payload,
  ): Outcome {
    return data.read(this.#host, request, fh, offset, into)
  }

  override write(
    request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    from: Payload,
    killSuid: boolean,
  ): Outcome {
    return data.write(this.#host, request, fh, offset, from, killSuid)
  }

  override flush(
    request: Request,
    _nodeid: number,
    fh: number,
    ownerLow: number,
    ownerHigh: number,
  ): Outcome {
    return data.flush(this.#host, request, fh, ownerLow, ownerHigh)
  }

  override release(_request: Request, _nodeid: number, fh: number): Outcome {
    return data.release(this.#host, fh, false)
  }

  override fsync(request: Request, _nodeid: number, fh: number, dataOnly: boolean): Outcome {
    return data.fsync(this.#host, request, fh, false, dataOnly)
  }

  override lseek(
    _request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    whence: number,
  ): Outcome {
    return data.lseek(this.#host, fh, offset, whence)
  }

  override fallocate(
    request: Request,
    _nodeid: number,
    fh: number,
    offset: number,
    length: number,
    mode: number,
  ): Outcome {
    return data.fallocate(this.#host, request, fh, offset, length, mode)
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
    return data.copyFileRange(this.#host, request, fhIn, offsetIn, fhOut, offsetOut, length)
  }

  override ioctl(
    _request: Request,
    _nodeid: number,
    fh: number,
    command: number,
    input: Span,
    out: Span,
  ): Outcome {
    const handle = this.#host.handles.get(fh)
    if (handle === undefined || handle.fd < 0) return this.#host.noHandle(fh)
    const changes = ioctlChanges(command)
    if (changes && this.capabilities.readOnly) return -Errno.EROFS
    if (changes) this.#host.metadata.willChange(handle.node)
    // In and out share one buffer, as in the system call.
    const { bytes } = this.#context
    bytes.copyWithin(out.at, input.at, input.at + Math.min(input.bytes, out.bytes))
    const at = out.bytes >= input.bytes ? out.at : input.at
    const answer = this.#context.ioctl(handle.fd, command, at, Math.max(input.bytes, out.bytes))
    return answer < 0 ? answer : out.bytes
  }

  override syncfs(request: Request, nodeid: number): Outcome {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    // syncfs(2) refuses O_PATH; the descriptor is left to the pool for the call and closed after it.
    const fd = this.#host.nodes.reopen(node, O_NONBLOCK)
    if (fd < 0) return fd
    const token = request.suspend()
    const fault = token < 0 ? token : this.#context.submit(PoolCall.syncfs, token, fd, 1)
    if (fault >= 0) return PENDING
    if (token >= 0) request.cancel(token)
    this.#context.close(fd)
    return fault
  }

  /** A window maps what can be written: of a read-only share that is nothing. */
  #openToMap(nodeid: number): number {
    const node = this.#node(nodeid)
    if (node === undefined) return STALE
    if (this.#host.options.readOnly) return -Errno.EROFS
    if (node.type !== S_IFREG) return -Errno.EACCES
    return this.#host.nodes.reopen(node, O_RDWR | O_NONBLOCK)
  }

  // --- directories --------------------------------------------------------------------------------

  override opendir(_request: Request, nodeid: number, _flags: number, opened: OpenReply): Outcome {
    const node = this.#node(nodeid)
    return node === undefined ? STALE : directory.opendir(this.#host, node, opened)
  }

  override readdir(
    _request: Request,
    _nodeid: number,
    fh: number,
    cookieLow: number,
    cookieHigh: number,
    sink: DirectorySink,
  ): Outcome {
    return directory.readdir(this.#host, fh, cookieLow, cookieHigh, sink)
  }

  override releasedir(_request: Request, _nodeid: number, fh: number): Outcome {
    return data.release(this.#host, fh, true)
  }

  override fsyncdir(request: Request, _nodeid: number, fh: number, dataOnly: boolean): Outcome {
    return data.fsync(this.#host, request, fh, true, dataOnly)
  }

  // --- locks --------------------------------------------------------------------------------------

  override getlk(_request: Request, nodeid: number, fh: number, range: LockRange): Outcome {
    return this.#host.locks.getlk(nodeid, fh, range)
  }

  override setlk(
    request: Request,
    nodeid: number,
    fh: number,
    range: LockRange,
    wait: boolean,
  ): Outcome {
    return this.#host.locks.setlk(request, nodeid, fh, range, wait)
  }

  override interrupt(token: number, outcome: Outcome): boolean {
    return this.#host.locks.interrupt(token, outcome)
  }

  override finished(job: number, result: number): void {
    this.#host.locks.finished(job, result)
  }

  /** What is locked and waited for now. */
  get locks(): {
    readonly held: number
    readonly waiting: number
    readonly threads: number
    readonly abandoned: number
  } {
    const { heldCount, waitingCount, threadCount, abandonedCount } = this.#host.locks
    return {
      held: heldCount,
      waiting: waitingCount,
      threads: threadCount,
      abandoned: abandonedCount,
    }
  }

  // --- extended attributes ------------------------------------------------------------------------

  /** A path descriptor for xattr calls, or why there is none. */
  #attributeFd(nodeid: number): number {
    if (!this.#host.xattr) return -Errno.ENOSYS
    const node = this.#node(nodeid)
    return node === undefined ? STALE : this.#host.nodes.fdOf(node)
  }

  override getxattr(_request: Request, nodeid: number, name: Name, out: Span): Outcome {
    const path = this.#attributeFd(nodeid)
    return path < 0 ? path : xattrs.getxattr(this.#host, path, name, out)
  }

  override listxattr(_request: Request, nodeid: number, out: Span): Outcome {
    const path = this.#attributeFd(nodeid)
    return path < 0 ? path : xattrs.listxattr(this.#host, path, out)
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
    const had = killSgid ? this.#context.setEffectiveCapability(CAP_FSETID, 0) : 0
    const outcome = xattrs.setxattr(this.#host, path, name, value, flags)
    if (had === 1) this.#context.setEffectiveCapability(CAP_FSETID, 1)
    return outcome
  }

  override removexattr(_request: Request, nodeid: number, name: Name): Outcome {
    const path = this.#attributeFd(nodeid)
    return path < 0 ? path : xattrs.removexattr(this.#host, path, name)
  }
}
