/**
 * The bench without a VM: our daemon and Rust virtiofsd on the same requests, turn about in one run.
 *
 *   npm run bench -- [--rounds 5] [--ms 300] [--depths 1,16,64] [--queues 1] [--rows a,b or prefixes]
 *                    [--contestants ours,ours-no-poll,peer] [--wait sleep|spin] [--no-pin]
 *                    [--out FOLDER]
 *
 * PEER is the command line of Rust virtiofsd; without it only our daemon is measured. OURS names
 * another build of ours. The trees lie in /dev/shm; those of the cold rows in BENCH_DISK (default: the
 * folder for temporary files, which must not be in memory).
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { scriptArguments } from '../arguments.js'
import {
  type Contestant,
  contestants,
  installedProgram,
  peerVersion,
  Running,
} from './contestants.js'
import { Driver, type Load, type Measurement, type Wait } from './driver.js'
import { machine, writeResults } from './report.js'
import { type Summary, summarize } from './statistics.js'
import { makeDiskTree, makeMemoryTree } from './tree.js'

/** Of the counting run: enough that what starting and ending costs does not show. */
const COUNT_OPS = 20_000
const WARM_MS = 150

interface Settings {
  readonly rounds: number
  readonly ms: number
  readonly depths: readonly number[]
  readonly queues: readonly number[]
  readonly rows: readonly string[]
  readonly wait: Wait
  readonly pin: boolean
  readonly contestants: readonly Contestant[]
  readonly out: string
}

/** One cell of the table: a row at a depth on so many queues. */
interface Cell {
  readonly load: Load
  readonly rounds: Map<string, Measurement[]>
  readonly counted: Map<string, Measurement>
}

async function readSettings(): Promise<Settings> {
  const { values } = scriptArguments(import.meta.url, {
    options: {
      rounds: { type: 'string', default: '5' },
      ms: { type: 'string', default: '300' },
      depths: { type: 'string', default: '1,16,64' },
      queues: { type: 'string', default: '1' },
      rows: { type: 'string', default: '' },
      wait: { type: 'string', default: 'sleep' },
      'no-pin': { type: 'boolean', default: false },
      contestants: { type: 'string', default: 'ours,ours-no-poll,peer' },
      out: { type: 'string', default: join('bench-results', stamp()) },
    },
  })
  const numbers = (text: string): number[] => text.split(',').map(Number)
  const queues = numbers(values.queues)
  const known = contestants(Math.max(...queues), installedProgram())
  const prefixes = values.rows.split(',')
  return {
    rounds: Number(values.rounds),
    ms: Number(values.ms),
    depths: numbers(values.depths),
    queues,
    rows: (await allRows()).filter(row => prefixes.some(prefix => row.startsWith(prefix))),
    wait: values.wait === 'spin' ? 'spin' : 'sleep',
    pin: !values['no-pin'] && cpus().length > 1,
    contestants: values.contestants.split(',').flatMap(name => known.get(name) ?? []),
    out: values.out,
  }
}

function stamp(): string {
  return new Date().toISOString().slice(0, 19).replaceAll(':', '')
}

async function allRows(): Promise<readonly string[]> {
  const driver = await Driver.start({})
  const rows = await driver.rows()
  await driver.stop()
  return rows
}

/** What the load generator itself costs: its CPU time an operation against a server that does nothing. */
async function driverCost(): Promise<string> {
  const driver = await Driver.start({})
  const parts: string[] = []
  for (const [row, depth] of [
    ['getattr', 1],
    ['getattr', 64],
    ['read-4k-rand', 64],
  ] as const) {
    const measured = await driver.run({ row, depth, ms: 500, wait: 'sleep' })
    const us = (ns: number): string => (ns / 1000).toFixed(2)
    parts.push(
      `${row} at depth ${depth} ${us(measured.driverNs / measured.ops)} us of CPU (p50 ${us(measured.p50)} us)`,
    )
  }
  await driver.stop()
  return `The load generator itself, on a server that does nothing: ${parts.join(', ')}.`
}

/** Measures `rows` on one tree: all contestants are up at once, and take turns. */
async function measure(
  settings: Settings,
  rows: readonly string[],
  start: (contestant: Contestant) => Promise<Running>,
): Promise<readonly Cell[]> {
  const running: Running[] = []
  try {
    for (const contestant of settings.contestants) running.push(await start(contestant))
    const cells = rows.flatMap(row =>
      settings.depths.flatMap(depth =>
        settings.queues
          .filter(queues => queues <= depth)
          .map(queues => cell(row, depth, queues, settings)),
      ),
    )
    for (const row of rows)
      for (const one of running) await one.driver.run({ row, depth: 4, ms: WARM_MS })
    for (let round = 0; round < settings.rounds; round++)
      for (const one of cells) await turn(one, running, round)
    for (const one of running) await one.driver.observe(one.pids)
    for (const one of cells) await count(one, running)
    return cells
  } finally {
    for (const one of running) await one.stop()
  }
}

