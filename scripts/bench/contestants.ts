/** The daemons that are measured, each as a running process with a guest plugged in. */
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { packageFile } from '../../src/native/addon.js'
import { Daemon } from '../lab/daemon.js'
import { Driver, type DriverOptions } from './driver.js'

/** A daemon to measure. */
export interface Contestant {
  readonly name: string
  readonly description: string
  /** `[program, arguments...]`; undefined: the daemon of this checkout. */
  readonly program?: readonly string[] | undefined
  readonly args: readonly string[]
}

/** The same service from both: extended attributes, no sandbox or filter in the way, no file handles. */
const SAME = [
  '--xattr',
  '--sandbox=none',
  '--seccomp=none',
  '--inode-file-handles=never',
  '--cache=auto',
]

/** A command line from the environment, to which virtiofsd's arguments are added. */
export function programFrom(variable: 'PEER' | 'OURS' | 'OTHER'): readonly string[] | undefined {
  const words = (process.env[variable] ?? '').split(' ').filter(word => word !== '')
  return words.length > 0 ? words : undefined
}

/** OURS, or the program as it is installed, which `npm run build` makes. */
export function installedProgram(): readonly string[] {
  const bundle = packageFile('dist', 'bundle', 'bin', 'virtiofsd.js')
  return programFrom('OURS') ?? [process.execPath, bundle]
}

/** Version line of the peer. */
export function peerVersion(): string {
  const [program, ...args] = programFrom('PEER') ?? []
  if (program === undefined) return 'none'
  return execFileSync(program, [...args, '--version'], { encoding: 'utf8' }).trim()
}

/** All that can be measured here, by name. PEER is Rust virtiofsd's command line, OURS our own when it is not that of this checkout, OTHER a second build of ours to compare. */
export function contestants(
  queues: number,
  ours: readonly string[] | undefined = programFrom('OURS'),
): ReadonlyMap<string, Contestant> {
  const args = [...SAME, `--num-request-queues=${queues}`]
  const all: Contestant[] = [
    { name: 'ours', description: 'virtiofsd-ts', program: ours, args },
    {
      name: 'ours-no-poll',
      description: 'virtiofsd-ts with --poll-us=0',
      program: ours,
      args: [...args, '--poll-us=0'],
    },
  ]
  all.push({
    name: 'ours-no-passthrough',
    description: 'virtiofsd-ts with --passthrough=off',
    program: ours,
    args: [...args, '--passthrough=off'],
  })
  const other = programFrom('OTHER')
  if (other !== undefined)
    all.push({ name: 'other', description: 'another build', program: other, args })
  const program = programFrom('PEER')
  if (program !== undefined) {
    all.push(
      { name: 'peer', description: 'Rust virtiofsd', program, args: SAME },
      {
        name: 'peer-pool',
        description: 'Rust virtiofsd with --thread-pool-size=16',
        program,
        args: [...SAME, '--thread-pool-size=16'],
      },
    )
  }
  return new Map(all.map(one => [one.name, one]))
}

/**
 * Guest and daemon on CPUs of their own, as on a host with enough of them: the guest has the last, the
 * daemon the others. Otherwise the scheduler puts both on one now and then, and every wake-up differs.
 */
export const GUEST_CPU = String(cpus().length - 1)
const DAEMON_CPUS = cpus().length > 2 ? `0-${cpus().length - 2}` : '0'

/** A daemon at work on a tree of its own. */
export class Running {
  readonly contestant: Contestant
  readonly daemon: Daemon
  readonly driver: Driver

  static async start(
    contestant: Contestant,
    sharedDir: string,
    options: Omit<DriverOptions, 'socketPath' | 'prefix'> & { readonly pin: boolean },
  ): Promise<Running> {
    const { program, args } = contestant
    const daemon = await Daemon.start({
      sharedDir,
      args,
      ...(program === undefined ? {} : { program }),
    })
    try {
      const prefix = options.pin ? ['taskset', '-c', GUEST_CPU] : []
      const driver = await Driver.start({ ...options, prefix, socketPath: daemon.socketPath })
      const pids = processTree(daemon.process.pid!)
      if (options.pin) pinDaemon(pids)
      await driver.observe(pids)
      return new Running(contestant, daemon, driver)
    } catch (cause) {
      await daemon.kill()
      throw new Error(`${contestant.name} cannot be measured:\n${daemon.log}`, { cause })
    }
  }

  private constructor(contestant: Contestant, daemon: Daemon, driver: Driver) {
    this.contestant = contestant
    this.daemon = daemon
    this.driver = driver
  }

  get pids(): readonly number[] {
    return processTree(this.daemon.process.pid!)
  }

  async stop(): Promise<void> {
    await this.driver.stop()
    await this.daemon.exit()
  }
}

/** Puts all threads of these processes, and those to come, on the daemon's CPUs. */
export function pinDaemon(pids: readonly number[]): void {
  for (const pid of pids)
    execFileSync('taskset', ['-a', '-c', '-p', DAEMON_CPUS, String(pid)], { stdio: 'ignore' })
}

/** A process and all that descend from it. */
export function processTree(root: number): readonly number[] {
  const parents = new Map<number, number>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      // proc(5): the parent follows the name in parentheses and the state.
      const stat = readFileSync(`/proc/${name}/stat`, 'latin1')
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]))
    } catch {
      // It has ended meanwhile.
    }
  }
  const found = [root]
  for (const pid of found)
    for (const [child, parent] of parents) if (parent === pid) found.push(child)
  return found
}
