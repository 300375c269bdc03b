/** A guest's FUSE client on a driver ring: requests encoded by hand from the kernel header. */
import { BUFFERS_AT, concat, type DriverRing, type FrontEnd, u32s, u64 } from './front-end.js'

export interface FuseReply {
  readonly error: number
  readonly unique: bigint
  readonly body: DataView
  readonly bytes: Uint8Array
  /** used.len. */
  readonly written: number
}

export const text = (value: string): Uint8Array => new TextEncoder().encode(`${value}\0`)

/** Offsets in guest memory of one request's buffers. */
const REQUEST_AT = BUFFERS_AT
const TABLE_AT = BUFFERS_AT + 0x8_0000
const REPLY_AT = BUFFERS_AT + 0x10_0000

export interface RequestOptions {
  readonly room?: number
  readonly split?: number
  readonly uid?: number
  readonly gid?: number
  readonly indirect?: boolean
  readonly raw?: Uint8Array
}

export class FuseClient {
  readonly front: FrontEnd
  readonly ring: DriverRing
  #unique = 2n

  constructor(front: FrontEnd, ring: DriverRing) {
    this.front = front
    this.ring = ring
  }

  header(
    opcode: number,
    nodeid: number | bigint,
    bodyBytes: number,
    unique: bigint,
    uid = 0,
    gid = 0,
  ): Uint8Array {
    return concat(
      u32s(40 + bodyBytes, opcode),
      u64(unique),
      u64(BigInt(nodeid)),
      u32s(uid, gid, 1, 0),
    )
  }

  /**
   * Sends a request and waits for the reply; undefined when the chain came back without one. `split`
   * cuts the reply's buffers after so many bytes each.
   */
  request(
    opcode: number,
    nodeid: number | bigint,
    body: Uint8Array = new Uint8Array(0),
    options: RequestOptions = {},
  ): FuseReply | undefined {
    const head = this.send(opcode, nodeid, body, options)
    const used = this.ring.waitUsed()
    if (used === undefined) throw new Error(`opcode ${opcode}: no answer`)
    if (used.head !== head) throw new Error(`opcode ${opcode}: another chain came back`)
    return used.written === 0 ? undefined : this.reply(used.written)
  }

  /** Sends a request without waiting; the head of its chain. One at a time: the buffers are the same. */
  send(
    opcode: number,
    nodeid: number | bigint,
    body: Uint8Array = new Uint8Array(0),
    options: RequestOptions = {},
  ): number {
    const unique = this.#unique
    this.#unique += 2n
    const bytes =
      options.raw ??
      concat(this.header(opcode, nodeid, body.length, unique, options.uid, options.gid), body)
    const room = options.room ?? 16 + 4096
    const { memory } = this.front
    memory.set(bytes, REQUEST_AT)
    memory.fill(0xee, REPLY_AT, REPLY_AT + room)
    const buffers: [number, number, boolean][] = [[REQUEST_AT, bytes.length, false]]
    const split = options.split ?? room
    for (let at = 0; at < room; at += split)
      buffers.push([REPLY_AT + at, Math.min(split, room - at), true])
    const head =
      (options.indirect ?? this.ring.indirect)
        ? this.ring.throughTable(TABLE_AT, buffers)
        : this.ring.direct(buffers)
    this.ring.offer(head)
    return head
  }

  /** After `send`: the reply, if it is there by now. */
  take(): FuseReply | undefined {
    this.front.pump()
    const used = this.ring.takeUsed()[0]
    return used === undefined ? undefined : this.reply(used.written)
  }

  reply(written: number): FuseReply {
    const copy = this.front.memory.slice(REPLY_AT, REPLY_AT + written)
    const view = new DataView(copy.buffer)
    const length = view.getUint32(0, true)
    return {
      error: view.getInt32(4, true),
      unique: view.getBigUint64(8, true),
      body: new DataView(copy.buffer, 16, Math.max(length - 16, 0)),
      bytes: copy.slice(16, length),
      written,
    }
  }

  /** A request that must succeed. */
  do(
    opcode: number,
    nodeid: number | bigint,
    body?: Uint8Array,
    options?: Parameters<FuseClient['request']>[3],
  ): FuseReply {
    const reply = this.request(opcode, nodeid, body, options)
    if (reply === undefined) throw new Error(`opcode ${opcode}: no reply`)
    if (reply.error !== 0) throw new Error(`opcode ${opcode}: error ${reply.error}`)
    return reply
  }

  init(flags = 0x7fff_ffff, flags2 = 0): FuseReply {
    return this.do(26, 0, concat(u32s(7, 38, 131072, flags, flags2), new Uint8Array(44)))
  }
  destroy(): void {
    this.do(38, 0)
  }
  /** nodeid of `name`, with one lookup taken; or -errno. */
  lookup(parent: number | bigint, name: string): number {
    const reply = this.request(1, parent, text(name))!
    return reply.error < 0 ? reply.error : Number(reply.body.getBigUint64(0, true))
  }
  forget(nodeid: number | bigint, count: number): void {
    const unique = this.#unique
    this.#unique += 2n
    const bytes = concat(this.header(2, nodeid, 8, unique), u64(BigInt(count)))
    this.front.memory.set(bytes, REQUEST_AT)
    this.ring.offer(this.ring.direct([[REQUEST_AT, bytes.length, false]]))
    if (this.ring.waitUsed() === undefined) throw new Error('FORGET did not come back')
  }
  create(
    parent: number | bigint,
    name: string,
    mode = 0o644,
    flags = 0o102,
  ): { nodeid: number; fh: bigint } {
    const { body } = this.do(35, parent, concat(u32s(flags, mode | 0o100000, 0, 0), text(name)))
    return { nodeid: Number(body.getBigUint64(0, true)), fh: body.getBigUint64(128, true) }
  }
  open(nodeid: number | bigint, flags = 2): bigint {
    return this.do(14, nodeid, u32s(flags, 0)).body.getBigUint64(0, true)
  }
  write(nodeid: number | bigint, fh: bigint, offset: number, data: Uint8Array): number {
    const body = concat(
      u64(fh),
      u64(BigInt(offset)),
      u32s(data.length, 0),
      u64(0n),
      u32s(0, 0),
      data,
    )
    return this.do(16, nodeid, body).body.getUint32(0, true)
  }
  read(nodeid: number | bigint, fh: bigint, offset: number, size: number): Uint8Array {
    const body = concat(u64(fh), u64(BigInt(offset)), u32s(size, 0), u64(0n), u32s(0, 0))
    return this.do(15, nodeid, body, { room: 16 + size }).bytes
  }
  release(nodeid: number | bigint, fh: bigint, directory = false): void {
    this.do(directory ? 29 : 18, nodeid, concat(u64(fh), u32s(0, 0), u64(0n)))
  }
  opendir(nodeid: number | bigint): bigint {
    return this.do(27, nodeid, u32s(0, 0)).body.getBigUint64(0, true)
  }
  /** Raw bytes of a READDIR (28) or READDIRPLUS (44) reply. */
  readdir(
    nodeid: number | bigint,
    fh: bigint,
    cookie: bigint,
    size = 4096,
    plus = false,
  ): Uint8Array {
    const body = concat(u64(fh), u64(cookie), u32s(size, 0), u64(0n), u32s(0, 0))
    return this.do(plus ? 44 : 28, nodeid, body, { room: 16 + size }).bytes
  }
}
