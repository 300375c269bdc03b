/** File I/O that blocks on the host does not stop the ring. */
import { existsSync } from 'node:fs'
import test from 'ava'
import { BUFFERS_AT, concat, u32s, u64 } from '../helpers/front-end.js'
import { rig } from '../helpers/rig.js'
import { SLOW_BYTES, StalledFileSystem } from '../helpers/stalled-fs.js'

const runs = process.geteuid?.() === 0 && existsSync('/dev/fuse') ? test : test.skip

runs(
  'READ, WRITE and FSYNC of a file system that stalls wait in the pool; other requests are served',
  async t => {
    const slow = await StalledFileSystem.mount()
    t.teardown(() => slow.close())
    const r = rig(t, { host: { sharedDir: slow.folder }, queues: 3 })
    const client = r.client()
    const nodeid = client.lookup(1, 'slow')
    const fh = client.open(nodeid, 2)
    const ring = r.front.rings[1]!
    const at = (i: number): number => BUFFERS_AT + 0x20_0000 + i * 0x10000
    const offer = (i: number, request: Uint8Array, room: number): number => {
      r.front.memory.set(request, at(i))
      const head = ring.direct([
        [at(i), request.length, false],
        [at(i) + 0x2000, room, true],
      ])
      ring.offer(head)
      return head
    }
    const data = new Uint8Array(100).fill(1)
    const heads = [
      offer(
        0,
        concat(
          client.header(15, nodeid, 40, 101n),
          u64(fh),
          u64(0n),
          u32s(4096, 0),
          u64(0n),
          u32s(0, 0),
        ),
        16 + 4096,
      ),
      offer(
        1,
        concat(
          client.header(16, nodeid, 140, 102n),
          u64(fh),
          u64(0n),
          u32s(100, 0),
          u64(0n),
          u32s(0, 0),
          data,
        ),
        24,
      ),
      offer(2, concat(client.header(20, nodeid, 16, 103n), u64(fh), u32s(0, 0)), 16),
    ]
    r.pump()
    t.true(slow.waitHeld(1), 'the host file system holds a request back')
    t.is(r.server.pendingCount, 3)
    t.is(ring.takeUsed().length, 0)
    // On the same ring, and of the same file system.
    t.is(client.do(3, nodeid, concat(u32s(0, 0), u64(0n))).body.getUint32(16 + 8, true), SLOW_BYTES)
    t.is(client.lookup(1, 'nothing'), -2)
    slow.open()
    const done = new Map<number, number>()
    const limit = performance.now() + 60_000
    while (done.size < 3 && performance.now() < limit) {
      r.pump()
      for (const { head, written } of ring.takeUsed()) done.set(head, written)
    }
    t.deepEqual([...done.keys()].sort(), [...heads].sort())
    t.is(done.get(heads[0]!), 16 + 4096)
    t.is(done.get(heads[1]!), 24)
    t.is(done.get(heads[2]!), 16)
    t.is(r.front.view.getBigUint64(at(0) + 0x2000 + 8, true), 101n)
    t.is(r.front.memory[at(0) + 0x2000 + 16 + 4095], 0x73)
    t.is(r.front.view.getUint32(at(1) + 0x2000 + 16, true), 100)
    client.release(nodeid, fh)
  },
)

runs('GET_VRING_BASE waits for the requests in flight and answers them first', async t => {
  const slow = await StalledFileSystem.mount()
  t.teardown(() => slow.close())
  const r = rig(t, { host: { sharedDir: slow.folder } })
  const client = r.client()
  const nodeid = client.lookup(1, 'slow')
  const fh = client.open(nodeid, 2)
  const ring = r.front.rings[1]!
  const request = concat(
    client.header(15, nodeid, 40, 7n),
    u64(fh),
    u64(0n),
    u32s(512, 0),
    u64(0n),
    u32s(0, 0),
  )
  r.front.memory.set(request, BUFFERS_AT + 0x20_0000)
  ring.offer(
    ring.direct([
      [BUFFERS_AT + 0x20_0000, request.length, false],
      [BUFFERS_AT + 0x21_0000, 16 + 512, true],
    ]),
  )
  r.pump()
  t.true(slow.waitHeld(1))
  slow.open()
  t.is(ring.stop(), ring.availIndex)
  t.is(ring.takeUsed().length, 1)
  t.is(r.server.pendingCount, 0)
})
