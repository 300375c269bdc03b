/** How long a guest may cache what a reply tells: as long as it has leases for, and the files it has open. */
import { tickOf } from '../../protocol/version-table/layout.js'
import { ChangeTime, type Identities, InodeKey, NO_INODE } from '../vfs/identities.js'
import type { Attributes, EntryReply } from '../vfs/replies.js'
import type { Change } from './change.js'
import { FileMemories } from './file-memory.js'
import { AGE_UNKNOWN, type Leases } from './leases.js'
import type { MappingLeases } from './mapping-leases.js'

/** Change times of Linux before 6.13 go in steps of a timer tick, 10 ms at most. */
const CLOCK_STEP_MS = 20
/**
 * Linux sets the time of a write before it writes, and one call may have much to write, or wait for a disk: what a guest
 * read of a file so soon after its time it may not keep for longer than it has the file open.
 */
export const LONGEST_WRITE_MS = 3000
/** How old what is known of the difference between the clocks may be. */
const CLOCKS_MS = 100
/** Eleven days: long ago. */
const MOST_AGE_MS = 1e9

export class LeasedReplies {
  readonly files: FileMemories
  /** What the clock of leases showed when it was read last: for each reply, and each entry of a READDIRPLUS. */
  nowMs = 0.5
  /** The clock of change times is ahead of that by so much; and when that was found. */
  #aheadMs = 0.5
  #aheadAtMs = Number.NEGATIVE_INFINITY
  readonly #leases: Leases
  readonly #identities: Identities
  readonly #mappings: MappingLeases
  readonly #key = new InodeKey()
  readonly #time = new ChangeTime()

  constructor(leases: Leases, identities: Identities, mappings: MappingLeases) {
    this.#leases = leases
    this.#identities = identities
    this.#mappings = mappings
    this.files = new FileMemories(leases.marginMs)
  }

  /**
   * Time limits for attributes of `nodeid`, seen after `looked` and before `readClock`; `own`: as the answer to that
   * change.
   */
  attributes(nodeid: number, attr: Attributes, looked: number, own: Change | undefined): void {
    const reported = this.#report(nodeid, attr, looked, own)
    limit(
      attr,
      reported ? this.#grant(looked, own !== undefined, attr.ctimeSec, attr.ctimeNsec) : 0,
    )
  }

