/**
 * The shared table of versions and leases (protocol/version-table/layout.ts): its slots, and who gets one.
 * What leases mean is in leases.ts. Nothing read here is trusted: any bytes in the table are harmless.
 */
import {
  BUCKET_SLOTS,
  BUCKET_WORDS,
  Header,
  HEADER_WORDS,
  LAYOUT,
  MAGIC,
  MAX_BUCKET_BITS,
  MIN_BUCKET_BITS,
  MOST_AHEAD,
  pack,
  ownerOf,
  packConflict,
  Slot,
  SLOT_WORDS,
  tableBytes,
  ticksLeft,
  ticksSince,
} from '../../protocol/version-table/layout.js'
import type { InodeKey } from '../vfs/identities.js'

/** Ticks: longer than anything is remembered. */
const QUITE_PAST = 100_000
/** Calls of `sweep` that go through the table, and how far apart they are: all of it in half an hour. */
export const SWEEPS = 30
export const SWEEP_MS = 60_000

/** `insert`: every slot of the bucket is in use. */
export const FULL = -1
/** `insert`: somebody else is giving a slot of the bucket away. */
export const GUARDED = -2

export class VersionTable {
  readonly #words: Int32Array
  readonly #bucketMask: number
  /** Where the inode of the last `seek` belongs: word index of its bucket, and its tag. */
  #bucket = HEADER_WORDS
  #tag = 1

  /** Over the whole file. Errors thrown: VersionTableError when the header is not that of a table of this length. */
  constructor(words: Int32Array) {
    const bits = words.length > HEADER_WORDS ? Atomics.load(words, Header.bucketBits) : 0
    const fits =
      bits >= MIN_BUCKET_BITS &&
      bits <= MAX_BUCKET_BITS &&
      words.length * 4 === tableBytes(bits) &&
      Atomics.load(words, Header.magic) === MAGIC
    if (!fits) throw new VersionTableError('it is no version table, or was damaged')
    const layout = Atomics.load(words, Header.layout)
    if (layout !== LAYOUT)
      throw new VersionTableError(`it has layout ${layout}, this daemon knows ${LAYOUT}`)
    this.#words = words
    this.#bucketMask = 2 ** bits - 1
  }

  /** Writes the header of an empty table. `words` is zero but for what is left of such a header, and nobody else uses it. */
  static format(words: Int32Array, bucketBits: number): void {
    Atomics.store(words, Header.layout, LAYOUT)
    Atomics.store(words, Header.bucketBits, bucketBits)
    // 0 stands for a version that is not known.
    Atomics.store(words, Header.clock, 1)
    Atomics.store(words, Header.magic, MAGIC)
  }

