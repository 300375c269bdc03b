/** A guest's driver with many requests in flight, on a daemon that runs by itself and may die. */
import { BUFFERS_AT, concat, type DriverRing, type FrontEnd, u32s, u64 } from './front-end.js'
import { FuseClient } from './fuse-client.js'

/** Each request has a page of its own: request, reply, indirect table. */
const SLOTS_AT = BUFFERS_AT + 0x40_0000
const SLOTS = 64
const SLOT_BYTES = 4096
const REPLY_IN_SLOT = 1024
const REPLY_BYTES = 2048
const TABLE_IN_SLOT = 3072

export interface Answer {
  /** 0 or -errno. */
  readonly error: number
  readonly body: DataView
}

/** The daemon is gone; whether it has done what was asked is not known. */
export class Gone extends Error {}

interface Asked {
  readonly slot: number
  readonly opcode: number
  readonly atMs: number
  readonly done: (answer: Answer) => void
  readonly failed: (cause: Gone) => void
}

export class BusyDriver {
  /** Since the last time that somebody set it to 0. */
  longestMs = 0
  readonly #front: FrontEnd
  readonly #client: FuseClient
  readonly #ring: DriverRing
  readonly #free = Array.from({ length: SLOTS }, (_, i) => i)
  readonly #asked = new Map<number, Asked>()
  #unique = 1_000_000n
  #gone = false
  #closed = false

  /** Owns `front`, and mounts. */
  constructor(front: FrontEnd) {
    this.#front = front
    front.start()
    this.#ring = front.rings[1]!
    this.#client = new FuseClient(front, this.#ring)
    this.#client.init()
  }

  /** Sends a request. Errors: Gone, when the daemon was given up before it answered. */
  ask(opcode: number, nodeid: number, body: Uint8Array): Promise<Answer> {
    if (this.#gone) return Promise.reject(new Gone())
    const slot = this.#free.pop()
    if (slot === undefined) throw new Error(`more than ${SLOTS} requests at once`)
    const at = SLOTS_AT + slot * SLOT_BYTES
    this.#unique += 2n
    const bytes = concat(this.#client.header(opcode, nodeid, body.length, this.#unique), body)
    if (bytes.length > REPLY_IN_SLOT) throw new Error('the request is too long')
    this.#front.memory.set(bytes, at)
    const head = this.#ring.throughTable(at + TABLE_IN_SLOT, [
      [at, bytes.length, false],
      [at + REPLY_IN_SLOT, REPLY_BYTES, true],
    ])
    return new Promise((done, failed) => {
      this.#asked.set(head, { slot, opcode, atMs: performance.now(), done, failed })
      this.#ring.offer(head)
    })
  }

  /** Takes the answers that are there. */
  poll(): void {
    if (this.#closed) return
    for (const { head } of this.#ring.takeUsed()) {
      const asked = this.#asked.get(head)
      if (asked === undefined) throw new Error('the answer of no request')
      this.#asked.delete(head)
      this.#free.push(asked.slot)
      this.longestMs = Math.max(this.longestMs, performance.now() - asked.atMs)
      const at = SLOTS_AT + asked.slot * SLOT_BYTES + REPLY_IN_SLOT
      const { buffer } = this.#front.memory.slice(at, at + REPLY_BYTES)
      const view = new DataView(buffer)
      const length = view.getUint32(0, true)
      const body = new DataView(buffer, 16, Math.max(length - 16, 0))
      asked.done({ error: view.getInt32(4, true), body })
    }
  }

  get inFlight(): number {
    return this.#asked.size
  }

  /** What is not answered yet. */
  get waiting(): Iterable<{ readonly opcode: number; readonly atMs: number }> {
    return this.#asked.values()
  }

  /** The daemon is being killed: what is asked from now on fails with Gone. */
  giveUp(): void {
    this.#gone = true
  }

  /**
   * The daemon has ended: what it has answered counts, the rest fails with Gone. Returns how many those were.
   * Also the end of a driver whose daemon lives.
   */
  close(): number {
    if (this.#closed) return 0
    this.poll()
    this.#gone = true
    this.#closed = true
    this.#front.close()
    const unanswered = [...this.#asked.values()]
    this.#asked.clear()
    for (const { failed } of unanswered) failed(new Gone())
    return unanswered.length
  }

  // --- a few requests' bodies -------------------------------------------------------------------------

  static lockBody(fh: bigint, owner: bigint, type: number, flock: boolean): Uint8Array {
    const toTheEnd = 0x7fff_ffff_ffff_ffffn
    return concat(u64(fh), u64(owner), u64(0n), u64(toTheEnd), u32s(type, 100, flock ? 1 : 0, 0))
  }
}
