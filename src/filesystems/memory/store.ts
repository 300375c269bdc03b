/**
 * What an in-memory file system holds: its nodes and the counts that bound them. Several guests may have it at
 * the same time, each by a MemoryFileSystem of its own on the same thread.
 */
import { S_IFDIR } from '../../../protocol/linux/constants.js'
import { MemoryNode } from './nodes.js'
import type { MemoryView } from './view.js'

export interface MemoryOptions {
  /** Most bytes of file data, the sum of all sizes; past it ENOSPC. */
  readonly maxBytes: number
  /** Most nodes; past it ENOSPC. */
  readonly maxNodes: number
}

export const DEFAULT_MEMORY_OPTIONS: MemoryOptions = { maxBytes: 1 << 30, maxNodes: 1 << 20 }

export class MemoryStore {
  readonly options: MemoryOptions
  readonly root: MemoryNode
  /** Those that show it, one for each guest. */
  readonly views = new Set<MemoryView>()
  nodeTotal = 0
  bytes = 0
  #nextIno = 1

  constructor(options: MemoryOptions = DEFAULT_MEMORY_OPTIONS) {
    this.options = options
    this.root = this.newNode(S_IFDIR | 0o755)
    this.root.nlink = 2
    this.root.parent = this.root
  }

  newNode(mode: number): MemoryNode {
    const node = new MemoryNode(this.#nextIno++, mode)
    const now = Date.now()
    node.atimeMs = now
    node.mtimeMs = now
    node.ctimeMs = now
    node.btimeMs = now
    this.nodeTotal++
    return node
  }
}
