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
import { type HostNode, HostNodes } from './nodes.js'
import { CACHE_SECONDS, type HostOptions } from './options.js'
import { STAT_AT } from './scratch.js'
import { readAttributes, STATX_WANTED } from './stat.js'

export class HostState {
  readonly context: Context
  readonly options: HostOptions
  readonly nodes: HostNodes
  readonly handles = new HandleTable<HostHandle>()
  readonly mounts: Mounts
  readonly caller: Caller
  readonly scratchAt: number
  readonly validSec: number
  negotiated: Negotiated | undefined

  constructor(context: Context, scratchAt: number, options: HostOptions) {
    this.context = context
    this.options = options
    this.scratchAt = scratchAt
    this.nodes = new HostNodes(context, scratchAt, options.nodeDescriptors)
    this.mounts = new Mounts(context, scratchAt)
    this.caller = new Caller(context)
    this.validSec = CACHE_SECONDS[options.cache]
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
    attr.submount =
      node.type === S_IFDIR && node.parent !== undefined && node.parent.mount !== node.mount
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
