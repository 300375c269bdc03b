/**
 * Attributes and names of inodes the guest asks for again and again, kept so that the host need not be asked.
 *
 * What is kept is never out of date. An inode that was asked for WARM_ASKS times gets a fanotify mark; from then
 * on its struct statx is kept until an event says that it changed, and events are looked for before an answer is
 * taken from here: once for each batch of requests (`renew`), and again after every operation of the guest that
 * changes something. That look is the only system call a kept answer costs; where nothing is kept that could answer,
 * there is none: an event from before the host was asked makes what it said unknown for no reason, but not wrong.
 *
 * Names are kept for directories with a mark; any change of names in one, and any change of mounts, makes all of
 * them unknown. An inode that changes more often than it is asked for loses its mark, and must be asked for more
 * often before it has another.
 *
 * What no event tells of (see host-changes.ts) is late by UNSEEN_MS at most. The guest's own reads change access
 * times by the rules of `relatime`: attributes of a file that is open are kept only when no read changes its
 * access time.
 */
import { type ChangeSink, FAN } from '../../../protocol/linux/fanotify.js'
import { S_IFDIR, S_IFLNK, S_IFREG } from '../../../protocol/linux/constants.js'
import { statx } from '../../../protocol/linux/statx.js'
import { type Context, EMPTY_PATH } from '../../native/context.js'
import { readsKeepAtime } from './access-times.js'
import { FILES_CHANGED, type HostChanges, MOUNTS_CHANGED, NAME_EVENTS } from './host-changes.js'
import type { Mounts } from './mounts.js'
import { InodeMarks } from './inode-marks.js'
import { KeptInode } from './kept-inode.js'
import type { HostNode } from './node.js'
import type { HostNodes } from './nodes.js'
import { KeptMappings } from './kept-mappings.js'
import { KeptNames } from './kept-names.js'
import { OTHER_AT } from './scratch.js'
import { STATX_WANTED } from './stat.js'

/** Asked for so often, an inode is worth a mark, which costs about as much as so many answers of the host. */
const WARM_ASKS = 12
/** Asks that an inode takes again, when it lost its mark because it changed. */
const WARM_AGAIN_ASKS = 64
/** `KeptInode.worth`: the most there can be, and what a change takes. */
const MOST_WORTH = 64
const CHANGE_COSTS = 8
/** How many are looked at, and what each loses, when room for another is wanted. */
const EVICTION_LOOKS = 8
const EVICTION_COSTS = 8

const STATX_BYTES = 256

/**
 * Attributes are asked for again after this time: stores through a mapping, writes by io_submit(2) and chattr(1) raise no
 * event.
 */
const UNSEEN_MS = 1000

const F = statx.f
const DATA_TIMES = [F.stx_mtime_sec, F.stx_mtime_nsec, F.stx_ctime_sec, F.stx_ctime_nsec] as const

export class MetadataCache implements ChangeSink {
  /** Kept struct statx; see `find`. */
  readonly view: DataView
  readonly mappings: KeptMappings
  /** For tests and the log. */
  readonly counters = { hits: 0, nameHits: 0, looks: 0, events: 0, marks: 0 }
  /** Stores that no event tells of are possible, and must show: regular files are not kept. */
  filesUnseen = false

  readonly #context: Context
  readonly #nodes: HostNodes
  readonly #at: number
  readonly #changes: HostChanges | undefined
  readonly #marks: InodeMarks | undefined
  readonly #words: Uint32Array
  readonly #arenaWords: Uint32Array
  readonly #inodes: KeptInode[] = []
  readonly #byKey = new Map<string, KeptInode>()
  readonly #free: number[] = []
  readonly #names: KeptNames
  readonly #most: number
  #hand = 0
  #fresh = false
  /** A fraction from the start, as all that follow: else the object gets another shape, and code is compiled again. */
  #now = 0.5
  #nameVersion = 0

