/**
 * The guest of a rehearsal (rehearsal.ts): a driver with a hiprio and a request queue in memory of our own, which
 * sends FUSE requests laid out as virtiofs in Linux does: every part of one a descriptor of its own, all of
 * them in an indirect table; a FORGET in one piece.
 *
 * Its memory and its rings are in nobody's way: a front end may be plugged into the same context meanwhile, as long as
 * this one leaves before that says anything of memory (`close`).
 *
 * Source: fs/fuse/virtio_fs.c virtio_fs_enqueue_req() and send_forget_request() (Linux 6.18); virtio 1.3,
 * sections 2.7.5 to 2.7.8.
 */
import { Opcode } from '../../protocol/fuse/opcodes.js'
import {
  FUSE_INVALID_UIDGID,
  fuse_forget_in,
  fuse_in_header,
  fuse_out_header,
} from '../../protocol/fuse/structs.js'
import { VIRTIO_FS_HIPRIO_QUEUE } from '../../protocol/virtio/fs.js'
import {
  usedEventOffset,
  VRING_DESC_F_INDIRECT,
  VRING_DESC_F_NEXT,
  VRING_DESC_F_WRITE,
  VRING_DESC_SIZE,
} from '../../protocol/virtio/ring.js'
import { MAX_RINGS, native, RING_PLACES } from '../native/addon.js'
import type { Context } from '../native/context.js'
import type { Device } from './device.js'

/** The places of its rings: see DeviceOptions. */
export const REHEARSAL_RINGS = { first: MAX_RINGS, count: RING_PLACES - MAX_RINGS } as const

const REQUESTS = 1
const QUEUE_SIZE = 128
const PAGE = 4096
/** Most requests on the way at once, each with a slot of memory of its own. */
export const SLOTS = 8
/** Data pages of a slot. */
export const PAGES = 8
/** A queue's parts, in bytes from its place in guest memory. */
const DESC_AT = 0
const AVAIL_AT = PAGE
const USED_AT = 2 * PAGE
const QUEUE_BYTES = 3 * PAGE
/** A slot's parts, likewise. */
const TABLE_AT = 0
const HEADER_AT = PAGE
const BODY_AT = HEADER_AT + 64
const REPLY_AT = 2 * PAGE
const RESULT_AT = REPLY_AT + 64
const PAGES_AT = 3 * PAGE
const SLOT_BYTES = PAGES_AT + PAGES * PAGE
const SLOTS_AT = 2 * QUEUE_BYTES
const MEMORY_BYTES = SLOTS_AT + SLOTS * SLOT_BYTES

/** Beyond every physical address (52 bits), and what no process has. */
const GUEST_HIGH = 0x10_0000
const GUEST = BigInt(GUEST_HIGH) << 32n
const USER = 0xffff_f000_0000_0000n
/** What Linux asks for in nobody's name. */
const NOBODYS: ReadonlySet<number> = new Set([
  Opcode.FUSE_INIT,
  Opcode.FUSE_RELEASE,
  Opcode.FUSE_RELEASEDIR,
])

/** One queue of the driver: where it lies, and how far it is. */
class Queue {
  readonly index: number
  readonly at: number
  readonly kickFd = native.eventFd()
  readonly callFd = native.eventFd()
  /** avail.idx. */
  offered = 0

  constructor(index: number) {
    this.index = index
    this.at = index * QUEUE_BYTES
  }

  close(): void {
    native.closeFd(this.kickFd)
    native.closeFd(this.callFd)
  }
}

export class RehearsalGuest {
  /** All of guest memory. */
  readonly view: DataView
  readonly bytes: Uint8Array
  /** The slot that the next request is put into: one of SLOTS. */
  slot = 0
  readonly #context: Context
  readonly #device: Device
  readonly #queues: Queue[] = []
  #descriptors = 0
  #unique = 2

