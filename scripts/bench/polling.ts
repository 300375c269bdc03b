/**
 * What polling costs and what it gains: CPU time of the daemon and latency of GETATTR at depth 1, for several
 * `--poll-us` and rates of requests.
 *
 *   node dist/scripts/bench/polling.js [--rounds 3] [--ms 1000] [--poll 0,10,20,50,100]
 *                                      [--rates 1,100,1000,10000,0] [--out FOLDER]
 *
 * Rate 0: each request begins when the one before was answered. Rate 1 is next to idle. All daemons are up at
 * once and take turns. Writes polling.md and prints it.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { scriptArguments } from '../arguments.js'
import { type Contestant, contestants, Running } from './contestants.js'
import type { Measurement } from './driver.js'
import { describeMachine, machine } from './report.js'
import { median } from './statistics.js'
import { makeMemoryTree } from './tree.js'

const ROW = 'getattr'

const { values } = scriptArguments(import.meta.url, {
  options: {
    rounds: { type: 'string', default: '3' },
    ms: { type: 'string', default: '1000' },
    poll: { type: 'string', default: '0,10,20,50,100' },
    rates: { type: 'string', default: '1,100,1000,10000,0' },
    out: { type: 'string', default: 'bench-results' },
  },
})
const numbers = (text: string): number[] => text.split(',').map(Number)
const rates = numbers(values.rates)
/** A rate of one a second takes two seconds to show. */
const ms = (rate: number): number => Math.max(Number(values.ms), rate === 0 ? 0 : 2500 / rate)

function contestant(pollUs: number): Contestant {
  const ours = contestants(1).get('ours')!
  return { ...ours, name: String(pollUs), args: [...ours.args, `--poll-us=${pollUs}`] }
}

const folder = mkdtempSync('/dev/shm/virtiofsd-polling-')
const running: Running[] = []
/** By "poll rate". */
const measured = new Map<string, Measurement[]>()
try {
  for (const pollUs of numbers(values.poll)) {
    const tree = join(folder, String(pollUs))
    mkdirSync(tree)
    makeMemoryTree(tree, folder)
    const options = { queues: 1, pin: true, pagesFile: join(folder, 'guest-pages') }
    running.push(await Running.start(contestant(pollUs), tree, options))
  }
  for (const { driver } of running) await driver.run({ row: ROW, depth: 1, ms: 300 })
  for (let round = 0; round < Number(values.rounds); round++)
    for (const rate of rates)
      for (const { driver, contestant } of running) {
        const one = await driver.run({ row: ROW, depth: 1, ms: ms(rate), rate })
        const key = `${contestant.name} ${rate}`
        measured.set(key, [...(measured.get(key) ?? []), one])
      }
  const text = report()
  mkdirSync(values.out, { recursive: true })
  writeFileSync(join(values.out, 'polling.md'), text)
  console.log(text)
} finally {
  for (const one of running) await one.stop()
  rmSync(folder, { recursive: true, force: true })
}

function report(): string {
  const name = (rate: number): string => (rate === 0 ? 'as fast as it goes' : `${rate}/s`)
  const lines = [
    '# What polling costs and gains',
    '',
    describeMachine(machine('none')),
    '',
    `GETATTR at depth 1, medians of ${values.rounds} rounds: median latency in microseconds / CPU of the daemon in percent of one, for each --poll-us.`,
    '',
    `| requests | ${running.map(one => one.contestant.name).join(' | ')} |`,
    `|---|${'---:|'.repeat(running.length)}`,
  ]
  for (const rate of rates) {
    const cells = running.map(({ contestant }) => {
      const all = measured.get(`${contestant.name} ${rate}`)!
      const p50 = median(all.map(one => one.p50 / 1000))
      const cpu = median(all.map(one => (100 * one.serverNs) / one.ns))
      return `${p50.toFixed(1)} / ${cpu.toPrecision(2)}`
    })
    lines.push(`| ${name(rate)} | ${cells.join(' | ')} |`)
  }
  return `${lines.join('\n')}\n`
}
