/**
 * What a guest may have of a file in its page cache, and how it learns that this is out of date.
 *
 * Linux drops the pages of a file when it is opened, unless the reply says FOPEN_KEEP_CACHE; and, with
 * FUSE_AUTO_INVAL_DATA, when attributes show another size or mtime than those it has (fs/fuse/inode.c,
 * fuse_change_attributes; every read fetches attributes whose time is over). Pages may be kept when neither the
 * version in the table nor the file's change time is another than at the last open: no guest, and no process
 * of the host has changed it. The version tells, too, when a guest has changed data and mtime has not, as
 * somebody set it back or two changes fell into one tick of the file system's clock: then replies have an
 * mtime that is some nanoseconds off, and are not cached.
 *
 * One reply is not enough to tell of a change: Linux passes over attributes when others came in since it asked for them
 * (fuse_change_attributes_i). So for as long as a guest may take to look at a reply that is under way, all have what the
 * first one had, or an mtime that none before them had.
 */
import type { ChangeTime } from '../vfs/identities.js'
import type { Attributes } from '../vfs/replies.js'
import type { Others } from './leases.js'

/** Of one file that the guest has opened. */
class FileMemory {
  /** All that the guest has cached of the file is of this version; 0: unknown. */
  version = 0
  /** What Leases.dataCount was then. */
  dataCount = 0
  /** When it had changed last when it was opened last; ctimeNsec -1: not known. */
  ctimeSec = 0
  ctimeNsec = -1
  /** That was so long before that no later change has the same time. */
  settled = false
  /** Size and mtime that the guest was told last; -1: it has changed the size itself since. */
  sizeBytes = -1
  mtimeSec = 0
  /** -1: it was told before it opened the file, and who knows what. */
  mtimeNsec = -1
  /** When it had changed last as of then, and whether what is written after that has another time. */
  toldCtimeSec = 0
  toldCtimeNsec = 0
  toldSettled = false
  /** As of then, or the last open, one other guest was changing it. */
  underWay = false
  /** A reply that told of a change may be under way until `tellsUntilMs`, */
  tells = false
  tellsUntilMs = 0
  /** with this mtime, told other than it is by the bits of `off`. */
  tellsSec = 0
  tellsNsec = 0
  off = 0
  /** The last of those that was not 0. */
  lastOff = 0
}

/** What an opening shows: nothing was changed by others, what the file holds was, or it cannot be told. */
export type Since = 'same' | 'data' | 'unknown'
/** Nine bits: a number of nanoseconds stays below 10^9, which 512 divides. */
const MOST_OFF = 511
/** `dataCount` of files that others change without a word: equals no other. */
const NO_COUNT = -1

export class FileMemories {
  readonly #files = new Map<number, FileMemory>()
  readonly #marginMs: number

  /** `marginMs`: a guest has looked at a reply so long after it was sent. */
  constructor(marginMs: number) {
    this.#marginMs = marginMs
  }

  get size(): number {
    return this.#files.size
  }

  clear(): void {
    this.#files.clear()
  }

  has(nodeid: number): boolean {
    return this.#files.has(nodeid)
  }

  forget(nodeid: number): void {
    this.#files.delete(nodeid)
  }

  /**
   * The guest opens the file, which has (at least) `version` now, and had changed last at `time`, if that is known:
   * what has become of what it has cached. `others` change it, under this version. `settled`: whatever
   * is written from now on has another time.
   */
  opened(
    nodeid: number,
    version: number,
    dataCount: number,
    others: Others,
    time: ChangeTime | undefined,
    settled: boolean,
  ): Since {
    let file = this.#files.get(nodeid)
    if (file === undefined) {
      file = new FileMemory()
      this.#files.set(nodeid, file)
    }
    const same =
      version !== 0 &&
      file.version === version &&
      time !== undefined &&
      settled &&
      file.settled &&
      file.ctimeNsec === time.nsec &&
      file.ctimeSec === time.sec
    const known = version !== 0 && file.version !== 0
    const changed = file.dataCount === NO_COUNT || (known && file.dataCount !== dataCount)
    file.ctimeSec = time?.sec ?? 0
    file.ctimeNsec = time?.nsec ?? -1
    file.settled = settled && others === 'none'
    file.underWay = others === 'one'
    file.version = version
    file.dataCount = dataCount
    return same ? 'same' : changed ? 'data' : 'unknown'
  }

  /** Others change what the file holds, and are not seen doing so: what the guest reads now is out of date later. */
  unseen(nodeid: number): void {
    const file = this.#files.get(nodeid)
    if (file === undefined) return
    file.version = 0
    file.dataCount = NO_COUNT
  }

