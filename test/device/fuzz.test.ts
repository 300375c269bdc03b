/**
 * Random input for the three parsers: rings, FUSE requests, vhost-user messages. Whatever comes, the
 * back end lives, answers the next good request, and leaks nothing. FUZZ_SECONDS lengthens it,
 * FUZZ_SEED repeats a run; the seed is printed.
 */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { native } from '../../src/native/addon.js'
import {
  BUFFERS_AT,
  concat,
  GUEST_BASE,
  MEMORY_BYTES,
  region,
  u32s,
  u64,
  USER_BASE,
} from '../helpers/front-end.js'
import { FuseClient } from '../helpers/fuse-client.js'
import { Rig, rig } from '../helpers/rig.js'

const SECONDS = Number(process.env.FUZZ_SECONDS ?? 4)
const SEED = Number(process.env.FUZZ_SEED ?? Date.now() % 2 ** 31)

/** Mulberry32: small, seeded, good enough to shake parsers. */
class Random {
  #state: number
  constructor(seed: number) {
    this.#state = seed
  }
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let z = this.#state
    z = Math.imul(z ^ (z >>> 15), z | 1)
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61)
    return (z ^ (z >>> 14)) >>> 0
  }
  below(limit: number): number {
    return this.next() % limit
  }
  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!
  }
  /** Numbers that parsers get wrong, among ordinary ones. */
  u32(): number {
    return this.pick([
      0,
      1,
      2,
      7,
      16,
      40,
      56,
      4095,
      4096,
      65536,
      0x7fff_ffff,
      0x8000_0000,
      0xffff_ffff,
      this.next(),
      this.below(256),
    ])
  }
  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.next() & 0xff)
  }
}

function forSeconds(seconds: number, round: (index: number) => void): number {
  const limit = performance.now() + seconds * 1000
  let index = 0
  while (performance.now() < limit) round(index++)
  return index
}

const GETATTR = concat(u32s(0, 0), u64(0n))

test(`fuzz: random descriptor tables, seed ${SEED}`, t => {
  t.timeout((SECONDS + 60) * 1000)
  const random = new Random(SEED)
  const r = rig(t)
  r.client()
  const rounds = forSeconds(SECONDS, () => {
    const ring = r.front.rings[1]!
    const addresses = [
      GUEST_BASE + BigInt(BUFFERS_AT),
      GUEST_BASE,
      GUEST_BASE + BigInt(MEMORY_BYTES - 16),
      0n,
      0xffff_ffff_ffff_fff0n,
      GUEST_BASE + BigInt(random.below(MEMORY_BYTES)),
    ]
    for (let i = 0; i < 16; i++)
      ring.descriptor(
        i,
        random.pick(addresses),
        random.u32(),
        random.pick([0, 1, 1, 2, 3, 3, 4, 5, 0xffff]),
        random.pick([i + 1, i + 1, random.below(20), 65535]),
      )
    for (let i = 0; i < 8; i++) {
      const at = BUFFERS_AT + i * 16
      r.front.view.setBigUint64(at, random.pick(addresses), true)
      r.front.view.setUint32(at + 8, random.u32(), true)
      r.front.view.setUint16(at + 12, random.pick([0, 1, 2, 3, 4]), true)
      r.front.view.setUint16(at + 14, random.below(10), true)
    }
    ring.offer(random.pick([0, 1, 2, 3, random.below(16), 127, 128, 65535]))
    r.pump()
    // What was written may have hit the ring itself: set it up anew before asking for service.
    ring.stop()
    ring.clear()
    ring.start()
  })
  const client = new FuseClient(r.front, r.front.rings[1]!)
  client.init()
  t.is(client.do(3, 1, GETATTR).error, 0)
  t.log(`${rounds} rounds`)
})

