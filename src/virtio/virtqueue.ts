/**
 * A split virtqueue, device side. Index loads and stores that the other side pairs with are Atomics;
 * everything between them is plain (measured: plain store and load of two indices do reorder).
 *
 * Source: virtio 1.3, sections 2.7.6 (avail ring), 2.7.7 (notification suppression), 2.7.8 (used ring).
 */
import {
  availRingBytes,
  descriptorTableBytes,
  usedRingBytes,
  VRING_AVAIL_F_NO_INTERRUPT,
  VRING_AVAIL_ALIGN,
  VRING_DESC_ALIGN,
  VRING_USED_ALIGN,
  VRING_USED_F_NO_NOTIFY,
  vringNeedEvent,
} from '../../protocol/virtio/ring.js'
import type { Context } from '../native/context.js'
import { type Chain, ChainViolation } from './chain.js'

/** `pop`: nothing to take. */
export const EMPTY = -1
/** `pop`: the entry was bad; `violation` tells how. The ring goes on unless `broken`. */
export const VIOLATION = -2

/** Where a ring lies and how it is used. Addresses are the front end's (vhost-user "user addresses"). */
export interface VirtqueueSetup {
  /** Power of two, at most 32768. */
  readonly size: number
  readonly descUser: bigint
  readonly availUser: bigint
  readonly usedUser: bigint
  /** The avail index to take next. */
  readonly base: number
  readonly eventIdx: boolean
  readonly indirect: boolean
  /** Guest address by which writes to the used ring are logged; -1: they are not. */
  readonly logAt: number
}

export class Virtqueue {
  readonly index: number
  /** Serving is on: views are mapped. */
  up = false
  /** The driver broke the ring beyond repair; it is left alone until it is set up anew. */
  broken = false
  /** How the last VIOLATION came about; for a head out of range `indexOutOfRange`. */
  violation: ChainViolation = ChainViolation.none
  /** Head of the last VIOLATION, or of the avail entry. */
  violationHead = 0

  readonly #context: Context
  readonly #chain: Chain
  readonly #place: number
  #size = 0
  #mask = 0
  #eventIdx = false
  #indirect = false
  #views: ArrayBuffer[] = []
  #table = new Uint32Array(0)
  #avail = new Uint16Array(0)
  #used = new Uint16Array(0)
  #usedElements = new Uint32Array(0)
  #nextAvail = 0
  /** avail.idx as it was seen last: what is before it is there. */
  #seenAvail = 0
  #usedIndex = 0
  /** used.idx when the driver was signalled last. */
  #signalledUsed = 0
  /** As in the setup; may change while the ring runs. */
  logAt = -1

  /** How many requests it can hold at least: without indirect tables one takes up to four descriptors. */
  get requestRoom(): number {
    return this.#indirect ? this.#size : this.#size / 4
  }

  get size(): number {
    return this.#size
  }

  /** Kicks and signals can be asked for at an index. */
  get eventIdx(): boolean {
    return this.#eventIdx
  }

