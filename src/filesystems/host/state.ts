/** What the parts of the host back end share, and the small steps they all take. */
import { Errno } from '../../../protocol/errno.js'
import { S_IFDIR } from '../../../protocol/linux/constants.js'
import type { Context } from '../../native/context.js'
import type { Negotiated } from '../../vfs/filesystem.js'
import { HandleTable } from '../../vfs/handle-table.js'
import type { Attributes, EntryReply } from '../../vfs/replies.js'
import type { Name } from '../../vfs/request.js'
import { Caller } from './caller.js'
import type { HostHandle } from './handles.js'
import type { HostChanges } from './host-changes.js'
import { MetadataCache } from './metadata-cache.js'
import { Mounts } from './mounts.js'
import { type IdTranslation, parseTranslate } from './id-translation.js'
import { HostLocks } from './locks.js'
import type { HostNode } from './node.js'
import { HostNodes } from './nodes.js'
import { ReleasedFiles } from './released-files.js'
import { CACHE_SECONDS, type HostOptions } from './options.js'
import { NAME_AT, STAT_AT } from './scratch.js'
import { readAttributes, STATX_WANTED } from './stat.js'
import { parseXattrMap, type XattrMap } from './xattrmap.js'

/** Nothing is kept that answers: the host must be asked. No -errno. */
export const UNKNOWN = 1

const FILE_CAPABILITIES = 'security.capability'

export class HostState {
  readonly context: Context
  readonly options: HostOptions
  readonly nodes: HostNodes
  readonly handles = new HandleTable<HostHandle>()
  readonly locks: HostLocks
  readonly mounts: Mounts
  readonly released: ReleasedFiles
  readonly metadata: MetadataCache
  readonly caller: Caller
  readonly scratchAt: number
  readonly validSec: number
  readonly xattr: boolean
  readonly xattrMap: XattrMap | undefined
  /** undefined: ids are the same on both sides. */
  readonly uids: IdTranslation | undefined
  readonly gids: IdTranslation | undefined
  /** Where file capabilities are kept, when not under the name the kernel knows. With NUL. */
  readonly #capabilityName: Uint8Array | undefined
  negotiated: Negotiated | undefined

  /** Errors thrown: XattrMapError, IdTranslationError; posixAcl together with a translation. */
  constructor(
    context: Context,
    scratchAt: number,
    options: HostOptions,
    changes: HostChanges | undefined,
  ) {
    this.context = context
    this.options = options
    this.scratchAt = scratchAt
    this.mounts = new Mounts(context, scratchAt)
    this.nodes = new HostNodes(
      context,
      scratchAt,
      this.mounts,
      options.nodeDescriptors,
      options.inodeFileHandles,
    )
    this.locks = new HostLocks(this)
    this.released = new ReleasedFiles(context, options.openFiles / 16)
    this.metadata = new MetadataCache(
      context,
      scratchAt,
      this.nodes,
      this.mounts,
      changes,
      options.keptInodes,
    )
    this.validSec = CACHE_SECONDS[options.cache]
    this.xattr = options.xattr || options.xattrmap !== undefined
    this.xattrMap = options.xattrmap === undefined ? undefined : parseXattrMap(options.xattrmap)
    this.uids = translation(options.translateUid, '--translate-uid')
    this.gids = translation(options.translateGid, '--translate-gid')
    // The ids inside an ACL would stay untranslated.
    if (options.posixAcl && (this.uids !== undefined || this.gids !== undefined))
      throw new Error('--posix-acl and --translate-uid or --translate-gid exclude each other')
    this.#capabilityName = keptCapabilities(this.xattrMap)
    this.caller = new Caller(context, scratchAt, this.uids, this.gids)
  }

  /** The guest does not know ACLs, or was told there are none: it gets to see none. */
  get aclHidden(): boolean {
    return this.negotiated?.posixAcl !== true
  }

  /**
   * Drops the file capabilities of `fd` that --xattrmap keeps under another name: its data or owner
   * is about to change, and the kernel only drops those it knows. 0 or -errno.
   */
  dropCapabilities(fd: number): number {
    if (this.#capabilityName === undefined) return 0
    const at = this.scratchAt + NAME_AT
    this.context.bytes.set(this.#capabilityName, at)
    const fault = this.context.removexattr(fd, at)
    return fault === -Errno.ENODATA || fault === -Errno.EOPNOTSUPP ? 0 : fault
  }

  /** `dropCapabilities` has something to do before each write. */
  get keepsCapabilities(): boolean {
    return this.#capabilityName !== undefined
  }

  get statAt(): number {
    return this.scratchAt + STAT_AT
  }

  /** A descriptor on directory `nodeid`, or -errno. */
  directoryFd(nodeid: number): number {
    const node = this.nodes.get(nodeid)
    return node === undefined ? -Errno.ESTALE : this.nodes.fdOf(node)
  }

  /** statx of `name` in the directory behind `dirFd`, to `statAt`. */
  statName(dirFd: number, name: Name): number {
    return this.context.statx(dirFd, name.at, 0, STATX_WANTED, this.statAt)
  }

  /** Attributes from the struct statx at `statAt`, which the host was just asked for. */
  fillAttributes(attr: Attributes, node: HostNode): void {
    this.#fillFrom(this.context.view, this.statAt, attr, node)
    this.metadata.learn(node, this.statAt)
  }

  /** Attributes from what is kept of the node; false: nothing is. */
  fillKept(attr: Attributes, node: HostNode): boolean {
    const at = this.metadata.find(node)
    if (at < 0) return false
    this.#fillFrom(this.metadata.view, at, attr, node)
    return true
  }

  #fillFrom(view: DataView, at: number, attr: Attributes, node: HostNode): void {
    readAttributes(view, at, attr)
    if (this.uids !== undefined) attr.uid = this.uids.toGuest(attr.uid)
    if (this.gids !== undefined) attr.gid = this.gids.toGuest(attr.gid)
    // virtiofs in the guest heeds the mark whether or not INIT's answer says that there are any.
    attr.submount =
      this.negotiated?.submounts === true &&
      node.type === S_IFDIR &&
      node.parent !== undefined &&
      node.parent.mount.id !== node.mount.id
    attr.dax = false
    this.negotiated?.dax?.describe(node.nodeid, attr)
    attr.validSec = this.validSec
    attr.validNsec = 0
  }

  /**
   * Finds `name` in `parent` by what is kept: 0 and the entry has a lookup, -ENOENT, or UNKNOWN.
   */
  fillKeptEntry(entry: EntryReply, parent: HostNode, nameAt: number, nameBytes: number): number {
    const node = this.metadata.findName(parent, nameAt, nameBytes)
    if (node === undefined) return UNKNOWN
    if (node === null) return -Errno.ENOENT
    if (!this.fillKept(entry.attr, node)) return UNKNOWN
    this.nodes.table.addLookup(node)
    this.#nameEntry(entry, node)
    return 0
  }

  #nameEntry(entry: EntryReply, node: HostNode): void {
    entry.nodeid = node.nodeid
    entry.generation = 0
    entry.entryValidSec = this.validSec
    entry.entryValidNsec = 0
  }