  /** False once the file was overwritten or cut short: it is of no use then. */
  get intact(): boolean {
    return Atomics.load(this.#words, Header.magic) === MAGIC
  }

  /** A guest of some daemon has, or had, a DAX window. */
  get windows(): boolean {
    return Atomics.load(this.#words, Header.windows) !== 0
  }
  /** This daemon's guest will have one; said before anything is mapped. */
  announceWindow(): void {
    Atomics.store(this.#words, Header.windows, 1)
  }

  /** The number of changes so far, modulo 2^32. */
  get clock(): number {
    return Atomics.load(this.#words, Header.clock)
  }

  /** Counts a change; its number. */
  advance(): number {
    return (Atomics.add(this.#words, Header.clock, 1) + 1) | 0
  }

  /** Makes `key` the inode that `find`, `insert` and `belongs` are about. */
  seek(key: InodeKey): void {
    let a = mixBucket(0x9e3779b9 | 0, key.inoLow)
    a = mixBucket(a, key.inoHigh)
    a = mixBucket(a, key.devMajor)
    a = mixBucket(a, key.devMinor)
    a = mixBucket(a, key.btimeSec)
    a = mixBucket(a, key.btimeNsec)
    let b = mixTag(0x85ebca6b | 0, key.inoLow)
    b = mixTag(b, key.inoHigh)
    b = mixTag(b, key.devMajor)
    b = mixTag(b, key.devMinor)
    b = mixTag(b, key.btimeSec)
    b = mixTag(b, key.btimeNsec)
    a = Math.imul(a ^ (a >>> 16), 0x85ebca6b)
    a ^= a >>> 13
    this.#bucket = HEADER_WORDS + ((a & this.#bucketMask) >>> 0) * BUCKET_WORDS
    this.#tag = b === 0 ? 1 : b
  }

  /** The inode's slot, or -1. */
  find(): number {
    for (let i = 0; i < BUCKET_SLOTS; i++) {
      const slot = this.#bucket + 1 + i * SLOT_WORDS
      if (Atomics.load(this.#words, slot + Slot.tag) === this.#tag) return slot
    }
    return -1
  }

  /**
   * As `find` and `word`, but what others write may be seen late, and in another order. For what a `swap` and `belongs`
   * come after: the one writes nothing where the word was something else, the other tells whose slot it was.
   */
  findLoosely(): number {
    for (let i = 0; i < BUCKET_SLOTS; i++) {
      const slot = this.#bucket + 1 + i * SLOT_WORDS
      if (this.#words[slot + Slot.tag] === this.#tag) return slot
    }
    return -1
  }
  wordLoosely(slot: number, field: number): number {
    return this.#words[slot + field]!
  }

  /** The slot (still) belongs to the inode. */
  belongs(slot: number): boolean {
    return Atomics.load(this.#words, slot + Slot.tag) === this.#tag
  }

  /** The bucket of the inode: what `unguard` is given. */
  get bucket(): number {
    return this.#bucket
  }

  /**
   * Takes the guard of the inode's bucket: until `unguard` (or 8 s, without `keepGuard`) nobody gives slots of it away. The value
   * to give back, or 0 when somebody else has it.
   */
  guard(now: number): number {
    const free = Atomics.load(this.#words, this.#bucket)
    if (ticksLeft(free, now) > 0) return 0
    const guard = pack(1, now + MOST_AHEAD)
    const taken = Atomics.compareExchange(this.#words, this.#bucket, free, guard) === free
    return taken ? guard : 0
  }

  /** Makes what `guard` took last from `now` on; the value to give back then. */
  keepGuard(bucket: number, guard: number, now: number): number {
    const longer = pack(ownerOf(guard), now + MOST_AHEAD)
    const kept = Atomics.compareExchange(this.#words, bucket, guard, longer) === guard
    return kept ? longer : guard
  }

  /** Gives back what `guard` took. */
  unguard(bucket: number, guard: number): void {
    Atomics.compareExchange(this.#words, bucket, guard, 0)
  }

  /**
   * The inode's slot, made if there is none: from an empty one or one that nothing depends on now.
   * FULL or GUARDED when that cannot be.
   *
   * The bucket's guard lets one process at a time give slots away. It is dropped only after a last look at the
   * slot: when somebody took a lease on the former inode in the same moment, the guard stays until that lease
   * has ended, and until then an inode of this bucket without a slot gets none, and is not changed. For a
   * change of the former inode that began in that moment it stays for the whole 8 s, as the change may be
   * announced again; and when the process dies in between. A process that is stopped between two of these steps
   * for longer than the guard lasts may leave an inode with two slots; `find` takes the first.
   */
  insert(now: number): number {
    const found = this.find()
    if (found >= 0) return found
    const guard = this.guard(now)
    if (guard === 0) return GUARDED
    const slot = this.#takeOver(now)
    this.#settle(slot, now, guard)
    return slot
  }

  /** The last look at a slot given away: the guard is kept for as long as something depends on the former inode. */
  #settle(slot: number, now: number, guard: number): void {
    if (slot !== FULL && ticksLeft(this.word(slot, Slot.change), now) > 0) return
    const left = slot === FULL ? 0 : ticksLeft(this.word(slot, Slot.lease), now)
    const until = left === 0 ? 0 : pack(ownerOf(guard), now + left)
    Atomics.compareExchange(this.#words, this.#bucket, guard, until)
  }

  #takeOver(now: number): number {
    const words = this.#words
    const found = this.find()
    if (found >= 0) return found
    let oldest = FULL
    let oldestTag = 0
    for (let i = 0; i < BUCKET_SLOTS; i++) {
      const slot = this.#bucket + 1 + i * SLOT_WORDS
      const tag = Atomics.load(words, slot + Slot.tag)
      if (tag !== 0 && !this.idle(slot, now)) continue
      const older =
        oldest === FULL ||
        tag === 0 ||
        (oldestTag !== 0 &&
          ((this.word(slot, Slot.version) - this.word(oldest, Slot.version)) | 0) < 0)
      if (!older) continue
      oldest = slot
      oldestTag = tag
    }
    if (oldest === FULL) return FULL
    // As if it had changed just now: what was seen before gets no lease. Before anybody can find it by its new tag; that
    // the former inode seems to have changed costs nothing.
    const version = this.word(oldest, Slot.version)
    if (!this.swap(oldest, Slot.version, version, this.clock)) return FULL
    if (Atomics.compareExchange(words, oldest + Slot.tag, oldestTag, this.#tag) !== oldestTag)
      return FULL
    // No conflict lately, and data that may have changed.
    Atomics.store(words, oldest + Slot.conflict, packConflict(0, this.clock, now - QUITE_PAST))
    this.#clearPast(oldest + Slot.lease, now)
    this.#clearPast(oldest + Slot.change, now)
    return oldest
  }

  /** What it says of the former inode does not matter to the new one, unless it was set this moment. */
  #clearPast(at: number, now: number): void {
    const word = Atomics.load(this.#words, at)
    if (word !== 0 && ticksLeft(word, now) === 0) Atomics.compareExchange(this.#words, at, word, 0)
  }

  /** No lease is held and no change is under way. */
  idle(slot: number, now: number): boolean {
    return (
      ticksLeft(this.word(slot, Slot.lease), now) === 0 &&
      ticksLeft(this.word(slot, Slot.change), now) === 0
    )
  }

  #swept = 0

  /**
   * Clears the words of the next part of the table that ended long ago: SWEEPS calls go through all of it. Without that
   * the ticks would come round, after 70 minutes, and what is in these words would begin again.
   */
  sweep(now: number): void {
    const words = this.#words
    const buckets = this.#bucketMask + 1
    for (let count = Math.ceil(buckets / SWEEPS); count > 0; count--) {
      const bucket = HEADER_WORDS + this.#swept * BUCKET_WORDS
      this.#swept = (this.#swept + 1) & this.#bucketMask
      this.#clearLongPast(bucket, now)
      for (let i = 0; i < BUCKET_SLOTS; i++) {
        const slot = bucket + 1 + i * SLOT_WORDS
        if (Atomics.load(words, slot + Slot.tag) === 0) continue
        this.#clearLongPast(slot + Slot.lease, now)
        this.#clearLongPast(slot + Slot.change, now)
      }
    }
  }

  #clearLongPast(at: number, now: number): void {
    const word = Atomics.load(this.#words, at)
    if (word !== 0 && ticksLeft(word, now) === 0 && ticksSince(word, now) > QUITE_PAST)
      Atomics.compareExchange(this.#words, at, word, 0)
  }

  /** One word of a slot; `field` is one of Slot. */
  word(slot: number, field: number): number {
    return Atomics.load(this.#words, slot + field)
  }

  /** Sets a word that is `from`. False: it was something else. */
  swap(slot: number, field: number, from: number, to: number): boolean {
    return Atomics.compareExchange(this.#words, slot + field, from, to) === from
  }

  /** The version that the last `bump` took the place of; 0 when a newer one was there already. */
  replaced = 0

  /** Gives the slot a new version: everything seen before is out of date. */
  bump(slot: number): number {
    const version = this.advance()
    const at = slot + Slot.version
    for (;;) {
      const old = Atomics.load(this.#words, at)
      this.replaced = 0
      if (((old - version) | 0) >= 0 && ((old - this.clock) | 0) <= 0) return version
      this.replaced = old
      if (Atomics.compareExchange(this.#words, at, old, version) === old) return version
    }
  }
}

// Two hashes of the same words, by the steps of MurmurHash3 with constants of their own.
function mixBucket(hash: number, word: number): number {
  const mixed = Math.imul(hash ^ word, 0xcc9e2d51)
  return mixed ^ (mixed >>> 15)
}
function mixTag(hash: number, word: number): number {
  const mixed = Math.imul((hash ^ word) + 0x7f4a7c15, 0x1b873593)
  return mixed ^ (mixed >>> 13)
}

/** A file that is no version table; the message goes after its name. */
export class VersionTableError extends Error {}
