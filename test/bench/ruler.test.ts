/**
 * The bench runs: every row on our daemon for a few operations, with counts that hold by design
 * whatever the machine's speed. No time is asserted.
 */
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import anyTest, { type TestFn } from 'ava'
import { contestants, Running } from '../../scripts/bench/contestants.js'
import { Driver, type Measurement } from '../../scripts/bench/driver.js'
import { barChart } from '../../scripts/bench/plot.js'
import { median, perOperation } from '../../scripts/bench/statistics.js'
import { countWithStrace, parseCounts } from '../../scripts/bench/strace.js'
import { makeMemoryTree } from '../../scripts/bench/tree.js'

const test = anyTest as TestFn<{ folder: string; running: Running }>

/** Queues of the daemon in this test. */
const QUEUES = 2
const FEW = 64
const LIMIT_MS = 60_000

test.before(async t => {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-ruler-'))
  t.context.folder = folder
  const tree = join(folder, 'tree')
  mkdirSync(tree)
  makeMemoryTree(tree, folder)
  const ours = contestants(QUEUES).get('ours')!
  t.context.running = await Running.start(ours, tree, { queues: QUEUES, pin: false })
})
test.after.always(async t => {
  await t.context.running?.stop()
  rmSync(t.context.folder, { recursive: true, force: true })
})

const run = (running: Running, row: string, depth: number, queues = 1): Promise<Measurement> =>
  running.driver.run({ row, depth, queues, ms: LIMIT_MS, maxOps: FEW })

test('every row is answered rightly, at every depth', async t => {
  const { running } = t.context
  const rows = (await running.driver.rows()).filter(row => !row.startsWith('cold-'))
  t.true(rows.length >= 20)
  let serverNs = 0
  for (const row of rows)
    for (const depth of [1, 16]) {
      const measured = await run(running, row, depth)
      const where = `${row} at depth ${depth}`
      t.is(measured.errors, 0, `${where}: ${measured.firstError}`)
      t.is(measured.ops, FEW, where)
      t.true(measured.requests >= FEW, where)
      // Of one row it may be nothing: the clock of a thread that runs moves with the timer tick.
      serverNs += measured.serverNs
    }
  t.true(serverNs > 0)
})

test('no more than one signal and one kick a request', async t => {
  for (const depth of [1, 16, 64]) {
    const { running } = t.context
    const load = { row: 'getattr', depth, ms: LIMIT_MS, maxOps: 4000 }
    const { requests, signals, kicks } = await running.driver.run(load)
    t.true(signals <= requests, `${signals} signals for ${requests} requests at depth ${depth}`)
    t.true(kicks <= requests, `${kicks} kicks for ${requests} requests at depth ${depth}`)
  }
})

test('several queues serve the same requests', async t => {
  const measured = await run(t.context.running, 'read-4k-rand', 16, QUEUES)
  t.is(measured.errors, 0)
  t.is(measured.queues, QUEUES)
})

/** Most system calls of an operation itself, waiting and signalling apart. */
const WORK_CALLS: Readonly<Record<string, number>> = {
  getattr: 1,
  'lookup-hit': 1,
  'lookup-many': 1,
  'lookup-miss': 1,
  'open+release': 2,
  'open+release-few': 2,
  'open-fresh': 6,
  'read-4k-rand': 1,
  'read-128k-seq': 1,
  'write-4k-rand': 1,
  statfs: 1,
}
/** Calls on files: those of the runtime (memory, its own threads) come and go with the time. */
const FILE_CALLS =
  /^(open|close|statx|newfst|fst|pread|pwrite|readv|writev|getdents|lseek|unlink|fgetx|getx|lgetx|readlink|setres|setfs|setgroups|cap|umask|fchdir)/
/** A look at the other descriptors, the sleep itself, and one signal. */
const WAIT_CALLS = /^(epoll_wait|write)$/

test('system calls an operation stay within the design', async t => {
  const { running } = t.context
  for (const [row, most] of Object.entries(WORK_CALLS)) {
    // What is done once for each file is not counted.
    await running.driver.run({ row, depth: 16, ms: LIMIT_MS, maxOps: 2000 })
    await releasedAreClosed(running.pids)
    let measured: Measurement | undefined
    const calls = await countWithStrace(running.pids, async () => {
      measured = await running.driver.run({ row, depth: 16, ms: LIMIT_MS, maxOps: 400 })
    })
    const { requests } = measured!
    // The driver warms up with a fifth more, which strace counts as well.
    const all = requests * 1.2 + 16
    const sum = (names: RegExp): number =>
      Object.entries(calls).reduce(
        (total, [name, count]) => total + (names.test(name) ? count : 0),
        0,
      )
    const says = `${row}: ${JSON.stringify(perOperation(calls, requests))}`
    // The daemon's main thread does a few of its own, which do not grow with the requests.
    t.true(sum(FILE_CALLS) <= (most / requestsOf(row)) * all + 40, says)
    t.true(sum(WAIT_CALLS) <= 3 * all + 40, says)
  }
})

/** Waits until a daemon has closed the files of an earlier run, which it leaves open for 100 ms (released-files.ts). */
async function releasedAreClosed(pids: readonly number[]): Promise<void> {
  let open = Number.POSITIVE_INFINITY
  for (let looks = 0; looks < 10; looks++) {
    const now = pids.reduce((sum, pid) => sum + readdirSync(`/proc/${pid}/fd`).length, 0)
    if (now !== open) looks = 0
    open = now
    await setTimeout(25)
  }
}

function requestsOf(row: string): number {
  return row.startsWith('open+release') ? 2 : 1
}

test('a count of strace is read by name', t => {
  const text = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000600           2       300           statx
 40.00    0.000400           4       100         7 openat
------ ----------- ----------- --------- --------- ----------------
100.00    0.001000           2       400         7 total
`
  t.deepEqual(parseCounts(text), { total: 400, statx: 300, openat: 100 })
})

test('the driver measures itself on a null server', async t => {
  const driver = await Driver.start({})
  t.teardown(() => driver.stop())
  const measured = await driver.run({ row: 'getattr', depth: 16, ms: LIMIT_MS, maxOps: FEW })
  t.is(measured.ops, FEW)
  t.is(measured.errors, 0)
})

test('a request that cannot be measured is refused', async t => {
  const { driver } = t.context.running
  await t.throwsAsync(run(t.context.running, 'no-such-row', 1), { message: /cannot run/ })
  await t.throwsAsync(run(t.context.running, 'cold-read-4k-rand', 1), { message: /cannot run/ })
  await t.throwsAsync(run(t.context.running, 'getattr', 1, 9), { message: /cannot run/ })
  t.is(driver.queues, QUEUES)
})

test('medians, rates and bars', t => {
  t.is(median([3, 1, 2]), 2)
  t.is(median([4, 1, 2, 3]), 2.5)
  t.true(Number.isNaN(median([])))
  t.deepEqual(perOperation({ total: 30, statx: 20 }, 10), { statx: 2, other: 1 })
  const svg = barChart({
    title: 'a < b',
    caption: '',
    series: ['depth 1'],
    groups: [
      { label: 'row', values: [2] },
      { label: 'none', values: [Number.NaN] },
    ],
    moreIsBetter: true,
  })
  t.true(svg.includes('a &lt; b'))
  t.is(svg.match(/<title>/g)?.length, 1)
})
