/**
 * Random runs of three guests that cache, with a daemon each on one directory and table, and of a writer
 * on the host; then every inode and name is checked: was there an order in which nobody saw anything old?
 */
import { mkdirSync, readdirSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import { monotonicMs } from './monotonic.js'
import { concat, u64 } from '../helpers/front-end.js'
import { text } from '../helpers/fuse-client.js'
import { checkRegister, type Operation } from './linearizable.js'
import { entryOf, attrOf, Fattr, type MockGuest, mockGuests, setattrBody } from './mock-guest.js'
import { randomOf } from './support.js'

const TIMES = { leaseMs: 24, marginMs: 40, quietMs: 12 }
/** Replies are taken so late at most; the clock moves by so much at most in one step. */
const LATE_MS = 30
const STEP_MS = 2
/** By that clock. */
const RUN_MS = 1500
const LEAST_WRITES = 50
const LEAST_HITS = 200
const FILES = 10
const FOLDERS = 4
/** Files in each folder that are renamed to `x`, one after the other. */
const SPARE = 60

test('the checker finds what is not linearizable', t => {
  const w = (value: number, begin: number, end: number): Operation => ({
    kind: 'write',
    value,
    begin,
    end,
  })
  const r = (value: number, begin: number, end: number): Operation => ({
    kind: 'read',
    value,
    begin,
    end,
  })
  t.is(checkRegister([r(0, 0, 1), w(1, 2, 3), r(1, 4, 5)]), '')
  t.is(checkRegister([w(1, 2, 6), r(0, 3, 4), r(1, 5, 7)]), '')
  t.is(checkRegister([w(1, 0, 9), w(2, 1, 8), r(1, 2, 3), r(2, 4, 5)]), '')
  t.regex(checkRegister([w(1, 2, 3), r(0, 4, 5)]), /read/)
  t.regex(checkRegister([w(1, 0, 9), r(1, 1, 2), r(0, 3, 4)]), /read/)
  t.regex(checkRegister([w(1, 0, 1), w(2, 2, 3), r(1, 4, 5)]), /read/)
  t.regex(checkRegister([w(1, 0, 9), w(2, 0, 9), r(1, 1, 2), r(2, 3, 4), r(1, 5, 6)]), /read/)
  t.regex(checkRegister([r(1, 0, 1), w(1, 2, 3)]), /before it was written/)
})

interface Counts {
  hits: number
  reads: number
  writes: number
  late: number
}

function run(t: ExecutionContext, seed: number, counts: Counts): void {
  const random = randomOf(seed)
  let nowMs = monotonicMs()
  const { folder, guests } = mockGuests(t, 3, { ...TIMES, nowMs: () => nowMs })
  for (let i = 0; i < FILES; i++) {
    writeFileSync(join(folder, `file${i}`), '')
    utimesSync(join(folder, `file${i}`), 0, 0)
  }
  for (let i = 0; i < FOLDERS; i++) {
    mkdirSync(join(folder, `d${i}`))
    for (let k = 0; k < SPARE; k++) writeFileSync(join(folder, `d${i}`, `f${k}`), '')
  }
  const nodes = guests.map(guest => ({
    files: Array.from({ length: FILES }, (_, i) => guest.lookup(`file${i}`).nodeid),
    folders: Array.from({ length: FOLDERS }, (_, i) => guest.lookup(`d${i}`).nodeid),
  }))
  const spare = new Int32Array(FOLDERS)
  const histories = new Map<string, Operation[]>()
  let moment = 0
  let value = 0

  function record(register: string, kind: 'read' | 'write', what: number, begin: number): void {
    const history = histories.get(register) ?? []
    histories.set(register, history)
    history.push({ kind, value: what, begin, end: ++moment })
    if (kind === 'read') counts.reads++
    else counts.writes++
  }

  /** stat of a file: from the cache, or by GETATTR. The last file is the host's. */
  function readFile(guest: MockGuest, index: number, file: number, late: number): void {
    const begin = ++moment
    const node = nodes[index]!.files[file]!
    const cached = guest.cachedAttributes(node)
    if (cached !== undefined) {
      counts.hits++
      // What the host changes is late by a lease: only what is not cached must be new.
      if (file < FILES - 1) record(`file${file}`, 'read', cached.mtime, begin)
      return
    }
    guest.start(
      Opcode.FUSE_GETATTR,
      node,
      new Uint8Array(16),
      ({ body }) => {
        const { stat, attrMs } = attrOf(body)
        guest.keepAttributes(node, attrMs, stat)
        record(`file${file}`, 'read', stat.mtime, begin)
      },
      late,
    )
  }

  function writeFile(guest: MockGuest, index: number, file: number, late: number): void {
    const begin = ++moment
    const node = nodes[index]!.files[file]!
    const mtime = ++value
    guest.start(
      Opcode.FUSE_SETATTR,
      node,
      setattrBody(Fattr.mtime, { mtime }),
      ({ body }) => {
        const { stat, attrMs } = attrOf(body)
        guest.keepAttributes(node, attrMs, stat)
        record(`file${file}`, 'write', mtime, begin)
      },
      late,
    )
  }

  /** What `x` in a folder is: an inode number, or 0. */
  function readName(guest: MockGuest, index: number, at: number, late: number): void {
    const begin = ++moment
    const name = `d${at}/x`
    const cached = guest.cachedName(name)
    if (cached !== undefined) {
      counts.hits++
      record(name, 'read', cached.value ?? 0, begin)
      return
    }
    guest.start(
      Opcode.FUSE_LOOKUP,
      nodes[index]!.folders[at]!,
      text('x'),
      reply => {
        const found = reply.error === 0 ? entryOf(reply.body) : undefined
        const ino = found === undefined || found.nodeid === 0 ? 0 : found.stat.ino
        guest.keepName(name, found?.entryMs ?? 0, ino === 0 ? undefined : ino)
        record(name, 'read', ino, begin)
      },
      late,
    )
  }

  function writeName(guest: MockGuest, index: number, at: number, late: number): void {
    const k = spare[at]!
    if (k === SPARE) return
    spare[at] = k + 1
    const { ino } = statSync(join(folder, `d${at}`, `f${k}`))
    const begin = ++moment
    const node = nodes[index]!.folders[at]!
    guest.start(
      Opcode.FUSE_RENAME,
      node,
      concat(u64(BigInt(node)), text(`f${k}`), text('x')),
      reply => {
        if (reply.error !== 0) throw new Error(`rename: ${reply.error}`)
        // As d_move does; without a timeout of its own the name is looked up again.
        guest.names.delete(`d${at}/x`)
        record(`d${at}/x`, 'write', ino, begin)
      },
      late,
    )
  }

  function hostWrites(): void {
    const begin = ++moment
    utimesSync(join(folder, `file${FILES - 1}`), 0, ++value)
    record(`file${FILES - 1}`, 'write', value, begin)
  }

  function step(guest: MockGuest, index: number): void {
    const late = random(4) === 0 ? random(LATE_MS) : 0
    if (late > 0) counts.late++
    const writes = random(300) === 0
    if (random(3) > 0) {
      const file = random(FILES)
      if (writes && file < FILES - 1) writeFile(guest, index, file, late)
      else readFile(guest, index, file, late)
    } else if (writes) writeName(guest, index, random(FOLDERS), late)
    else readName(guest, index, random(FOLDERS), late)
  }

  // On a slow machine the time is over before much was done.
  const least = { writes: counts.writes + LEAST_WRITES, hits: counts.hits + LEAST_HITS }
  const enough = (): boolean => counts.writes >= least.writes && counts.hits >= least.hits
  for (const until = nowMs + RUN_MS; nowMs < until || !enough(); ) {
    nowMs = Math.min(nowMs + STEP_MS, Math.max(nowMs, monotonicMs()))
    // However fast the clock catches up after a stall, no reply lies longer than it was meant to.
    for (const one of guests) if (one.busy) one.poll()
    const index = random(guests.length)
    const guest = guests[index]!
    if (!guest.busy) step(guest, index)
    if (random(2000) === 0) hostWrites()
  }
  while (guests.some(guest => guest.busy)) {
    nowMs = Math.min(nowMs + STEP_MS, Math.max(nowMs, monotonicMs()))
    for (const guest of guests) guest.poll()
  }
  for (const [register, history] of histories) {
    const fault = checkRegister(history)
    if (fault !== '') throw new Error(`${register}: ${fault}`)
  }
  t.is(
    guests.reduce((sum, { rig }) => sum + rig.coherence!.leases.counters.forced, 0),
    0,
  )
  t.true(readdirSync(folder).length === FILES + FOLDERS)
}

/** By hand: more. */
const RUNS = Number(process.env.RUNS ?? 6)

test(`no guest sees anything old: ${RUNS} random runs`, t => {
  t.timeout(60_000 + RUNS * 60_000)
  const counts: Counts = { hits: 0, reads: 0, writes: 0, late: 0 }
  const first = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31))
  t.log(`seeds from ${first}`)
  for (let seed = first; seed < first + RUNS; seed++)
    try {
      run(t, seed, counts)
    } catch (cause) {
      throw new Error(`seed ${seed}: ${String(cause)}`, { cause })
    }
  t.log(JSON.stringify(counts))
  t.true(counts.hits >= RUNS * LEAST_HITS && counts.writes >= RUNS * LEAST_WRITES)
})
