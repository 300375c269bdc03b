/**
 * What coherence costs: two user-mode Linux guests with a daemon each on one directory, one at work while the
 * other idles, or both in folders of their own. Prints milliseconds, medians, and ratios to the first mode.
 *
 *     node dist/scripts/lab/coherence-price.js [--rounds N] [MODE...]
 *
 * MODE: auto, strict, strict-0 (with --lease-ms=0), never (default: all, in this order).
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { bootGuests, type Guests, type Mode } from './coherence.js'

const FOLDERS = 20
const FILES = 20
const SOURCES = 4
/** What the host has just made is not cached with leases. */
const SETTLE_MS = 1500

/** Orders for the agent, in a folder made by `prepare`. */
const WORKLOADS: Readonly<Record<string, (d: string) => string>> = {
  'stat of one file, 2000 times': d => `again 2000 stat ${d}/tree/d0/f0`,
  'stat of 400 files, twice': d =>
    `run cd ${d}/tree; for i in 1 2; do stat -c %s */* > /dev/null; done`,
  'find, twice': d => `run cd ${d}; for i in 1 2; do find tree -size +9 > /dev/null; done`,
  'git status, twice': d =>
    `run cd ${d}/tree; export GIT_OPTIONAL_LOCKS=0; for i in 1 2; do git status --short; done`,
  'cat of 400 files, twice': d => `run cd ${d}/tree; for i in 1 2; do cat */* > /dev/null; done`,
  compile: d => `run cd ${d}/src; for i in 1 2 3 4; do cc -c s$i.c -o s$i.o; done`,
}

function prepare(folder: string): void {
  for (let i = 0; i < FOLDERS; i++) {
    mkdirSync(join(folder, 'tree', `d${i}`), { recursive: true })
    for (let k = 0; k < FILES; k++)
      writeFileSync(join(folder, 'tree', `d${i}`, `f${k}`), `file ${k} of ${i}\n`.repeat(100))
  }
  const git = (...args: string[]): unknown =>
    execFileSync('git', args, { cwd: join(folder, 'tree') })
  git('init', '-q')
  git('-c', 'core.safecrlf=false', 'add', '.')
  git('-c', 'user.name=lab', '-c', 'user.email=lab@localhost', 'commit', '-qm', 'tree')
  mkdirSync(join(folder, 'src'))
  const headers = ['stdio', 'stdlib', 'string', 'unistd'].map(name => `#include <${name}.h>\n`)
  for (let i = 0; i < FILES; i++)
    writeFileSync(join(folder, 'src', `h${i}.h`), `static const int n${i} = ${i};\n`)
  for (let i = 1; i <= SOURCES; i++)
    writeFileSync(
      join(folder, 'src', `s${i}.c`),
      [
        ...headers,
        ...Array.from({ length: FILES }, (_, k) => `#include "h${k}.h"\n`),
        `int f${i}(void) { return n${i}; }\n`,
      ].join(''),
    )
}

async function timed(guest: Guests['agents'][number], order: string): Promise<number> {
  const began = performance.now()
  const answer = await guest.order(0, order)
  if (answer.startsWith('-')) throw new Error(`${order}: ${answer}`)
  return performance.now() - began
}

/** Milliseconds of each round, by workload. */
async function measure(mode: Mode, rounds: number): Promise<Map<string, number[]>> {
  const guests = await bootGuests(mode, 2)
  const times = new Map<string, number[]>()
  try {
    const [one, other] = guests.agents as [Guests['agents'][number], Guests['agents'][number]]
    for (const name of ['a', 'b']) prepare(join(guests.share, name))
    await new Promise(done => setTimeout(done, SETTLE_MS))
    for (const [name, order] of Object.entries(WORKLOADS)) {
      const alone: number[] = []
      const both: number[] = []
      // The first one fills caches.
      for (let round = 0; round <= rounds; round++) alone.push(await timed(one, order('a')))
      for (let round = 0; round <= rounds; round++) {
        const [ms] = await Promise.all([timed(one, order('a')), timed(other, order('b'))])
        both.push(ms)
      }
      times.set(name, alone.slice(1))
      times.set(`${name}, both`, both.slice(1))
    }
  } catch (cause) {
    await guests.kill()
    throw cause
  }
  await guests.close()
  return times
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { rounds: { type: 'string', default: '3' } },
  })
  const modes = (
    positionals.length > 0 ? positionals : ['auto', 'strict', 'strict-0', 'never']
  ) as Mode[]
  const all = new Map<Mode, Map<string, number[]>>()
  for (const mode of modes) all.set(mode, await measure(mode, Number(values.rounds)))
  console.log(`| workload, ms | ${modes.join(' | ')} |\n|---|${modes.map(() => '---|').join('')}`)
  for (const name of all.get(modes[0]!)!.keys()) {
    const ms = modes.map(mode => median(all.get(mode)!.get(name)!))
    const cells = ms.map((one, i) =>
      i === 0 ? one.toFixed(0) : `${one.toFixed(0)} (x${(one / ms[0]!).toFixed(2)})`,
    )
    console.log(`| ${name} | ${cells.join(' | ')} |`)
  }
}

await main()
