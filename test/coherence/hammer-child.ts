/**
 * One of several processes that work on one version table as fast as they can. Each inode has a number in
 * a second shared file, the truth: a process that has a lease and sees another number than it cached was
 * lied to. Behind them lie what all have done so far and whether to stop (see Shared). Prints counts as JSON.
 * Arguments: table, truth, inodes, and for how many milliseconds to scribble over the table instead; 0: not.
 */
import { openSync } from 'node:fs'
import { HEADER_WORDS } from '../../protocol/version-table/layout.js'
import { Leases } from '../../src/coherence/leases.js'
import { monotonicMs } from './monotonic.js'
import { mapTable, openTableFile, takeGuestNumber } from '../../src/coherence/table-file.js'
import { Context } from '../../src/native/context.js'
import { Shared } from './hammer-words.js'
import { changeOf, keyOf } from './support.js'

const [tablePath, truthPath, inodesText, scribbleMs] = process.argv.slice(2) as string[]
const inodes = Number(inodesText)
const LEASE_MS = 12
const QUIET_MS = 6

const context = new Context({ arenaBytes: 65536, maxSegments: 64, poolThreads: 1 })
const tableFd = openTableFile(tablePath!)
const table = mapTable(context, tableFd, 4)
const truthView = context.raw.mapShared(openSync(truthPath!, 'r+'), (inodes + Shared.words) * 4)
if (typeof truthView === 'number') throw new Error(`no truth: ${truthView}`)
const truth = new Int32Array(truthView)
const leases = new Leases(table, {
  guest: takeGuestNumber(context, tableFd),
  leaseMs: LEASE_MS,
  marginMs: 0,
  quietMs: QUIET_MS,
  nowMs: monotonicMs,
  onDamage: () => undefined,
})

const random = (limit: number): number => Math.floor(Math.random() * limit)
const cache = new Map<number, { value: number; untilMs: number }>()
const waiting: { inos: readonly number[]; dueMs: number }[] = []
let lies = 0
let checks = 0

function look(ino: number): void {
  const looked = leases.look()
  const value = Atomics.load(truth, ino)
  // There is no margin: a process that is made to wait after this must not count from then.
  const fromMs = monotonicMs()
  const ms = leases.grant(keyOf(ino), looked, false)
  if (ms > 0) cache.set(ino, { value, untilMs: fromMs + ms })
}

function check(ino: number): void {
  const cached = cache.get(ino)
  if (cached === undefined) return
  const value = Atomics.load(truth, ino)
  // Read first, then the time: the lease was good when it was read.
  if (monotonicMs() >= cached.untilMs) cache.delete(ino)
  else {
    checks++
    if (value !== cached.value) lies++
  }
}

function change(inos: readonly number[], again: boolean): void {
  const one = changeOf(...inos)
  const wait = leases.begin(one, again, false)
  if (wait > 0) {
    waiting.push({ inos, dueMs: monotonicMs() + wait })
    return
  }
  if (random(4) === 0) for (const until = monotonicMs() + random(3); monotonicMs() < until; );
  for (const ino of inos) {
    const value = Atomics.add(truth, ino, 1) + 1
    const cached = cache.get(ino)
    if (cached !== undefined) cached.value = value
  }
  leases.end(one)
}

function scribbleOnce(): void {
  const words = context.raw.mapShared(tableFd, HEADER_WORDS * 4 + 64 * 16)
  if (typeof words === 'number') throw new Error(`no table: ${words}`)
  const all = new Int32Array(words)
  const until = performance.now() + Number(scribbleMs)
  while (performance.now() < until) {
    const at = HEADER_WORDS + random(all.length - HEADER_WORDS)
    Atomics.store(all, at, random(2) === 0 ? random(2 ** 32) | 0 : all[HEADER_WORDS + random(256)]!)
  }
}

/** Adds what was done since the last time to what all have done. */
const told = { checks: 0, changes: 0, conflicts: 0 }
function tell(): void {
  const done = { checks, changes: leases.counters.changes, conflicts: leases.counters.conflicts }
  for (const name of ['checks', 'changes', 'conflicts'] as const) {
    Atomics.add(truth, inodes + Shared[name], done[name] - told[name])
    told[name] = done[name]
  }
}

function work(): void {
  Atomics.add(truth, inodes + Shared.begun, 1)
  for (let i = 0; Atomics.load(truth, inodes + Shared.stop) === 0; i++) {
    if (i % 256 === 0) tell()
    const ino = random(inodes)
    look(ino)
    check(random(inodes))
    if (i % 16 === 0) {
      const now = monotonicMs()
      const due = waiting.findIndex(({ dueMs }) => dueMs <= now)
      if (due >= 0) change(waiting.splice(due, 1)[0]!.inos, true)
      else if (waiting.length < 20 && random(40) === 0)
        change(random(3) === 0 ? [ino, (ino + 7) % inodes] : [ino], false)
    }
  }
}

if (Number(scribbleMs) > 0) scribbleOnce()
else work()
console.log(JSON.stringify({ lies, checks, waiting: waiting.length, ...leases.counters }))
context.dispose()
