/** The transfer itself: front ends that are slow, go away, or ask for what cannot be. */
import { closeSync, mkdirSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { native } from '../../src/native/addon.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import {
  checkState,
  LOAD,
  loadState,
  makePipe,
  NO_FD,
  SAVE,
  saveState,
  setStateFd,
  startRings,
  stopRings,
} from '../helpers/migrate.js'
import { type Rig, rig } from '../helpers/rig.js'
import { openFiles } from '../native/support.js'

const GETATTR = concat(u32s(0, 0), u64(0n))
/** Against a hang. */
const LIMIT_MS = 60_000

/** How many descriptors of this process are of the pipe that `fd` is of. */
function descriptorsOf(fd: number): number {
  const files = openFiles()
  return [...files.values()].filter(file => file === files.get(String(fd))).length
}

/** A rig whose guest knows more than a pipe holds at once. */
function full(r: Rig): void {
  const client = r.client()
  mkdirSync(join(r.folder, 'd'))
  const dir = client.lookup(1, 'd')
  for (let i = 0; i < 1500; i++) {
    const name = `${'x'.repeat(80)}${i}`
    writeFileSync(join(r.folder, 'd', name), '')
    client.lookup(dir, name)
  }
}

test('DEVICE_STATE and LOG_SHMFD are offered', t => {
  const r = rig(t, { start: false })
  t.is(r.front.get(15) & ((1n << 19n) | 2n), (1n << 19n) | 2n)
})

for (const [what, direction, phase] of [
  ['a direction that there is not', 2, 0],
  ['a phase that there is not', SAVE, 1],
] as const)
  test(`refused with a reply: ${what}`, t => {
    const r = rig(t)
    r.client()
    stopRings(r)
    const { read, write } = makePipe(r.front)
    t.is(setStateFd(r.front, direction, write, phase), NO_FD | 1n)
    for (const fd of [read, write]) closeSync(fd)
    t.is(checkState(r.front), 1n)
  })

test('refused while a ring is running', t => {
  const r = rig(t)
  const client = r.client()
  r.front.rings[0]!.stop()
  const { read, write } = makePipe(r.front)
  t.is(setStateFd(r.front, SAVE, write), NO_FD | 1n)
  for (const fd of [read, write]) closeSync(fd)
  t.is(client.do(3, 1, GETATTR).error, 0)
})

test('refused: a plain file, whose reads could wait without end', t => {
  const r = rig(t)
  r.client()
  stopRings(r)
  const fd = openSync(join(r.folder, 'plain'), 'w+')
  t.is(setStateFd(r.front, SAVE, fd), NO_FD | 1n)
  t.is(setStateFd(r.front, LOAD, fd), NO_FD | 1n)
  closeSync(fd)
})

test('a socket will do as well as a pipe', t => {
  const r = rig(t)
  r.client()
  stopRings(r)
  const pair = new Int32Array(2)
  native.socketPair(pair)
  t.is(setStateFd(r.front, SAVE, pair[0]!), NO_FD)
  native.closeFd(pair[0]!)
  r.pump()
  const into = Buffer.alloc(65536)
  t.true(readSync(pair[1]!, into) > 0)
  t.is(readSync(pair[1]!, into), 0, 'and it ends')
  native.closeFd(pair[1]!)
  t.is(checkState(r.front), 0n)
})

test('CHECK_DEVICE_STATE without a transfer, or before its end, says that it failed', t => {
  const r = rig(t)
  full(r)
  t.is(checkState(r.front), 1n)
  const bases = stopRings(r)
  const { read, write } = makePipe(r.front)
  t.is(setStateFd(r.front, SAVE, write), NO_FD)
  closeSync(write)
  t.is(checkState(r.front), 1n, 'nobody has read it')
  closeSync(read)
  startRings(r, bases)
  const other = makePipe(r.front)
  for (const fd of [other.read, other.write]) closeSync(fd)
  t.is(r.fs.nodeCount, 1502, 'the source has everything still')
})

