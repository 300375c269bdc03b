/**
 * One guest CPU: a driver of one ring in a thread of its own. Its memory is the front end's, mapped again; it
 * kicks and sleeps as a Linux guest with EVENT_IDX does, so that a lost kick or signal shows. Tasks are
 * generators that yield requests and are given replies; several are under way at once.
 */
import { native } from '../../src/native/addon.js'
import { Context } from '../../src/native/context.js'
import { concat, GUEST_BASE, type RingPlace, u32s, u64, USER_BASE } from './front-end.js'
import type { FuseReply } from './fuse-client.js'

export interface DriverPlace extends RingPlace {
  readonly memoryFd: number
  readonly memoryBytes: number
  /** Where this driver's buffers lie in guest memory. */
  readonly buffersAt: number
}

export interface Ask {
  readonly opcode: number
  readonly nodeid: number
  readonly body?: Uint8Array
  /** Bytes of the reply's buffers; 0: a request without reply. */
  readonly room?: number
}

export type Task = Generator<Ask, void, FuseReply>

/** What a task's buffers take: the request, then the reply. */
export const TASK_BYTES = 0x4_8000
const REQUEST_BYTES = 0x4000
const PATIENCE_MS = 60_000

/** Runs all of `tasks` to their ends; returns the requests sent. Throws on anything a device must not do. */
export function drive(place: DriverPlace, tasks: readonly Task[]): number {
  const context = new Context({ arenaBytes: 4096, maxSegments: 16, poolThreads: 1 })
  const bytes = BigInt(place.memoryBytes)
  context.raw.addRegion(place.memoryFd, 0n, GUEST_BASE, USER_BASE, bytes)
  const buffer = context.raw.mapView(USER_BASE, place.memoryBytes, 1)
  if (typeof buffer === 'number') throw new Error(`cannot map guest memory: ${buffer}`)
  try {
    return new Driver(place, buffer, tasks).run()
  } finally {
    context.dispose()
  }
}

class Driver {
  readonly #place: DriverPlace
  readonly #memory: Uint8Array
  readonly #view: DataView
  readonly #avail: Uint16Array
  readonly #used: Uint16Array
  readonly #tasks: readonly Task[]
  /** unique of what each task waits for; 0: nothing. */
  readonly #waitsFor: bigint[]
  readonly #opcodes: number[]
  readonly #rooms: number[]
  #unique: bigint
  #usedSeen = 0
  #sent = 0
  #open = 0

  constructor(place: DriverPlace, buffer: ArrayBuffer, tasks: readonly Task[]) {
    this.#place = place
    this.#memory = new Uint8Array(buffer)
    this.#view = new DataView(buffer)
    this.#avail = new Uint16Array(buffer, place.availAt, 3 + place.size)
    this.#used = new Uint16Array(buffer, place.usedAt, 3 + place.size * 4)
    this.#tasks = tasks
    this.#waitsFor = tasks.map(() => 0n)
    this.#opcodes = tasks.map(() => 0)
    this.#rooms = tasks.map(() => 0)
    // No two rings use the same numbers, nor does the one that sent INIT.
    this.#unique = (BigInt(place.index) << 32n) + 2n
    this.#usedSeen = Atomics.load(this.#used, 1)
  }

