/** What metadata-cache.ts keeps of an inode. */
import type { KeptMapping } from './kept-mappings.js'
import type { HostNode } from './node.js'

const FIRST_WORTH = 16

/** An inode with a mark. */
export class KeptInode {
  readonly node: HostNode
  readonly key: string
  /** Offset of its struct statx in `MetadataCache.view`. */
  readonly at: number
  /** The struct statx is there, and right as far as events were read. */
  valid = false
  /** When it was asked for, as `now` of the cache. */
  askedAt = 0
  /** Only the guest has changed the file's data by system calls since it opened the file last, which had these times then. */
  dataKnown = false
  dataTimes: Float64Array | undefined = undefined
  /** Of a file that is read in small pieces; see kept-mappings.ts. */
  mapping: KeptMapping | undefined = undefined
  smallReads = 0
  /** Which names of the directory are right: those remembered under this number. */
  names = 0
  /** One more with each answer that it gives, less with each change; below 0 it loses its mark. */
  worth = FIRST_WORTH
  /** Place in the list of all. */
  index = 0
  /** Another node of the same inode, seen through another mount. */
  next: KeptInode | undefined = undefined

  constructor(node: HostNode, key: string, at: number) {
    this.node = node
    this.key = key
    this.at = at
  }
}
