/** Nothing is left over: descriptors, nodes, handles, memory. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { FuseClient, text } from '../helpers/fuse-client.js'
import { openDescriptors, rig } from '../helpers/rig.js'

/** Rounds of the mount test; more by hand. */
const ROUNDS = Number(process.env.LEAK_ROUNDS ?? 1000)
/** Requests of the steady-state test. */
const REQUESTS = Number(process.env.LEAK_REQUESTS ?? 60_000)

test(`${ROUNDS} mounts and unmounts leave nothing behind`, t => {
  t.timeout(300_000)
  const r = rig(t)
  mkdirSync(join(r.folder, 'd'))
  writeFileSync(join(r.folder, 'd', 'f'), 'x')
  const client = new FuseClient(r.front, r.front.rings[1]!)
  let descriptors = 0
  for (let round = 0; round < ROUNDS; round++) {
    client.init()
    const dir = client.lookup(1, 'd')
    const file = client.lookup(dir, 'f')
    // Half of it is given back by the guest, half by DESTROY; every third round ends in a new INIT.
    const fh = client.open(file, 0)
    const directory = client.opendir(dir)
    client.readdir(dir, directory, 0n, 4096, true)
    client.create(1, `new${round % 7}`, 0o644, 0o1102)
    if (round % 2 === 0) {
      client.release(file, fh)
      client.release(dir, directory, true)
      client.forget(file, 2)
    }
    if (round % 3 !== 0) client.destroy()
    if (round % 10 === 0) for (const ring of r.front.rings) ring.start(ring.stop())
    if (round === 9) descriptors = openDescriptors()
    if (round > 9 && round % 3 !== 0) {
      t.is(r.fs.nodeCount, 1)
      t.is(r.fs.handleCount, 0)
    }
  }
  client.init()
  t.true(
    openDescriptors() <= descriptors,
    `${openDescriptors()} descriptors, ${descriptors} after the first rounds`,
  )
})

test(`${REQUESTS} requests grow neither tables nor the heap`, t => {
  t.timeout(300_000)
  const r = rig(t)
  const client = r.client()
  writeFileSync(join(r.folder, 'f'), 'y'.repeat(4096))
  const nodeid = client.lookup(1, 'f')
  const fh = client.open(nodeid, 2)
  const ring = r.front.rings[1]!
  // Chains prepared once: LOOKUP, GETATTR, READ and a LOOKUP of nothing.
  const requests = [
    concat(client.header(1, 1, 2, 1n), text('f')),
    concat(client.header(3, nodeid, 16, 1n), u32s(0, 0), u64(0n)),
    concat(client.header(15, nodeid, 40, 1n), u64(fh), u64(0n), u32s(4096, 0), u64(0n), u32s(0, 0)),
    concat(client.header(1, 1, 8, 1n), text('missing')),
  ]
  const heads = requests.map((request, i) => {
    r.front.memory.set(request, 0x40_0000 + i * 8192)
    ring.descriptor(
      100 + i * 2,
      0x1000_0000n + BigInt(0x40_0000 + i * 8192),
      request.length,
      1,
      101 + i * 2,
    )
    ring.descriptor(101 + i * 2, 0x1000_0000n + BigInt(0x50_0000 + i * 8192), 16 + 4096, 2, 0)
    return 100 + i * 2
  })
  const burst = (): void => {
    for (let i = 0; i < 64; i++) ring.offer(heads[i & 3]!, false)
    r.pump()
    t.is(ring.takeUsed().length, 64)
  }
  let lookups = 1
  for (let i = 0; i < 200; i++) burst()
  lookups += 200 * 16
  globalThis.gc?.()
  const before = process.memoryUsage()
  for (let done = 0; done < REQUESTS; done += 64) {
    burst()
    lookups += 16
  }
  globalThis.gc?.()
  const after = process.memoryUsage()
  t.is(r.fs.nodeCount, 2)
  client.forget(nodeid, lookups)
  t.is(r.fs.nodeCount, 1, 'the lookups balance exactly')
  const grown = after.heapUsed - before.heapUsed
  // The test itself makes garbage; without --expose-gc it is only bounded.
  t.true(
    grown < (globalThis.gc === undefined ? 64 : 4) * 1024 * 1024,
    `the heap grew by ${grown} bytes`,
  )
  client.release(nodeid, fh)
})
