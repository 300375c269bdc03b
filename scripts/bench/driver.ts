/** The load generator's process (test/bench/driver.cc): built when it is out of date, then commanded. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdirSync, readdirSync, statSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { join } from 'node:path'
import { packageFile } from '../../src/native/addon.js'

/** What `run` and `count` answer; times in nanoseconds. */
export interface Measurement {
  readonly row: string
  readonly depth: number
  readonly queues: number
  readonly wait: Wait
  readonly ops: number
  readonly requests: number
  readonly ns: number
  /** Operations a second in the ninth decile of slices of 5 ms; where those are too short, the mean. */
  readonly rate: number
  readonly p50: number
  readonly p99: number
  readonly p999: number
  /** CPU time of the server's processes. */
  readonly serverNs: number
  /** CPU time of the load generator. */
  readonly driverNs: number
  /** Kicks that the server asked for, signals that it gave, times the guest slept. */
  readonly kicks: number
  readonly signals: number
  readonly sleeps: number
  readonly errors: number
  readonly firstError?: string
  /** By name, and "total"; only of `count`, and where the kernel's tracepoints can be had. */
  readonly systemCalls?: Readonly<Record<string, number>>
}

/** How the guest waits: in epoll for the call descriptor, or spinning on the used ring. */
export type Wait = 'sleep' | 'spin'

export interface Load {
  readonly row: string
  readonly depth: number
  readonly queues?: number
  readonly ms: number
  /** 0: as many as there is time for. */
  readonly maxOps?: number
  readonly wait?: Wait
  /** Operations that begin in each second, at depth 1; 0: each begins when the one before has ended. */
  readonly rate?: number
}

const SOURCES = ['driver.cc', 'guest.cc', 'rows.cc', 'observe.cc'] as const

/** Compiles the load generator when a source is newer; returns the program's path. */
export function buildDriver(): string {
  const folder = packageFile('test', 'bench')
  const program = packageFile('build', 'bench-driver')
  const newest = Math.max(
    ...readdirSync(folder)
      .filter(name => /\.(cc|h)$/.test(name))
      .map(name => statSync(join(folder, name)).mtimeMs),
  )
  const built = statSync(program, { throwIfNoEntry: false })
  if (built !== undefined && built.mtimeMs > newest) return program
  mkdirSync(packageFile('build'), { recursive: true })
  const sources = SOURCES.map(name => join(folder, name))
  execFileSync('g++', ['-std=c++17', '-O2', '-Wall', '-o', program, ...sources, '-pthread'])
  return program
}

export interface DriverOptions {
  /** Of the daemon; undefined: the driver's own null server. */
  readonly socketPath?: string
  readonly queues?: number
  readonly tree?: 'memory' | 'disk'
  /** Host path of the disk tree's file, so that its cache can be dropped. */
  readonly coldFile?: string
  /** File in memory for the data of requests, shared with other load generators; undefined: its own memory. */
  readonly pagesFile?: string
  /** Put before the command: taskset and the like. */
  readonly prefix?: readonly string[]
}

/** One running load generator: a guest that has mounted the share. */
export class Driver {
  /** Request queues there are: no more than the back end has. */
  queues = 0
  readonly #process: ChildProcess
  readonly #lines: AsyncIterator<string>
  readonly #ended: Promise<void>

  /** Connects, mounts and looks its files up. Errors: the back end does not do its part. */
  static async start(options: DriverOptions): Promise<Driver> {
    const driver = new Driver(options)
    driver.queues = ((await driver.#answer()) as { queues: number }).queues
    return driver
  }

  private constructor(options: DriverOptions) {
    const args = options.socketPath === undefined ? ['--null'] : ['--socket', options.socketPath]
    args.push('--queues', String(options.queues ?? 1), '--tree', options.tree ?? 'memory')
    if (options.coldFile !== undefined) args.push('--cold-file', options.coldFile)
    if (options.pagesFile !== undefined) args.push('--pages', options.pagesFile)
    const [program, ...first] = [...(options.prefix ?? []), buildDriver()]
    this.#process = spawn(program!, [...first, ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#ended = new Promise(done => this.#process.on('close', () => done()))
    this.#lines = createInterface({ input: this.#process.stdout! })[Symbol.asyncIterator]()
  }

  async #answer(): Promise<unknown> {
    const { value, done } = await this.#lines.next()
    if (done === true) throw new Error('the load generator ended; see above for why')
    const answer = JSON.parse(value) as { error?: string }
    if (answer.error !== undefined) throw new Error(`load generator: ${answer.error}`)
    return answer
  }

  async #command(line: string): Promise<unknown> {
    this.#process.stdin!.write(`${line}\n`)
    return await this.#answer()
  }

  /** Names of all rows, of both trees. */
  async rows(): Promise<readonly string[]> {
    return ((await this.#command('rows')) as { rows: string[] }).rows
  }
  /** Whose CPU time and system calls are counted from now on. */
  async observe(pids: readonly number[]): Promise<void> {
    await this.#command(`pids ${pids.join(' ')}`)
  }
  async run(load: Load): Promise<Measurement> {
    return (await this.#command(`run ${words(load)}`)) as Measurement
  }
  /** As `run`, with system calls counted, which costs the server a little. */
  async count(load: Load): Promise<Measurement> {
    return (await this.#command(`count ${words(load)}`)) as Measurement
  }
  /** Unplugs the guest: closes the vhost-user socket. */
  async stop(): Promise<void> {
    this.#process.stdin!.end()
    await this.#ended
  }
}

function words(load: Load): string {
  const { row, depth, queues = 1, ms, maxOps = 0, wait = 'sleep', rate = 0 } = load
  return `${row} ${depth} ${queues} ${ms} ${maxOps} ${wait} ${rate}`
}