  /** A lease on the inode of the key, which changed last at that time. */
  #grant(looked: number, own: boolean, ctimeSec: number, ctimeNsec: number): number {
    const ageMs = this.#ageMs(ctimeSec, ctimeNsec)
    return this.#leases.grant(this.#key, looked, own, ageMs, tickOf(this.nowMs))
  }

  /** Sees to it that the guest drops what it has of an open file. True: `attr` may be cached; the key is filled. */
  #report(nodeid: number, attr: Attributes, looked: number, own: Change | undefined): boolean {
    const key = this.#key
    const { files } = this
    if (this.#identities.ofNode(nodeid, key) === NO_INODE) return false
    if (!files.has(nodeid)) return true
    const known = this.#leases.versionOf(key, tickOf(this.nowMs))
    const { others } = this.#leases
    const version = own !== undefined ? own.before[0]! : ((known - looked) | 0) <= 0 ? known : 0
    const dataCount = own !== undefined ? own.counts[0]! : this.#leases.dataCount
    const settled = this.#ageMs(attr.ctimeSec, attr.ctimeNsec) > CLOCK_STEP_MS
    const nowMs = this.nowMs | 0
    const hidden = files.reported(
      nodeid,
      version,
      dataCount,
      others,
      attr,
      own !== undefined,
      settled,
      nowMs,
    )
    if (others !== 'none' && this.#mappings.byOthers(key)) files.unseen(nodeid)
    return !hidden
  }

  /** After the host was asked: a lease counts from when what it is about was seen. */
  readClock(): void {
    this.nowMs = this.#leases.clockMs
    if (this.nowMs - this.#aheadAtMs < CLOCKS_MS) return
    this.#aheadAtMs = this.nowMs
    this.#aheadMs = Date.now() - this.nowMs
  }

  /** After `readClock`. Whole, and bounded: a fraction handed to another function is an object of its own. */
  #ageMs(sec: number, nsec: number): number {
    const ms = Math.ceil(this.nowMs + this.#aheadMs - (sec * 1000 + nsec / 1e6))
    return Math.max(-MOST_AGE_MS, Math.min(ms, MOST_AGE_MS)) | 0
  }

  /** After `readClock`. `dirMs`: for how long the guest has a lease on the directory; 0: it has none. */
  entry(entry: EntryReply, dirMs: number, looked: number): void {
    limitName(entry, dirMs)
    if (dirMs > 0) this.attributes(entry.nodeid, entry.attr, looked, undefined)
    else {
      // In a directory that others are changing, what is new changes soon again.
      this.#report(entry.nodeid, entry.attr, looked, undefined)
      limit(entry.attr, 0)
    }
  }

  /** There is no such name, which may be cached for `dirMs`. */
  noEntry(entry: EntryReply, dirMs: number): void {
    entry.nodeid = 0
    entry.generation = 0
    limitName(entry, dirMs)
  }

  /** The guest has just made the inode of `nodeid`; after `readClock`. */
  made(nodeid: number): void {
    const known = this.#identities.ofNode(nodeid, this.#key) !== NO_INODE
    if (known) this.#leases.made(this.#key, tickOf(this.nowMs))
  }

  /**
   * A lease on the names of directory `nodeid`, in milliseconds. `own`: as the answer to a change of the guest's own.
   * After `readClock`; reads it again when it had to ask the host.
   */
  leaseDirectory(nodeid: number, looked: number, own: boolean): number {
    if (this.#leases.leaseMs === 0) return 0
    if (this.#identities.ofNode(nodeid, this.#key) === NO_INODE) return 0
    if (!own && this.#timeOfDirectory(nodeid))
      return this.#grant(looked, own, this.#time.sec, this.#time.nsec)
    return this.#leases.grant(this.#key, looked, own, AGE_UNKNOWN, tickOf(this.nowMs))
  }

  /** Fills the time. False: it does not matter. The key is filled. */
  #timeOfDirectory(nodeid: number): boolean {
    if (this.#identities.lastChange(nodeid, this.#time, false)) return true
    // A guest's change is no news: no need to ask the host again and again about a directory that is being filled.
    if (this.#leases.justChanged(this.#key, tickOf(this.nowMs))) return false
    const told = this.#identities.lastChange(nodeid, this.#time, true)
    this.readClock()
    return told
  }

  /** As `leaseDirectory`, for the directory that is open as `fh`. */
  leaseOpenDirectory(fh: number, looked: number): number {
    const nodeid = this.#identities.ofHandle(fh, this.#key)
    return nodeid === NO_INODE ? 0 : this.leaseDirectory(nodeid, looked, false)
  }

  /** Other guests have the file in their DAX windows, and may write there. */
  byOthers(nodeid: number): boolean {
    const known = this.#identities.ofNode(nodeid, this.#key) !== NO_INODE
    return known && this.#mappings.byOthers(this.#key)
  }

  /** After `readClock`. The version of a file; 0: it cannot be told later whether it has changed. */
  track(nodeid: number): number {
    const known = this.#identities.ofNode(nodeid, this.#key) !== NO_INODE
    return known ? this.#leases.track(this.#key, tickOf(this.nowMs)) : 0
  }

  /** When the file just opened changed last; undefined when that cannot be told. Reused. */
  changeTime(nodeid: number): ChangeTime | undefined {
    const time = this.#time
    return this.#identities.lastChange(nodeid, time, true) ? time : undefined
  }
}

/**
 * So long ago that no change from now on has the same time, nor is what a process of the host writes under that time
 * still under way.
 */
export function isSettled(time: ChangeTime): boolean {
  return Date.now() - (time.sec * 1000 + time.nsec / 1e6) > LONGEST_WRITE_MS
}

function limit(attr: Attributes, ms: number): void {
  attr.validSec = Math.floor(ms / 1000)
  attr.validNsec = (ms % 1000) * 1e6
}

function limitName(entry: EntryReply, ms: number): void {
  entry.entryValidSec = Math.floor(ms / 1000)
  entry.entryValidNsec = (ms % 1000) * 1e6
}
