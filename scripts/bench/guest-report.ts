/** The results of the guests' steps: results.json, table.md, and a plot for each cache mode. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { barChart } from './plot.js'
import { describeMachine, type Machine } from './report.js'

/** Medians of one step. */
export interface GuestSummary {
  readonly step: string
  readonly cache: string
  readonly contestant: string
  readonly seconds: number
  /** CPU time of the daemon meanwhile. */
  readonly serverSeconds: number
  readonly rounds: number
}

export interface GuestResults {
  readonly machine: Machine
  readonly date: string
  readonly settings: string
  readonly summaries: readonly GuestSummary[]
}

/** Writes the files into `folder` and returns the table. */
export function writeGuestResults(folder: string, results: GuestResults): string {
  mkdirSync(folder, { recursive: true })
  const text = table(results)
  writeFileSync(join(folder, 'results.json'), `${JSON.stringify(results, null, 1)}\n`)
  writeFileSync(join(folder, 'table.md'), text)
  for (const cache of caches(results))
    writeFileSync(join(folder, `plot-${cache}.svg`), plot(results, cache))
  return text
}

function caches(results: GuestResults): readonly string[] {
  return [...new Set(results.summaries.map(one => one.cache))]
}

function describeCache(cache: string): string {
  return cache === 'strict' ? '--coherence=strict (the peer: --cache=never)' : `--cache=${cache}`
}

function peerOf(results: GuestResults, like: GuestSummary): GuestSummary | undefined {
  return results.summaries.find(
    one => one.contestant === 'peer' && one.step === like.step && one.cache === like.cache,
  )
}

function rivals(results: GuestResults): readonly string[] {
  return [...new Set(results.summaries.map(one => one.contestant))].filter(name => name !== 'peer')
}

function table(results: GuestResults): string {
  const lines = [
    `# Bench in guests of ${results.date}`,
    '',
    describeMachine(results.machine),
    '',
    results.settings,
    '',
    "Speed is the peer's time through ours (more is better); daemon is its CPU time during the step.",
  ]
  for (const cache of caches(results))
    for (const name of rivals(results)) {
      lines.push('', `## ${name}, ${describeCache(cache)}`, '')
      lines.push(
        '| step | s | peer s | speed | daemon s | peer s |',
        '|---|---:|---:|---:|---:|---:|',
      )
      for (const one of results.summaries) {
        if (one.cache !== cache || one.contestant !== name) continue
        const peer = peerOf(results, one)
        const speed = peer === undefined ? '' : `**${(peer.seconds / one.seconds).toFixed(2)}**`
        lines.push(
          `| ${one.step} | ${one.seconds.toFixed(3)} | ${peer?.seconds.toFixed(3) ?? ''} | ${speed} | ${one.serverSeconds.toFixed(2)} | ${peer?.serverSeconds.toFixed(2) ?? ''} |`,
        )
      }
    }
  return `${lines.join('\n')}\n`
}

function plot(results: GuestResults, cache: string): string {
  const series = rivals(results)
  const mine = results.summaries.filter(one => one.cache === cache && one.contestant !== 'peer')
  const groups = [...new Set(mine.map(one => one.step))].map(step => ({
    label: step,
    values: series.map(name => {
      const one = mine.find(other => other.step === step && other.contestant === name)
      const peer = one && peerOf(results, one)
      return one === undefined || peer === undefined ? Number.NaN : peer.seconds / one.seconds
    }),
  }))
  return barChart({
    title: `Speed in a guest, ${describeCache(cache)}, against ${results.machine.peer}`,
    caption: describeMachine(results.machine),
    series,
    groups,
    moreIsBetter: true,
  })
}
