/** One operation that changes inodes, and where it stands. */
import { InodeKey, NO_INODE } from '../vfs/identities.js'

/** Inodes that one operation changes: RENAME, two directories and two files. */
export const MOST_KEYS = 4

/** One operation that changes inodes: which ones, and their slots while it is under way. */
export class Change {
  readonly keys: readonly InodeKey[] = Array.from({ length: MOST_KEYS }, () => new InodeKey())
  /** Nodeids of these inodes, 0 where there is none. */
  readonly nodeids = new Float64Array(MOST_KEYS)
  readonly slots = new Int32Array(MOST_KEYS)
  /** Where there is no slot for the inode: the bucket whose guard keeps others from getting one, and the guard. */
  readonly buckets = new Int32Array(MOST_KEYS)
  readonly guards = new Int32Array(MOST_KEYS)
  /** Versions before and after: `after` is 0 where somebody else changed the inode meanwhile. */
  readonly before = new Int32Array(MOST_KEYS)
  readonly after = new Int32Array(MOST_KEYS)
  /** Counts of changes of data, as of the version before or an older one. */
  readonly counts = new Int32Array(MOST_KEYS)
  /** Leases' count of announcements that have ended too early, when it began. */
  lapses = 0
  /** Inodes in use. */
  count = 0
  /** What files hold changes, or may. */
  data = false
  /** Index of the inode that may be cut to `keep` bytes; -1: none may. */
  cut = -1
  keep = 0
  /** Number of the wish to do so; 0: none. See MappingLeases. */
  wish = 0
  /** Indices of directories: a name of the one becomes a name of the other; -1: none does. And the other way. */
  movesFrom = -1
  movesTo = -1
  exchanges = false
  /** Inodes, the first ones, that SizeLocks has locked for it. */
  locked = 0

  /** The inode at `index`, if there is one, may be cut to `keep` bytes. */
  cuts(index: number, keep: number): void {
    if (index >= this.count) return
    this.cut = index
    this.keep = keep
  }

  /** A name of the directory at index `from` becomes one of that at `to`; `exchanges`: and one of the other's its own. */
  moves(from: number, to: number, exchanges = false): void {
    if (to >= this.count) return
    this.movesFrom = from
    this.movesTo = to
    this.exchanges = exchanges
  }

  /** The next key, to be filled; `took` follows. */
  next(): InodeKey {
    return this.keys[this.count]!
  }

  /** What Identities answered for the key. */
  took(nodeid: number): void {
    if (nodeid !== NO_INODE) this.nodeids[this.count++] = nodeid
  }
}