function cell(row: string, depth: number, queues: number, settings: Settings): Cell {
  const load = { row, depth, queues, ms: settings.ms, wait: settings.wait }
  return { load, rounds: new Map(), counted: new Map() }
}

/** One measurement of each contestant, with another one first in every round. */
async function turn(one: Cell, running: readonly Running[], round: number): Promise<void> {
  for (let i = 0; i < running.length; i++) {
    const { driver, contestant } = running[(i + round) % running.length]!
    if (one.load.queues! > driver.queues) continue
    const measured = await driver.run(one.load)
    one.rounds.set(contestant.name, [...(one.rounds.get(contestant.name) ?? []), measured])
    const { row, depth, queues } = one.load
    const us = (measured.serverNs / measured.ops / 1000).toFixed(2)
    console.error(
      `${round} ${row} ${depth}/${queues} ${contestant.name}: ${measured.rate}/s, p50 ${measured.p50 / 1000} us, CPU ${us} us/op${measured.errors > 0 ? `, ${measured.errors} ERRORS: ${measured.firstError}` : ''}`,
    )
  }
}

async function count(one: Cell, running: readonly Running[]): Promise<void> {
  for (const each of running) {
    if (one.load.queues! > each.driver.queues) continue
    const counted = await each.driver.count({ ...one.load, maxOps: COUNT_OPS })
    if (counted.systemCalls !== undefined) one.counted.set(each.contestant.name, counted)
  }
}

/** Of the last minute at each end; the guest and one daemon at work make two of it. */
const loads = [loadavg()[0]!]

function describeRun({ rounds, ms, wait, pin }: Settings): string {
  loads.push(loadavg()[0]!)
  const busy =
    Math.max(...loads) > 2.5 ? ' **Others used the machine: operations a second say little.**' : ''
  return `${rounds} rounds of ${ms} ms, turn about; the guest ${wait === 'spin' ? 'spins' : 'sleeps'} while it waits${pin ? '; guest and daemon have CPUs of their own' : ''}; load average ${loads.map(load => load.toFixed(1)).join(' to ')}.${busy}`
}

async function main(): Promise<number> {
  const settings = await readSettings()
  const memory = mkdtempSync('/dev/shm/virtiofsd-bench-')
  const disk = mkdtempSync(join(process.env.BENCH_DISK ?? tmpdir(), 'virtiofsd-bench-'))
  // Of all guests in turn, for the same reason as the large files.
  const pagesFile = join(memory, 'guest-pages')
  try {
    const queues = Math.max(...settings.queues)
    const cost = await driverCost()
    const warm = settings.rows.filter(row => !row.startsWith('cold-'))
    const cold = settings.rows.filter(row => row.startsWith('cold-'))
    const cells: Cell[] = []
    if (warm.length > 0)
      cells.push(
        ...(await measure(settings, warm, contestant => {
          const tree = join(memory, contestant.name)
          mkdirSync(tree)
          makeMemoryTree(tree, memory)
          return Running.start(contestant, tree, { queues, pin: settings.pin, pagesFile })
        })),
      )
    if (cold.length > 0) {
      const coldFile = makeDiskTree(disk)
      cells.push(
        ...(await measure(settings, cold, contestant =>
          Running.start(contestant, disk, {
            queues,
            tree: 'disk',
            coldFile,
            pin: settings.pin,
            pagesFile,
          }),
        )),
      )
    }
    const summaries = cells.flatMap(one =>
      [...one.rounds].map(
        ([name, rounds]): Summary => summarize(name, rounds, one.counted.get(name)),
      ),
    )
    const text = writeResults(
      settings.out,
      {
        machine: machine(peerVersion()),
        date: new Date().toISOString().slice(0, 16),
        settings: describeRun(settings),
        summaries,
        driverCost: cost,
      },
      cells.map(one => ({ ...one.load, rounds: Object.fromEntries(one.rounds) })),
    )
    console.log(text)
    console.log(`written to ${settings.out}`)
    return summaries.some(one => one.errors > 0) ? 1 : 0
  } finally {
    rmSync(memory, { recursive: true, force: true })
    rmSync(disk, { recursive: true, force: true })
  }
}

process.exitCode = await main()
