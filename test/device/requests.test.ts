/** Requests through the whole back end: ring, FUSE, host tree. */
import {
  readFileSync,
  writeFileSync,
  mkdirSync,
  existsSync,
  renameSync,
  truncateSync,
} from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { rig } from '../helpers/rig.js'
import { FuseClient, text } from '../helpers/fuse-client.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'

for (const [eventIdx, indirect] of [
  [true, true],
  [false, false],
  [true, false],
  [false, true],
] as const) {
  test(`a file is made, written, read back and removed (EVENT_IDX ${eventIdx}, indirect ${indirect})`, t => {
    const r = rig(t, { eventIdx, indirect })
    const client = r.client()
    const { nodeid, fh } = client.create(1, 'file')
    const data = Uint8Array.from({ length: 3000 }, (_, i) => i & 0xff)
    t.is(client.write(nodeid, fh, 0, data), 3000)
    t.deepEqual(client.read(nodeid, fh, 0, 4096), data)
    t.deepEqual(readFileSync(join(r.folder, 'file')), Buffer.from(data))
    t.is(client.read(nodeid, fh, 2999, 10).length, 1)
    t.is(client.read(nodeid, fh, 5000, 10).length, 0)
    client.release(nodeid, fh)
    client.do(10, 1, text('file'))
    t.false(existsSync(join(r.folder, 'file')))
    client.forget(nodeid, 1)
  })
}

test('a reply is scattered over buffers of any size', t => {
  const r = rig(t)
  const client = r.client()
  writeFileSync(join(r.folder, 'x'), 'contents')
  const nodeid = client.lookup(1, 'x')
  const fh = client.open(nodeid, 0)
  const body = concat(u64(fh), u64(0n), u32s(64, 0), u64(0n), u32s(0, 0))
  for (const split of [1, 2, 3, 5, 7, 15, 16, 17, 31]) {
    const reply = client.request(15, nodeid, body, { room: 80, split })!
    t.is(new TextDecoder().decode(reply.bytes), 'contents', `split ${split}`)
    t.is(reply.written, 24)
  }
})

test('lookup counts balance: a node goes with its last lookup', t => {
  const r = rig(t)
  const client = r.client()
  writeFileSync(join(r.folder, 'x'), '')
  const first = client.lookup(1, 'x')
  const again = client.lookup(1, 'x')
  t.is(first, again)
  t.is(r.fs.nodeCount, 2)
  client.forget(first, 1)
  t.is(r.fs.nodeCount, 2)
  client.forget(first, 1)
  t.is(r.fs.nodeCount, 1)
  t.is(client.request(3, first, concat(u32s(0, 0), u64(0n)))!.error, -116)
  t.not(client.lookup(1, 'x'), first, 'a nodeid is not used for another lookup life')
})

test('the root is never forgotten', t => {
  const r = rig(t)
  const client = r.client()
  client.forget(1, Number.MAX_SAFE_INTEGER)
  t.is(client.do(3, 1, concat(u32s(0, 0), u64(0n))).error, 0)
})

test('a name that means another file by now answers ESTALE, and the new one is found by name', t => {
  const r = rig(t)
  const client = r.client()
  writeFileSync(join(r.folder, 'x'), 'old')
  const old = client.lookup(1, 'x')
  writeFileSync(join(r.folder, 'y'), 'other file')
  renameSync(join(r.folder, 'y'), join(r.folder, 'x'))
  t.is(client.request(14, old, u32s(0, 0))!.error, -116)
  const now = client.lookup(1, 'x')
  t.not(now, old)
  const fh = client.open(now, 0)
  t.is(new TextDecoder().decode(client.read(now, fh, 0, 100)), 'other file')
})

test('READDIRPLUS carries lookups and continues at any cookie', t => {
  const r = rig(t)
  const client = r.client()
  mkdirSync(join(r.folder, 'd'))
  const names = Array.from({ length: 300 }, (_, i) => `entry-${i}`)
  for (const name of names) writeFileSync(join(r.folder, 'd', name), name)
  const dir = client.lookup(1, 'd')
  const fh = client.opendir(dir)
  const seen: string[] = []
  let cookie = 0n
  for (;;) {
    const bytes = client.readdir(dir, fh, cookie, 1024, true)
    if (bytes.length === 0) break
    const view = new DataView(bytes.buffer, bytes.byteOffset)
    for (let at = 0; at < bytes.length; ) {
      cookie = view.getBigUint64(at + 128 + 8, true)
      const length = view.getUint32(at + 128 + 16, true)
      seen.push(new TextDecoder().decode(bytes.subarray(at + 152, at + 152 + length)))
      at += (152 + length + 7) & ~7
    }
  }
  t.deepEqual(seen.filter(name => !name.startsWith('.')).sort(), [...names].sort())
  t.is(r.fs.nodeCount, 2 + 300)
})

