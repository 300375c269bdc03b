/** Several processes on one table: nobody is lied to, and nobody who dies leaves anything that stays. */
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import { QUIET_MS } from '../../src/coherence/contention.js'
import { CHANGE_MS, Leases } from '../../src/coherence/leases.js'
import { monotonicMs } from './monotonic.js'
import { mapTable, openTableFile } from '../../src/coherence/table-file.js'
import { makeContext } from '../native/support.js'
import { changeOf, keyOf } from './support.js'

const CHILD = fileURLToPath(new URL('hammer-child.js', import.meta.url))
/** By hand: 100 kills and more. */
const KILLS = Number(process.env.KILLS ?? 12)

interface Counts {
  readonly lies: number
  readonly checks: number
  readonly granted: number
  readonly unplaced: number
  readonly changes: number
  readonly conflicts: number
  readonly forced: number
}

interface Place {
  readonly table: string
  readonly truth: string
  readonly inodes: number
}

function place(t: ExecutionContext, inodes: number): Place {
  const folder = mkdtempSync('/dev/shm/virtiofsd-hammer-')
  t.teardown(() => rmSync(folder, { recursive: true }))
  writeFileSync(join(folder, 'truth'), new Uint8Array(inodes * 4))
  return { table: join(folder, 'table'), truth: join(folder, 'truth'), inodes }
}

function start({ table, truth, inodes }: Place, ms: number, scribble = false): ChildProcess {
  const args = [CHILD, table, truth, String(inodes), String(ms), scribble ? '1' : '0']
  return spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
}

async function result(child: ChildProcess): Promise<Counts> {
  let text = ''
  child.stdout!.setEncoding('utf8').on('data', (part: string) => {
    text += part
  })
  const status = await new Promise(done => child.on('close', done))
  if (status !== 0) throw new Error(`a child ended with ${status}`)
  return JSON.parse(text) as Counts
}

function sum(all: readonly Counts[]): Counts {
  const total: Record<string, number> = {}
  for (const counts of all)
    for (const [name, value] of Object.entries(counts)) total[name] = (total[name] ?? 0) + value
  return total as unknown as Counts
}

for (const [inodes, what] of [
  [20, 'slots for most'],
  [200, 'far fewer slots than inodes'],
] as const)
  test(`four processes, ${what}: nobody is lied to`, async t => {
    const here = place(t, inodes)
    const total = sum(await Promise.all([0, 1, 2, 3].map(() => result(start(here, 4000)))))
    t.log(JSON.stringify(total))
    t.is(total.lies, 0)
    t.is(total.forced, 0)
    t.true(total.checks > 1000 && total.changes > 200 && total.conflicts > 20)
  })

test(`processes are killed at any moment, ${KILLS} times: the others go on and are not lied to`, async t => {
  t.timeout(60_000 + KILLS * 1000)
  const here = place(t, 40)
  const survivors = [0, 1].map(() => result(start(here, 1500 + KILLS * 350)))
  for (let i = 0; i < KILLS; i++) {
    const victim = start(here, 60_000)
    const gone = new Promise(done => victim.on('close', done))
    // It takes about 150 ms to begin.
    await new Promise(done => setTimeout(done, 200 + Math.random() * 150))
    victim.kill('SIGKILL')
    await gone
  }
  const total = sum(await Promise.all(survivors))
  t.log(JSON.stringify(total))
  t.is(total.lies, 0)
  t.is(total.forced, 0)
  t.true(total.changes > 100 && total.checks > 1000)
  // Whatever the dead have left ends: every inode can be changed without a wait, and cached again.
  const context = makeContext(t)
  const fd = openTableFile(here.table)
  t.teardown(() => closeSync(fd))
  const options = { leaseMs: 10, marginMs: 0, quietMs: 0, nowMs: monotonicMs, onDamage() {} }
  const leases = new Leases(mapTable(context, fd), { ...options, guest: 4000 })
  const limit = monotonicMs() + 2 * CHANGE_MS + QUIET_MS
  for (let ino = 0; ino < here.inodes; ino++) {
    const change = changeOf(ino)
    for (;;) {
      const wait = leases.begin(change, true, false)
      if (wait === 0) break
      t.true(monotonicMs() < limit)
      await new Promise(done => setTimeout(done, wait))
    }
    leases.end(change)
    while (leases.grant(keyOf(ino), leases.look(), false) === 0) {
      t.true(monotonicMs() < limit)
      await new Promise(done => setTimeout(done, 20))
    }
  }
  t.is(leases.counters.forced, 0)
})

test('a process that scribbles over the table ends nobody, and nobody hangs', async t => {
  const here = place(t, 40)
  const honest = [0, 1].map(() => result(start(here, 3000)))
  const scribbler = result(start(here, 2500, true))
  const total = sum(await Promise.all(honest))
  await scribbler
  t.log(JSON.stringify(total))
  t.true(total.changes > 0)
})
