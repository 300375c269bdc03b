/**
 * Requests that a guest makes by the million, in chains prepared once and offered over and over: what is
 * allocated between two looks at the heap was allocated by the daemon's side.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { GUEST_BASE, concat, u32s, u64 } from './front-end.js'
import { text } from './fuse-client.js'
import type { FuseClient } from './fuse-client.js'
import type { Rig } from './rig.js'

/** Chains that are offered together; the ring has at least so many descriptors, times three. */
const BURST = 32
const REQUESTS_AT = 0x40_0000
const REPLIES_AT = 0x50_0000
const SPACING = 16 * 1024
const FILE_BYTES = 64 * 1024
const BLOCK = 4096

/** What can be asked for. */
export const HOT_KINDS = [
  'getattr',
  'lookup',
  'lookup of nothing',
  'read',
  'write',
  'statfs',
] as const
export type HotKind = (typeof HOT_KINDS)[number]

/** One guest with a file open, asking. */
export class HotRequests {
  readonly #rig: Rig
  readonly #client: FuseClient
  readonly #nodeid: number
  readonly #fh: bigint
  #lookups = 1

  constructor(rig: Rig) {
    this.#rig = rig
    writeFileSync(join(rig.folder, 'f'), 'y'.repeat(FILE_BYTES))
    this.#client = rig.client()
    this.#nodeid = this.#client.lookup(1, 'f')
    this.#fh = this.#client.open(this.#nodeid, 2)
  }

  /** Prepares BURST chains of one kind; the function asks at least `count` times and returns how often. */
  prepare(kind: HotKind): (count: number) => number {
    const { front } = this.#rig
    const ring = front.rings[1]!
    for (let i = 0; i < BURST; i++) {
      const request = this.#request(kind, (i * BLOCK) % FILE_BYTES)
      const at = REQUESTS_AT + i * SPACING
      front.memory.set(request, at)
      const first = i * 2
      ring.descriptor(first, GUEST_BASE + BigInt(at), request.length, 1, first + 1)
      ring.descriptor(first + 1, GUEST_BASE + BigInt(REPLIES_AT + i * SPACING), 16 + BLOCK, 2, 0)
    }
    return count => {
      let asked = 0
      for (; asked < count; asked += BURST) {
        for (let i = 0; i < BURST; i++) ring.offer(i * 2, false)
        while (this.#rig.device.turn(false) > 0);
        this.#rig.pump()
        ring.skipUsed()
      }
      if (kind === 'lookup') this.#lookups += asked
      return asked
    }
  }

  #request(kind: HotKind, offset: number): Uint8Array {
    const make = (opcode: number, nodeid: number, body: Uint8Array): Uint8Array =>
      concat(this.#client.header(opcode, nodeid, body.length, 1n), body)
    const rest = concat(u32s(BLOCK, 0), u64(0n), u32s(0, 0))
    switch (kind) {
      case 'getattr':
        return make(3, this.#nodeid, concat(u32s(0, 0), u64(0n)))
      case 'lookup':
        return make(1, 1, text('f'))
      case 'lookup of nothing':
        return make(1, 1, text('missing'))
      case 'read':
        return make(15, this.#nodeid, concat(u64(this.#fh), u64(BigInt(offset)), rest))
      case 'write':
        return make(
          16,
          this.#nodeid,
          concat(u64(this.#fh), u64(BigInt(offset)), rest, new Uint8Array(BLOCK)),
        )
      case 'statfs':
        return make(17, this.#nodeid, new Uint8Array(0))
    }
  }

  /** What the last burst was answered: error of each reply. */
  errors(): number[] {
    return Array.from({ length: BURST }, (_, i) =>
      this.#rig.front.view.getInt32(REPLIES_AT + i * SPACING + 4, true),
    )
  }

  end(): void {
    this.#client.release(this.#nodeid, this.#fh)
    this.#client.forget(this.#nodeid, this.#lookups)
  }
}
