/** Malformed rings and chains: each has a defined answer, and the device serves the next request. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import {
  BUFFERS_AT,
  concat,
  type DriverRing,
  GUEST_BASE,
  MEMORY_BYTES,
  u32s,
  u64,
} from '../helpers/front-end.js'
import { FuseClient } from '../helpers/fuse-client.js'
import { type Rig, rig } from '../helpers/rig.js'

const NEXT = 1
const WRITE = 2
const INDIRECT = 4
const BASE = GUEST_BASE
const REQUEST = BASE + BigInt(BUFFERS_AT)
const REPLY = BASE + BigInt(BUFFERS_AT + 0x1000)
const TABLE_AT = BUFFERS_AT + 0x4000
const TABLE = BASE + BigInt(TABLE_AT)

/** How a bad chain ends: given back with no bytes, answered with an errno, served, or not given back. */
type Answer = 'empty' | 'skipped' | number

interface Hostile {
  readonly why: string
  /** Writes the descriptors; returns the head to offer. */
  readonly build: (ring: DriverRing, rig: Rig) => number
  readonly answer: Answer
}

/** Writes entry `i` of the indirect table. */
function entry(
  r: Rig,
  i: number,
  address: bigint,
  length: number,
  flags: number,
  next: number,
): void {
  r.front.view.setBigUint64(TABLE_AT + i * 16, address, true)
  r.front.view.setUint32(TABLE_AT + i * 16 + 8, length, true)
  r.front.view.setUint16(TABLE_AT + i * 16 + 12, flags, true)
  r.front.view.setUint16(TABLE_AT + i * 16 + 14, next, true)
}

