/** FORGET while the guest is at work: neither kick nor signal of its own, and none is lost. Counts, no times. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import test, { type ExecutionContext } from 'ava'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import { Patience } from '../../src/device/patience.js'
import { native } from '../../src/native/addon.js'
import { TASK_BYTES } from '../helpers/driver-thread.js'
import { BUFFERS_AT, concat, MEMORY_BYTES, u32s, u64 } from '../helpers/front-end.js'
import { type Rig, rig } from '../helpers/rig.js'
import type { ForgettingOrder } from './forgetting-driver.js'

const DONE = 9

/** A file in the share whose node the guest has looked up `count` times. */
function knownFile(r: Rig, count: number): number {
  writeFileSync(join(r.folder, 'f'), 'x')
  const client = r.client()
  let nodeid = 0
  for (let i = 0; i < count; i++) nodeid = client.lookup(1, 'f')
  return nodeid
}

/** Offers a request on ring `index`, without a kick. */
function offer(r: Rig, index: number, opcode: number, nodeid: number): void {
  const body = opcode === Opcode.FUSE_FORGET ? u64(1n) : concat(u32s(0, 0), u64(0n))
  const head = concat(u32s(40 + body.length, opcode), u64(77n), u64(BigInt(nodeid)))
  const request = concat(head, u32s(0, 0, 1, 0), body)
  const at = 0x40_0000 + index * 0x1000
  r.front.memory.set(request, at)
  const ring = r.front.rings[index]!
  const answer = [[at + 0x800, 120, true]] as const
  ring.offer(
    ring.direct([[at, request.length, false], ...(opcode === Opcode.FUSE_FORGET ? [] : answer)]),
    false,
  )
}

/** Signals that came on ring `index` since this was asked. */
function signals(r: Rig, index: number): number {
  return Math.max(0, native.eventRead(r.front.rings[index]!.callFd, 0))
}

test('beside requests a FORGET is signalled only when the guest rests', t => {
  const r = rig(t, { eventIdx: true })
  const nodeid = knownFile(r, 40)
  const [hiprio, requests] = r.front.rings as [(typeof r.front.rings)[0], (typeof r.front.rings)[0]]
  signals(r, 0)
  signals(r, 1)
  let early = 0
  for (let i = 0; i < 30; i++) {
    offer(r, 0, Opcode.FUSE_FORGET, nodeid)
    offer(r, 1, Opcode.FUSE_GETATTR, nodeid)
    r.device.turn(false)
    t.is(hiprio.takeUsed().length, 1, 'it is given back all the same')
    t.is(requests.takeUsed().length, 1)
    t.is(signals(r, 1), 1)
    early += signals(r, 0)
  }
  // Some requests later there is one, so that nobody waits for ever beside a busy queue.
  t.true(early <= 1, `${early} signals`)
  offer(r, 0, Opcode.FUSE_FORGET, nodeid)
  r.device.turn()
  t.is(signals(r, 0), 0)
  // Nothing comes: this sleep ends by itself.
  r.device.turn()
  t.is(signals(r, 0), 1)
})

test('without EVENT_IDX each has its signal', t => {
  const r = rig(t, { eventIdx: false })
  const nodeid = knownFile(r, 10)
  signals(r, 0)
  for (let i = 0; i < 5; i++) {
    offer(r, 0, Opcode.FUSE_FORGET, nodeid)
    r.device.turn(false)
    t.is(r.front.rings[0]!.takeUsed().length, 1)
    t.is(signals(r, 0), 1)
  }
})

test('half a ring of FORGETs is signalled at once', t => {
  const r = rig(t, { eventIdx: true, size: 16 })
  const nodeid = knownFile(r, 20)
  signals(r, 0)
  for (let i = 0; i < 8; i++) offer(r, 0, Opcode.FUSE_FORGET, nodeid)
  r.device.turn(false)
  t.is(signals(r, 0), 1)
})

/** Runs threads that drive rings, and serves them from this thread as the device thread does. */
async function serve(
  t: ExecutionContext,
  r: Rig,
  orders: readonly { ring: number; opcode: number; count: number; tasks: number }[],
  nodeid: number,
): Promise<void> {
  const doneFd = native.eventFd()
  r.context.raw.watchFd(doneFd, DONE, false)
  const faults: string[] = []
  const ended = orders.map(({ ring, ...order }, i) => {
    const workerData: ForgettingOrder = {
      ...order,
      place: {
        ...r.front.rings[ring]!.place,
        memoryFd: r.front.memoryFd,
        memoryBytes: MEMORY_BYTES,
        buffersAt: BUFFERS_AT + 0x40_0000 + i * 8 * TASK_BYTES,
      },
      nodeid,
      doneFd,
    }
    const worker = new Worker(new URL('./forgetting-driver.js', import.meta.url), { workerData })
    worker.once('message', (fault: string) => faults.push(fault))
    return new Promise(resolve => worker.once('exit', resolve))
  })
  for (let done = 0; done < orders.length; ) {
    const ready = r.device.turn()
    for (let i = 0; i < ready; i++)
      if (r.context.ready[i] === DONE) done += native.eventRead(doneFd, 0)
  }
  await Promise.all(ended)
  r.context.raw.unwatchFd(doneFd)
  native.closeFd(doneFd)
  t.deepEqual(
    faults,
    orders.map(() => ''),
  )
}

const { FUSE_FORGET, FUSE_GETATTR } = Opcode
for (const [what, orders] of [
  ['alone', [{ ring: 0, opcode: FUSE_FORGET, count: 300, tasks: 1 }]],
  ['in bursts', [{ ring: 0, opcode: FUSE_FORGET, count: 100, tasks: 8 }]],
  [
    'beside requests',
    [
      { ring: 0, opcode: FUSE_FORGET, count: 300, tasks: 2 },
      { ring: 2, opcode: FUSE_GETATTR, count: 3000, tasks: 1 },
    ],
  ],
] as const)
  test(`a driver that waits for its FORGETs gets on, ${what}`, async t => {
    const r = rig(t, { queues: 3, eventIdx: true, pollUs: 20 })
    const nodeid = knownFile(r, 1000)
    await serve(t, r, orders, nodeid)
    t.deepEqual(r.log, [])
  })

test('where waiting is in vain it pauses, for longer each time, until it pays', t => {
  const patience = new Patience()
  let waits = 0
  const batches = (count: number, comes: boolean): number => {
    waits = 0
    for (let i = 0; i < count; i++) {
      patience.served()
      if (!patience.waiting) continue
      waits++
      if (comes) patience.paid()
      else patience.timedOut()
    }
    return waits
  }
  t.is(batches(100, true), 100)
  t.true(batches(1000, false) < 60, `${waits}`)
  t.true(batches(1000, false) < 20, `${waits}`)
  batches(256, true)
  t.is(batches(100, true), 100)
  patience.served()
  patience.end()
  t.false(patience.waiting)
})
