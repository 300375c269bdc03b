/**
 * A guest of the host back end that moves to another daemon. Options as in Rust virtiofsd, doc/migration.md;
 * the form is our own.
 *
 * A node goes by the directory and name it is known by, or, when it is known by none, by the path that the kernel
 * knows. With --migration-mode=file-handles (and --migration-verify-handles) its file handle goes along: names that
 * lead to another file by now are noticed, and with file-handles the handle itself leads to it.
 */
import { Errno, errnoName } from '../../../protocol/errno.js'
import {
  O_ACCMODE,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  S_IFDIR,
  S_IFMT,
} from '../../../protocol/linux/constants.js'
import { statx } from '../../../protocol/linux/statx.js'
import { EMPTY_PATH } from '../../native/context.js'
import type {
  HandleState,
  Migratable,
  MigrationMode,
  MigrationOptions,
  NodeState,
  TreeState,
} from '../../vfs/migration.js'
import { findInodes } from './find-inodes.js'
import { fileHandle, hostOpenFlags, openableFault } from './data.js'
import { HostHandle, REOPEN_FLAGS } from './handles.js'
import type { HostMount, HostNode } from './node.js'
import { confirmedPath, getBytes, isInside, openBeneath, putBytes } from './paths.js'
import { NAME_AT, OTHER_AT } from './scratch.js'
import { STATX_WANTED } from './stat.js'
import type { HostState } from './state.js'

const F = statx.f
const ROOT = 1
/** u32 handle_bytes and i32 handle_type. */
const HANDLE_HEAD_BYTES = 8
/** Losses told one by one. */
const MOST_TOLD = 5

interface Place {
  readonly parent: number
  readonly name: string
  readonly path: string
}
const NOWHERE: Place = { parent: 0, name: '', path: '' }

export class HostMigration implements Migratable {
  readonly #host: HostState
  readonly #options: MigrationOptions
  #mode: MigrationMode = 'find-paths'
  #generations: readonly [nodes: number, handles: number] = [0, 0]
  #lost = 0
  #told: string[] = []

  constructor(host: HostState) {
    this.#host = host
    this.#options = host.options.migration
  }

  // --- the source -----------------------------------------------------------------------------------

