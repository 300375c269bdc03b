/** A guest that locks: requests of FUSE's lock opcodes, and such that wait while the test goes on. */
import { BUFFERS_AT, concat, u32s, u64 } from './front-end.js'
import type { FuseClient } from './fuse-client.js'
import type { Rig } from './rig.js'

export const READ = 0
export const WRITE = 1
export const UNLOCK = 2

const GETLK = 31
const SETLK = 32
const SETLKW = 33
const RELEASE = 18
const FLUSH = 25
const INTERRUPT = 36
/** OFFSET_MAX: to the end of the file. */
export const END = 0x7fff_ffff_ffff_ffffn

/** Each request has 256 bytes of its own: request, reply, indirect table. */
const WAITS_AT = BUFFERS_AT + 0x40_0000
const SLOT_BYTES = 256
const REPLY_IN_SLOT = 128
const TABLE_IN_SLOT = 192
const FIRST_UNIQUE = 1_000_000

export interface LockAsked {
  /** Inclusive; by default the whole file. */
  readonly start?: bigint
  readonly end?: bigint
  readonly type: number
  readonly owner?: bigint
  readonly pid?: number
  readonly flock?: boolean
}

export class LockGuest {
  readonly rig: Rig
  readonly client: FuseClient
  /** Errors of requests that waited and are answered, by number. */
  readonly answers = new Map<number, number>()
  /** Their numbers in the order of their answers. */
  readonly order: number[] = []
  readonly #heads = new Map<number, number>()
  #next = 0

  constructor(rig: Rig) {
    this.rig = rig
    this.client = rig.client()
  }

  #body(fh: bigint, asked: LockAsked): Uint8Array {
    const { start = 0n, end = END, type, owner = 1n, pid = 100, flock = false } = asked
    return concat(
      u64(fh),
      u64(owner),
      u64(start),
      u64(end),
      u32s(type, pid),
      u32s(flock ? 1 : 0, 0),
    )
  }

  /** Sends a request, and does not wait for its answer: its number. */
  #send(opcode: number, nodeid: number, body: Uint8Array, room = 16): number {
    const number = this.#next++
    const at = WAITS_AT + number * SLOT_BYTES
    const unique = BigInt(FIRST_UNIQUE + number * 2)
    const bytes = concat(this.client.header(opcode, nodeid, body.length, unique), body)
    const { ring, front } = this.client
    front.memory.set(bytes, at)
    const head = ring.throughTable(at + TABLE_IN_SLOT, [
      [at, bytes.length, false],
      [at + REPLY_IN_SLOT, room, true],
    ])
    this.#heads.set(head, number)
    ring.offer(head)
    this.look()
    return number
  }

  /** Of a request that is answered at once. */
  #now(number: number): number {
    const error = this.answers.get(number)
    if (error === undefined) throw new Error('a request that need not wait was not answered')
    this.order.splice(this.order.indexOf(number), 1)
    return error
  }

  /** SETLK: 0 or -errno. */
  set(nodeid: number, fh: bigint, asked: LockAsked): number {
    return this.#now(this.#send(SETLK, nodeid, this.#body(fh, asked)))
  }

  /** GETLK: the lock in the way, or undefined. */
  get(
    nodeid: number,
    fh: bigint,
    asked: LockAsked,
  ): { start: bigint; end: bigint; type: number; pid: number } | undefined {
    const number = this.#send(GETLK, nodeid, this.#body(fh, asked), 16 + 24)
    const error = this.#now(number)
    if (error !== 0) throw new Error(`GETLK: ${error}`)
    const { view } = this.client.front
    const at = WAITS_AT + number * SLOT_BYTES + REPLY_IN_SLOT + 16
    const type = view.getUint32(at + 16, true)
    if (type === UNLOCK) return undefined
    const pid = view.getUint32(at + 20, true)
    return { start: view.getBigUint64(at, true), end: view.getBigUint64(at + 8, true), type, pid }
  }

  /** SETLKW, sent and not waited for: its number. */
  wait(nodeid: number, fh: bigint, asked: LockAsked): number {
    return this.#send(SETLKW, nodeid, this.#body(fh, asked))
  }

  flush(nodeid: number, fh: bigint, owner = 1n): void {
    this.#quiet(FLUSH, nodeid, concat(u64(fh), u32s(0, 0), u64(owner)))
  }

  release(nodeid: number, fh: bigint): void {
    this.#quiet(RELEASE, nodeid, concat(u64(fh), u32s(0, 0), u64(0n)))
  }

  #quiet(opcode: number, nodeid: number, body: Uint8Array): void {
    const error = this.#now(this.#send(opcode, nodeid, body))
    if (error !== 0) throw new Error(`opcode ${opcode}: ${error}`)
  }

  /** Lets the daemon work, and takes answers. */
  look(): void {
    this.rig.pump()
    for (const { head } of this.client.ring.takeUsed()) {
      const number = this.#heads.get(head)
      if (number === undefined) throw new Error('the answer of no lock request')
      this.#heads.delete(head)
      const at = WAITS_AT + number * SLOT_BYTES + REPLY_IN_SLOT
      this.answers.set(number, this.client.front.view.getInt32(at + 4, true))
      this.order.push(number)
    }
  }

  /** What the next request gets. */
  get nextNumber(): number {
    return this.#next
  }

  get waiting(): number {
    return this.#heads.size
  }

  /** The answer of a request that waited. */
  async answer(number: number): Promise<number> {
    await until(() => this.answers.has(number), this)
    return this.answers.get(number)!
  }

  /** On the hiprio ring, as a guest does. */
  interrupt(number: number): void {
    const { front } = this.client
    const ring = front.rings[0]!
    const at = WAITS_AT - 4096
    const body = u64(BigInt(FIRST_UNIQUE + number * 2))
    const bytes = concat(this.client.header(INTERRUPT, 0, body.length, 7n), body)
    front.memory.set(bytes, at)
    ring.offer(ring.direct([[at, bytes.length, false]]))
    if (ring.waitUsed() === undefined) throw new Error('INTERRUPT did not come back')
    this.look()
  }
}

/** Lets the guests' daemons work until `done`. */
export async function until(done: () => boolean, ...guests: LockGuest[]): Promise<void> {
  const limit = performance.now() + 60_000
  for (;;) {
    for (const guest of guests) guest.look()
    if (done()) return
    if (performance.now() > limit) throw new Error('it did not come about in 60 s')
    await new Promise(go => setTimeout(go, 1))
  }
}