  /** Chains given back since `needsSignal` was asked. */
  get unsignalled(): number {
    return (this.#usedIndex - this.#signalledUsed) & 0xffff
  }

  /** `place`: of RING_PLACES, its own while it is up. */
  constructor(context: Context, chain: Chain, index: number, place = index) {
    this.#context = context
    this.#chain = chain
    this.index = index
    this.#place = place
  }

  /**
   * Maps the ring and starts at `setup.base`; the used index goes on from what the ring holds.
   * Errors: EINVAL size or alignment; EFAULT outside guest memory. On error the queue stays down.
   */
  start(setup: VirtqueueSetup): number {
    this.stop()
    const { size } = setup
    if (size < 1 || size > 32768 || (size & (size - 1)) !== 0) return -22
    const { raw } = this.#context
    const parts: [bigint, number, number][] = [
      [setup.descUser, descriptorTableBytes(size), VRING_DESC_ALIGN],
      [setup.availUser, availRingBytes(size, setup.eventIdx), VRING_AVAIL_ALIGN],
      [setup.usedUser, usedRingBytes(size, setup.eventIdx), VRING_USED_ALIGN],
    ]
    for (const [address, bytes, alignment] of parts) {
      const view = raw.mapView(address, bytes, alignment)
      if (typeof view === 'number') {
        this.#unmap()
        return view
      }
      this.#views.push(view)
    }
    const [desc, avail, used] = this.#views as [ArrayBuffer, ArrayBuffer, ArrayBuffer]
    this.#size = size
    this.#mask = size - 1
    this.#eventIdx = setup.eventIdx
    this.#indirect = setup.indirect
    this.#table = new Uint32Array(desc)
    this.#avail = new Uint16Array(avail)
    this.#used = new Uint16Array(used, 0, usedRingBytes(size, setup.eventIdx) >>> 1)
    this.#usedElements = new Uint32Array(used, 4, size * 2)
    this.#nextAvail = setup.base & 0xffff
    this.#seenAvail = this.#nextAvail
    this.#usedIndex = Atomics.load(this.#used, 1)
    this.#signalledUsed = this.#usedIndex
    this.logAt = setup.logAt
    this.broken = false
    this.up = true
    raw.watchRing(this.#place, avail)
    this.#context.lastAvail[this.#place] = this.#nextAvail
    return 0
  }

  /** Unmaps the ring; returns the avail index to take next (GET_VRING_BASE). Idempotent. */
  stop(): number {
    if (this.up) {
      this.up = false
      this.#context.lastAvail[this.#place] = -1
      this.#context.raw.watchRing(this.#place, null)
      this.#unmap()
    }
    return this.#nextAvail
  }

  #unmap(): void {
    this.#table = new Uint32Array(0)
    this.#avail = new Uint16Array(0)
    this.#used = new Uint16Array(0)
    this.#usedElements = new Uint32Array(0)
    for (const view of this.#views) this.#context.raw.unmapView(view)
    this.#views = []
  }

  /** Whether the driver has made something available. */
  pending(): boolean {
    return this.available !== 0
  }

  /** How many chains the driver has made available; more than there can be when it broke the ring. */
  get available(): number {
    if (!this.up || this.broken) return 0
    this.#seenAvail = Atomics.load(this.#avail, 1)
    return (this.#seenAvail - this.#nextAvail) & 0xffff
  }

  /**
   * Takes the next available chain into the shared `Chain`. Returns its head, EMPTY or VIOLATION.
   * After VIOLATION with `violationHead >= 0` the caller gives the head back with no bytes written.
   */
  pop(): number {
    if (!this.up || this.broken) return EMPTY
    // The index is an atomic load, which costs as much as all the rest: once for what is there.
    let available = (this.#seenAvail - this.#nextAvail) & 0xffff
    if (available === 0) available = this.available
    if (available === 0) return EMPTY
    if (available > this.#size) {
      // More entries than the ring has: nothing in it can be trusted any more.
      this.broken = true
      this.#context.lastAvail[this.#place] = -1
      this.violation = ChainViolation.loop
      this.violationHead = -1
      return VIOLATION
    }
    const head = this.#avail[2 + (this.#nextAvail & this.#mask)]!
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff
    this.#context.lastAvail[this.#place] = this.#nextAvail
    if (head >= this.#size) {
      this.violation = ChainViolation.indexOutOfRange
      this.violationHead = -1
      return VIOLATION
    }
    this.violation = this.#chain.walk(this.#table, this.#size, head, this.#indirect)
    if (this.violation !== ChainViolation.none) {
      this.violationHead = head
      return VIOLATION
    }
    return head
  }

  /** Takes a chain into the shared `Chain` anew that `pop` has taken and nobody gave back. As `pop`. */
  popAgain(head: number): number {
    if (!this.up) return EMPTY
    this.violation = this.#chain.walk(this.#table, this.#size, head, this.#indirect)
    if (this.violation === ChainViolation.none) return head
    this.violationHead = head
    return VIOLATION
  }

  /** Gives a chain back: `written` bytes of its writable part were filled, from the start. */
  push(head: number, written: number): void {
    if (!this.up) return
    const slot = (this.#usedIndex & this.#mask) * 2
    this.#usedElements[slot] = head
    this.#usedElements[slot + 1] = written
    this.#usedIndex = (this.#usedIndex + 1) & 0xffff
    Atomics.store(this.#used, 1, this.#usedIndex)
    if (this.logAt >= 0) {
      this.#context.markDirty(this.logAt + 4 + slot * 4, 8)
      this.#context.markDirty(this.logAt + 2, 2)
    }
  }

  /** Whether the driver wants to be told of what was pushed since the last time this said so. */
  needsSignal(): boolean {
    if (!this.up || this.#usedIndex === this.#signalledUsed) return false
    if (!this.#eventIdx) {
      this.#signalledUsed = this.#usedIndex
      return (Atomics.load(this.#avail, 0) & VRING_AVAIL_F_NO_INTERRUPT) === 0
    }
    const event = Atomics.load(this.#avail, 2 + this.#size)
    const wanted = vringNeedEvent(event, this.#usedIndex, this.#signalledUsed)
    this.#signalledUsed = this.#usedIndex
    return wanted
  }

  /**
   * Asks for a kick with the next chain; with EVENT_IDX, with the one that comes after `after` others. True
   * when it came meanwhile: then process it first.
   */
  enableKicks(after = 0): boolean {
    if (!this.up || this.broken) return false
    if (this.#eventIdx)
      Atomics.store(this.#used, 2 + this.#size * 4, (this.#nextAvail + after) & 0xffff)
    else Atomics.store(this.#used, 0, 0)
    this.#logHint()
    return this.available > (this.#eventIdx ? after : 0)
  }

  /**
   * The daemon looks at the ring by itself: kicks would be wasted. With EVENT_IDX an avail_event that is past
   * says so, as it is after a kick; after another end of the sleep it still waits for a chain to come.
   */
  disableKicks(): void {
    if (!this.up) return
    if (!this.#eventIdx) Atomics.store(this.#used, 0, VRING_USED_F_NO_NOTIFY)
    else if (((this.#used[2 + this.#size * 4]! - this.#nextAvail) & 0xffff) < this.#size)
      Atomics.store(this.#used, 2 + this.#size * 4, (this.#nextAvail - 1) & 0xffff)
    else return
    this.#logHint()
  }

  /** What asks for kicks was written: avail_event, or the flags. */
  #logHint(): void {
    if (this.logAt < 0) return
    const at = this.#eventIdx ? 4 + this.#size * 8 : 0
    this.#context.markDirty(this.logAt + at, 2)
  }
}