test('READDIR from the start again sees what was added', t => {
  const r = rig(t)
  const client = r.client()
  const fh = client.opendir(1)
  const before = client.readdir(1, fh, 0n).length
  writeFileSync(join(r.folder, 'new'), '')
  t.true(client.readdir(1, fh, 0n).length > before)
})

test('INIT again and DESTROY release every node and open file', t => {
  const r = rig(t)
  const client = r.client()
  const { nodeid } = client.create(1, 'a')
  client.opendir(1)
  t.is(r.fs.handleCount, 2)
  client.init()
  t.is(r.fs.handleCount, 0)
  t.is(r.fs.nodeCount, 1)
  t.is(client.request(3, nodeid, concat(u32s(0, 0), u64(0n)))!.error, -116)
  client.create(1, 'b')
  client.destroy()
  t.is(r.fs.nodeCount, 1)
  t.is(
    client.request(3, 1, concat(u32s(0, 0), u64(0n)))!.error,
    -5,
    'nothing is served between DESTROY and INIT',
  )
})

test('one signal a batch at most', t => {
  const r = rig(t)
  r.client()
  const ring = r.front.rings[1]!
  const client = new FuseClient(r.front, ring)
  const before = r.device.counters.signals
  const batches = r.device.counters.batches
  for (let i = 0; i < 64; i++) {
    const at = 0x20_0000 + i * 256
    r.front.memory.set(concat(client.header(3, 1, 16, BigInt(i)), u32s(0, 0), u64(0n)), at)
    ring.offer(
      ring.direct([
        [at, 56, false],
        [at + 0x10_0000, 120, true],
      ]),
      i === 63,
    )
  }
  r.pump()
  t.is(ring.takeUsed().length, 64)
  t.true(r.device.counters.signals - before <= r.device.counters.batches - batches)
})

test('of many answers the fourth wakes a guest that sleeps, of few the first', t => {
  const r = rig(t)
  r.client()
  const ring = r.front.rings[1]!
  const client = new FuseClient(r.front, ring)
  const { context } = r
  const usedIndex = (): number => r.front.view.getUint16(ring.place.usedAt + 2, true)
  for (const [count, waking] of [
    [16, 4],
    [8, 4],
    [7, 1],
    [1, 1],
  ] as const) {
    ring.takeUsed()
    const before = usedIndex()
    const signalled: number[] = []
    context.eventSignal = (fd, kind) => {
      signalled.push((usedIndex() - before) & 0xffff)
      return Object.getPrototypeOf(context).eventSignal.call(context, fd, kind)
    }
    for (let i = 0; i < count; i++) {
      const at = 0x20_0000 + i * 256
      r.front.memory.set(concat(client.header(3, 1, 16, BigInt(i)), u32s(0, 0), u64(0n)), at)
      const chain = ring.direct([
        [at, 56, false],
        [at + 0x10_0000, 120, true],
      ])
      ring.offer(chain, i === count - 1)
    }
    r.pump()
    // It asked to be signalled once, as one that sleeps does.
    t.deepEqual(signalled, [waking], `${count} answers`)
  }
})

test('a read past what is cached goes to the pool and the ring goes on meanwhile', t => {
  const r = rig(t)
  const client = r.client()
  const { nodeid, fh } = client.create(1, 'big')
  truncateSync(join(r.folder, 'big'), 1 << 20)
  client.do(20, nodeid, concat(u64(fh), u32s(1, 0)))
  t.is(client.read(nodeid, fh, 0, 65536).length, 65536)
  t.is(r.server.pendingCount, 0)
})

test('hiprio FORGETs and requests of several queues are all served', t => {
  const r = rig(t, { queues: 5 })
  r.client()
  writeFileSync(join(r.folder, 'x'), '')
  for (const ring of r.front.rings.slice(1)) {
    const client = new FuseClient(r.front, ring)
    const nodeid = client.lookup(1, 'x')
    new FuseClient(r.front, r.front.rings[0]!).forget(nodeid, 1)
    t.is(r.fs.nodeCount, 1)
  }
})