  /** A change of the guest's own took the file from version `from` to `to`, and was counted: its cache went along. */
  changedByGuest(nodeid: number, from: number, to: number, counted: number): void {
    const file = this.#files.get(nodeid)
    if (file === undefined) return
    if (counted > 0) file.sizeBytes = -1
    if (from === 0 || file.version !== from) return
    file.version = to
    file.dataCount = (file.dataCount + counted) & 511
  }

  /**
   * Attributes are about to go to the guest that were seen when the file had `version` (0: it is not known)
   * or a newer one. `own`: they answer its SETATTR, after which Linux has their mtime, and keeps its pages all the same
   * (fs/fuse/dir.c, fuse_do_setattr): where others have written it gets one that is off, so that the true one, which it
   * asks for next, is another; version and count are those before it. `others`: as for `opened`. `settled`: a change that
   * begins now has another time. `nowMs`: whole, modulo 2^32. True: they must not be cached; `attr` was changed so that the
   * guest drops the data it has.
   */
  reported(
    nodeid: number,
    version: number,
    dataCount: number,
    others: Others,
    attr: Attributes,
    own: boolean,
    settled: boolean,
    nowMs: number,
  ): boolean {
    const file = this.#files.get(nodeid)
    if (file === undefined) return false
    const changed =
      version !== 0 &&
      ((dataCount !== file.dataCount && !isUnchanged(file, attr)) ||
        // It ended without being counted: its daemon died.
        (file.underWay && others === 'none' && version === file.version))
    if (file.tells && ((file.tellsUntilMs - nowMs) | 0) <= 0) file.tells = false
    const order = file.tells ? compareTimes(attr, file.tellsSec, file.tellsNsec) : 1
    const { mtimeSec, mtimeNsec } = attr
    let off = order === 0 ? file.off : 0
    attr.mtimeNsec = mtimeNsec ^ off
    const shows =
      !own &&
      (file.mtimeNsec < 0
        ? isNewer(attr, file)
        : attr.mtimeSec !== file.mtimeSec ||
          attr.mtimeNsec !== file.mtimeNsec ||
          (file.sizeBytes >= 0 && attr.sizeBytes !== file.sizeBytes))
    // Set back, it may be what the guest has, if it passed over what it was told.
    if ((changed && !shows) || order < 0 || (own && file.tells && off === 0)) {
      file.lastOff = (file.lastOff % MOST_OFF) + 1
      off = file.lastOff
      attr.mtimeNsec = mtimeNsec ^ off
    }
    if (changed || order < 0) {
      file.tells = true
      file.tellsUntilMs = (nowMs + this.#marginMs) | 0
      file.tellsSec = mtimeSec
      file.tellsNsec = mtimeNsec
      file.off = off
    }
    // What was under way before its answer does not count any more: the next reply tells, as it is.
    if (own) file.tells = false
    file.version = version
    if (version !== 0) file.dataCount = dataCount
    file.sizeBytes = attr.sizeBytes
    file.mtimeSec = attr.mtimeSec
    file.mtimeNsec = attr.mtimeNsec
    file.toldCtimeSec = attr.ctimeSec
    file.toldCtimeNsec = attr.ctimeNsec
    file.toldSettled = settled && others === 'none' && version !== 0
    file.underWay = others === 'one'
    return off !== 0
  }
}

/** Below 0: the mtime is before that time, 0: it is that. */
function compareTimes(attr: Attributes, sec: number, nsec: number): number {
  return attr.mtimeSec === sec ? attr.mtimeNsec - nsec : attr.mtimeSec - sec
}

/** Whatever mtime the guest was told before it opened the file: this one was not set by hand, and came later. */
function isNewer(attr: Attributes, { ctimeSec, ctimeNsec }: FileMemory): boolean {
  if (ctimeNsec < 0 || attr.mtimeSec !== attr.ctimeSec || attr.mtimeNsec !== attr.ctimeNsec)
    return false
  return attr.ctimeSec > ctimeSec || (attr.ctimeSec === ctimeSec && attr.ctimeNsec > ctimeNsec)
}

/**
 * The file's change time is what the guest was told last, and nothing that was written since could have that: what is
 * counted was announced and waits, or another inode had the slot. Not where stores of others are not seen, nor on file
 * systems that keep whole seconds.
 */
function isUnchanged(file: FileMemory, attr: Attributes): boolean {
  return (
    file.toldSettled &&
    file.dataCount !== NO_COUNT &&
    attr.ctimeNsec !== 0 &&
    attr.ctimeNsec === file.toldCtimeNsec &&
    attr.ctimeSec === file.toldCtimeSec
  )
}
