/**
 * One descriptor chain, walked and checked: what the guest offers with one request.
 *
 * The walk reads each descriptor word once, so that a guest that changes it meanwhile gains nothing;
 * an indirect table is copied to the arena first, for the same reason. Addresses are not resolved
 * here: the shim checks them at each use, and a bad one fails that use (EFAULT).
 *
 * Source: virtio 1.3, section 2.7.5 (descriptor table) and 2.7.5.3 (indirect descriptors).
 */
import { isSafeU64 } from '../../protocol/struct.js'
import {
  VRING_DESC_F_INDIRECT,
  VRING_DESC_F_NEXT,
  VRING_DESC_F_WRITE,
  VRING_DESC_SIZE,
} from '../../protocol/virtio/ring.js'
import type { Context } from '../native/context.js'

/** How a chain breaks the rules. Zero is no violation. */
export const ChainViolation = {
  none: 0,
  /** A `next` or head index is not inside the table. */
  indexOutOfRange: 1,
  /** More descriptors than the table has: the chain runs in a circle. */
  loop: 2,
  /** A readable descriptor follows a writable one (2.7.4.2). */
  readableAfterWritable: 3,
  /** INDIRECT without the feature, with NEXT, or inside an indirect table (2.7.5.3.1). */
  badIndirect: 4,
  /** An indirect table of no entry, of a broken entry, or of more entries than can be handled. */
  badIndirectLength: 5,
  /** The indirect table is not in guest memory. */
  indirectAddress: 6,
  /** All buffers together pass 2^32 bytes (2.7.4.2). */
  tooLong: 7,
  /** More buffers than can be handled. */
  tooMany: 8,
} as const
export type ChainViolation = (typeof ChainViolation)[keyof typeof ChainViolation]

const VIOLATION_TEXT: readonly string[] = [
  'no violation',
  'a descriptor index is outside the table',
  'the chain runs in a circle',
  'a readable descriptor follows a writable one',
  'an indirect descriptor where none is allowed',
  'an indirect table of a wrong length',
  'an indirect table outside guest memory',
  'the buffers together pass 4 GiB',
  'more buffers than the daemon handles',
]

/** A sentence part for the log. */
export function describeViolation(violation: ChainViolation): string {
  return VIOLATION_TEXT[violation] ?? `violation ${violation}`
}

const WORDS = VRING_DESC_SIZE / 4
const TWO32 = 0x1_0000_0000

/** Pairs at the end of the segment list that chains leave free (for replies that come later). */
export const RESERVED_SEGMENTS = 64

/** Buffers of the chain walked last, as ranges of the context's segment list. */
export class Chain {
  /** Readable buffers: segments 0 ... readCount - 1. */
  readonly readFirst = 0
  readCount = 0
  readBytes = 0
  /** Writable buffers: segments writeFirst ... writeFirst + writeCount - 1. */
  writeFirst = 0
  writeCount = 0
  writeBytes = 0

  readonly #context: Context
  readonly #maxSegments: number
  readonly #tableAt: number
  readonly #tableBytes: number
  readonly #arenaWords: Uint32Array
  #segmentCount = 0

  /**
   * `tableAt`, `tableBytes`: a 16-byte aligned part of the arena for indirect tables; it bounds their
   * length.
   */
  constructor(context: Context, tableAt: number, tableBytes: number) {
    this.#context = context
    this.#maxSegments = context.segments.length / 2 - RESERVED_SEGMENTS
    this.#tableAt = tableAt
    this.#tableBytes = tableBytes
    this.#arenaWords = new Uint32Array(context.raw.arena)
  }

  /**
   * Walks the chain that starts at `head` of a ring's descriptor table (`table`: 4 words each, `size`
   * entries). On a violation the counts mean nothing.
   */
  walk(table: Uint32Array, size: number, head: number, indirectAllowed: boolean): ChainViolation {
    this.readCount = 0
    this.readBytes = 0
    this.writeFirst = 0
    this.writeCount = 0
    this.writeBytes = 0
    this.#segmentCount = 0
    return this.#walkTable(table, 0, size, head, indirectAllowed)
  }

  #walkTable(
    table: Uint32Array,
    firstWord: number,
    size: number,
    start: number,
    indirectAllowed: boolean,
  ): ChainViolation {
    let index = start
    for (let seen = 0; ; seen++) {
      if (index >= size) return ChainViolation.indexOutOfRange
      if (seen === size) return ChainViolation.loop
      const word = firstWord + index * WORDS
      const low = table[word]!
      const high = table[word + 1]!
      const length = table[word + 2]!
      const flagsNext = table[word + 3]!
      const flags = flagsNext & 0xffff
      const address = high * TWO32 + low

      // Into the segment after those in use, which there always is (RESERVED_SEGMENTS): a buffer stays
      // there, an indirect table is named for its copy only. Written here, since an address passed on
      // as an argument would be a heap number. One past 2^53 is in no region, after rounding too.
      const { segments } = this.#context
      segments[this.#segmentCount * 2] = isSafeU64(address) ? address : Number.MAX_SAFE_INTEGER
      segments[this.#segmentCount * 2 + 1] = length

      if ((flags & VRING_DESC_F_INDIRECT) !== 0) {
        if (!indirectAllowed || (flags & VRING_DESC_F_NEXT) !== 0) return ChainViolation.badIndirect
        return this.#walkIndirect(length)
      }
      const violation = this.#add(length, (flags & VRING_DESC_F_WRITE) !== 0)
      if (violation !== ChainViolation.none) return violation
      if ((flags & VRING_DESC_F_NEXT) === 0) return ChainViolation.none
      index = flagsNext >>> 16
    }
  }

  #walkIndirect(length: number): ChainViolation {
    if (length === 0 || length % VRING_DESC_SIZE !== 0 || length > this.#tableBytes)
      return ChainViolation.badIndirectLength
    const slot = this.#segmentCount
    if (slot >= this.#maxSegments) return ChainViolation.tooMany
    if (this.#context.copyIn(slot, 1, 0, this.#tableAt, length) !== length)
      return ChainViolation.indirectAddress
    return this.#walkTable(this.#arenaWords, this.#tableAt / 4, length / VRING_DESC_SIZE, 0, false)
  }

  #add(length: number, writable: boolean): ChainViolation {
    if (length === 0) return ChainViolation.none
    const slot = this.#segmentCount
    if (slot >= this.#maxSegments) return ChainViolation.tooMany
    this.#segmentCount = slot + 1
    if (writable) {
      if (this.writeCount === 0) this.writeFirst = slot
      this.writeCount++
      this.writeBytes += length
    } else {
      if (this.writeCount !== 0) return ChainViolation.readableAfterWritable
      this.readCount++
      this.readBytes += length
    }
    return this.readBytes + this.writeBytes >= TWO32 ? ChainViolation.tooLong : ChainViolation.none
  }
}