  get #sendsHandles(): boolean {
    return this.#options.mode === 'file-handles' || this.#options.verifyHandles
  }

  /** Nobody but this process can have its locks; the guest would go on believing that it has them. */
  get obstacle(): string {
    const count = this.#host.locks.heldCount
    return count === 0
      ? ''
      : `the guest holds locks on files (${count}; --flock, --posix-lock), which cannot go along: move it when they are released`
  }

  saveTree(): TreeState {
    const { nodes, handles, metadata } = this.#host
    // Nodes that only this keeps stay here.
    metadata.clear()
    return {
      mode: this.#options.mode,
      rootHandle: this.#sendsHandles ? this.#handleOf(nodes.root.fd, EMPTY_PATH) : '',
      nodeGeneration: nodes.table.generation,
      handleGeneration: handles.generation,
    }
  }

  /** Every node after its directory. */
  *saveNodes(): Iterable<NodeState> {
    const { root, table } = this.#host.nodes
    const elsewhere = new Set<HostNode>()
    const sent = new Set<HostNode>([root])
    const anchors = new Map<HostMount, number>([[root.mount, ROOT]])
    for (const node of table) {
      const way: HostNode[] = []
      for (let at: HostNode | undefined = node; at !== undefined && !sent.has(at); at = at.parent) {
        way.push(at)
        sent.add(at)
      }
      for (const one of way.reverse()) {
        const place = this.#placeOf(one)
        // Directories have no second name, and others must come after them.
        if (place === NOWHERE && one.type !== S_IFDIR && this.#hasNames(one)) elsewhere.add(one)
        else yield this.#saveNode(one, place, anchors.get(one.mount) ?? 0)
        if (one.type === S_IFDIR && !anchors.has(one.mount)) anchors.set(one.mount, one.nodeid)
      }
    }
    if (elsewhere.size === 0) return
    const paths = findInodes(this.#host, elsewhere)
    for (const node of elsewhere) {
      const place = { ...NOWHERE, path: paths.get(node) ?? '' }
      yield this.#saveNode(node, place, anchors.get(node.mount) ?? 0)
    }
  }

  /** It is still in the share, as far as the count of its names tells. */
  #hasNames(node: HostNode): boolean {
    const { context, nodes, statAt } = this.#host
    return nodes.stat(node, statAt) >= 0 && F.stx_nlink.get(context.view, statAt) > 0
  }

  #saveNode(node: HostNode, place: Place, anchor: number): NodeState {
    const { nodeid, lookups, type } = node
    const handle = this.#sendsHandles ? this.#nodeHandle(node) : ''
    return { nodeid, lookups, type, ...place, handle, anchor }
  }

  #nodeHandle(node: HostNode): string {
    if (node.handle !== undefined) return node.handle
    const fd = this.#host.nodes.pathFdOf(node)
    return fd < 0 ? '' : this.#handleOf(fd, EMPTY_PATH)
  }

  /** struct file_handle of `nameAt` at `fd`, as in `NodeState`; '' where there is none. */
  #handleOf(fd: number, nameAt: number): string {
    const { context, scratchAt } = this.#host
    const at = scratchAt + OTHER_AT
    if (context.nameToHandle(fd, nameAt, at) < 0) return ''
    return getBytes(this.#host, at, HANDLE_HEAD_BYTES + context.view.getUint32(at, true))
  }

  #placeOf(node: HostNode): Place {
    const { context, nodes, statAt } = this.#host
    const { parent, name } = node
    if (parent !== undefined && !node.nameless && this.#leadsTo(node, parent))
      return { parent: parent.nodeid, name, path: '' }
    const fd = nodes.pathFdOf(node)
    if (fd < 0 || context.statx(fd, EMPTY_PATH, 0, STATX_WANTED, statAt) < 0) return NOWHERE
    const path = confirmedPath(this.#host, fd, statAt)
    return path === '' ? NOWHERE : { parent: 0, name: '', path }
  }

  /** The node's name still leads to it; looked at with --migration-confirm-paths alone. */
  #leadsTo(node: HostNode, parent: HostNode): boolean {
    if (!this.#options.confirmPaths) return true
    const { context, nodes, scratchAt, statAt } = this.#host
    const dir = nodes.fdOf(parent)
    if (dir < 0) return false
    const at = scratchAt + NAME_AT
    putBytes(this.#host, at, node.name)
    return context.statx(dir, at, 0, STATX_WANTED, statAt) >= 0 && nodes.find(statAt) === node
  }

  *saveHandles(): Iterable<HandleState> {
    for (const [fh, { node, directory, flags }] of this.#host.handles.entries())
      yield { fh, nodeid: node.nodeid, directory, flags }
  }

  // --- the destination ------------------------------------------------------------------------------

  restoreTree(state: TreeState): string {
    const { nodes } = this.#host
    this.#mode = state.mode
    this.#generations = [state.nodeGeneration, state.handleGeneration]
    this.#lost = 0
    this.#told = []
    if (state.rootHandle === '' || state.rootHandle === this.#handleOf(nodes.root.fd, EMPTY_PATH))
      return ''
    return 'the shared directory is not the one of the source: without --migration-mode=file-handles and --migration-verify-handles it may be a copy'
  }

  restoreNode(state: NodeState): string {
    const { nodes } = this.#host
    const fault = this.#findNode(state)
    if (fault.broken !== undefined) return `the state is broken: ${fault.broken}`
    if (fault.lost !== undefined) {
      const why = this.#lose(this.#describe(state), fault.lost)
      if (why !== '') return why
      if (nodes.restoreLost(state.nodeid, state.type) < 0) return twice(state.nodeid)
    }
    nodes.table.at(state.nodeid)!.lookups = state.lookups
    return ''
  }

  /** Takes note of a file that is not there, or answers why that ends the migration. */
  #lose(what: string, why: string): string {
    if (this.#options.onError === 'abort')
      return `${what} is not found here: ${why} (--migration-on-error=guest-error goes on without)`
    this.#lost++
    if (this.#told.length < MOST_TOLD) this.#told.push(`${what} (${why})`)
    return ''
  }

  #describe({ nodeid, parent, name, path }: NodeState): string {
    let text = name !== '' ? name : path
    if (name !== '')
      for (let up = this.#host.nodes.table.at(parent); up?.parent !== undefined; up = up.parent) {
        text = `${up.name}/${text}`
        if (text.length > 200) break
      }
    const shown = Buffer.from(text, 'latin1')
      .toString()
      .replaceAll(/\p{Cc}/gu, '?')
    return shown === '' ? `a file without a name (node ${nodeid})` : JSON.stringify(shown)
  }

  /** Makes the node, by the first way that leads to it. */
  #findNode(state: NodeState): Fault {
    const byName = state.parent === 0 ? NO_WAY : this.#byName(state)
    if (byName.lost === undefined) return byName
    const byPath = state.path === '' ? NO_WAY : this.#byPath(state)
    if (byPath.lost === undefined) return byPath
    const useHandle =
      this.#mode === 'file-handles' && this.#options.mode === 'file-handles' && state.handle !== ''
    const byHandle = useHandle ? this.#byHandle(state) : NO_WAY
    if (byHandle.lost === undefined) return byHandle
    return [byName, byPath, byHandle].find(fault => fault !== NO_WAY) ?? NO_WAY
  }

  #byName(state: NodeState): Fault {
    const { nodes, context, scratchAt, statAt } = this.#host
    const parent = nodes.table.at(state.parent)
    if (parent === undefined || parent.type !== S_IFDIR)
      return { broken: `node ${state.nodeid} lies in no directory` }
    const dir = nodes.fdOf(parent)
    if (dir < 0) return { lost: errnoName(dir) }
    const nameAt = scratchAt + NAME_AT
    putBytes(this.#host, nameAt, state.name)
    const fault = context.statx(dir, nameAt, 0, STATX_WANTED, statAt)
    if (fault < 0) return { lost: errnoName(fault) }
    const other = this.#other(state, dir, nameAt)
    if (other !== '') return { lost: other }
    return made(
      state,
      nodes.restore(state.nodeid, statAt, parent, nameAt, state.name.length, dir, nameAt),
    )
  }

  /** Why the file of the struct statx at `statAt`, got of `fd` and `nameAt`, is not the one meant; or ''. */
  #other(state: NodeState, fd: number, nameAt: number): string {
    const { context, statAt } = this.#host
    if ((F.stx_mode.get(context.view, statAt) & S_IFMT) !== state.type)
      return 'it is another kind of file'
    if (state.handle !== '' && this.#handleOf(fd, nameAt) !== state.handle)
      return 'it is another file'
    return ''
  }

  #byPath(state: NodeState): Fault {
    const fd = openBeneath(this.#host, state.path)
    return fd < 0 ? { lost: errnoName(fd) } : this.#byDescriptor(state, fd, false)
  }

  /** A handle can name any file of its file system: only one that lies in the share is taken. */
  #byHandle(state: NodeState): Fault {
    const { context, nodes, scratchAt } = this.#host
    const anchor = nodes.table.at(state.anchor)
    if (anchor === undefined || anchor.type !== S_IFDIR)
      return { lost: 'nothing else on its mount is known' }
    const mountFd = nodes.reopen(anchor, O_DIRECTORY)
    if (mountFd < 0) return { lost: errnoName(mountFd) }
    const at = scratchAt + OTHER_AT
    putBytes(this.#host, at, state.handle)
    const fd = context.openByHandle(mountFd, at, O_PATH | O_NOFOLLOW)
    context.close(mountFd)
    return fd < 0 ? { lost: errnoName(fd) } : this.#byDescriptor(state, fd, true)
  }

  /** Takes `fd` over. */
  #byDescriptor(state: NodeState, fd: number, byHandle: boolean): Fault {
    const { context, nodes, statAt } = this.#host
    const fault = context.statx(fd, EMPTY_PATH, 0, STATX_WANTED, statAt)
    let why = fault < 0 ? errnoName(fault) : this.#other(state, fd, EMPTY_PATH)
    if (why === '' && byHandle && !isInside(this.#host, fd, statAt))
      why = 'it does not lie in the shared directory'
    const outcome =
      why === ''
        ? made(state, nodes.restore(state.nodeid, statAt, undefined, 0, 0, fd, EMPTY_PATH))
        : { lost: why }
    if (outcome !== FOUND) {
      context.close(fd)
      return outcome
    }
    nodes.descriptors.add(nodes.table.at(state.nodeid)!, fd)
    return FOUND
  }

  restoreHandle(state: HandleState): string {
    const host = this.#host
    const node = host.nodes.table.at(state.nodeid)
    if (node === undefined) return `the state is broken: open file ${state.fh} is of no node`
    const opened = this.#reopen(node, state)
    if (typeof opened === 'string') {
      const why = this.#lose(`an open file (${JSON.stringify(node.name)})`, opened)
      if (why !== '') return why
    }
    const handle =
      typeof opened === 'string'
        ? new HostHandle(node, -1, state.directory, 'disk', false, state.flags)
        : opened
    const fault = host.restoreHandle(handle, state.fh)
    if (fault === -Errno.ENFILE)
      return `the guest has more than ${host.options.openFiles} files open: raise --rlimit-nofile`
    return fault < 0 ? `the state is broken: open file ${state.fh} comes twice` : ''
  }

  #reopen(node: HostNode, { directory, flags }: HandleState): HostHandle | string {
    const host = this.#host
    const wanted = flags & REOPEN_FLAGS
    let fault = 0
    if (directory) fault = node.type === S_IFDIR ? 0 : -Errno.ENOTDIR
    else fault = openableFault(node)
    if (fault < 0) return errnoName(fault)
    if (!directory && host.options.readOnly && (wanted & O_ACCMODE) !== 0)
      return 'it is open for writing, and --readonly is given here'
    const fd = host.nodes.reopen(node, directory ? O_DIRECTORY : hostOpenFlags(host, wanted))
    if (fd < 0) return errnoName(fd)
    if (!directory) return fileHandle(host, node, fd, wanted)
    return new HostHandle(node, fd, true, host.mounts.kindOf(node.mount.id, fd), false, 0)
  }

  restored(): string {
    const { nodes, handles } = this.#host
    for (const node of nodes.table)
      if (node.lookups === 0 && node.holds === 0) nodes.forget(node, 0)
    nodes.table.settle(this.#generations[0])
    handles.settle(this.#generations[1])
    return ''
  }

  get losses(): string {
    if (this.#lost === 0) return ''
    const more =
      this.#lost > this.#told.length ? `, and ${this.#lost - this.#told.length} more` : ''
    return `not found here, so that the guest gets errors: ${this.#told.join(', ')}${more}`
  }
}

/** What became of a way to a node: nothing wrong, no way to it (why), or the state contradicts itself. */
interface Fault {
  readonly lost?: string
  readonly broken?: string
}
const FOUND: Fault = {}
const NO_WAY: Fault = { lost: 'the source did not know where it is' }

function made(state: NodeState, answer: number): Fault {
  if (answer >= 0) return FOUND
  return answer === -Errno.EEXIST ? { broken: twice(state.nodeid) } : { lost: errnoName(answer) }
}

function twice(nodeid: number): string {
  return `node ${nodeid} comes twice`
}
