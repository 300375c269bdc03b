/** Several processes on one table: nobody is lied to, and nobody who dies leaves anything that stays. */
import { type ChildProcess, spawn } from 'node:child_process'
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import { QUIET_MS } from '../../src/coherence/contention.js'
import { CHANGE_MS, Leases } from '../../src/coherence/leases.js'
import { monotonicMs } from './monotonic.js'
import { mapTable, openTableFile } from '../../src/coherence/table-file.js'
import { until } from '../helpers/launch.js'
import { makeContext } from '../native/support.js'
import { Shared } from './hammer-words.js'
import { changeOf, keyOf } from './support.js'

const CHILD = fileURLToPath(new URL('hammer-child.js', import.meta.url))
/** By hand: 100 kills and more. */
const KILLS = Number(process.env.KILLS ?? 12)
/** What a busy machine may take for the looks at the end. */
const BUSY_MS = 30_000

interface Counts {
  readonly lies: number
  readonly checks: number
  readonly granted: number
  readonly unplaced: number
  readonly changes: number
  readonly conflicts: number
  readonly forced: number
}

/** The files that some processes share, and the processes. */
class Place {
  readonly inodes: number
  readonly table: string
  readonly #truth: string
  readonly #children: ChildProcess[] = []

  constructor(t: ExecutionContext, inodes: number) {
    const folder = mkdtempSync('/dev/shm/virtiofsd-hammer-')
    this.inodes = inodes
    this.table = join(folder, 'table')
    this.#truth = join(folder, 'truth')
    writeFileSync(this.#truth, new Uint8Array((inodes + Shared.words) * 4))
    t.teardown(() => {
      for (const child of this.#children) child.kill('SIGKILL')
      rmSync(folder, { recursive: true })
    })
  }

  /** One that works until `stop`, or scribbles over the table for so long. */
  start(scribbleMs = 0): ChildProcess {
    const args = [CHILD, this.table, this.#truth, String(this.inodes), String(scribbleMs)]
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    this.#children.push(child)
    return child
  }

  #word(name: keyof typeof Shared): number {
    return readFileSync(this.#truth).readInt32LE((this.inodes + Shared[name]) * 4)
  }

  /** However slow the machine is: until so many have begun. */
  async begun(count: number): Promise<void> {
    await until(() => this.#word('begun') >= count)
  }

  /** Until all together have done so much. */
  async done(least: Partial<Record<'checks' | 'changes' | 'conflicts', number>>): Promise<void> {
    const names = Object.keys(least) as (keyof typeof least)[]
    await until(() => names.every(name => this.#word(name) >= least[name]!))
  }

  stop(): void {
    const fd = openSync(this.#truth, 'r+')
    writeSync(fd, Uint8Array.of(1), 0, 1, (this.inodes + Shared.stop) * 4)
    closeSync(fd)
  }
}

const sleep = (ms: number): Promise<void> => new Promise(done => setTimeout(done, ms))

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
    t.timeout(300_000)
    const here = new Place(t, inodes)
    const results = [0, 1, 2, 3].map(() => result(here.start()))
    await here.begun(4)
    await sleep(4000)
    await here.done({ checks: 1000, changes: 200, conflicts: 20 })
    here.stop()
    const total = sum(await Promise.all(results))
    t.log(JSON.stringify(total))
    t.is(total.lies, 0)
    t.is(total.forced, 0)
    t.true(total.checks >= 1000 && total.changes >= 200 && total.conflicts >= 20)
  })

test(`processes are killed at any moment, ${KILLS} times: the others go on and are not lied to`, async t => {
  t.timeout(300_000 + KILLS * 10_000)
  const here = new Place(t, 40)
  const survivors = [0, 1].map(() => result(here.start()))
  await here.begun(2)
  for (let i = 0; i < KILLS; i++) {
    const victim = here.start()
    const gone = new Promise(done => victim.on('close', done))
    await here.begun(3 + i)
    await sleep(Math.random() * 150)
    victim.kill('SIGKILL')
    await gone
  }
  await here.done({ checks: 1000, changes: 100 })
  here.stop()
  const total = sum(await Promise.all(survivors))
  t.log(JSON.stringify(total))
  t.is(total.lies, 0)
  t.is(total.forced, 0)
  t.true(total.changes > 0 && total.checks > 0)
  // Whatever the dead have left ends: every inode can be changed without a wait, and cached again.
  const context = makeContext(t)
  const fd = openTableFile(here.table)
  t.teardown(() => closeSync(fd))
  const options = { leaseMs: 10, marginMs: 0, quietMs: 0, nowMs: monotonicMs, onDamage() {} }
  const leases = new Leases(mapTable(context, fd), { ...options, guest: 4000 })
  const limit = monotonicMs() + 2 * CHANGE_MS + QUIET_MS + BUSY_MS
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
  t.timeout(300_000)
  const here = new Place(t, 40)
  const honest = [0, 1].map(() => result(here.start()))
  await here.begun(2)
  await result(here.start(2500))
  await here.done({ changes: 1 })
  here.stop()
  const total = sum(await Promise.all(honest))
  t.log(JSON.stringify(total))
  t.true(total.changes > 0)
})