  /** Plugs itself into `device`, whose context it gives its memory to. Throws when something is refused. */
  constructor(context: Context, device: Device) {
    this.#context = context
    this.#device = device
    const fd = native.memfd('rehearsal', MEMORY_BYTES)
    if (fd < 0) throw new Error(`memfd_create: ${fd}`)
    const added = context.raw.addRegion(fd, 0n, GUEST, USER, BigInt(MEMORY_BYTES), true)
    native.closeFd(fd)
    if (added < 0) throw new Error(`addRegion: ${added}`)
    const memory = context.raw.mapView(USER, MEMORY_BYTES, 1)
    if (typeof memory === 'number') throw new Error(`mapView: ${memory}`)
    this.view = new DataView(memory)
    this.bytes = new Uint8Array(memory)
    // As the real one, which has turns before its first ring.
    device.turn(false)
    try {
      for (const index of [VIRTIO_FS_HIPRIO_QUEUE, REQUESTS]) this.#start(new Queue(index))
    } catch (cause) {
      this.close()
      throw cause
    }
  }

  #start(queue: Queue): void {
    const user = USER + BigInt(queue.at)
    const fault = this.#device.ringUp(queue.index, {
      size: QUEUE_SIZE,
      descUser: user + BigInt(DESC_AT),
      availUser: user + BigInt(AVAIL_AT),
      usedUser: user + BigInt(USED_AT),
      base: 0,
      kickFd: queue.kickFd,
      callFd: queue.callFd,
      eventIdx: true,
      indirect: true,
      logAt: -1,
    })
    if (fault < 0) {
      queue.close()
      throw new Error(`ringUp: ${fault}`)
    }
    this.#queues.push(queue)
  }

  get #slotAt(): number {
    return SLOTS_AT + this.slot * SLOT_BYTES
  }
  /** Where the struct of the slot's request goes, and what follows it. */
  get bodyAt(): number {
    return this.#slotAt + BODY_AT
  }
  /** What the slot's reply carries behind its header. */
  get resultAt(): number {
    return this.#slotAt + RESULT_AT
  }
  get pagesAt(): number {
    return this.#slotAt + PAGES_AT
  }
  /** The reply's error: 0 or -errno. */
  get error(): number {
    return fuse_out_header.f.error.get(this.view, this.#slotAt + REPLY_AT)
  }
  /** Bytes of the reply behind its header. */
  get replyBytes(): number {
    return fuse_out_header.f.len.get(this.view, this.#slotAt + REPLY_AT) - fuse_out_header.SIZE
  }

  /**
   * Puts a request of `bodyBytes` bytes at `bodyAt`, then `nameBytes` directly behind them, then `sent`
   * pages of `pagesAt` on the ring; there is room for `resultBytes` at `resultAt`, then `received` pages. `serve`
   * follows.
   */
  put(
    opcode: number,
    nodeid: number,
    bodyBytes: number,
    nameBytes: number,
    resultBytes: number,
    sent = 0,
    received = 0,
  ): void {
    const at = this.#slotAt
    const id = NOBODYS.has(opcode) ? FUSE_INVALID_UIDGID : 0
    this.#header(opcode, nodeid, bodyBytes + nameBytes + sent * PAGE, id)
    this.#descriptors = 0
    this.#part(at + HEADER_AT, fuse_in_header.SIZE, false)
    this.#part(at + BODY_AT, bodyBytes, false)
    this.#part(at + BODY_AT + bodyBytes, nameBytes, false)
    for (let i = 0; i < sent; i++) this.#part(at + PAGES_AT + i * PAGE, PAGE, false)
    this.#part(at + REPLY_AT, fuse_out_header.SIZE, true)
    this.#part(at + RESULT_AT, resultBytes, true)
    for (let i = 0; i < received; i++) this.#part(at + PAGES_AT + i * PAGE, PAGE, true)
    fuse_out_header.f.error.set(this.view, at + REPLY_AT, 0)
    this.#endTable()
    const bytes = this.#descriptors * VRING_DESC_SIZE
    this.#offer(this.#queues[REQUESTS]!, at + TABLE_AT, bytes, VRING_DESC_F_INDIRECT)
  }

  /** Puts a FORGET of `lookups` on the hiprio ring. */
  forget(nodeid: number, lookups: number): void {
    const at = this.#slotAt + HEADER_AT
    this.#header(Opcode.FUSE_FORGET, nodeid, fuse_forget_in.SIZE, 0)
    fuse_forget_in.f.nlookup.set(this.view, at + fuse_in_header.SIZE, lookups)
    const bytes = fuse_in_header.SIZE + fuse_forget_in.SIZE
    this.#offer(this.#queues[VIRTIO_FS_HIPRIO_QUEUE]!, at, bytes, 0)
  }

  /** Lets the device serve what was put; then it has nothing to do for a moment: it polls, and sleeps. */
  serve(): void {
    const { view } = this
    const answered = (queue: Queue): boolean =>
      view.getUint16(queue.at + USED_AT + 2, true) === queue.offered
    for (let turns = 0; !this.#queues.every(answered); turns++) {
      // What the pool does takes a moment.
      if (turns > 100_000) throw new Error('a request was not answered')
      this.#device.turn(false)
    }
    this.#device.turn(true, 0)
  }

  #header(opcode: number, nodeid: number, bytes: number, id: number): void {
    const { view } = this
    const at = this.#slotAt + HEADER_AT
    const In = fuse_in_header.f
    In.len.set(view, at, fuse_in_header.SIZE + bytes)
    In.opcode.set(view, at, opcode)
    // FUSE_INVALID_UIDGID is of Linux 6.12 and later; such large numbers are another kind of number to the compiler.
    In.uid.set(view, at, id)
    In.gid.set(view, at, id)
    In.unique.set(view, at, this.#unique)
    In.nodeid.set(view, at, nodeid)
    this.#unique += 2
  }

  #part(at: number, bytes: number, writable: boolean): void {
    if (bytes === 0) return
    const entry = this.#slotAt + TABLE_AT + this.#descriptors * VRING_DESC_SIZE
    const flags = VRING_DESC_F_NEXT | (writable ? VRING_DESC_F_WRITE : 0)
    this.#descriptor(entry, at, bytes, flags, ++this.#descriptors)
  }

  /** The chain ends with its last part. */
  #endTable(): void {
    const last = this.#slotAt + TABLE_AT + (this.#descriptors - 1) * VRING_DESC_SIZE
    const flags = this.view.getUint16(last + 12, true)
    this.view.setUint16(last + 12, flags & ~VRING_DESC_F_NEXT, true)
  }

  #descriptor(entry: number, at: number, bytes: number, flags: number, next: number): void {
    const { view } = this
    view.setUint32(entry, at, true)
    view.setUint32(entry + 4, GUEST_HIGH, true)
    view.setUint32(entry + 8, bytes, true)
    view.setUint16(entry + 12, flags, true)
    view.setUint16(entry + 14, next, true)
  }

  /** Makes one descriptor available. */
  #offer(queue: Queue, at: number, bytes: number, flags: number): void {
    const { view } = this
    const head = queue.offered & (QUEUE_SIZE - 1)
    const avail = queue.at + AVAIL_AT
    this.#descriptor(queue.at + DESC_AT + head * VRING_DESC_SIZE, at, bytes, flags, 0)
    view.setUint16(avail + 4 + head * 2, head, true)
    // A signal with the next reply.
    view.setUint16(avail + usedEventOffset(QUEUE_SIZE), queue.offered, true)
    queue.offered = (queue.offered + 1) & 0xffff
    view.setUint16(avail + 2, queue.offered, true)
  }

  /** Unplugs itself. */
  close(): void {
    for (const queue of this.#queues) {
      this.#device.ringDown(queue.index)
      queue.close()
    }
    this.#context.raw.removeRegion(GUEST, USER, BigInt(MEMORY_BYTES))
  }
}
