/**
 * The guest of a rehearsal (rehearsal.ts): a driver with one request queue in memory of our own, which
 * sends one FUSE request at a time, laid out as virtiofs in Linux does: every part of it a descriptor of
 * its own, all of them in an indirect table.
 *
 * Source: fs/fuse/virtio_fs.c virtio_fs_enqueue_req() (Linux 6.18); virtio 1.3, sections 2.7.5 to 2.7.8.
 */
import { Opcode } from '../../protocol/fuse/opcodes.js'
import {
  FUSE_INVALID_UIDGID,
  fuse_in_header,
  fuse_out_header,
} from '../../protocol/fuse/structs.js'
import {
  usedEventOffset,
  VRING_DESC_F_INDIRECT,
  VRING_DESC_F_NEXT,
  VRING_DESC_F_WRITE,
  VRING_DESC_SIZE,
} from '../../protocol/virtio/ring.js'
import { native } from '../native/addon.js'
import type { Context } from '../native/context.js'
import type { Device } from './device.js'

/** The first request queue; 0 is for what has priority. */
const QUEUE = 1
const QUEUE_SIZE = 128
const PAGE = 4096
/** Where it all lies, in bytes of guest memory. */
const DESC_AT = 0
const AVAIL_AT = PAGE
const USED_AT = 2 * PAGE
const TABLE_AT = 3 * PAGE
const HEADER_AT = 4 * PAGE
/** The request's struct, and what follows it. */
export const BODY_AT = HEADER_AT + 64
const REPLY_AT = 5 * PAGE
/** What the reply carries behind its header. */
export const RESULT_AT = REPLY_AT + 64
export const PAGES_AT = 6 * PAGE
export const PAGES = 8
const MEMORY_BYTES = PAGES_AT + PAGES * PAGE

const GUEST_BASE = 0x10_0000
const GUEST = BigInt(GUEST_BASE)
const USER = 0x7f00_0000_0000n
/** What Linux asks for in nobody's name. */
const NOBODYS: ReadonlySet<number> = new Set([
  Opcode.FUSE_INIT,
  Opcode.FUSE_FORGET,
  Opcode.FUSE_RELEASE,
  Opcode.FUSE_RELEASEDIR,
])

export class RehearsalGuest {
  /** All of guest memory. */
  readonly view: DataView
  readonly bytes: Uint8Array
  readonly #context: Context
  readonly #device: Device
  readonly #kickFd: number
  readonly #callFd: number
  #descriptors = 0
  #index = 0
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
    this.#kickFd = native.eventFd()
    this.#callFd = native.eventFd()
    const fault = device.ringUp(QUEUE, {
      size: QUEUE_SIZE,
      descUser: USER + BigInt(DESC_AT),
      availUser: USER + BigInt(AVAIL_AT),
      usedUser: USER + BigInt(USED_AT),
      base: 0,
      kickFd: this.#kickFd,
      callFd: this.#callFd,
      eventIdx: true,
      indirect: true,
      logAt: -1,
    })
    if (fault < 0) throw new Error(`ringUp: ${fault}`)
  }

  /**
   * Sends a request of `bodyBytes` bytes at BODY_AT, then `nameBytes` directly behind them, then `sent`
   * pages of PAGES_AT; there is room for `resultBytes` at RESULT_AT, then `received` pages. Returns the
   * reply's error: 0 or -errno.
   */
  request(
    opcode: number,
    nodeid: number,
    bodyBytes: number,
    nameBytes: number,
    resultBytes: number,
    sent = 0,
    received = 0,
  ): number {
    const { view } = this
    const In = fuse_in_header.f
    In.len.set(view, HEADER_AT, fuse_in_header.SIZE + bodyBytes + nameBytes + sent * PAGE)
    In.opcode.set(view, HEADER_AT, opcode)
    // Linux 6.12 and later; such large numbers are another kind of number to the compiler.
    const id = NOBODYS.has(opcode) ? FUSE_INVALID_UIDGID : 0
    In.uid.set(view, HEADER_AT, id)
    In.gid.set(view, HEADER_AT, id)
    In.unique.set(view, HEADER_AT, this.#unique)
    In.nodeid.set(view, HEADER_AT, nodeid)
    this.#unique += 2
    this.#descriptors = 0
    this.#part(HEADER_AT, fuse_in_header.SIZE, false)
    this.#part(BODY_AT, bodyBytes, false)
    this.#part(BODY_AT + bodyBytes, nameBytes, false)
    for (let i = 0; i < sent; i++) this.#part(PAGES_AT + i * PAGE, PAGE, false)
    this.#part(REPLY_AT, fuse_out_header.SIZE, true)
    this.#part(RESULT_AT, resultBytes, true)
    for (let i = 0; i < received; i++) this.#part(PAGES_AT + i * PAGE, PAGE, true)
    fuse_out_header.f.error.set(view, REPLY_AT, 0)
    this.#offer()
    return fuse_out_header.f.error.get(view, REPLY_AT)
  }

  /** Asks for nothing, for a moment: the device polls, and sleeps. */
  rest(): void {
    this.#device.turn(true, 0)
  }

  /** Bytes of the last reply behind its header. */
  get replyBytes(): number {
    return fuse_out_header.f.len.get(this.view, REPLY_AT) - fuse_out_header.SIZE
  }

  #part(at: number, bytes: number, writable: boolean): void {
    if (bytes === 0) return
    const entry = TABLE_AT + this.#descriptors * VRING_DESC_SIZE
    // The chain ends with the last one: that is mended in `#offer`.
    this.#descriptor(
      entry,
      at,
      bytes,
      VRING_DESC_F_NEXT | (writable ? VRING_DESC_F_WRITE : 0),
      ++this.#descriptors,
    )
  }

  #descriptor(entry: number, at: number, bytes: number, flags: number, next: number): void {
    const { view } = this
    view.setUint32(entry, GUEST_BASE + at, true)
    view.setUint32(entry + 8, bytes, true)
    view.setUint16(entry + 12, flags, true)
    view.setUint16(entry + 14, next, true)
  }

  /** Puts the table on the ring, lets the device serve it, and takes it back. */
  #offer(): void {
    const { view } = this
    const last = TABLE_AT + (this.#descriptors - 1) * VRING_DESC_SIZE
    view.setUint16(last + 12, view.getUint16(last + 12, true) & ~VRING_DESC_F_NEXT, true)
    const slot = this.#index & (QUEUE_SIZE - 1)
    this.#descriptor(
      DESC_AT + slot * VRING_DESC_SIZE,
      TABLE_AT,
      this.#descriptors * VRING_DESC_SIZE,
      VRING_DESC_F_INDIRECT,
      0,
    )
    view.setUint16(AVAIL_AT + 4 + slot * 2, slot, true)
    // A signal with the next reply.
    view.setUint16(AVAIL_AT + usedEventOffset(QUEUE_SIZE), this.#index, true)
    this.#index = (this.#index + 1) & 0xffff
    view.setUint16(AVAIL_AT + 2, this.#index, true)
    for (let turns = 0; view.getUint16(USED_AT + 2, true) !== this.#index; turns++) {
      // What the pool does takes a moment.
      if (turns > 100_000) throw new Error('a request was not answered')
      this.#device.turn(false)
    }
  }

  /** Unplugs itself. */
  close(): void {
    this.#device.ringDown(QUEUE)
    native.closeFd(this.#kickFd)
    native.closeFd(this.#callFd)
    this.#context.raw.removeRegion(GUEST, USER, BigInt(MEMORY_BYTES))
  }
}