  /** `changes` undefined: nothing is kept. `most` inodes at most. */
  constructor(
    context: Context,
    scratchAt: number,
    nodes: HostNodes,
    mounts: Mounts,
    changes: HostChanges | undefined,
    most: number,
  ) {
    this.#context = context
    this.mappings = new KeptMappings(context, this)
    this.#at = scratchAt + OTHER_AT
    this.#nodes = nodes
    this.#changes = most > 0 ? changes : undefined
    this.#most = this.#changes === undefined ? 0 : most
    const { buffer, byteOffset, byteLength } = context.bytes
    const arena = Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength)
    this.#arenaWords = new Uint32Array(buffer, byteOffset, byteLength >>> 2)
    const kept = new ArrayBuffer(this.#most * STATX_BYTES)
    this.view = new DataView(kept)
    this.#words = new Uint32Array(kept)
    if (this.#changes !== undefined)
      this.#marks = new InodeMarks(context, this.#at, arena, nodes, mounts, this.#changes)
    this.#names = new KeptNames(arena, this.#most)
    for (let slot = this.#most - 1; slot >= 0; slot--) this.#free.push(slot * STATX_BYTES)
  }

  /** Small reads may be answered from `mappings`. */
  get keepsMappings(): boolean {
    return this.#changes !== undefined
  }

  /** Inodes with a mark. */
  get size(): number {
    return this.#inodes.length
  }

  /** Time of the last look for changes, in milliseconds. */
  get now(): number {
    return this.#now
  }

  /** From here on others may have changed something. */
  renew(): void {
    this.#fresh = false
  }

  /** Where in `view` the node's struct statx is kept, or -1. */
  find(node: HostNode): number {
    const { kept } = node
    if (kept === undefined || !kept.valid) return -1
    if (!this.#fresh && this.#look() && (node.kept !== kept || !kept.valid)) return -1
    if (this.#now - kept.askedAt > UNSEEN_MS) return -1
    if (kept.worth < MOST_WORTH) kept.worth++
    this.counters.hits++
    return kept.at
  }

  /** As `find`, for a node that has a mark; the host is asked, by the open file `fd`, for what is not kept. */
  findOrAsk(node: HostNode, fd: number): number {
    const at = this.find(node)
    if (at >= 0 || node.kept === undefined) return at
    // What is asked of mappings goes by the time.
    if (!this.#fresh) this.#look()
    const statAt = this.#at
    if (this.#context.statx(fd, EMPTY_PATH, 0, STATX_WANTED, statAt) < 0) return -1
    this.learn(node, statAt)
    return node.kept?.valid === true ? node.kept.at : -1
  }

  /**
   * The node behind a name of directory `dir`, null when there is none by that name, undefined when that or the
   * node's struct statx is not kept.
   */
  findName(dir: HostNode, nameAt: number, nameBytes: number): HostNode | null | undefined {
    const { kept } = dir
    if (kept === undefined) return undefined
    // Without anything to answer there is no need to look.
    let found = this.#names.find(kept, nameAt, nameBytes)
    if (found === undefined || (found !== null && found.kept?.valid !== true)) return undefined
    if (!this.#fresh && this.#look()) {
      found = dir.kept === kept ? this.#names.find(kept, nameAt, nameBytes) : undefined
      if (found === undefined) return undefined
    }
    if (kept.worth < MOST_WORTH) kept.worth++
    this.counters.nameHits++
    return found
  }

  /**
   * The host was asked for a name of `dir`: `node`, or null when there is none by that name. `learns`: the directory
   * had a mark before the host was asked.
   */
  learnName(
    dir: HostNode,
    nameAt: number,
    nameBytes: number,
    node: HostNode | null,
    learns: boolean,
  ): void {
    if (!learns) {
      // Names that are looked up once, one after the other, are not worth anything.
      if (node === null || node.asks !== 1) this.asked(dir)
    } else if (dir.kept !== undefined) this.#names.remember(dir.kept, nameAt, nameBytes, node)
  }

  /** The host was asked for the node's struct statx, which lies in the arena at `statAt`. */
  learn(node: HostNode, statAt: number): void {
    const { kept } = node
    if (kept === undefined) {
      this.asked(node)
      return
    }
    if (this.filesUnseen && node.type === S_IFREG) return
    if (node.openFds !== undefined && !readsKeepAtime(node.mount, this.#context.view, statAt))
      return
    const from = statAt >>> 2
    const to = kept.at >>> 2
    for (let i = 0; i < STATX_BYTES / 4; i++) this.#words[to + i] = this.#arenaWords[from + i]!
    kept.valid = true
    kept.askedAt = this.#now
  }

  /**
   * The guest opens the file: whether its data is still what it was when the guest opened it last, so that the
   * guest's pages of it are right.
   */
  dataUnchanged(node: HostNode, fd: number): boolean {
    if (node.kept === undefined) {
      this.asked(node)
      return false
    }
    // Nothing ever tells of a store through a mapping there, not even the time of the last change.
    if (node.mount.inMemory) return false
    let at = this.find(node)
    const { kept } = node
    if (kept === undefined) return false
    // They are only late, or the host has not been asked for the attributes: no reason to do it for this.
    if (at < 0 && kept.valid) at = this.findOrAsk(node, fd)
    if (at < 0) {
      kept.dataKnown = false
      return false
    }
    const { view } = this
    const { dataKnown } = kept
    kept.dataTimes ??= new Float64Array(DATA_TIMES.length)
    const { dataTimes } = kept
    let same = true
    for (let i = 0; i < DATA_TIMES.length; i++) {
      const now = DATA_TIMES[i]!.get(view, at)
      if (dataTimes[i] !== now) same = false
      dataTimes[i] = now
    }
    kept.dataKnown = true
    return same && dataKnown
  }

  /** The guest closed its last handle of the node. */
  closed({ kept }: HostNode): void {
    if (kept !== undefined) this.mappings.drop(kept)
  }

  /** The node's data is about to be read: its file was opened, or its link is read. */
  willRead({ kept, mount }: HostNode): void {
    if (kept?.valid === true && !readsKeepAtime(mount, this.view, kept.at)) kept.valid = false
  }

  /** The node is about to change in a way that no event may tell of. */
  willChange({ kept }: HostNode): void {
    if (kept !== undefined) kept.valid = false
    this.#fresh = false
  }

  /** The guest gave its last lookup back: nothing but this knows the node any more. */
  forgotten(node: HostNode): void {
    if (node.kept === undefined || node.lookups > 0) return
    if (node.nameless) this.#drop(node.kept, 0)
    else this.#nodes.descriptors.close(node)
  }

  /** Forgets everything. */
  clear(): void {
    for (const kept of this.#inodes) this.#release(kept)
    this.#inodes.length = 0
    this.#byKey.clear()
    this.#names.clear()
    this.#changes?.clear()
    this.#fresh = false
  }

  // --- what changed -------------------------------------------------------------------------------

  /** Takes what is pending. False: nothing has changed. */
  #look(): boolean {
    this.#fresh = true
    this.counters.looks++
    const pending = this.#changes!.pending()
    this.#now = this.#changes!.askedMs
    if (pending === 0) return false
    // Another inode may lie behind any name.
    if ((pending & MOUNTS_CHANGED) !== 0) this.#names.clear()
    if ((pending & FILES_CHANGED) !== 0) this.#changes!.read(this)
    if (pending < 0) this.#doubtEverything()
    return true
  }

  changed(key: string | undefined, mask: number, pid: number): void {
    this.counters.events++
    if (key === undefined) {
      this.#doubtEverything()
      return
    }
    for (let kept = this.#byKey.get(key); kept !== undefined; ) {
      const { next } = kept
      kept.valid = false
      if ((mask & FAN.MODIFY) !== 0 && pid !== process.pid) kept.dataKnown = false
      if ((mask & NAME_EVENTS) !== 0) kept.names = ++this.#nameVersion
      kept.worth -= CHANGE_COSTS
      if (kept.worth < 0 || kept.node.lookups === 0 || (mask & FAN.DELETE_SELF) !== 0)
        this.#drop(kept, WARM_AGAIN_ASKS)
      kept = next
    }
  }

  #doubtEverything(): void {
    this.#names.clear()
    for (const kept of this.#inodes) {
      kept.valid = false
      kept.dataKnown = false
    }
  }

  // --- which inodes are kept ----------------------------------------------------------------------

  /** The host was asked for something that could be kept. */
  asked(node: HostNode): void {
    if (this.#changes !== undefined && ++node.asks >= WARM_ASKS) this.#keep(node)
  }

  #worthKeeping(node: HostNode): boolean {
    const { type } = node
    return type === S_IFDIR || type === S_IFLNK || (type === S_IFREG && !this.filesUnseen)
  }

  #keep(node: HostNode): void {
    node.asks = WARM_ASKS - WARM_AGAIN_ASKS
    if (!this.#worthKeeping(node) || (this.#free.length === 0 && !this.#makeRoom())) return
    const key = this.#marks!.add(node)
    if (key === undefined) return
    this.counters.marks++
    const kept = new KeptInode(node, key, this.#free.pop()!)
    kept.names = ++this.#nameVersion
    kept.next = this.#byKey.get(key)
    this.#byKey.set(key, kept)
    kept.index = this.#inodes.length
    this.#inodes.push(kept)
    node.kept = kept
    this.#nodes.hold(node)
  }

  /** Drops one that was not asked for lately. */
  #makeRoom(): boolean {
    for (let looks = 0; looks < EVICTION_LOOKS; looks++) {
      if (this.#hand >= this.#inodes.length) this.#hand = 0
      const kept = this.#inodes[this.#hand++]!
      kept.worth -= EVICTION_COSTS
      if (kept.worth >= 0) continue
      this.#drop(kept, 0)
      return true
    }
    return false
  }

  #drop(kept: KeptInode, asks: number): void {
    const { node, index } = kept
    const last = this.#inodes.pop()!
    if (last !== kept) {
      this.#inodes[index] = last
      last.index = index
    }
    if (!this.#unlinkKey(kept)) this.#marks!.remove(node)
    node.asks = 0 - asks
    this.#free.push(kept.at)
    this.#release(kept)
  }

  #release(kept: KeptInode): void {
    kept.valid = false
    kept.names = ++this.#nameVersion
    this.mappings.drop(kept)
    kept.node.kept = undefined
    this.#nodes.unhold(kept.node)
  }

  /** True when another node has the same inode. */
  #unlinkKey(kept: KeptInode): boolean {
    const first = this.#byKey.get(kept.key)!
    if (first !== kept) {
      let before = first
      while (before.next !== kept) before = before.next!
      before.next = kept.next
      return true
    }
    if (kept.next !== undefined) this.#byKey.set(kept.key, kept.next)
    else this.#byKey.delete(kept.key)
    return kept.next !== undefined
  }
}