  run(): number {
    for (const i of this.#tasks.keys()) this.#resume(i, undefined)
    let limit = performance.now() + PATIENCE_MS
    while (this.#open > 0) {
      if (this.#take()) {
        limit = performance.now() + PATIENCE_MS
        continue
      }
      // As virtqueue_enable_cb: say from where on a signal is wanted, then look once more.
      Atomics.store(this.#avail, 2 + this.#place.size, this.#usedSeen)
      if (Atomics.load(this.#used, 1) !== this.#usedSeen) continue
      native.eventRead(this.#place.callFd, PATIENCE_MS)
      if (performance.now() < limit) continue
      const came = Atomics.load(this.#used, 1) !== this.#usedSeen
      throw new Error(
        `queue ${this.#place.index}: ${came ? 'a signal was lost' : 'no answer'}; asked for ${this.#opcodes.filter((_, i) => this.#waitsFor[i] !== 0n)}`,
      )
    }
    return this.#sent
  }

  #at(task: number): number {
    return this.#place.buffersAt + task * TASK_BYTES
  }

  #resume(i: number, reply: FuseReply | undefined): void {
    const next = this.#tasks[i]!.next(reply as FuseReply)
    if (next.done !== true) this.#send(i, next.value)
  }

  #send(i: number, { opcode, nodeid, body = new Uint8Array(0), room = 4112 }: Ask): void {
    const { index, size, kickFd, descriptorsAt } = this.#place
    this.#unique += 2n
    const head = concat(u32s(40 + body.length, opcode), u64(this.#unique), u64(BigInt(nodeid)))
    const request = concat(head, u32s(0, 0, 1, 0), body)
    if (request.length > REQUEST_BYTES || room > TASK_BYTES - REQUEST_BYTES) throw new Error('size')
    const at = this.#at(i)
    this.#memory.set(request, at)
    this.#memory.fill(0xee, at + REQUEST_BYTES, at + REQUEST_BYTES + Math.min(room, 64))
    // Each task has two descriptors of its own.
    const first = i * 2
    const put = (d: number, where: number, length: number, flags: number): void => {
      const entry = descriptorsAt + d * 16
      this.#view.setBigUint64(entry, GUEST_BASE + BigInt(where), true)
      this.#view.setUint32(entry + 8, length, true)
      this.#view.setUint16(entry + 12, flags, true)
      this.#view.setUint16(entry + 14, (flags & 1) === 0 ? 0 : d + 1, true)
    }
    put(first, at, request.length, room > 0 ? 1 : 0)
    if (room > 0) put(first + 1, at + REQUEST_BYTES, room, 2)
    this.#waitsFor[i] = this.#unique
    this.#opcodes[i] = opcode
    this.#rooms[i] = room
    this.#open++
    this.#sent++
    const before = this.#avail[1]!
    this.#avail[2 + (before % size)] = first
    Atomics.store(this.#avail, 1, (before + 1) & 0xffff)
    const event = Atomics.load(this.#used, 2 + size * 4)
    // vring_need_event, for one new chain.
    if (event === before && native.eventWrite(kickFd) < 0) throw new Error(`kick of ${index}`)
  }

  /** What came back; false when that is nothing. */
  #take(): boolean {
    const { index, size, usedAt } = this.#place
    if (Atomics.load(this.#used, 1) === this.#usedSeen) return false
    const at = usedAt + 4 + (this.#usedSeen % size) * 8
    const head = this.#view.getUint32(at, true)
    const written = this.#view.getUint32(at + 4, true)
    this.#usedSeen = (this.#usedSeen + 1) & 0xffff
    const task = head / 2
    const unique = this.#waitsFor[task] ?? 0n
    if (unique === 0n) throw new Error(`queue ${index}: chain ${head} came back uncalled for`)
    this.#waitsFor[task] = 0n
    this.#open--
    this.#resume(task, this.#reply(task, unique, written))
    return true
  }

  #reply(task: number, unique: bigint, written: number): FuseReply {
    const what = `queue ${this.#place.index}, opcode ${this.#opcodes[task]}`
    const nothing = this.#rooms[task] === 0
    if (nothing ? written !== 0 : written < 16) throw new Error(`${what}: ${written} bytes`)
    const at = this.#at(task) + REQUEST_BYTES
    const copy = this.#memory.slice(at, at + written)
    const view = new DataView(copy.buffer)
    if (nothing) return { error: 0, unique, body: view, bytes: copy, written }
    if (view.getUint32(0, true) !== written) throw new Error(`${what}: length and used.len differ`)
    if (view.getBigUint64(8, true) !== unique) throw new Error(`${what}: another request's answer`)
    const bytes = copy.slice(16)
    return {
      error: view.getInt32(4, true),
      unique,
      body: new DataView(bytes.buffer),
      bytes,
      written,
    }
  }
}
