/**
 * The DAX window of one guest: which bytes of which files are where, and when they must not be.
 *
 * Rules, each observed on QEMU 11.1:
 * - a mapping needs a descriptor that can write, whole pages, and a file that has them at that moment; the tail of
 *   a page past the end of the file is no harm later. So a file with an odd end is made longer for the moment.
 * - an empty file is never mapped as it is: QEMU would make it longer itself.
 * - mappings do not overlap, nor are they replaced: what is unmapped is exactly what was mapped.
 * - between unmapping and mapping anew the guest reads zeros. So a range that grows gets another piece behind the
 *   first; and one is cut only while the guest has locked the file (it changes its size).
 * - what the guest takes for the size of a file is always there: attributes pass `describe` first.
 */
import { Errno } from '../../protocol/errno.js'
import { S_IFMT, S_IFREG } from '../../protocol/linux/constants.js'
import { STATX_MTIME, STATX_SIZE, statx } from '../../protocol/linux/statx.js'
import { type Context, EMPTY_PATH, UTIME_OMIT } from '../native/context.js'
import type { DaxWindow, MappableFiles, MappingRights } from '../vfs/dax.js'
import { DEFERRED, type Outcome } from '../vfs/filesystem.js'
import type { Attributes } from '../vfs/replies.js'
import { newCounters, refuse } from './counters.js'
import type { DaxOptions } from './options.js'
import { type DaxLog, type Mapper, Pieces } from './pieces.js'
import { MappedFile, MappingTable, Range } from './table.js'

export const DAX_PAGE_BYTES = 4096
/** Pieces of a range that fit exactly; the next ones are mapped ahead of the file's growth. */
const EXACT_PIECES = 4
/** More of them while others make the file longer: what they append in the moment in which it is lengthened lies behind zeros. */
const EXACT_PIECES_FOR_OTHERS = 64
/** The least that is mapped ahead. */
const AHEAD_BYTES = 64 * 1024
/** Arena bytes that the window needs: a struct statx. */
export const WINDOW_BYTES = 256

/** Sees when others change files that are mapped. */
export interface Watcher {
  /** Begins to watch the file; an id, or -errno. */
  add(fd: number): number
  remove(id: number): void
}

const pageUp = (bytes: number): number => Math.ceil(bytes / DAX_PAGE_BYTES) * DAX_PAGE_BYTES

/** Why something is mapped: SETUPMAPPING; the guest makes the file longer; somebody else did, or cut it. */
type Reason = 'setup' | 'growth' | 'others'

export class Window implements DaxWindow {
  readonly counters = newCounters()
  readonly table = new MappingTable()
  watcher: Watcher | undefined
  /** undefined: guests of other daemons are trusted not to change the sizes of mapped files. */
  rights: MappingRights | undefined
  /** A request that may change the size of the node is under way in the pool. */
  busy: (nodeid: number) => boolean = () => false
  readonly #context: Context
  readonly #at: number
  readonly #files: MappableFiles
  readonly #options: DaxOptions
  readonly #log: DaxLog
  readonly #pieces: Pieces
  readonly #watched = new Map<number, MappedFile>()
  /** Nodes whose files could be opened for the window, or not. */
  readonly #openable = new Map<number, boolean>()
  #distrusted = false

  /** `arenaAt`: WINDOW_BYTES. */
  constructor(
    context: Context,
    arenaAt: number,
    files: MappableFiles,
    options: DaxOptions,
    log: DaxLog,
  ) {
    this.#context = context
    this.#at = arenaAt
    this.#files = files
    this.#options = options
    this.#log = log
    this.#pieces = new Pieces(this.counters, log)
  }

  /** Set and taken away by the session. */
  get mapper(): Mapper | undefined {
    return this.#pieces.mapper
  }
  set mapper(mapper: Mapper | undefined) {
    this.#pieces.mapper = mapper
  }

  get ready(): boolean {
    return this.#allowed && this.mapper?.open === true
  }

  /** Of all that is here the policy lets something be mapped. */
  get #allowed(): boolean {
    const { policy } = this.#options
    return policy !== 'never' && (policy !== 'sealed' || this.#files.owned)
  }

