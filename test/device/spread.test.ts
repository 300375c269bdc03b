/** Large reads that the pool copies while the device thread goes on. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type PassthroughPolicy, wherePossible } from '../../src/fuse/passthrough.js'
import { SPREAD_BYTES } from '../../src/fuse/spreading.js'
import { BUFFERS_AT, concat, u32s, u64 } from '../helpers/front-end.js'
import type { FuseClient } from '../helpers/fuse-client.js'
import { type Rig, rig } from '../helpers/rig.js'

const ROOM = SPREAD_BYTES + 0x2000

/** Offers reads of `sizes` from a file in one batch; returns their heads. */
function offer(r: Rig, client: FuseClient, sizes: readonly number[]): number[] {
  const nodeid = client.lookup(1, 'big')
  const fh = client.open(nodeid, 0)
  const ring = r.front.rings[1]!
  const heads = sizes.map((size, i) => {
    const at = BUFFERS_AT + 0x20_0000 + i * ROOM
    const body = concat(u64(fh), u64(BigInt(i)), u32s(size, 0), u64(0n), u32s(0, 0))
    const request = concat(client.header(15, nodeid, body.length, BigInt(1000 + i)), body)
    r.front.memory.set(request, at)
    return ring.direct([
      [at, request.length, false],
      [at + 0x1000, 16 + size, true],
    ])
  })
  for (const [i, head] of heads.entries()) ring.offer(head, i === heads.length - 1)
  return heads
}

function answers(r: Rig, count: number): Map<number, number> {
  const found = new Map<number, number>()
  const limit = performance.now() + 60_000
  while (found.size < count && performance.now() < limit) {
    r.pump()
    for (const { head, written } of r.front.rings[1]!.takeUsed()) found.set(head, written)
  }
  return found
}

for (const [helpers, sizes, spread, passthrough] of [
  [2, [SPREAD_BYTES, SPREAD_BYTES], 1],
  [2, [SPREAD_BYTES, SPREAD_BYTES], 1, wherePossible],
  [2, [SPREAD_BYTES], 0],
  [2, [SPREAD_BYTES - 1, SPREAD_BYTES - 1, SPREAD_BYTES], 0],
  [0, [SPREAD_BYTES, SPREAD_BYTES, SPREAD_BYTES], 0],
] as readonly [number, number[], number, PassthroughPolicy?][])
  test(`with ${helpers} helpers, of reads of ${sizes.join(', ')} bytes ${spread} go to the pool${passthrough === undefined ? '' : ', past the file system otherwise'}`, t => {
    const r = rig(t, { helpers, fuse: { passthrough } })
    const data = Uint8Array.from({ length: 2 * SPREAD_BYTES }, (_, i) => (i * 7) >> 3)
    writeFileSync(join(r.folder, 'big'), data)
    const heads = offer(r, r.client(), sizes)
    const found = answers(r, sizes.length)
    t.is(r.server.spreadTotal, spread)
    t.is(r.server.spreadCount, 0)
    for (const [i, size] of sizes.entries()) {
      const at = BUFFERS_AT + 0x20_0000 + i * ROOM + 0x1000
      t.is(found.get(heads[i]!), 16 + size)
      t.is(r.front.view.getBigUint64(at + 8, true), BigInt(1000 + i))
      t.deepEqual(r.front.memory.slice(at + 16, at + 16 + size), data.subarray(i, i + size))
    }
  })
