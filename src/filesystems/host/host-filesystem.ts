/**
 * The host back end: a directory tree of the host, with local file-system semantics.
 *
 * Nothing outside the shared directory is ever reached: names are single components, opened relative
 * to a descriptor without following links; what is opened anew is checked to be the same inode.
 *
 * The operations are in rooms named as those of src/fuse: `ops-inode.ts`, `ops-file.ts`, `ops-namespace.ts`,
 * each a class that extends the one before, so that a request finds its method in one step. Here are the
 * file system's start and end, and what the daemon asks of it.
 */
import { Errno, errnoName } from '../../../protocol/errno.js'
import { O_NONBLOCK, O_RDWR, S_IFREG } from '../../../protocol/linux/constants.js'
import type { Context } from '../../native/context.js'
import type { Capabilities, FileSystem, Negotiated } from '../../vfs/filesystem.js'
import type { MappableFiles } from '../../vfs/dax.js'
import type { Migratable } from '../../vfs/migration.js'
import { NO_CAPABILITIES } from '../../vfs/unsupported.js'
import { handlesRefused } from './file-handles.js'
import type { HostChanges } from './host-changes.js'
import { HostIdentities } from './identities.js'
import type { MetadataCache } from './metadata-cache.js'
import { HostMigration } from './migration.js'
import { HostNamespaceOperations } from './ops-namespace.js'
import { STALE } from './operations.js'
import type { HostOptions } from './options.js'
import { HostState } from './state.js'

export interface MetadataCounters extends Readonly<MetadataCache['counters']> {
  /** Inodes that are kept. */
  readonly kept: number
  /** Reads copied from a mapping, those that failed as the file was cut short, and files mapped. */
  readonly mappedReads: number
  readonly torn: number
  readonly mappings: number
}

export class HostFileSystem extends HostNamespaceOperations implements FileSystem {
  override readonly capabilities: Capabilities
  readonly migration: Migratable
  readonly mappable: MappableFiles
  readonly identities: HostIdentities
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
    super(new HostState(context, scratchAt, options, changes))
    this.migration = new HostMigration(this.host)
    this.identities = new HostIdentities(this.host)
    this.mappable = {
      owned: false,
      open: nodeid => this.#openToMap(nodeid),
      known: nodeid => this.node(nodeid) !== undefined,
    }
    this.capabilities = {
      ...NO_CAPABILITIES,
      readdirplus: options.cache !== 'never',
      xattr: this.host.xattr,
      posixAcl: options.posixAcl && this.host.xattr,
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
    const { nodes, options } = this.host
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
    const { counters, mappings, size } = this.host.metadata
    const { reads, torn } = mappings.counters
    return { ...counters, kept: size, mappedReads: reads, torn, mappings: mappings.size }
  }

  /** Descriptors kept for nodes and mounts, open files not counted. */
  get nodeDescriptorCount(): number {
    return this.host.nodes.openDescriptors
  }

  /** Nodes the guest may name, the root included. */
  get nodeCount(): number {
    let count = 0
    for (const node of this.host.nodes.table) if (node.lookups > 0) count++
    return count
  }

  /** Nodes in memory: those, and what leads to them. */
  get knownNodeCount(): number {
    return this.host.nodes.table.size
  }

  get handleCount(): number {
    return this.host.handles.size
  }

  /** Files that the guest has closed and that are open still, and OPENs answered with one. */
  get released(): { readonly count: number; readonly hits: number } {
    return this.host.released
  }

  override init(negotiated: Negotiated): void {
    this.host.negotiated = negotiated
    const { metadata, options } = this.host
    metadata.filesUnseen = options.mappedStores || negotiated.dax !== undefined
  }

  pathOf(nodeid: number): string | undefined {
    const names: string[] = []
    const { root } = this.host.nodes
    let node = this.node(nodeid)
    for (; node !== undefined && node !== root; node = node.parent)
      names.push(Buffer.from(node.name, 'latin1').toString())
    return node === undefined ? undefined : `/${names.reverse().join('/')}`
  }

  override tidy(nowMs: number): number {
    return this.host.released.tidy(nowMs)
  }

  override renew(): void {
    this.host.metadata.renew()
  }

  override destroy(): void {
    const { handles, locks, metadata, nodes } = this.host
    locks.clear()
    handles.clear(handle => this.host.closeHandle(handle))
    this.host.released.clear()
    metadata.clear()
    nodes.clear()
  }

  /** After `destroy`: closes the shared directory too. The back end is of no use any more. */
  dispose(): void {
    this.destroy()
    this.host.nodes.closeRoot()
  }

  /** A window maps what can be written: of a read-only share that is nothing. */
  #openToMap(nodeid: number): number {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    if (this.host.options.readOnly) return -Errno.EROFS
    if (node.type !== S_IFREG) return -Errno.EACCES
    return this.host.nodes.reopen(node, O_RDWR | O_NONBLOCK)
  }
}
