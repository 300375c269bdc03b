/**
 * What strict coherence costs: the same steps in a guest under --coherence=strict, --cache=auto and
 * --cache=never, beside a second guest on the same tree with a daemon of its own, which idles or does the same
 * steps in a folder of its own. A mode `strict-0` is strict with --lease-ms=0; the first mode is what the others are
 * compared with.
 *
 *   npm run bench:price -- [--rounds 3] [--modes strict,auto,never] [--others idle,busy] [--steps PREFIXES]
 *
 * UML_CHROOT and OURS are as for the bench in guests. Beside an idle guest CPUs are shared out as there; beside a
 * busy one the scheduler does it.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { scriptArguments } from '../arguments.js'
import { type Contestant, contestants, installedProgram } from './contestants.js'
import { boot, cacheArgs, describeGuests, type Samples } from './guest-boot.js'
import { describeMachine, machine } from './report.js'
import { median } from './statistics.js'
import { makeGuestTree, type Step, STEPS } from './workloads.js'

const DEFAULT_STEPS = 'first use,find,stat storm,git status,untar,compile'

/** Repeats the steps until the measured guest is done. */
const AGAIN = 100
const IDLE: Step = { name: 'idle', command: 'sleep 3600' }

/** The steps once in one guest, beside another. */
async function measure(
  contestant: Contestant,
  mode: string,
  other: string,
  steps: readonly Step[],
): Promise<Samples> {
  const scratch = mkdtempSync('/dev/shm/virtiofsd-price-')
  try {
    const sharedDir = join(scratch, 'share')
    for (const folder of ['measured', 'beside']) {
      mkdirSync(join(sharedDir, folder), { recursive: true })
      makeGuestTree(join(sharedDir, folder))
    }
    const common = {
      contestant,
      sharedDir,
      args: cacheArgs(mode, join(scratch, 'table')),
    }
    const stop = new AbortController()
    const repeated = Array.from({ length: AGAIN }, () => steps).flat()
    let beside: Promise<Samples> | undefined
    // Two that boot at once are in each other's way, and one that boots does not idle.
    const up = new Promise<void>((begun, failed) => {
      beside = boot({
        ...common,
        begun,
        steps: other === 'idle' ? [IDLE] : repeated,
        pinned: false,
        folder: 'beside',
        label: '  beside',
        abort: stop.signal,
      })
      beside.then(() => begun(), failed)
    })
    try {
      await up
      return await boot({
        ...common,
        steps,
        pinned: other === 'idle',
        folder: 'measured',
        label: `${mode}, other ${other}`,
      })
    } finally {
      stop.abort()
      await beside
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

/** NaN: the step failed each time. */
function seconds(boots: readonly Samples[], step: string): number {
  const all = boots.flatMap(one => one.get(step)?.seconds ?? [])
  return all.length === 0 ? Number.NaN : median(all)
}

const shown =
  (digits: number) =>
  (value: number): string =>
    Number.isNaN(value) ? 'failed' : value.toFixed(digits)

const row = (...cells: readonly string[]): string => `| ${cells.join(' | ')} |`

async function main(): Promise<number> {
  const { values } = scriptArguments(import.meta.url, {
    options: {
      rounds: { type: 'string', default: '3' },
      modes: { type: 'string', default: 'strict,auto,never' },
      others: { type: 'string', default: 'idle,busy' },
      steps: { type: 'string', default: DEFAULT_STEPS },
    },
  })
  const ours = contestants(1, installedProgram()).get('ours')!
  const prefixes = values.steps.split(',')
  const steps = STEPS.filter(step => prefixes.some(prefix => step.name.startsWith(prefix)))
  const modes = values.modes.split(',')
  console.log(`# Price of strict coherence, ${new Date().toISOString().slice(0, 16)}\n`)
  console.log(describeMachine(machine('none')))
  console.log(`\n${values.rounds} boots each, turn about.`)
  for (const other of values.others.split(',')) {
    const taken = new Map(modes.map(mode => [mode, [] as Samples[]]))
    for (let round = 0; round < Number(values.rounds); round++)
      for (let i = 0; i < modes.length; i++) {
        const mode = modes[(i + round) % modes.length]!
        taken.get(mode)!.push(await measure(ours, mode, other, steps))
      }
    const [priced, ...rest] = modes as [string, ...string[]]
    console.log(`\n## The other guest is ${other}\n\n${describeGuests(other === 'idle')}.\n`)
    console.log(
      `Seconds, and what the other mode takes through what ${priced} takes (more is better).\n`,
    )
    console.log(row('step', ...modes, ...rest.map(mode => `${mode} / ${priced}`)))
    console.log(row('---', ...[...modes, ...rest].map(() => '---:')))
    for (const { name } of steps) {
      const times = modes.map(mode => seconds(taken.get(mode)!, name))
      const ratios = times.slice(1).map(time => time / times[0]!)
      console.log(row(name, ...times.map(shown(3)), ...ratios.map(shown(2))))
    }
  }
  return 0
}

process.exitCode = await main()
