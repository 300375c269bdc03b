/**
 * A daemon that has just started: what its first requests cost. JavaScript is compiled while it serves
 * them, so this is where short jobs of a new guest are won or lost.
 *
 *   node dist/scripts/bench/fresh.js [--runs 7] [--ops 300] [--idle-ms 500] [--program NAME=COMMAND ...]
 *
 * Each run starts every program anew, waits `idle-ms`, mounts (some 10,000 LOOKUPs), and sends the first
 * `ops` operations of several rows, one at a time. Our daemon is also measured with a front end that
 * connects at once, so that there is no rehearsal (src/device/rehearsal.ts). PEER is Rust virtiofsd's
 * command line; programs of `--program` are further builds of ours. A line a row: milliseconds, and
 * milliseconds of the daemon's CPU time (all its threads), medians.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { scriptArguments } from '../arguments.js'
import { Daemon } from '../lab/daemon.js'
import { installedProgram, processTree, programFrom } from './contestants.js'
import { buildDriver, Driver } from './driver.js'
import { median } from './statistics.js'
import { makeMemoryTree } from './tree.js'

const ROWS = [
  'getattr',
  'lookup-miss',
  'open+release',
  'read-4k-rand',
  'write-4k-rand',
  'getxattr-miss',
  'create+unlink',
  'lookup+forget',
  'readdirplus-1000',
] as const
/** An operation of this row is some thirty requests. */
const FEW_OF: Readonly<Record<string, number>> = { 'readdirplus-1000': 0.02 }
const LIMIT_MS = 10_000
const AT_ONCE = 'ours at once'

interface Sample {
  readonly ms: number
  readonly cpuMs: number
}

/** CPU time of every thread, which the scheduler counts to the nanosecond. */
function cpuMs(pids: readonly number[]): number {
  let ns = 0
  for (const pid of pids)
    for (const task of readdirSync(`/proc/${pid}/task`))
      ns += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'latin1').split(' ')[0])
  return ns / 1e6
}

async function timed(pids: readonly number[], what: () => Promise<unknown>): Promise<Sample> {
  const cpu = cpuMs(pids)
  const begin = performance.now()
  await what()
  return { ms: performance.now() - begin, cpuMs: cpuMs(pids) - cpu }
}

async function freshRun(
  program: readonly string[],
  sharedDir: string,
  ops: number,
  idleMs: number,
): Promise<ReadonlyMap<string, Sample>> {
  const args = ['--xattr', '--sandbox=none', '--seccomp=none', '--inode-file-handles=never']
  const daemon = await Daemon.start({ sharedDir, args, program })
  const pids = processTree(daemon.process.pid!)
  if (idleMs > 0) await new Promise(done => setTimeout(done, idleMs))
  const samples = new Map<string, Sample>()
  let driver: Driver
  const mounted = await timed(pids, async () => {
    driver = await Driver.start({ socketPath: daemon.socketPath })
  })
  samples.set('mount', mounted)
  for (const row of ROWS) {
    // A fifth more of them goes before, as a warm-up: that counts here.
    const maxOps = Math.max(1, Math.round(ops * (FEW_OF[row] ?? 1)))
    samples.set(row, await timed(pids, () => driver.run({ row, depth: 1, ms: LIMIT_MS, maxOps })))
  }
  await driver!.stop()
  await daemon.exit()
  return samples
}

async function main(): Promise<void> {
  const { values } = scriptArguments(import.meta.url, {
    options: {
      runs: { type: 'string', default: '7' },
      ops: { type: 'string', default: '300' },
      'idle-ms': { type: 'string', default: '500' },
      program: { type: 'string', multiple: true, default: [] },
    },
  })
  // Without polling, CPU time is that of the work.
  const ours = [...installedProgram(), '--poll-us=0']
  const programs = new Map<string, readonly string[]>([
    ['ours', ours],
    [AT_ONCE, ours],
  ])
  for (const one of values.program) {
    const [name, command] = one.split(/=(.*)/s) as [string, string]
    programs.set(name, command.split(' '))
  }
  const peer = programFrom('PEER')
  if (peer !== undefined) programs.set('peer', peer)
  buildDriver()
  const folder = mkdtempSync('/dev/shm/virtiofsd-fresh-')
  const all = new Map<string, ReadonlyMap<string, Sample>[]>()
  try {
    const tree = join(folder, 'tree')
    mkdirSync(tree)
    makeMemoryTree(tree, folder)
    const names = [...programs.keys()]
    for (let run = 0; run < Number(values.runs); run++)
      for (let i = 0; i < names.length; i++) {
        const name = names[(i + run) % names.length]!
        const sample = await freshRun(
          programs.get(name)!,
          tree,
          Number(values.ops),
          name === AT_ONCE ? 0 : Number(values['idle-ms']),
        )
        all.set(name, [...(all.get(name) ?? []), sample])
      }
    print(names, all)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function print(
  names: readonly string[],
  all: ReadonlyMap<string, readonly ReadonlyMap<string, Sample>[]>,
): void {
  console.log(`| row | ${names.map(name => `${name} ms (CPU)`).join(' | ')} |`)
  console.log(`|---|${names.map(() => '---:|').join('')}`)
  const total = (samples: ReadonlyMap<string, Sample>, of: keyof Sample): number =>
    ROWS.reduce((sum, row) => sum + samples.get(row)![of], 0)
  const line = (
    label: string,
    pick: (one: ReadonlyMap<string, Sample>, of: keyof Sample) => number,
  ) => {
    const cells = names.map(name => {
      const of = (field: keyof Sample): string =>
        median(all.get(name)!.map(one => pick(one, field))).toFixed(1)
      return `${of('ms')} (${of('cpuMs')})`
    })
    console.log(`| ${label} | ${cells.join(' | ')} |`)
  }
  for (const row of ['mount', ...ROWS]) line(row, (one, of) => one.get(row)![of])
  line('all rows', total)
}

await main()
