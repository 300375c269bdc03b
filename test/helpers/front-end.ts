/**
 * A vhost-user front end for tests: real bytes over a real socket, guest memory in a memfd, rings and
 * eventfds. Its encoder is written by hand from the specification and shares nothing with src/vhost.
 */
import { native } from '../../src/native/addon.js'
import { Context } from '../../src/native/context.js'

export const GUEST_BASE = 0x1000_0000n
export const USER_BASE = 0x7f00_0000_0000n
export const MEMORY_BYTES = 16 * 1024 * 1024
/** Each ring has 64 KiB: descriptors, avail, used. */
const RING_BYTES = 0x10000
const AVAIL_AT = 0x4000
const USED_AT = 0x8000
/** Buffers begin here. */
export const BUFFERS_AT = 0x10_0000

/** VHOST_F_LOG_ALL: pages written are logged. */
export const LOG_ALL = 1n << 26n

const MESSAGE_AT = 0
const REPLY_AT = 8192

/** A back end that says nothing for so long does not answer. */
const REPLY_LIMIT_MS = 60_000

export interface Reply {
  readonly request: number
  readonly flags: number
  readonly payload: DataView
}

export class FrontEnd {
  readonly socket: number
  readonly context: Context
  readonly memoryFd: number
  readonly memory: Uint8Array
  readonly view: DataView
  readonly rings: DriverRing[] = []
  /** Called while waiting for a reply or a used element, to run an in-process back end. */
  pump: () => void = () => undefined
  #acknowledges = false
  readonly #received = { bytes: 0, fdCount: 0, truncated: false }

  /** Owns `socket`. */
  constructor(socket: number, memoryBytes = MEMORY_BYTES) {
    native.setNonBlocking(socket, true)
    this.socket = socket
    this.context = new Context({ arenaBytes: 16384, maxSegments: 16, poolThreads: 1 })
    this.memoryFd = native.memfd('guest', memoryBytes)
    this.context.raw.addRegion(this.memoryFd, 0n, GUEST_BASE, USER_BASE, BigInt(memoryBytes))
    const buffer = this.context.raw.mapView(USER_BASE, memoryBytes, 1)
    if (typeof buffer === 'number') throw new Error(`cannot map guest memory: ${buffer}`)
    this.memory = new Uint8Array(buffer)
    this.view = new DataView(buffer)
  }

  close(): void {
    for (const ring of this.rings) ring.close()
    native.closeFd(this.socket)
    native.closeFd(this.memoryFd)
    this.context.dispose()
  }

  // --- messages -----------------------------------------------------------------------------------

  /** Sends a message as it is given; `fds` stay the caller's. */
  send(
    request: number,
    payload: Uint8Array = new Uint8Array(0),
    fds: readonly number[] = [],
    flags = 1,
  ): void {
    const { view, bytes } = this.context
    view.setUint32(MESSAGE_AT, request, true)
    view.setUint32(MESSAGE_AT + 4, flags, true)
    view.setUint32(MESSAGE_AT + 8, payload.length, true)
    bytes.set(payload, MESSAGE_AT + 12)
    this.context.fds.set(fds)
    const sent = this.context.raw.send(this.socket, MESSAGE_AT, 12 + payload.length, fds.length)
    if (sent < 0) throw new Error(`send: errno ${-sent}`)
  }

