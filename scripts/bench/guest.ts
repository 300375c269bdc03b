/**
 * The bench inside real guests: our daemon and Rust virtiofsd in turn, the same steps in the same kernel.
 *
 *   npm run bench:guest -- [--rounds 3] [--caches auto,never,strict] [--contestants ours,peer]
 *                          [--steps PREFIXES] [--no-pin] [--out FOLDER]
 *
 * With `strict` guests that see one another's changes at once are compared: ours with --coherence=strict, the peer
 * with --cache=never, as it has nothing else for them.
 *
 * The guest is user-mode Linux. Rust virtiofsd does not serve the 6.1 of Debian 12; UML_CHROOT names
 * the root of a newer Debian with user-mode-linux in it, whose kernel is used instead. PEER and OURS are
 * as for the bench without a VM. The shared trees lie in /dev/shm. Guest and daemon have CPUs of their own
 * unless --no-pin says otherwise: left to the scheduler, they share one now and then, and times differ by three.
 * And the guest's CPU never sleeps; see guest-steps.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { scriptArguments } from '../arguments.js'
import { type Contestant, contestants, installedProgram, peerVersion } from './contestants.js'
import { boot, cacheArgs, describeGuests, type Samples } from './guest-boot.js'
import { type GuestSummary, writeGuestResults } from './guest-report.js'
import { machine } from './report.js'
import { median } from './statistics.js'
import { makeGuestTree, type Step, STEPS } from './workloads.js'

/** Every step once, on a tree of its own. */
async function bootOnce(
  contestant: Contestant,
  cache: string,
  steps: readonly Step[],
  pinned: boolean,
): Promise<Samples> {
  const scratch = mkdtempSync('/dev/shm/virtiofsd-guest-')
  const sharedDir = join(scratch, 'share')
  try {
    mkdirSync(sharedDir)
    makeGuestTree(sharedDir)
    const label = `${contestant.name} ${cache}`
    const args = cacheArgs(cache, join(scratch, 'table'), contestant.name)
    return await boot({ contestant, sharedDir, args, steps, pinned, label })
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

function summaries(
  steps: readonly Step[],
  boots: ReadonlyMap<string, readonly Samples[]>,
): readonly GuestSummary[] {
  return [...boots].flatMap(([key, rounds]) => {
    const [contestant, cache] = key.split(' ') as [string, string]
    return steps.flatMap(step => {
      const samples = rounds.flatMap(round => round.get(step.name) ?? [])
      if (samples.length === 0) return []
      return {
        step: step.name,
        cache,
        contestant,
        seconds: median(samples.map(one => one.seconds)),
        serverSeconds: median(samples.map(one => one.serverSeconds)),
        rounds: samples.length,
      }
    })
  })
}

async function main(): Promise<number> {
  const { values } = scriptArguments(import.meta.url, {
    options: {
      rounds: { type: 'string', default: '3' },
      caches: { type: 'string', default: 'auto,never,strict' },
      contestants: { type: 'string', default: 'ours,peer' },
      steps: { type: 'string', default: '' },
      'no-pin': { type: 'boolean', default: false },
      out: {
        type: 'string',
        default: join(
          'bench-results',
          `guest-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}`,
        ),
      },
    },
  })
  const known = contestants(1, installedProgram())
  const chosen = values.contestants.split(',').flatMap(name => known.get(name) ?? [])
  const prefixes = values.steps.split(',')
  const steps = STEPS.filter(step => prefixes.some(prefix => step.name.startsWith(prefix)))
  const pinned = !values['no-pin']
  const boots = new Map<string, Samples[]>()
  for (let round = 0; round < Number(values.rounds); round++)
    for (const cache of values.caches.split(','))
      for (let i = 0; i < chosen.length; i++) {
        const contestant = chosen[(i + round) % chosen.length]!
        const key = `${contestant.name} ${cache}`
        boots.set(key, [
          ...(boots.get(key) ?? []),
          await bootOnce(contestant, cache, steps, pinned),
        ])
      }
  const text = writeGuestResults(values.out, {
    machine: machine(peerVersion()),
    date: new Date().toISOString().slice(0, 16),
    settings: `${values.rounds} boots each, turn about; ${describeGuests(pinned)}.`,
    summaries: summaries(steps, boots),
  })
  console.log(text)
  console.log(`written to ${values.out}`)
  return 0
}

process.exitCode = await main()
