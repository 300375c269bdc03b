/**
 * Small reads of files that are read again and again: copied from a mapping of the file instead of read by a
 * system call (which costs about four times as much for 4 KiB).
 *
 * What lies within the size that is kept (metadata-cache.ts) is read so; where the file ends a system call tells.
 * Only pages that the page cache had when they were read last, by RWF_NOWAIT, are copied: others would make the
 * whole device wait for the disk. As pages may leave the page cache, that knowledge is thrown away now and then. A
 * file that is cut short during the copy is read by the system call after all.
 *
 * A mapping keeps its file busy: it goes with the last open handle of the guest.
 */
import { statx } from '../../../protocol/linux/statx.js'
import { RWF_NOWAIT, S_IFREG } from '../../../protocol/linux/constants.js'
import type { Context } from '../../native/context.js'
import type { Payload } from '../../vfs/request.js'
import type { HostHandle } from './handles.js'
import type { KeptInode } from './kept-inode.js'
import type { MetadataCache } from './metadata-cache.js'
import type { HostNode } from './node.js'

/** Longer reads gain little: copying is then most of the work. */
export const MOST_MAPPED_BYTES = 16384
/** Small reads of a file before it is mapped. */
const READS_TO_MAP = 32
/** Before its attributes are asked for again, when they could not be kept. */
const READS_AFTER_CHANGE = 16
/** And after it turned out that it cannot be, or not now. */
const READS_TO_TRY_AGAIN = 4096
const MOST_MAPPINGS = 512
const MOST_FILE_BYTES = 2 ** 30
/** What is known of the page cache is thrown away after this time. */
const PAGES_KNOWN_MS = 5000
const PAGE_BYTES = 4096

/** `read`: the file must be read by a system call. No -errno. */
export const NOT_MAPPED = 1

const F = statx.f

export class KeptMapping {
  readonly id: number
  readonly bytes: number
  /** A byte for each page: 1 when it was in the page cache lately. */
  readonly pages: Uint8Array
  /** As `now` of the metadata cache. */
  clearedAt: number

  constructor(id: number, bytes: number, now: number) {
    this.id = id
    this.bytes = bytes
    this.pages = new Uint8Array(Math.ceil(bytes / PAGE_BYTES))
    this.clearedAt = now
  }

  /** As far as it reaches, these bytes were in the page cache lately. */
  wereRead(offset: number, bytes: number): boolean {
    const last = Math.min(pageOf(offset + bytes - 1), this.pages.length - 1)
    for (let page = pageOf(offset); page <= last; page++) if (this.pages[page] === 0) return false
    return true
  }
}

export class KeptMappings {
  /** For tests. */
  readonly counters = { reads: 0, torn: 0 }
  readonly #context: Context
  readonly #metadata: MetadataCache
  #count = 0

  constructor(context: Context, metadata: MetadataCache) {
    this.#context = context
    this.#metadata = metadata
  }

  /** Files that are mapped. */
  get size(): number {
    return this.#count
  }

  /** Fills `into` from a mapping: bytes, as of a read(2), or NOT_MAPPED. */
  read(handle: HostHandle, offset: number, into: Payload): number {
    const { node, fd } = handle
    if (into.bytes > MOST_MAPPED_BYTES || into.bytes === 0) return NOT_MAPPED
    const { kept } = node
    if (kept === undefined) {
      this.#metadata.asked(node)
      return NOT_MAPPED
    }
    if (++kept.smallReads < READS_TO_MAP || node.type !== S_IFREG) return NOT_MAPPED
    // Before anything is asked of the host for it.
    if (kept.mapping !== undefined && !kept.mapping.wereRead(offset, into.bytes)) return NOT_MAPPED
    const at = this.#metadata.findOrAsk(node, fd)
    if (at < 0) {
      // Mostly this read is about to change the access time, and the next will not.
      kept.smallReads = READS_TO_MAP - READS_AFTER_CHANGE
      return NOT_MAPPED
    }
    const size = F.stx_size.get(this.#metadata.view, at)
    if (offset >= size) return NOT_MAPPED
    const bytes = Math.min(into.bytes, size - offset)
    const mapping = this.#mapped(kept, fd, at, size, offset + bytes)
    if (mapping === undefined || !this.#inMemory(mapping, offset, bytes)) return NOT_MAPPED
    const { first, count, skip } = into
    const done = this.#context.readMapped(mapping.id, first, count, skip, bytes, offset)
    if (done === bytes) {
      this.counters.reads++
      return done === into.bytes ? done : this.#readOn(handle, offset, into, done)
    }
    // EFAULT is the guest's fault, which the system call will find too.
    this.counters.torn++
    this.drop(kept)
    return NOT_MAPPED
  }

  /** What comes after the first `done` bytes: nothing, mostly, but not all that makes a file longer raises an event. */
  #readOn({ fd, kind }: HostHandle, offset: number, into: Payload, done: number): number {
    const { first, count, skip, bytes } = into
    const flags = kind === 'memory' ? 0 : RWF_NOWAIT
    const rest = bytes - done
    const more = this.#context.readv(fd, first, count, skip + done, rest, offset + done, flags)
    // Short is not yet the end: the next page may have to be waited for.
    return more < 0 || (more > 0 && more < rest) ? NOT_MAPPED : done + more
  }

  /** A system call that does not wait has read these bytes. */
  wasRead({ kept }: HostNode, offset: number, bytes: number): void {
    const mapping = kept?.mapping
    if (mapping === undefined || bytes > MOST_MAPPED_BYTES || bytes <= 0) return
    const last = Math.min(pageOf(offset + bytes - 1), mapping.pages.length - 1)
    for (let page = pageOf(offset); page <= last; page++) mapping.pages[page] = 1
  }

  drop(kept: KeptInode): void {
    const { mapping } = kept
    if (mapping === undefined) return
    kept.mapping = undefined
    this.#context.raw.unmapFile(mapping.id)
    this.#count--
  }

  /** The file's mapping, made anew where it is too short. */
  #mapped(
    kept: KeptInode,
    fd: number,
    at: number,
    size: number,
    end: number,
  ): KeptMapping | undefined {
    const { mapping } = kept
    if (mapping !== undefined && end <= mapping.bytes) return mapping
    this.drop(kept)
    kept.smallReads = READS_TO_MAP - READS_TO_TRY_AGAIN
    if (size > MOST_FILE_BYTES || this.#count >= MOST_MAPPINGS) return undefined
    // Reading a hole through a mapping would fill it in a file system in memory.
    const holes = F.stx_blocks.get(this.#metadata.view, at) * 512 < size
    if (holes && kept.node.mount.inMemory) return undefined
    const id = this.#context.raw.mapFile(fd, size)
    if (id < 0) return undefined
    this.#count++
    kept.smallReads = READS_TO_MAP
    kept.mapping = new KeptMapping(id, size, this.#metadata.now)
    return kept.mapping
  }

  #inMemory(mapping: KeptMapping, offset: number, bytes: number): boolean {
    if (this.#metadata.now - mapping.clearedAt > PAGES_KNOWN_MS) {
      mapping.pages.fill(0)
      mapping.clearedAt = this.#metadata.now
      return false
    }
    return mapping.wereRead(offset, bytes)
  }
}

/** The file may be larger than what is mapped of it: no shift of 32 bits. */
function pageOf(offset: number): number {
  return Math.floor(offset / PAGE_BYTES)
}