  /** Waits for a reply; undefined when the back end closed the connection. */
  receive(): Reply | undefined {
    let have = 0
    let wanted = 12
    const limit = performance.now() + REPLY_LIMIT_MS
    while (have < wanted) {
      this.pump()
      const got = this.context.receive(this.socket, REPLY_AT + have, wanted - have, this.#received)
      // The back end had something else to do first.
      if (got === -11 && performance.now() < limit) continue
      if (got === 0 || got === -104) return undefined
      if (got < 0) throw new Error(`receive: errno ${-got}`)
      have += got
      if (have === 12) wanted = 12 + this.context.view.getUint32(REPLY_AT + 8, true)
    }
    const { view } = this.context
    const copy = this.context.bytes.slice(REPLY_AT + 12, REPLY_AT + wanted)
    return {
      request: view.getUint32(REPLY_AT, true),
      flags: view.getUint32(REPLY_AT + 4, true),
      payload: new DataView(copy.buffer),
    }
  }

  /** Sends with need_reply and returns the u64 answer; undefined when the connection was closed. */
  ask(request: number, payload?: Uint8Array, fds: readonly number[] = []): number | undefined {
    this.send(request, payload, fds, this.#acknowledges ? 9 : 1)
    if (!this.#acknowledges) {
      this.pump()
      return 0
    }
    const reply = this.receive()
    return reply === undefined ? undefined : Number(reply.payload.getBigUint64(0, true))
  }

  /** A message that has a u64 reply of its own. */
  get(request: number, payload?: Uint8Array): bigint {
    this.send(request, payload)
    const reply = this.receive()
    if (reply === undefined) throw new Error(`message ${request}: the connection was closed`)
    return reply.payload.getBigUint64(0, true)
  }

  /** The whole handshake of a front end with `queues` rings, all up. */
  start(
    options: { queues?: number; size?: number; eventIdx?: boolean; indirect?: boolean } = {},
  ): void {
    const { queues = 2, size = 128, eventIdx = true, indirect = true } = options
    let features = this.get(1) & ~LOG_ALL
    if (!eventIdx) features &= ~(1n << 29n)
    if (!indirect) features &= ~(1n << 28n)
    this.handshake(features)
    for (let index = 0; index < queues; index++) {
      const ring = new DriverRing(this, index, size, eventIdx, indirect)
      this.rings[index] = ring
      ring.start()
    }
  }

  /** Everything up to the rings. */
  handshake(features = this.get(1) & ~LOG_ALL): void {
    this.negotiateProtocol()
    this.ask(3)
    this.ask(2, u64(features))
    this.setMemTable()
  }

  negotiateProtocol(): void {
    const offered = this.get(15)
    this.ask(16, u64(offered))
    this.#acknowledges = (offered & 8n) !== 0n
  }

  setMemTable(): number | undefined {
    return this.ask(
      5,
      concat(u32s(1, 0), region(GUEST_BASE, BigInt(this.memory.length), USER_BASE, 0n)),
      [this.memoryFd],
    )
  }

  ringOffset(index: number): number {
    return index * RING_BYTES
  }
}

/** A split ring in guest memory: offsets from its start. */
export interface RingPlace {
  readonly index: number
  readonly size: number
  readonly kickFd: number
  readonly callFd: number
  readonly descriptorsAt: number
  readonly availAt: number
  readonly usedAt: number
}

/** The driver's side of one split ring. */
export class DriverRing {
  readonly index: number
  readonly size: number
  readonly kickFd: number
  readonly callFd: number
  readonly eventIdx: boolean
  readonly indirect: boolean
  availIndex = 0
  usedSeen = 0
  signals = 0
  readonly #front: FrontEnd
  readonly #at: number
  readonly #free: number[] = []
  readonly #chains = new Map<number, number[]>()

  constructor(front: FrontEnd, index: number, size: number, eventIdx: boolean, indirect: boolean) {
    this.#front = front
    this.index = index
    this.size = size
    this.eventIdx = eventIdx
    this.indirect = indirect
    this.#at = front.ringOffset(index)
    this.kickFd = native.eventFd()
    this.callFd = native.eventFd()
    this.clear()
  }

  clear(): void {
    this.#front.memory.fill(0, this.#at, this.#at + RING_BYTES)
    this.availIndex = 0
    this.usedSeen = 0
    this.#free.length = 0
    for (let i = this.size - 1; i >= 0; i--) this.#free.push(i)
    this.#chains.clear()
  }

  close(): void {
    native.closeFd(this.kickFd)
    native.closeFd(this.callFd)
  }

  /** Goes on as the driver of `other`, whose memory was copied here. */
  take(other: DriverRing): void {
    this.availIndex = other.availIndex
    this.usedSeen = other.usedSeen
    this.#free.length = 0
    this.#free.push(...other.#free)
    this.#chains.clear()
    for (const [head, used] of other.#chains) this.#chains.set(head, used)
  }

  /** SET_VRING_ADDR again, with writes to the used ring logged or not. */
  logUsed(on: boolean): void {
    this.#front.ask(9, this.addresses(on))
  }

  /** Sets the ring up from `base` and enables it. */
  start(base = 0): void {
    const front = this.#front
    front.ask(8, u32s(this.index, this.size))
    front.ask(10, u32s(this.index, base))
    front.ask(9, this.addresses())
    front.ask(13, u64(BigInt(this.index)), [this.callFd])
    front.ask(12, u64(BigInt(this.index)), [this.kickFd])
    front.ask(18, u32s(this.index, 1))
  }

  addresses(logged = false): Uint8Array {
    const at = USER_BASE + BigInt(this.#at)
    return concat(
      u32s(this.index, logged ? 1 : 0),
      u64(at),
      u64(at + BigInt(USED_AT)),
      u64(at + BigInt(AVAIL_AT)),
      u64(logged ? GUEST_BASE + BigInt(this.#at + USED_AT) : 0n),
    )
  }

  /** GET_VRING_BASE: the back end's next avail index. */
  stop(): number {
    this.#front.send(11, u32s(this.index, 0))
    return this.#front.receive()!.payload.getUint32(4, true)
  }

  /** Writes descriptor `i` raw, for well-formed and hostile chains alike. */
  descriptor(i: number, address: bigint, length: number, flags: number, next: number): void {
    const { view } = this.#front
    const at = this.#at + i * 16
    view.setBigUint64(at, address, true)
    view.setUint32(at + 8, length, true)
    view.setUint16(at + 12, flags, true)
    view.setUint16(at + 14, next, true)
  }

  /** Puts `head` on the avail ring and kicks. */
  offer(head: number, kick = true): void {
    const { view } = this.#front
    view.setUint16(this.#at + AVAIL_AT + 4 + (this.availIndex % this.size) * 2, head, true)
    this.availIndex = (this.availIndex + 1) & 0xffff
    view.setUint16(this.#at + AVAIL_AT + 2, this.availIndex, true)
    if (kick) native.eventWrite(this.kickFd)
  }

  /** The device asks to be kicked for the next chain. */
  get wantsKick(): boolean {
    const { view } = this.#front
    if (!this.eventIdx) return (view.getUint16(this.#at + USED_AT, true) & 1) === 0
    return view.getUint16(this.#at + USED_AT + 4 + this.size * 8, true) === this.availIndex
  }

  setAvailIndex(value: number): void {
    this.availIndex = value & 0xffff
    this.#front.view.setUint16(this.#at + AVAIL_AT + 2, this.availIndex, true)
    native.eventWrite(this.kickFd)
  }

  /** A direct chain of buffers [offset in guest memory, bytes, writable]; returns its head. */
  direct(buffers: readonly (readonly [at: number, bytes: number, writable: boolean])[]): number {
    const used = buffers.map(() => this.#free.pop()!)
    for (const [i, [at, bytes, writable]] of buffers.entries()) {
      const last = i === buffers.length - 1
      const flags = (last ? 0 : 1) | (writable ? 2 : 0)
      this.descriptor(used[i]!, GUEST_BASE + BigInt(at), bytes, flags, last ? 0 : used[i + 1]!)
    }
    this.#chains.set(used[0]!, used)
    return used[0]!
  }

  /** The same through an indirect table at `tableAt`. */
  throughTable(
    tableAt: number,
    buffers: readonly (readonly [at: number, bytes: number, writable: boolean])[],
  ): number {
    const { view } = this.#front
    for (const [i, [at, bytes, writable]] of buffers.entries()) {
      const last = i === buffers.length - 1
      view.setBigUint64(tableAt + i * 16, GUEST_BASE + BigInt(at), true)
      view.setUint32(tableAt + i * 16 + 8, bytes, true)
      view.setUint16(tableAt + i * 16 + 12, (last ? 0 : 1) | (writable ? 2 : 0), true)
      view.setUint16(tableAt + i * 16 + 14, last ? 0 : i + 1, true)
    }
    const head = this.#free.pop()!
    this.descriptor(head, GUEST_BASE + BigInt(tableAt), buffers.length * 16, 4, 0)
    this.#chains.set(head, [head])
    return head
  }

  /** Where another thread finds this ring, to drive it from now on. */
  get place(): RingPlace {
    const { index, size, kickFd, callFd } = this
    const at = this.#at
    return {
      index,
      size,
      kickFd,
      callFd,
      descriptorsAt: at,
      availAt: at + AVAIL_AT,
      usedAt: at + USED_AT,
    }
  }

  /** Elements the device gave back since the last call. */
  takeUsed(): { head: number; written: number }[] {
    const { view } = this.#front
    const found: { head: number; written: number }[] = []
    const index = view.getUint16(this.#at + USED_AT + 2, true)
    while (this.usedSeen !== index) {
      const at = this.#at + USED_AT + 4 + (this.usedSeen % this.size) * 8
      const head = view.getUint32(at, true)
      found.push({ head, written: view.getUint32(at + 4, true) })
      for (const i of this.#chains.get(head) ?? []) this.#free.push(i)
      this.#chains.delete(head)
      this.usedSeen = (this.usedSeen + 1) & 0xffff
    }
    // Ask for a signal with the next one.
    view.setUint16(this.#at + AVAIL_AT + 4 + this.size * 2, this.usedSeen, true)
    return found
  }

  /** As `takeUsed`, for chains that are offered again as they are: nothing is allocated. Returns how many there were. */
  skipUsed(): number {
    const { view } = this.#front
    const index = view.getUint16(this.#at + USED_AT + 2, true)
    const count = (index - this.usedSeen) & 0xffff
    this.usedSeen = index
    view.setUint16(this.#at + AVAIL_AT + 4 + this.size * 2, index, true)
    return count
  }

  /** Waits for one used element; undefined when none came in time. */
  waitUsed(timeoutMs = REPLY_LIMIT_MS): { head: number; written: number } | undefined {
    const limit = performance.now() + timeoutMs
    for (;;) {
      this.#front.pump()
      const found = this.takeUsed()
      if (found.length > 1) throw new Error('more than one element: use takeUsed')
      if (found.length === 1) return found[0]
      if (performance.now() > limit) return undefined
      if (native.eventRead(this.callFd, 1) > 0) this.signals++
    }
  }

  get freeDescriptors(): number {
    return this.#free.length
  }
}

export function u64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, value, true)
  return bytes
}
export function u32s(...values: number[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 4)
  const view = new DataView(bytes.buffer)
  for (const [i, value] of values.entries()) view.setUint32(i * 4, value, true)
  return bytes
}
export function concat(...parts: Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap(part => [...part]))
}
/** VhostUserMemoryRegion. */
export function region(guest: bigint, bytes: bigint, user: bigint, offset: bigint): Uint8Array {
  return concat(u64(guest), u64(bytes), u64(user), u64(offset))
}