test(`fuzz: random requests, seed ${SEED}`, t => {
  t.timeout((SECONDS + 60) * 1000)
  const random = new Random(SEED + 1)
  const r = rig(t, { host: { xattr: true } })
  const client = r.client()
  mkdirSync(join(r.folder, 'd'))
  writeFileSync(join(r.folder, 'f'), 'contents')
  symlinkSync('f', join(r.folder, 's'))
  const known: number[] = [1]
  const handles: bigint[] = [0n]
  const rounds = forSeconds(SECONDS, () => {
    for (const name of ['d', 'f', 's']) {
      const nodeid = client.lookup(1, name)
      if (nodeid > 0 && known.length < 8) known.push(nodeid)
    }
    const opcode = random.pick([random.below(56), random.below(56), random.u32()])
    // DESTROY and INIT would make the rest dull; SYNCFS of the whole machine would make it slow.
    if (opcode === 38 || opcode === 50) return
    const body = randomBody(random, handles)
    const reply = client.request(opcode, random.pick([...known, random.u32()]), body, {
      room: random.pick([16, 24, 144, 4112]),
    })
    if (reply !== undefined) {
      t.true(reply.error <= 0 && reply.error > -512)
      if (opcode === 14 && reply.error === 0 && handles.length < 16)
        handles.push(reply.body.getBigUint64(0, true))
    }
    if (opcode === 26) client.init()
  })
  t.is(client.do(3, 1, GETATTR).error, 0)
  t.log(`${rounds} rounds`)
})

function randomBody(random: Random, handles: readonly bigint[]): Uint8Array {
  const parts: Uint8Array[] = []
  for (let i = random.below(8); i > 0; i--)
    parts.push(
      random.pick([
        () => u32s(random.u32()),
        () => u64(random.pick(handles)),
        () => u64(BigInt(random.u32())),
        () => random.bytes(random.below(40)),
        () =>
          new TextEncoder().encode(
            random.pick(['f\0', 'd\0', 's\0', 'new\0', '..\0', 'a/b\0', 'user.x\0', 'é\0']),
          ),
      ])(),
    )
  return concat(...parts)
}

test(`fuzz: random vhost-user messages, seed ${SEED}`, t => {
  t.timeout((SECONDS + 60) * 1000)
  const random = new Random(SEED + 2)
  let messages = 0
  const before = process.getBuiltinModule('node:fs').readdirSync('/proc/self/fd').length
  const rounds = forSeconds(SECONDS, () => {
    const r = new Rig({ start: random.below(2) === 0, tag: 'fuzz' })
    if (random.below(2) === 0 && r.front.rings.length === 0) r.front.negotiateProtocol()
    const kick = native.eventFd()
    for (let i = 0; i < 30 && !r.closed; i++) {
      const payload = random.pick([
        () => new Uint8Array(0),
        () => u64(BigInt(random.below(70))),
        () =>
          u32s(
            random.pick([0, 1, 2, 64, 65, random.u32()]),
            random.pick([0, 1, 2, 128, 256, random.u32()]),
          ),
        () =>
          concat(
            u32s(1, 0),
            region(
              GUEST_BASE,
              BigInt(random.pick([4096, MEMORY_BYTES, random.u32()])),
              USER_BASE,
              0n,
            ),
          ),
        () =>
          concat(
            u64(0n),
            region(
              BigInt(random.u32()),
              65536n,
              0x6000_0000_0000n + BigInt(random.u32()) * 65536n,
              0n,
            ),
          ),
        () =>
          concat(
            u32s(random.below(3), 0),
            u64(USER_BASE + BigInt(random.below(64) * 16)),
            u64(USER_BASE + 0x8000n),
            u64(USER_BASE + 0x4000n),
            u64(0n),
          ),
        () => random.bytes(random.below(64)),
      ])()
      const fds = random.pick([
        [],
        [],
        [kick],
        [r.front.memoryFd],
        [kick, kick],
        [r.front.memoryFd, r.front.memoryFd],
      ])
      try {
        r.front.send(
          random.pick([random.below(46), random.below(46), random.u32()]),
          payload,
          fds,
          random.pick([1, 9, 9, 9, 9, 9, 9, 9, 9, random.u32()]),
        )
      } catch {
        break // The back end closed the connection.
      }
      messages++
      r.pump()
    }
    native.closeFd(kick)
    r.close()
  })
  t.is(process.getBuiltinModule('node:fs').readdirSync('/proc/self/fd').length, before)
  t.log(`${messages} messages in ${rounds} sessions`)
})