  /**
   * Turns the struct statx at `statAt`, got of `fd` and `fdNameAt`, into a node with a lookup, and the
   * reply that names it. 0, or -errno (file handles are mandatory and there is none).
   */
  fillEntry(
    entry: EntryReply,
    parent: HostNode | undefined,
    nameAt: number,
    nameBytes: number,
    fd: number,
    fdNameAt: number,
  ): number {
    const node = this.nodes.adopt(this.statAt, parent, nameAt, nameBytes, fd, fdNameAt)
    if (node === undefined) return this.nodes.handles.fault
    this.#nameEntry(entry, node)
    this.fillAttributes(entry.attr, node)
    return 0
  }

  /** The open file of `fh`; `directory` says which kind is meant. */
  handle(fh: number, directory: boolean): HostHandle | undefined {
    const handle = this.handles.get(fh)
    return handle !== undefined && handle.directory === directory && handle.fd >= 0
      ? handle
      : undefined
  }

  /** Why there is no `handle`: EBADF, or EIO where the guest's file was lost on its way here. */
  noHandle(fh: number): number {
    const handle = this.handles.get(fh)
    return handle !== undefined && handle.fd < 0 ? -Errno.EIO : -Errno.EBADF
  }

  /** No further file can be opened. */
  get full(): boolean {
    if (this.#inUse < this.options.openFiles) return false
    this.locks.closeIdle()
    return this.#inUse >= this.options.openFiles
  }

  get #inUse(): number {
    return this.handles.size + this.locks.descriptors
  }

  /** Remembers an open descriptor: its fh, or -ENFILE (and the descriptor is closed). */
  addHandle(handle: HostHandle): number {
    if (this.full) {
      this.context.close(handle.fd)
      return -Errno.ENFILE
    }
    const fh = this.handles.insert(handle)
    this.#open(handle)
    return fh
  }

  /** As `addHandle`, under the `fh` that the guest knows it by from another daemon. EEXIST: it is taken. */
  restoreHandle(handle: HostHandle, fh: number): number {
    const fault = this.full ? -Errno.ENFILE : this.handles.insertAt(handle, fh) ? 0 : -Errno.EEXIST
    if (fault >= 0) this.#open(handle)
    else if (handle.fd >= 0) this.context.close(handle.fd)
    return fault
  }

  #open({ node, fd }: HostHandle): void {
    this.nodes.hold(node)
    if (fd < 0) return
    if (node.openFds === undefined) node.openFds = [fd]
    else node.openFds.push(fd)
    this.metadata.willRead(node)
    this.#divide()
  }

  closeHandle(handle: HostHandle): number {
    const { node, fd } = handle
    if (fd < 0) {
      this.nodes.unhold(node)
      return 0
    }
    this.locks.released(handle)
    const left = node.openFds!.filter(open => open !== fd)
    node.openFds = left.length > 0 ? left : undefined
    if (left.length === 0) this.metadata.closed(node)
    this.#divide()
    this.nodes.beforeClose(node, fd)
    let outcome = 0
    // A node that has no name, or that the guest forgets now, will not be opened again.
    if (handle.mayLinger && !node.nameless && node.lookups > 0) this.released.give(node, fd)
    else outcome = this.context.close(fd)
    this.nodes.unhold(node)
    return outcome
  }

  /** Open files come first; nodes have what they leave. */
  #divide(): void {
    this.nodes.descriptors.fitInto(this.options.openFiles - this.#inUse - this.released.count)
  }
}

function translation(
  rules: readonly string[] | undefined,
  option: string,
): IdTranslation | undefined {
  if (rules === undefined || rules.length === 0) return undefined
  const parsed = parseTranslate(rules, option)
  return parsed.identity ? undefined : parsed
}

function keptCapabilities(map: XattrMap | undefined): Uint8Array | undefined {
  const kept = map?.toHost(FILE_CAPABILITIES)
  if (typeof kept !== 'string' || kept === FILE_CAPABILITIES || kept.length > 255) return undefined
  return Uint8Array.from(`${kept}\0`, character => character.charCodeAt(0))
}
