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
import { Mounts } from './mounts.js'
import { type IdTranslation, parseTranslate } from './id-translation.js'
import { type HostNode, HostNodes } from './nodes.js'
import { CACHE_SECONDS, type HostOptions } from './options.js'
import { NAME_AT, STAT_AT } from './scratch.js'
import { readAttributes, STATX_WANTED } from './stat.js'
import { parseXattrMap, type XattrMap } from './xattrmap.js'

const FILE_CAPABILITIES = 'security.capability'

export class HostState {
  readonly context: Context
  readonly options: HostOptions
  readonly nodes: HostNodes
  readonly handles = new HandleTable<HostHandle>()
  readonly mounts: Mounts
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
  constructor(context: Context, scratchAt: number, options: HostOptions) {
    this.context = context
    this.options = options
    this.scratchAt = scratchAt
    this.nodes = new HostNodes(context, scratchAt, options.nodeDescriptors)
    this.mounts = new Mounts(context, scratchAt)
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

  /** Attributes from the struct statx at `statAt`; `parent` tells where another mount begins. */
  fillAttributes(attr: Attributes, node: HostNode): void {
    readAttributes(this.context.view, this.statAt, attr)
    if (this.uids !== undefined) attr.uid = this.uids.toGuest(attr.uid)
    if (this.gids !== undefined) attr.gid = this.gids.toGuest(attr.gid)
    // virtiofs in the guest heeds the mark whether or not INIT's answer says that there are any.
    attr.submount =
      this.negotiated?.submounts === true &&
      node.type === S_IFDIR &&
      node.parent !== undefined &&
      node.parent.mount !== node.mount
    attr.dax = false
    attr.validSec = this.validSec
    attr.validNsec = 0
  }

  /** Turns the struct statx at `statAt` into a node with a lookup, and the reply that names it. */
  fillEntry(entry: EntryReply, parent: HostNode, nameAt: number, nameBytes: number): HostNode {
    const node = this.nodes.adopt(this.statAt, parent, nameAt, nameBytes)
    entry.nodeid = node.nodeid
    entry.generation = 0
    entry.entryValidSec = this.validSec
    entry.entryValidNsec = 0
    this.fillAttributes(entry.attr, node)
    return node
  }

  /** The open file of `fh`; `directory` says which kind is meant. */
  handle(fh: number, directory: boolean): HostHandle | undefined {
    const handle = this.handles.get(fh)
    return handle !== undefined && handle.directory === directory ? handle : undefined
  }

  /** Remembers an open descriptor: its fh, or -ENFILE (and the descriptor is closed). */
  addHandle(handle: HostHandle): number {
    if (this.handles.size >= this.options.openFiles) {
      this.context.close(handle.fd)
      return -Errno.ENFILE
    }
    handle.node.openFds.push(handle.fd)
    return this.handles.insert(handle)
  }

  closeHandle(handle: HostHandle): number {
    const { openFds } = handle.node
    const at = openFds.indexOf(handle.fd)
    if (at >= 0) openFds.splice(at, 1)
    return this.context.close(handle.fd)
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