test('a front end that stops reading is given up, and the guest goes on', t => {
  const r = rig(t)
  full(r)
  const bases = stopRings(r)
  const { read, write } = makePipe(r.front)
  t.is(setStateFd(r.front, SAVE, write), NO_FD)
  closeSync(write)
  r.pump()
  closeSync(read)
  r.pump()
  t.is(checkState(r.front), 1n)
  t.regex(r.log.join('\n'), /EPIPE/)
  startRings(r, bases)
  t.true(saveAgain(r))
})

function saveAgain(r: Rig): boolean {
  stopRings(r)
  return saveState(r) !== undefined
}

for (const direction of [SAVE, LOAD])
  test(`a front end that does nothing is given up after a time (${direction === SAVE ? 'save' : 'load'})`, t => {
    const r = rig(t, { transferLimits: { idleMs: 50, totalMs: 10_000 } })
    full(r)
    stopRings(r)
    const { read, write } = makePipe(r.front)
    t.is(setStateFd(r.front, direction, direction === SAVE ? write : read), NO_FD)
    // Ours, and the device's until it gives up.
    t.is(descriptorsOf(read), 3)
    const limit = performance.now() + LIMIT_MS
    while (descriptorsOf(read) > 2 && performance.now() < limit) r.pump()
    t.true(performance.now() < limit)
    t.is(checkState(r.front), 1n)
    t.regex(r.log.join('\n'), /does not go on/)
    for (const fd of [read, write]) closeSync(fd)
  })

test('a front end that trickles is given up in the end', t => {
  const r = rig(t, { transferLimits: { idleMs: LIMIT_MS, totalMs: 150 } })
  stopRings(r)
  const { read, write } = makePipe(r.front)
  t.is(setStateFd(r.front, LOAD, read), NO_FD)
  closeSync(read)
  const limit = performance.now() + LIMIT_MS
  let cutOff = false
  while (!cutOff && performance.now() < limit) {
    try {
      writeSync(write, Buffer.from('VFSDTS\r\n').subarray(0, 1))
    } catch (cause) {
      cutOff = (cause as NodeJS.ErrnoException).code === 'EPIPE'
    }
    r.pump()
  }
  t.true(cutOff)
  closeSync(write)
  t.is(checkState(r.front), 1n)
})

test('while a transfer is under way other messages are answered', t => {
  const r = rig(t)
  full(r)
  stopRings(r)
  const { read, write } = makePipe(r.front)
  t.is(setStateFd(r.front, SAVE, write), NO_FD)
  closeSync(write)
  for (let i = 0; i < 5; i++) t.true(r.front.get(1) > 0n)
  closeSync(read)
})

test('a ring that is started ends a transfer, and the guest goes on', t => {
  const r = rig(t)
  full(r)
  const bases = stopRings(r)
  const { read, write } = makePipe(r.front)
  t.is(setStateFd(r.front, SAVE, write), NO_FD)
  closeSync(write)
  r.pump()
  startRings(r, bases)
  t.is(checkState(r.front), 1n)
  closeSync(read)
  t.is(r.fs.nodeCount, 1502)
})

test('a second transfer takes the place of the first', t => {
  const r = rig(t)
  full(r)
  stopRings(r)
  const { read, write } = makePipe(r.front)
  t.is(setStateFd(r.front, SAVE, write), NO_FD)
  closeSync(write)
  const state = saveState(r)!
  closeSync(read)
  t.true(state.length > 100_000)
  t.true(loadState(r, state), 'its own state, in small pieces')
  t.is(r.fs.nodeCount, 1502)
  t.true(loadState(r, saveState(r)!, 11))
})

test('the front end goes in the middle of a transfer: nothing is left', t => {
  const r = rig(t)
  full(r)
  stopRings(r)
  const { read, write } = makePipe(r.front)
  t.is(setStateFd(r.front, SAVE, write), NO_FD)
  closeSync(write)
  r.pump()
  r.end()
  t.is(r.fs.nodeCount, 1)
  // The pipe's other end is closed: what was written comes, then the end.
  const into = Buffer.alloc(1 << 20)
  while (readSync(read, into) > 0);
  closeSync(read)
})
