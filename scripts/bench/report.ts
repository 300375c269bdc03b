/** What a run leaves behind: results.json, table.md and plot.svg in one folder. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { barChart } from './plot.js'
import type { Summary } from './statistics.js'

/** Where it was measured. */
export interface Machine {
  readonly cpu: string
  readonly cpus: number
  readonly memoryGiB: number
  readonly kernel: string
  readonly node: string
  readonly ours: string
  readonly peer: string
}

export function machine(peer: string): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cpus: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    node: process.version,
    ours: commit(),
    peer,
  }
}

function commit(): string {
  try {
    const text = (args: string[]): string => execFileSync('git', args, { encoding: 'utf8' }).trim()
    const dirty =
      text(['status', '--porcelain', '--untracked-files=no']) === '' ? '' : ' and changes'
    return `${text(['rev-parse', '--short', 'HEAD'])}${dirty}`
  } catch {
    return (JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }).version
  }
}

export function describeMachine(m: Machine): string {
  return `${m.cpu}, ${m.cpus} CPUs, ${m.memoryGiB} GiB; Linux ${m.kernel}; Node ${m.node}; ours ${m.ours}; peer ${m.peer}`
}

export interface Results {
  readonly machine: Machine
  readonly date: string
  /** How it was run, for the heading. */
  readonly settings: string
  readonly summaries: readonly Summary[]
  /** The driver on its own null server. */
  readonly driverCost: string
}

/** Writes the three files into `folder` and returns the table. */
export function writeResults(folder: string, results: Results, raw: unknown): string {
  mkdirSync(folder, { recursive: true })
  const text = table(results)
  writeFileSync(join(folder, 'results.json'), `${JSON.stringify({ ...results, raw }, null, 1)}\n`)
  writeFileSync(join(folder, 'table.md'), text)
  for (const name of rivals(results.summaries))
    writeFileSync(
      join(folder, name === 'ours' ? 'plot.svg' : `plot-${name}.svg`),
      plot(results, name),
    )
  return text
}

/** Contestants that are not the peer; with no peer nothing is compared. */
function rivals(summaries: readonly Summary[]): readonly string[] {
  const names = [...new Set(summaries.map(one => one.contestant))]
  return names.filter(name => name !== 'peer')
}

function find(results: Results, like: Summary, contestant: string): Summary | undefined {
  return results.summaries.find(
    one =>
      one.contestant === contestant &&
      one.row === like.row &&
      one.depth === like.depth &&
      // The peer may have fewer queues: then its one stands for all.
      (one.queues === like.queues || (contestant === 'peer' && one.queues === 1)),
  )
}

function table(results: Results): string {
  const lines = [
    `# Bench of ${results.date}`,
    '',
    describeMachine(results.machine),
    '',
    results.settings,
    '',
    results.driverCost,
    '',
    'Ratios are ours to the peer, of medians over the rounds: operations a second (of the ninth decile of slices of 5 ms, which a neighbour on the machine moves least; more is better), p50 and CPU of the server an operation (less is better).',
  ]
  for (const name of rivals(results.summaries)) {
    lines.push('', `## ${name}`, '')
    lines.push(
      '| row | depth | queues | ops/s | peer | ratio | p50 us | peer | ratio | p99 us | peer | CPU us/op | peer | ratio | calls/op | peer | signals/request | peer |',
      `|---|${'---:|'.repeat(17)}`,
    )
    for (const one of results.summaries)
      if (one.contestant === name) lines.push(tableLine(one, find(results, one, 'peer')))
  }
  lines.push(
    '',
    '## System calls an operation',
    '',
    '| row | depth | who | calls |',
    '|---|---:|---|---|',
  )
  for (const one of results.summaries) {
    if (one.callsPerOp === undefined || one.queues !== 1) continue
    const names = Object.entries(one.callsByName).map(([call, count]) => `${call} ${figure(count)}`)
    lines.push(`| ${one.row} | ${one.depth} | ${one.contestant} | ${names.join(', ')} |`)
  }
  const wrong = results.summaries.filter(one => one.errors > 0)
  for (const one of wrong)
    lines.push(
      '',
      `**${one.contestant} answered ${one.row} at depth ${one.depth} wrongly ${one.errors} times.**`,
    )
  return `${lines.join('\n')}\n`
}

function tableLine(a: Summary, b: Summary | undefined): string {
  const pair = (value: (s: Summary) => number | undefined): string[] => [
    figure(value(a)),
    b === undefined ? '' : figure(value(b)),
  ]
  const withRatio = (value: (s: Summary) => number): string[] => [
    ...pair(value),
    b === undefined ? '' : `**${(value(a) / value(b)).toFixed(2)}**`,
  ]
  const cells = [
    a.row,
    String(a.depth),
    b !== undefined && b.queues !== a.queues ? `${a.queues} (peer ${b.queues})` : String(a.queues),
    ...withRatio(s => s.opsPerSecond),
    ...withRatio(s => s.p50Us),
    ...pair(s => s.p99Us),
    ...withRatio(s => s.serverUsPerOp),
    ...pair(s => s.callsPerOp),
    ...pair(s => s.signalsPerRequest),
  ]
  return `| ${cells.join(' | ')} |`
}

/** Three significant figures. */
function figure(value: number | undefined): string {
  if (value === undefined || !Number.isFinite(value)) return ''
  return value >= 1000
    ? Math.round(value).toLocaleString('en')
    : String(Number(value.toPrecision(3)))
}

function plot(results: Results, name: string): string {
  const mine = results.summaries.filter(one => one.contestant === name && one.queues === 1)
  const depths = [...new Set(mine.map(one => one.depth))]
  const groups = [...new Set(mine.map(one => one.row))].map(row => ({
    label: row,
    values: depths.map(depth => {
      const a = mine.find(one => one.row === row && one.depth === depth)
      const b = a && find(results, a, 'peer')
      return a === undefined || b === undefined ? Number.NaN : a.opsPerSecond / b.opsPerSecond
    }),
  }))
  return barChart({
    title: `Operations a second, ${name} to ${results.machine.peer}`,
    caption: describeMachine(results.machine),
    series: depths.map(depth => `depth ${depth}`),
    groups,
    moreIsBetter: true,
  })
}
