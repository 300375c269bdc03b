/** When the device thread spins, when it sleeps, and what it asks of the guest meanwhile. Counts, no times. */
import { existsSync } from 'node:fs'
import test from 'ava'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { native } from '../../src/native/addon.js'
import { AdaptivePolling } from '../../src/device/polling.js'
import { rig } from '../helpers/rig.js'
import { StalledFileSystem } from '../helpers/stalled-fs.js'

const FUSE_GETATTR = 3
const FUSE_FSYNC = 20

const mounts = process.geteuid?.() === 0 && existsSync('/dev/fuse') ? test : test.skip

mounts('a guest that was answered is polled for; one that waits for the pool is not', async t => {
  const slow = await StalledFileSystem.mount()
  t.teardown(() => slow.close())
  const r = rig(t, { pollUs: 50, host: { sharedDir: slow.folder } })
  const client = r.client()
  const nodeid = client.lookup(1, 'slow')
  const fh = client.open(nodeid, 2)
  const { counters } = r.device
  const ring = r.front.rings[1]!
  const ask = (opcode: number, body: Uint8Array): void => {
    const request = concat(client.header(opcode, nodeid, body.length, 9n), body)
    r.front.memory.set(request, 0x40_0000)
    ring.offer(
      ring.direct([
        [0x40_0000, request.length, false],
        [0x50_0000, 16 + 104, true],
      ]),
      false,
    )
  }
  // The descriptor is ready: no sleep lasts.
  const turn = (): void => {
    native.eventWrite(ring.kickFd)
    r.device.turn()
  }
  // A sleep in which others had the CPU has it pause: then it is a later turn.
  const turnUntil = (spins: number): void => {
    for (let tries = 0; tries < 100 && counters.spins < spins; tries++) turn()
  }
  ask(FUSE_GETATTR, concat(u32s(0, 0), u64(0n)))
  r.device.turn()
  const before = { ...counters }
  turnUntil(before.spins + 1)
  t.is(counters.spins, before.spins + 1, 'it was answered at once')
  turn()
  t.is(counters.spins, before.spins + 1, 'and once is enough')
  while (ring.takeUsed().length > 0);
  ask(FUSE_FSYNC, concat(u64(fh), u32s(0, 0)))
  r.device.turn()
  t.is(r.server.pendingCount, 1)
  turn()
  turn()
  t.is(counters.spins, before.spins + 1, 'all it asked is in the pool')
  slow.open()
  while (r.server.pendingCount > 0) r.device.turn()
  t.is(ring.takeUsed().length, 1)
  turnUntil(before.spins + 2)
  t.is(counters.spins, before.spins + 2, 'the answer came late, but came')
  client.release(nodeid, fh)
  client.forget(nodeid, 1)
})

test('after a sleep that no kick ended the guest is not asked for one', t => {
  for (const eventIdx of [true, false]) {
    const r = rig(t, { eventIdx })
    const client = r.client()
    const ring = r.front.rings[1]!
    // The sleep ends by the socket: that is no kick.
    r.front.send(1)
    r.device.turn()
    t.false(ring.wantsKick, `eventIdx ${eventIdx}`)
    r.pump()
    t.truthy(r.front.receive())
    client.destroy()
  }
})

/** Spins that all find work, while others take the CPU `preemptions` times; what it would spin next. */
function spinWhilePreempted(polling: AdaptivePolling, spins: number, preemptions: number): number {
  let looks = 0
  for (let i = 0; i < spins; i++) {
    if (polling.wantsToKnow) {
      polling.preempted(1000 + Math.round((i * preemptions) / (spins - 1)))
      looks++
    }
    polling.spun()
  }
  if (looks * 32 > spins) throw new Error(`${looks} looks for ${spins} spins`)
  return polling.spinUs
}

test('where others wait for the CPU polling pauses, and comes back', t => {
  t.is(spinWhilePreempted(new AdaptivePolling(50), 64, 4), 50)
  const polling = new AdaptivePolling(50)
  t.is(spinWhilePreempted(polling, 64, 20), 0)
  for (let i = 0; i < 256; i++) {
    t.is(polling.spinUs, 0)
    polling.slept(20)
  }
  t.is(polling.spinUs, 50)
  t.is(spinWhilePreempted(polling, 64, 4), 50, 'what happened in the pause does not count')
})
