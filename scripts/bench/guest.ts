/**
 * The bench inside real guests: our daemon and Rust virtiofsd in turn, the same steps in the same kernel.
 *
 *   npm run bench:guest -- [--rounds 3] [--caches auto,never] [--contestants ours,peer]
 *                          [--steps PREFIXES] [--no-pin] [--out FOLDER]
 *
 * The guest is user-mode Linux. Rust virtiofsd does not serve the 6.1 of Debian 12; UML_CHROOT names
 * the root of a newer Debian with user-mode-linux in it, whose kernel is used instead. PEER and OURS are
 * as for the bench without a VM. The shared trees lie in /dev/shm. Guest and daemon have CPUs of their own
 * unless --no-pin says otherwise: left to the scheduler, they share one now and then, and times differ by three.
 * And the guest's CPU never sleeps; see guest-steps.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Daemon } from '../lab/daemon.js'
import { runUml, TAG, type UmlKernel } from '../lab/uml.js'
import {
  type Contestant,
  contestants,
  GUEST_CPU,
  installedProgram,
  peerVersion,
  pinDaemon,
  processTree,
} from './contestants.js'
import { type GuestSummary, writeGuestResults } from './guest-report.js'
import { machine } from './report.js'
import { median } from './statistics.js'
import { makeGuestTree, script, type Step, STEPS } from './workloads.js'

const LIMIT_MS = 15 * 60_000
/** Of /proc/PID/stat: USER_HZ is 100 on every Linux. */
const TICK_MS = 10

interface Sample {
  readonly seconds: number
  readonly serverSeconds: number
}

/** The kernel in UML_CHROOT. It runs there, and its guest's root is this host's own all the same. */
function newerKernel(): UmlKernel | undefined {
  const chroot = process.env.UML_CHROOT
  if (chroot === undefined) return undefined
  const modules = join(chroot, 'usr', 'lib', 'uml', 'modules')
  const hostRoot = '/host'
  mkdirSync(join(chroot, hostRoot), { recursive: true })
  // Mounts of its own, which end with it. /dev/shm is bound by itself: a plain bind leaves it out.
  const enter = `mount --bind / "$0${hostRoot}" && mount --bind /dev/shm "$0${hostRoot}/dev/shm" &&
    mount -t proc proc "$0/proc" && mount --bind /dev/shm "$0/dev/shm" && exec chroot "$0" linux.uml "$@"`
  return {
    command: ['unshare', '-m', 'sh', '-c', enter, chroot, 'seccomp=on'],
    modules: join(modules, readdirSync(modules)[0]!),
    hostRoot,
  }
}

/** CPU time of processes and their ended threads, in seconds. */
function cpuSeconds(pids: readonly number[]): number {
  let ticks = 0
  for (const pid of pids) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      ticks += Number(fields[11]) + Number(fields[12])
    } catch {
      // It has ended: the guest is gone.
    }
  }
  return (ticks * TICK_MS) / 1000
}

/** One boot: every step once. */
async function boot(
  contestant: Contestant,
  cache: string,
  steps: readonly Step[],
  pinned: boolean,
): Promise<ReadonlyMap<string, Sample>> {
  const root = mkdtempSync('/dev/shm/virtiofsd-guest-')
  const samples = new Map<string, Sample>()
  try {
    makeGuestTree(root)
    const daemon = await Daemon.start({
      sharedDir: root,
      args: [
        ...contestant.args.filter(arg => !arg.startsWith('--cache')),
        `--cache=${cache}`,
        '--tag',
        TAG,
      ],
      ...(contestant.program === undefined ? {} : { program: contestant.program }),
    })
    const pids = processTree(daemon.process.pid!)
    if (pinned) pinDaemon(pids)
    let atBegin = 0
    let rest = ''
    const uml = newerKernel()
    const result = await runUml({
      socketPath: daemon.socketPath,
      command: script(steps),
      memoryMiB: 768,
      timeoutMs: LIMIT_MS,
      prefix: pinned ? ['taskset', '-c', GUEST_CPU] : [],
      ...(uml === undefined ? {} : { uml }),
      onOutput: text => {
        const lines = (rest + text).replaceAll('\r', '').split('\n')
        rest = lines.pop()!
        for (const line of lines) {
          if (line.startsWith('@@begin ')) atBegin = cpuSeconds(pids)
          const end = /^@@end (.*)\|(\d+)\|(\d+)$/.exec(line)
          if (end === null) continue
          const serverSeconds = cpuSeconds(pids) - atBegin
          const seconds = Number(end[3]) / 1e6
          console.error(
            `${contestant.name} ${cache} ${end[1]}: ${seconds.toFixed(3)} s, daemon ${serverSeconds.toFixed(2)} s${end[2] === '0' ? '' : ' FAILED'}`,
          )
          if (end[2] === '0') samples.set(end[1]!, { seconds, serverSeconds })
        }
      },
    })
    if (result.status === -1) {
      console.error(`${contestant.name} did not serve the guest:\n${result.console.slice(-2000)}`)
      await daemon.kill()
    } else {
      await daemon.exit()
    }
    if (samples.size < steps.length) console.error(result.output.slice(-4000))
    return samples
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
}

function summaries(
  steps: readonly Step[],
  boots: ReadonlyMap<string, readonly ReadonlyMap<string, Sample>[]>,
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
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '3' },
      caches: { type: 'string', default: 'auto,never' },
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
  const boots = new Map<string, ReadonlyMap<string, Sample>[]>()
  for (let round = 0; round < Number(values.rounds); round++)
    for (const cache of values.caches.split(','))
      for (let i = 0; i < chosen.length; i++) {
        const contestant = chosen[(i + round) % chosen.length]!
        const key = `${contestant.name} ${cache}`
        boots.set(key, [...(boots.get(key) ?? []), await boot(contestant, cache, steps, pinned)])
      }
  const text = writeGuestResults(values.out, {
    machine: machine(peerVersion()),
    date: new Date().toISOString().slice(0, 16),
    settings: `${values.rounds} boots each, turn about; user-mode Linux ${newerKernel()?.modules.split('/').at(-1) ?? '6.1'}, ${pinned ? "guest and daemon on CPUs of their own, of which the guest's never sleeps" : 'placed by the scheduler'}.`,
    summaries: summaries(steps, boots),
  })
  console.log(text)
  console.log(`written to ${values.out}`)
  return 0
}

process.exitCode = await main()