const HOSTILE: readonly Hostile[] = [
  {
    why: 'next points at itself',
    build: ring => {
      ring.descriptor(5, REQUEST, 56, NEXT, 5)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'two descriptors point at each other',
    build: ring => {
      ring.descriptor(5, REQUEST, 56, NEXT, 6)
      ring.descriptor(6, REPLY, 56, NEXT | WRITE, 5)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'next is outside the table',
    build: ring => {
      ring.descriptor(5, REQUEST, 56, NEXT, 40_000)
      return 5
    },
    answer: 'empty',
  },
  { why: 'the head is outside the table', build: () => 128, answer: 'skipped' },
  { why: 'the head is the largest number there is', build: () => 65_535, answer: 'skipped' },
  {
    why: 'readable after writable',
    build: ring => {
      ring.descriptor(5, REPLY, 120, WRITE | NEXT, 6)
      ring.descriptor(6, REQUEST, 56, 0, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'an empty chain',
    build: ring => {
      ring.descriptor(5, REQUEST, 0, 0, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'only writable buffers',
    build: ring => {
      ring.descriptor(5, REPLY, 120, WRITE, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'no room for a reply',
    build: ring => {
      ring.descriptor(5, REQUEST, 56, 0, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'room for 15 bytes of reply',
    build: ring => {
      ring.descriptor(5, REQUEST, 56, NEXT, 6)
      ring.descriptor(6, REPLY, 15, WRITE, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'room for a header and not for the body',
    build: ring => {
      ring.descriptor(5, REQUEST, 56, NEXT, 6)
      ring.descriptor(6, REPLY, 16, WRITE, 0)
      return 5
    },
    answer: -22,
  },
  {
    why: 'a request shorter than its header',
    build: ring => {
      ring.descriptor(5, REQUEST, 39, NEXT, 6)
      ring.descriptor(6, REPLY, 120, WRITE, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'the request lies outside guest memory',
    build: ring => {
      ring.descriptor(5, 0n, 56, NEXT, 6)
      ring.descriptor(6, REPLY, 120, WRITE, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'the request runs over the end of guest memory',
    build: ring => {
      ring.descriptor(5, BASE + BigInt(MEMORY_BYTES - 8), 56, NEXT, 6)
      ring.descriptor(6, REPLY, 120, WRITE, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'the reply lies outside guest memory',
    build: ring => {
      ring.descriptor(5, REQUEST, 56, NEXT, 6)
      ring.descriptor(6, 0n, 120, WRITE, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'address and length wrap 2^64',
    build: ring => {
      ring.descriptor(5, 0xffff_ffff_ffff_fff0n, 56, NEXT, 6)
      ring.descriptor(6, REPLY, 120, WRITE, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'a length of 4 GiB',
    build: ring => {
      ring.descriptor(5, REQUEST, 0xffff_ffff, NEXT, 6)
      ring.descriptor(6, REPLY, 0xffff_ffff, WRITE, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'an indirect table of no entry',
    build: ring => {
      ring.descriptor(5, TABLE, 0, INDIRECT, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'an indirect table of a broken entry',
    build: ring => {
      ring.descriptor(5, TABLE, 17, INDIRECT, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'an indirect table of 256 MiB',
    build: ring => {
      ring.descriptor(5, TABLE, 0x1000_0000, INDIRECT, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'an indirect table outside guest memory',
    build: ring => {
      ring.descriptor(5, 64n, 32, INDIRECT, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'an indirect descriptor with a next',
    build: (ring, r) => {
      entry(r, 0, REQUEST, 56, 0, 0)
      ring.descriptor(5, TABLE, 16, INDIRECT | NEXT, 6)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'an indirect table inside an indirect table',
    build: (ring, r) => {
      entry(r, 0, TABLE, 32, INDIRECT, 0)
      ring.descriptor(5, TABLE, 32, INDIRECT, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'an indirect table that runs in a circle',
    build: (ring, r) => {
      entry(r, 0, REQUEST, 56, NEXT, 1)
      entry(r, 1, REPLY, 120, NEXT | WRITE, 0)
      ring.descriptor(5, TABLE, 32, INDIRECT, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'an indirect next outside its table',
    build: (ring, r) => {
      entry(r, 0, REQUEST, 56, NEXT, 9)
      ring.descriptor(5, TABLE, 16, INDIRECT, 0)
      return 5
    },
    answer: 'empty',
  },
  {
    why: 'empty buffers between full ones',
    build: ring => {
      ring.descriptor(5, REQUEST, 56, NEXT, 6)
      ring.descriptor(6, REPLY, 0, WRITE | NEXT, 7)
      ring.descriptor(7, REPLY, 120, WRITE, 0)
      return 5
    },
    answer: 0,
  },
]

/** A well-formed GETATTR of the root at REQUEST. */
function placeGetattr(r: Rig, client: FuseClient): void {
  r.front.memory.set(concat(client.header(3, 1, 16, 77n), u32s(0, 0), u64(0n)), BUFFERS_AT)
  r.front.memory.fill(0xee, BUFFERS_AT + 0x1000, BUFFERS_AT + 0x2000)
}

function stillServes(t: ExecutionContext, client: FuseClient): void {
  t.is(
    client.do(3, 1, concat(u32s(0, 0), u64(0n))).body.getUint32(16 + 60, true) & 0o170000,
    0o040000,
  )
}

for (const { why, build, answer } of HOSTILE)
  test(`chain: ${why}`, t => {
    const r = rig(t)
    const client = r.client()
    const ring = r.front.rings[1]!
    placeGetattr(r, client)
    ring.offer(build(ring, r))
    const used = answer === 'skipped' ? undefined : ring.waitUsed()
    if (answer === 'skipped') {
      r.pump()
      t.is(ring.takeUsed().length, 0)
    } else if (answer === 'empty') {
      t.is(used!.written, 0)
    } else {
      t.is(used!.written, answer < 0 ? 16 : 120)
      t.is(r.front.view.getInt32(BUFFERS_AT + 0x1000 + 4, true), answer)
    }
    stillServes(t, client)
  })

test('an avail index far ahead stops that queue alone, until it is set up anew', t => {
  const r = rig(t, { queues: 3 })
  const client = r.client()
  const bad = r.front.rings[2]!
  bad.setAvailIndex(0x8000)
  r.pump()
  t.true(r.log.some(line => line.includes('left alone')))
  stillServes(t, client)
  bad.stop()
  bad.clear()
  bad.start()
  stillServes(t, new FuseClient(r.front, bad))
})

test('INDIRECT without the feature is refused', t => {
  const r = rig(t, { indirect: false })
  const client = r.client()
  const ring = r.front.rings[1]!
  ring.descriptor(5, TABLE, 32, INDIRECT, 0)
  ring.offer(5)
  t.is(ring.waitUsed()!.written, 0)
  stillServes(t, client)
})

test('data buffers outside guest memory fail that READ and WRITE with EFAULT, nothing else', t => {
  const r = rig(t)
  const client = r.client()
  writeFileSync(join(r.folder, 'x'), 'x'.repeat(8192))
  const nodeid = client.lookup(1, 'x')
  const fh = client.open(nodeid, 2)
  const ring = r.front.rings[1]!
  // READ: header room in memory, data room outside (user-mode Linux's zero page does this).
  const read = concat(
    client.header(15, nodeid, 40, 5n),
    u64(fh),
    u64(0n),
    u32s(4096, 0),
    u64(0n),
    u32s(0, 0),
  )
  r.front.memory.set(read, BUFFERS_AT)
  ring.descriptor(5, REQUEST, read.length, NEXT, 6)
  ring.descriptor(6, REPLY, 16, NEXT | WRITE, 7)
  ring.descriptor(7, 4096n, 4096, WRITE, 0)
  ring.offer(5)
  t.is(ring.waitUsed()!.written, 16)
  t.is(r.front.view.getInt32(BUFFERS_AT + 0x1000 + 4, true), -14)
  const write = concat(
    client.header(16, nodeid, 40 + 4096, 5n),
    u64(fh),
    u64(0n),
    u32s(4096, 0),
    u64(0n),
    u32s(0, 0),
  )
  r.front.memory.set(write, BUFFERS_AT)
  ring.descriptor(5, REQUEST, write.length, NEXT, 6)
  ring.descriptor(6, 4096n, 4096, NEXT, 7)
  ring.descriptor(7, REPLY, 24, WRITE, 0)
  ring.offer(5)
  t.is(ring.waitUsed()!.written, 16)
  t.is(r.front.view.getInt32(BUFFERS_AT + 0x1000 + 4, true), -14)
  t.is(client.read(nodeid, fh, 0, 16)[0], 'x'.charCodeAt(0))
})

test('a LOOKUP, OPEN or CREATE whose reply cannot be delivered leaves no node and no file open', t => {
  const r = rig(t)
  const client = r.client()
  writeFileSync(join(r.folder, 'x'), '')
  const ring = r.front.rings[1]!
  const name = Uint8Array.from([0x78, 0])
  const created = Uint8Array.from([0x79, 0])
  const bodies: [number, Uint8Array][] = [
    [1, name],
    [35, concat(u32s(0o102, 0o100644, 0, 0), created)],
    [27, u32s(0, 0)],
  ]
  for (const [opcode, body] of bodies) {
    const request = concat(client.header(opcode, 1, body.length, 5n), body)
    r.front.memory.set(request, BUFFERS_AT)
    ring.descriptor(5, REQUEST, request.length, NEXT, 6)
    ring.descriptor(6, 4096n, 4096, WRITE, 0)
    ring.offer(5)
    t.is(ring.waitUsed()!.written, 0)
    t.is(r.fs.nodeCount, 1, `opcode ${opcode}`)
    t.is(r.fs.handleCount, 0, `opcode ${opcode}`)
  }
  stillServes(t, client)
})
