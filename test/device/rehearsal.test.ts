/** A rehearsal step by step: it ends, every request is answered as it should be, and nothing is left. */
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import { native } from '../../src/native/addon.js'
import { BUFFERS_AT, concat, u64 } from '../helpers/front-end.js'
import { openDescriptors, rig } from '../helpers/rig.js'
import { LEASES, stage } from './rehearsal-stage.js'

const STEPS_AT_MOST = 100_000

test('it ends by itself, and leaves no descriptor and no guest memory', t => {
  const { context, before, log, make } = stage(t)
  const rehearsal = make()
  let steps = 0
  while (rehearsal.step()) t.true(++steps < STEPS_AT_MOST)
  t.true(steps > 10)
  t.false(rehearsal.step())
  t.is(log.length, 1)
  t.regex(log[0]!, /^debug: rehearsed \d+ requests from 2 beginnings$/)
  t.is(openDescriptors(), before)
  t.is(context.raw.clearRegions(), 0)
})

test('ended at any step, it leaves nothing either', t => {
  for (const steps of [0, 1, 2, 7, 30]) {
    const { context, before, make } = stage(t)
    const rehearsal = make()
    for (let i = 0; i < steps; i++) rehearsal.step()
    rehearsal.end()
    rehearsal.end()
    t.false(rehearsal.step())
    t.is(openDescriptors(), before, `after ${steps} steps`)
    t.is(context.raw.clearRegions(), 0)
  }
})

test('under leases it takes the same steps, with a table of its own', t => {
  const { context, before, log, make } = stage(t, {}, LEASES)
  const rehearsal = make()
  let steps = 0
  while (rehearsal.step()) t.true(++steps < STEPS_AT_MOST)
  t.true(steps > 10)
  t.is(log.length, 1)
  t.regex(log[0]!, /^debug: rehearsed \d+ requests from 2 beginnings, \d+ leases$/)
  const leases = Number(/(\d+) leases/.exec(log[0]!)![1])
  t.true(leases > steps, log[0])
  t.is(openDescriptors(), before)
  t.is(context.raw.clearRegions(), 0)
})

test('only its stage is touched', t => {
  const { folder, make } = stage(t)
  const rehearsal = make()
  for (let i = 0; i < 20; i++) rehearsal.step()
  t.is(readdirSync(folder).length, 25)
  t.is(readdirSync(join(folder, 'folder')).length, 24)
  rehearsal.end()
})

test('what it is refused ends it, and says so in the log', t => {
  const { before, log, make } = stage(t, { openFiles: 0 })
  const rehearsal = make()
  while (rehearsal.step());
  t.is(log[0], 'debug: the rehearsal ends: opcode 35: ENFILE')
  t.regex(log[1]!, /^debug: rehearsed \d requests from 1 beginnings$/)
  t.is(log.length, 2)
  t.is(openDescriptors(), before)
})

test('beside a front end that is plugged in: neither has anything of the other', t => {
  const r = rig(t)
  writeFileSync(join(r.folder, 'file'), 'content')
  const client = r.client()
  const { before, log, make } = stage(t, {}, LEASES, r.context)
  const rehearsal = make()
  for (let round = 0; round < 100; round++) {
    const nodeid = client.lookup(1, 'file')
    const fh = client.open(nodeid, 0)
    t.is(new TextDecoder().decode(client.read(nodeid, fh, 0, 4096)), 'content')
    client.release(nodeid, fh)
    // What waits in a ring of the one is not for the other.
    const served = r.device.counters.requests
    const forget = concat(client.header(Opcode.FUSE_FORGET, nodeid, 8, 1_000_000n), u64(1n))
    r.front.memory.set(forget, BUFFERS_AT)
    client.ring.offer(client.ring.direct([[BUFFERS_AT, forget.length, false]]))
    t.true(rehearsal.step())
    t.is(r.device.counters.requests, served)
    t.not(client.ring.waitUsed(), undefined)
    t.is(r.device.counters.requests, served + 1)
  }
  rehearsal.end()
  t.is(log.length, 1, log.join())
  t.deepEqual(r.log, [])
  t.is(openDescriptors(), before)
})

test('it makes room for what a front end says of memory, and begins anew', t => {
  const r = rig(t)
  const { before, log, make } = stage(t, {}, undefined, r.context)
  const rehearsal = make()
  for (let round = 0; round < 5; round++) {
    for (let i = 0; i < 4; i++) t.true(rehearsal.step())
    t.true(rehearsal.acting)
    rehearsal.pause()
    t.false(rehearsal.acting)
    t.false(rehearsal.over)
    t.is(r.front.setMemTable(), 0)
  }
  rehearsal.end()
  t.regex(log.join(), /^debug: rehearsed \d+ requests from 5 beginnings$/)
  t.is(openDescriptors(), before)
  r.client()
})

test('where a front end has memory at its addresses it ends', t => {
  const { context, before, log, make } = stage(t)
  const fd = native.memfd('guest', 4096)
  t.is(context.raw.addRegion(fd, 0n, 1n << 52n, 0x7f00_0000_0000n, 4096n), 0)
  const rehearsal = make()
  t.false(rehearsal.step())
  t.deepEqual(log, [
    'debug: the rehearsal ends: addRegion: -17',
    'debug: rehearsed 0 requests from 1 beginnings',
  ])
  t.is(context.raw.clearRegions(), 1)
  native.closeFd(fd)
  t.is(openDescriptors(), before)
})
