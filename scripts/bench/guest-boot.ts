/** One boot of a guest that does measured steps, and what its daemon spent meanwhile. */
import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageFile } from '../../src/native/addon.js'
import { type Mode, MODES } from '../lab/cache-modes.js'
import { Daemon } from '../lab/daemon.js'
import { runUml, TAG, type UmlKernel } from '../lab/uml.js'
import { type Contestant, GUEST_CPU, pinDaemon, processTree } from './contestants.js'
import { script, type Step } from './workloads.js'

const LIMIT_MS = 15 * 60_000
/** Of /proc/PID/stat: USER_HZ is 100 on every Linux. */
const TICK_MS = 10
const MEMORY_MIB = 768

/** One step, once. */
export interface Sample {
  readonly seconds: number
  /** CPU time of the daemon meanwhile. */
  readonly serverSeconds: number
}

/** By the steps' names; without those that failed. */
export type Samples = ReadonlyMap<string, Sample>

export interface BootOptions {
  readonly contestant: Contestant
  readonly sharedDir: string
  /** Put after the contestant's own arguments, of which those that set the cache are left out. */
  readonly args: readonly string[]
  readonly steps: readonly Step[]
  /** Where in the share the steps run; default: its top. */
  readonly folder?: string
  /** Guest and daemon have CPUs of their own, and the guest's never sleeps. */
  readonly pinned: boolean
  /** Before every line about a step. */
  readonly label: string
  /** Called when a step begins. */
  readonly begun?: () => void
  /** Ends the guest at once. */
  readonly abort?: AbortSignal
}

/** The kernel in UML_CHROOT. It runs there, and its guest's root is this host's own all the same. */
export function newerKernel(): UmlKernel | undefined {
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

/** What the guests run on, for the table. */
export function describeGuests(pinned: boolean): string {
  const kernel = newerKernel()?.modules.split('/').at(-1) ?? '6.1'
  const placed = pinned
    ? "guest and daemon on CPUs of their own, of which the guest's never sleeps"
    : 'placed by the scheduler'
  return `user-mode Linux ${kernel}, ${placed}`
}

/**
 * Arguments of one of our daemons, or of the peer, for a way to cache: those of `--cache`, and `strict` and `strict-0`
 * (--lease-ms=0), for which the peer has `never`. `table`: where the daemons of the guests meet.
 */
export function cacheArgs(cache: string, table: string, contestant = 'ours'): readonly string[] {
  if (!(cache in MODES)) return [`--cache=${cache}`]
  const mode = cache as Mode
  return MODES[contestant === 'peer' && mode.startsWith('strict') ? 'never' : mode](table)
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

/** Every step once, in a guest and with a daemon that were not there before. Errors: the checkout is where no guest sees it. */
export async function boot(options: BootOptions): Promise<Samples> {
  const here = packageFile('scripts')
  if (here.startsWith('/tmp/'))
    throw new Error(
      `the guest has a /tmp of its own and does not see ${here}: put the checkout elsewhere`,
    )
  const { contestant, steps, label, pinned } = options
  const samples = new Map<string, Sample>()
  const daemon = await Daemon.start({
    sharedDir: options.sharedDir,
    args: [
      ...contestant.args.filter(arg => !arg.startsWith('--cache')),
      ...options.args,
      '--tag',
      TAG,
    ],
    ...(contestant.program === undefined ? {} : { program: contestant.program }),
  })
  const pids = processTree(daemon.process.pid!)
  if (pinned) pinDaemon(pids)
  let atBegin = 0
  let rest = ''
  const take = (line: string): void => {
    if (line.startsWith('@@begin ')) {
      atBegin = cpuSeconds(pids)
      options.begun?.()
    }
    const end = /^@@end (.*)\|(\d+)\|(\d+)$/.exec(line)
    if (end === null) return
    const serverSeconds = cpuSeconds(pids) - atBegin
    const seconds = Number(end[3]) / 1e6
    const failed = end[2] !== '0'
    console.error(
      `${label} ${end[1]}: ${seconds.toFixed(3)} s, daemon ${serverSeconds.toFixed(2)} s${failed ? ' FAILED' : ''}`,
    )
    if (!failed) samples.set(end[1]!, { seconds, serverSeconds })
  }
  const uml = newerKernel()
  try {
    const result = await runUml({
      socketPath: daemon.socketPath,
      command: script(steps, pinned, options.folder),
      memoryMiB: MEMORY_MIB,
      timeoutMs: LIMIT_MS,
      prefix: pinned ? ['taskset', '-c', GUEST_CPU] : [],
      ...(options.abort === undefined ? {} : { abort: options.abort }),
      ...(uml === undefined ? {} : { uml }),
      onOutput: text => {
        const lines = (rest + text).replaceAll('\r', '').split('\n')
        rest = lines.pop()!
        for (const line of lines) take(line)
      },
    })
    if (options.abort?.aborted === true) return samples
    if (result.status === -1)
      console.error(`${label} did not serve the guest:\n${result.console.slice(-2000)}`)
    else await daemon.exit()
    if (samples.size < steps.length) console.error(result.output.slice(-4000))
    return samples
  } finally {
    await daemon.kill()
  }
}
