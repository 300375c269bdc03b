/** Marks on inodes, by which the kernel tells of their changes. */
import { MAX_KEY_BYTES } from '../../../protocol/linux/fanotify.js'
import { S_IFDIR } from '../../../protocol/linux/constants.js'
import { type Context, EMPTY_PATH } from '../../native/context.js'
import type { HostChanges } from './host-changes.js'
import type { Mounts } from './mounts.js'
import type { HostMount, HostNode } from './node.js'
import type { HostNodes } from './nodes.js'

/** statfs(2): eight-byte words. */
const STATFS_FSID = 7 * 8
const STATFS_FLAGS = 10 * 8
const ST_NOATIME = 1024
const ST_RELATIME = 4096

export class InodeMarks {
  readonly #context: Context
  readonly #at: number
  readonly #arena: Buffer
  readonly #nodes: HostNodes
  readonly #mounts: Mounts
  readonly #changes: HostChanges

  /** `scratchAt`: as OTHER_AT of scratch.ts. `arena`: the context's. */
  constructor(
    context: Context,
    scratchAt: number,
    arena: Buffer,
    nodes: HostNodes,
    mounts: Mounts,
    changes: HostChanges,
  ) {
    this.#context = context
    this.#at = scratchAt
    this.#arena = arena
    this.#nodes = nodes
    this.#mounts = mounts
    this.#changes = changes
  }

  /** From here on events of the node's inode are told, under the key returned; undefined: they cannot be. */
  add(node: HostNode): string | undefined {
    return this.#withFd(node, fd => this.#mark(node, fd))
  }

  /** No more. The mark may stay where the inode is out of reach: it goes with the inode. */
  remove(node: HostNode): void {
    this.#withFd(node, fd => {
      if (fd >= 0) this.#changes.remove(fd, node.type === S_IFDIR)
    })
  }

  #mark(node: HostNode, fd: number): string | undefined {
    if (fd < 0 || !this.#learnMount(node.mount, fd)) return undefined
    const key = this.#keyOf(node.mount, fd)
    const directory = node.type === S_IFDIR
    return key !== undefined && this.#changes.add(fd, directory) >= 0 ? key : undefined
  }

  /** As protocol/linux/fanotify.ts has it; undefined where there are no file handles. */
  #keyOf(mount: HostMount, fd: number): string | undefined {
    const at = this.#at
    if (this.#context.nameToHandle(fd, EMPTY_PATH, at) < 0) return undefined
    const handleEnd = at + 8 + this.#context.view.getUint32(at, true)
    const key = mount.fsid + this.#arena.toString('latin1', at, handleEnd)
    return key.length <= MAX_KEY_BYTES ? key : undefined
  }

  /** Asks once for what matters of the mount. False: its changes are not all made on this host, or not told. */
  #learnMount(mount: HostMount, fd: number): boolean {
    if (mount.fsid !== '') return true
    const kind = this.#mounts.kindOf(mount.id, fd)
    if (!this.#mounts.isLocal(mount.id)) return false
    mount.inMemory = kind === 'memory'
    const at = this.#at
    if (this.#context.statfs(fd, at) < 0) return false
    const flags = this.#context.view.getUint32(at + STATFS_FLAGS, true)
    mount.fsid = this.#arena.toString('latin1', at + STATFS_FSID, at + STATFS_FSID + 8)
    mount.noAtime = (flags & ST_NOATIME) !== 0
    mount.relAtime = (flags & ST_RELATIME) !== 0
    return true
  }

  /** A descriptor for `use` alone: a table of descriptors that grows costs more than all the rest. */
  #withFd<T>(node: HostNode, use: (fd: number) => T): T {
    const hadFd = node.fdAtHand >= 0
    const result = use(this.#nodes.pathFdOf(node))
    if (!hadFd && !node.nameless) this.#nodes.descriptors.close(node)
    return result
  }
}
