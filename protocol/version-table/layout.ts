/**
 * The version table: a file in shared memory by which the daemons of one host that serve one tree keep
 * their guests' caches right. It holds no names, no attributes and no addresses: for each inode a version,
 * who may still answer from a cache, and who is changing it. A wrong value can cost time or freshness,
 * never memory.
 *
 * The file is a header page and 2^`bucketBits` buckets of 64 bytes. Everything is an i32 of the machine's
 * byte order, and is read and written by sequentially consistent atomic operations on single words.
 *
 *     header   word 0  magic          bucket   word 0        guard
 *              word 1  layout         word 1 + 5 x slot + 0  tag      (three slots)
 *              word 2  bucketBits                       + 1  version
 *              word 3  clock                            + 2  lease
 *              word 4  windows                          + 3  change
 *              rest    0                                + 4  conflict
 *
 * `clock` counts changes, from 1 on. An inode's `version` is what the clock was at its last change.
 *
 * `guard`, `lease`, `change`, `conflict` are a number of 12 bits above a tick of 20 bits. A tick is 4 ms of
 * CLOCK_MONOTONIC of the host (not of a time namespace); ticks are compared modulo 2^20 (70 minutes), and one lies ahead only if it does so by no
 * more than MOST_BELIEVED: whatever else a word may hold counts as past. Nobody writes one that is more than MOST_AHEAD
 * ahead; the rest is for who was stopped since he read the clock: to him the words of others lie further ahead.
 * Every daemon clears words that are long past, a part of the table at a time, all of it in half an hour: else they
 * would lie ahead again when the ticks come round.
 *
 *     lease     (guest, end)        the guest may use what it has cached until then; MANY: several guests
 *     change    (guest, end)        ahead: a change is under way, nobody gets a lease; past: when the last ended
 *     conflict  (counts, when)      the last time a change met a lease; of the 12 bits, the low
 *                                   three say how often that was lately, the others count changes of data
 *     guard     (1, end)            ahead: a slot of this bucket is being given to another inode
 *
 * A slot belongs to an inode by its `tag`, a hash of what tells the inode from every other; the bucket is
 * another hash of that. Two inodes that share both share their leases: a change waits without need.
 *
 * What is in the DAX windows of guests is told by slots of their own, in which some words mean something else
 * (src/coherence/mapping-leases.ts); `windows` is not 0 once one of the guests has a window.
 *
 * Byte i of the file, 1 to MOST_GUESTS, is locked (F_OFD_SETLK) by the daemon whose guest has number i;
 * byte 0 while the header is written, later ones for a moment (src/coherence/size-locks.ts). The kernel drops the locks of a daemon that dies. Nothing else has to be
 * cleaned up after one: leases and changes end by time.
 */

export const MAGIC = 0x4c425456
/** In its place once a daemon has found the table damaged; 0 while the header is not finished. */
export const CONDEMNED = -1
export const LAYOUT = 1

/** Words of the header. */
export const Header = { magic: 0, layout: 1, bucketBits: 2, clock: 3, windows: 4 } as const
export const HEADER_WORDS = 1024
export const BUCKET_WORDS = 16
export const BUCKET_SLOTS = 3
/** Words of a slot, which begins after the guard. */
export const Slot = { tag: 0, version: 1, lease: 2, change: 3, conflict: 4 } as const
export const SLOT_WORDS = 5

export const MIN_BUCKET_BITS = 4
export const MAX_BUCKET_BITS = 22
/** 8 MiB: 393,216 inodes. */
export const DEFAULT_BUCKET_BITS = 17

export const TICK_MS = 4
const TICK_MASK = 0xfffff
/** No lease or change ends later than so many ticks (8 s) from now. */
export const MOST_AHEAD = 2000
/** What ends later than that, as the reader's clock was, is taken for past. */
export const MOST_BELIEVED = 2 * MOST_AHEAD
const OWNER_SHIFT = 20

/** Numbers of guests are 1 to this. */
export const MOST_GUESTS = 0xffd
/** Nobody. */
export const NONE = 0
/** Somebody on the host who is no guest. */
export const HOST = 0xffe
/** Several guests. */
export const MANY = 0xfff

/** Bytes of the file. */
export function tableBytes(bucketBits: number): number {
  return (HEADER_WORDS + BUCKET_WORDS * 2 ** bucketBits) * 4
}

/** The tick of `ms` milliseconds of CLOCK_MONOTONIC. */
export function tickOf(ms: number): number {
  return Math.floor(ms / TICK_MS) & TICK_MASK
}

/** Ticks that last at least `ms`, wherever in a tick they begin. */
export function ticksFor(ms: number): number {
  return Math.ceil(ms / TICK_MS) + 1
}

export function pack(owner: number, tick: number): number {
  return (owner << OWNER_SHIFT) | (tick & TICK_MASK)
}

export function ownerOf(word: number): number {
  return word >>> OWNER_SHIFT
}

/** Of a conflict word: how often changes had to wait lately, 0 to 7. */
export function levelOf(word: number): number {
  return ownerOf(word) & 7
}

/** Of a conflict word: changes of data, modulo 512. */
export function dataCountOf(word: number): number {
  return ownerOf(word) >>> 3
}

export function packConflict(level: number, dataCount: number, tick: number): number {
  return pack(((dataCount & 511) << 3) | level, tick)
}

/** Ticks from `now` until `word` ends; 0 when it has ended, or says what cannot be, or nothing: of nobody. */
export function ticksLeft(word: number, now: number): number {
  if (ownerOf(word) === NONE) return 0
  const left = (word - now) & TICK_MASK
  return left <= MOST_BELIEVED ? left : 0
}

/** Ticks since `word`'s; more than half an hour counts as for ever. */
export function ticksSince(word: number, now: number): number {
  const since = (now - word) & TICK_MASK
  return since <= TICK_MASK >>> 1 ? since : TICK_MASK
}