  /** Every file is made longer for the moment of mapping if need be. */
  get #padsAll(): boolean {
    return this.#files.owned || this.#options.policy === 'always'
  }

  // --- SETUPMAPPING and REMOVEMAPPING ---------------------------------------------------------------

  setup(nodeid: number, moffset: number, foffset: number, bytes: number): Outcome {
    this.counters.setups++
    if (!this.ready) return refuse(this.counters, 'policy', -Errno.EIO)
    const { windowBytes } = this.#options
    if (
      moffset % DAX_PAGE_BYTES !== 0 ||
      foffset % DAX_PAGE_BYTES !== 0 ||
      bytes % DAX_PAGE_BYTES !== 0 ||
      bytes === 0 ||
      !(moffset + bytes <= windowBytes) ||
      !(foffset + bytes <= Number.MAX_SAFE_INTEGER)
    )
      return refuse(this.counters, 'hostile', -Errno.EINVAL)
    const known = this.table.ranges.get(moffset)
    if (
      known !== undefined &&
      known.file.nodeid === nodeid &&
      known.fileOffset === foffset &&
      known.bytes === bytes
    ) {
      // The guest wants to write now: it has been writable from the start.
      this.counters.hits++
      const size = this.#sizeOf(known.file)
      this.#observe(known.file, size)
      if (this.#limit(nodeid) < size) return this.rights!.later()
      if (size <= foffset) return refuse(this.counters, 'size', -Errno.EIO)
      return this.#cover(known, size, 'setup')
    }
    for (const other of this.table.overlapping(moffset, bytes)) {
      this.counters.replaced++
      this.#unmap(other)
    }
    const right = this.table.files.has(nodeid) ? 0 : (this.rights?.take(nodeid) ?? 0)
    if (right === DEFERRED) return right
    if (right < 0) return refuse(this.counters, right === -Errno.ESTALE ? 'stale' : 'others', right)
    const file = this.#fileOf(nodeid)
    if (typeof file === 'number') {
      this.rights?.giveBack(nodeid)
      return file
    }
    const range = new Range(file, moffset, foffset, bytes)
    this.table.add(range)
    const size = this.#sizeOf(file)
    this.#observe(file, size)
    const outcome =
      this.#limit(nodeid) < size
        ? this.rights!.later()
        : size > foffset
          ? this.#cover(range, size, 'setup')
          : refuse(this.counters, 'size', -Errno.EIO)
    if (outcome < 0) this.#unmap(range)
    return outcome
  }

  remove(moffset: number, bytes: number): Outcome {
    this.counters.removes++
    for (const range of this.table.overlapping(moffset, bytes)) this.#unmap(range)
    return 0
  }

  #fileOf(nodeid: number): MappedFile | Outcome {
    const known = this.table.files.get(nodeid)
    if (known !== undefined) return known
    const fd = this.#files.open(nodeid)
    if (fd === -Errno.ESTALE) return refuse(this.counters, 'stale', fd)
    if (fd < 0) return refuse(this.counters, 'open', -Errno.EIO)
    const file = new MappedFile(nodeid, fd)
    file.size = this.#sizeOf(file)
    file.reach = file.size
    file.told = file.size
    this.table.files.set(nodeid, file)
    file.watch = this.watcher?.add(fd) ?? -1
    if (file.watch >= 0) this.#watched.set(file.watch, file)
    return file
  }

  #sizeOf(file: MappedFile): number {
    const SEEK_END = 2
    return Math.max(0, this.#context.lseek(file.fd, 0, SEEK_END))
  }

  /** Bytes of the file that may be mapped now. */
  #limit(nodeid: number): number {
    return this.rights?.limit(nodeid) ?? Number.POSITIVE_INFINITY
  }

  // --- mapping and unmapping ------------------------------------------------------------------------

  /** Has everything of `range` in the window that a file of `size` bytes has. */
  #cover(range: Range, size: number, why: Reason): Outcome {
    const { nodeid } = range.file
    const limit = this.#limit(nodeid)
    const end = Math.min(range.bytes, pageUp(Math.min(size, limit) - range.fileOffset))
    if (end <= range.covered) return 0
    let target = end
    // Not a piece for each page that is appended: front ends have some hundred of them.
    const exact = why === 'growth' ? EXACT_PIECES : EXACT_PIECES_FOR_OTHERS
    // Nor where the guest believes that there is more: it would be its VMM's end.
    if (why !== 'setup' && range.pieces.length >= exact && range.file.told <= size)
      target = Math.min(
        range.bytes,
        limit - range.fileOffset,
        Math.max(end, range.covered + AHEAD_BYTES, range.covered * 2),
      )
    const actual = why === 'setup' ? size : this.#sizeOf(range.file)
    const needs = range.fileOffset + target
    const pads = needs > actual
    // A file that was said to be DAX is so until the guest forgets it, even with an odd end that it got since.
    const mayPad = this.#padsAll || why !== 'setup' || this.#openable.get(nodeid) === true
    if (pads && !mayPad) return refuse(this.counters, 'size', -Errno.EIO)
    // What another thread of ours is adding would be cut.
    if (pads && this.busy(nodeid)) return refuse(this.counters, 'busy', -Errno.EIO)
    if (pads && this.rights?.lengthen(nodeid) === false) {
      refuse(this.counters, 'busy', 0)
      return this.rights.later()
    }
    const outcome = pads
      ? this.#padded(range.file, needs, why, () => this.#pieces.map(range, target))
      : this.#pieces.map(range, target)
    if (pads) this.rights?.lengthened(nodeid)
    if (outcome >= 0 && why !== 'setup') this.counters.grown++
    return outcome
  }

  /** Makes the file longer while `action` runs. */
  #padded(file: MappedFile, needs: number, why: Reason, action: () => Outcome): Outcome {
    const context = this.#context
    const size = this.#sizeOf(file)
    if (size >= needs) return action()
    this.counters.padded++
    // Who only reads leaves no trace but the time of change.
    const keeps =
      why === 'setup' &&
      context.statx(file.fd, EMPTY_PATH, 0, STATX_MTIME | STATX_SIZE, this.#at) >= 0
    const fault = context.ftruncate(file.fd, needs)
    if (fault < 0) return refuse(this.counters, 'size', -Errno.EIO)
    const outcome = action()
    if (this.#sizeOf(file) === needs) context.ftruncate(file.fd, size)
    else {
      this.counters.disturbed++
      this.#distrust(
        `the size of a file changed while it was lengthened from ${size} to ${needs} bytes to be mapped: what was appended lies behind zeros`,
      )
    }
    if (keeps) {
      const { view } = context
      const sec = statx.f.stx_mtime_sec.get(view, this.#at)
      context.utimens(file.fd, 0, UTIME_OMIT, sec, statx.f.stx_mtime_nsec.get(view, this.#at))
    }
    return outcome
  }

  #unmap(range: Range): void {
    this.#pieces.cut(range, 0)
    this.#forget(range)
  }

  #forget(range: Range): void {
    if (!this.table.remove(range)) return
    const { file } = range
    if (file.watch >= 0) {
      this.#watched.delete(file.watch)
      this.watcher?.remove(file.watch)
    }
    this.#context.close(file.fd)
    this.rights?.giveBack(file.nodeid)
  }

  // --- sizes ----------------------------------------------------------------------------------------

  beforeGrowth(nodeid: number, end: number): Outcome {
    const file = this.table.files.get(nodeid)
    if (file === undefined) return 0
    for (const range of file.ranges) {
      const outcome = this.#cover(range, end, 'growth')
      if (outcome < 0) return outcome
    }
    file.reach = Math.max(file.reach, end)
    file.told = Math.max(file.told, end)
    return 0
  }

  beforeResize(nodeid: number, bytes: number): Outcome {
    const file = this.table.files.get(nodeid)
    if (file === undefined) return 0
    let cut = false
    for (const range of file.ranges) {
      const keep = Math.max(0, pageUp(bytes - range.fileOffset))
      if (range.covered <= keep) continue
      cut = true
      this.#pieces.cut(range, keep)
    }
    if (cut) this.counters.shrunk++
    file.size = bytes
    file.reach = bytes
    file.told = bytes
    return this.beforeGrowth(nodeid, bytes)
  }

  afterResize(nodeid: number): Outcome {
    const file = this.table.files.get(nodeid)
    if (file === undefined) return 0
    file.size = this.#sizeOf(file)
    file.reach = file.size
    return this.beforeGrowth(nodeid, file.size)
  }

  describe(nodeid: number, attr: Attributes): void {
    attr.dax = false
    if ((attr.mode & S_IFMT) !== S_IFREG) return
    const file = this.table.files.get(nodeid)
    if (file !== undefined) this.#follow(file, attr)
    attr.dax = this.#eligible(nodeid, attr)
  }

  /** Somebody else may have changed the size: the window follows before the guest hears of it. */
  #follow(file: MappedFile, attr: Attributes): void {
    this.#observe(file, attr.sizeBytes)
    // It is about to be cut by a guest of another daemon.
    attr.sizeBytes = Math.min(attr.sizeBytes, this.#limit(file.nodeid))
    const why = attr.sizeBytes > file.reach ? 'others' : 'growth'
    for (const range of file.ranges) {
      if (this.#cover(range, attr.sizeBytes, why) >= 0) continue
      // What cannot be shown is not announced.
      attr.sizeBytes = Math.min(attr.sizeBytes, range.fileOffset + range.covered)
    }
    file.told = attr.sizeBytes
  }

  /** The file has `size` bytes: unmaps what it has lost. What is mapped for the guest's own growth, which may be under way, stays. */
  #observe(file: MappedFile, size: number): void {
    const shorter = size < file.size
    // Other guests may do so where they say so.
    const ordered = this.rights !== undefined || this.#files.owned
    if (!ordered && size > Math.max(file.size, file.reach) && !this.busy(file.nodeid))
      this.#distrust(`a mapped file was made longer, to ${size} bytes, by somebody else`)
    file.size = size
    if (!shorter) return
    if (ordered) {
      file.reach = Math.min(file.reach, size)
      // Unmapped before, as it must be.
      if (!this.#exceeds(file, size)) return
    }
    this.counters.shrunkByOthers++
    for (const range of file.ranges) {
      this.#pieces.cut(range, Math.max(0, pageUp(size - range.fileOffset)))
      this.#cover(range, size, 'others')
    }
    this.#distrust(`a mapped file was cut to ${size} bytes by somebody else: unmapped`)
  }

  /** Something is mapped past the last page of a file of `size` bytes. */
  #exceeds(file: MappedFile, size: number): boolean {
    for (const range of file.ranges)
      if (range.covered > Math.max(0, pageUp(size - range.fileOffset))) return true
    return false
  }

  revoke(nodeid: number, keep: number): boolean {
    const file = this.table.files.get(nodeid)
    if (file === undefined) return true
    let gone = true
    const size = Math.min(this.#sizeOf(file), keep)
    if (this.#exceeds(file, keep)) this.counters.revoked++
    for (const range of file.ranges) {
      if (range.covered <= Math.max(0, keep - range.fileOffset)) continue
      if (!this.#pieces.cut(range, Math.max(0, keep - range.fileOffset))) gone = false
      this.#cover(range, size, 'others')
    }
    return gone
  }

  restore(nodeid: number): void {
    const file = this.table.files.get(nodeid)
    if (file === undefined) return
    this.#observe(file, this.#sizeOf(file))
    this.#show(file)
  }

  /** Has in the window what is there of what the guest believes to be. */
  #show(file: MappedFile): void {
    const bytes = Math.min(file.size, file.told)
    for (const range of file.ranges) this.#cover(range, bytes, 'others')
  }

  /** Somebody does what the policy trusts that nobody does: said aloud once. */
  #distrust(what: string): void {
    this.#log('debug', what)
    if (this.#distrusted) return
    this.#distrusted = true
    this.#log(
      'warn',
      `${what}. --dax=${this.#options.policy} is for shares where only this guest changes the size of files: else its VMM may be killed by SIGBUS, or a file damaged`,
    )
  }

  /** The watcher saw the file of this watch change (-1: it has lost count): what is gone from it is unmapped at once. */
  changed(watch: number): void {
    const one = this.#watched.get(watch)
    const files = watch < 0 ? [...this.#watched.values()] : one === undefined ? [] : [one]
    for (const file of files) {
      this.#observe(file, this.#sizeOf(file))
      // Cut by one guest and made longer again, and the guest here has not heard of either.
      if (this.rights !== undefined) this.#show(file)
    }
  }

  #eligible(nodeid: number, attr: Attributes): boolean {
    const { sizeBytes } = attr
    if (!this.#allowed || sizeBytes < this.#options.minFileBytes) return false
    if (!this.#padsAll && sizeBytes % DAX_PAGE_BYTES !== 0) return false
    const known = this.#openable.get(nodeid)
    if (known !== undefined) return known
    // The guest decides now, for as long as it knows the file: it must not fail later.
    const fd = this.#files.open(nodeid)
    if (fd >= 0) this.#context.close(fd)
    this.#openable.set(nodeid, fd >= 0)
    return fd >= 0
  }

  // --- ends -----------------------------------------------------------------------------------------

  forgotten(nodeid: number): void {
    const file = this.table.files.get(nodeid)
    if (file === undefined && !this.#openable.has(nodeid)) return
    if (this.#files.known(nodeid)) return
    this.#openable.delete(nodeid)
    if (file !== undefined) for (const range of file.ranges) this.#unmap(range)
  }

  clear(): void {
    for (const range of this.table.ranges.values()) this.#unmap(range)
    this.#openable.clear()
    this.rights?.clear()
  }

  drop(): void {
    for (const range of this.table.ranges.values()) {
      this.#pieces.drop(range)
      this.#forget(range)
    }
    this.#openable.clear()
    this.rights?.clear()
  }

  /** For the log. */
  summary(): string {
    const { refused, ...counts } = this.counters
    const list = Object.entries({ ...counts, ...refused })
    return list.map(([name, count]) => `${name} ${count}`).join(', ')
  }
}
