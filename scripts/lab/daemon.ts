/** A running daemon, for the lab and the guest tests: started, watched, stopped. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { packageFile } from '../../src/native/addon.js'

const READY = 'Waiting for vhost-user socket connection'
const READY_LIMIT_MS = 90_000
const EXIT_LIMIT_MS = 90_000

export interface DaemonOptions {
  readonly sharedDir: string
  /** More arguments of virtiofsd. */
  readonly args?: readonly string[]
  /** What to run instead of our daemon: `[program, ...arguments]` before `--socket-path`. */
  readonly program?: readonly string[]
}

export class Daemon {
  readonly socketPath: string
  readonly process: ChildProcess
  log = ''
  readonly #folder: string
  readonly #exited: Promise<number | null>

  /** Starts it and waits for its readiness line. Errors: it ended, or said nothing in time. */
  static async start(options: DaemonOptions): Promise<Daemon> {
    const daemon = new Daemon(options)
    await daemon.#ready()
    return daemon
  }

  private constructor(options: DaemonOptions) {
    this.#folder = mkdtempSync(join(tmpdir(), 'virtiofsd-lab-'))
    this.socketPath = join(this.#folder, 'vhost.sock')
    const [program, ...first] = options.program ?? [
      process.execPath,
      packageFile('dist', 'src', 'bin', 'virtiofsd.js'),
    ]
    const args = [
      ...first,
      '--socket-path',
      this.socketPath,
      '--shared-dir',
      options.sharedDir,
      ...(options.args ?? []),
    ]
    this.process = spawn(program!, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    this.process.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.log += text
    })
    // Not 'exit': by then its last words may not have come.
    this.#exited = new Promise(done => this.process.on('close', status => done(status)))
  }

  async #ready(): Promise<void> {
    const limit = Date.now() + READY_LIMIT_MS
    while (!this.log.includes(READY)) {
      if (this.process.exitCode !== null || Date.now() > limit) {
        const why =
          this.process.exitCode === null
            ? 'said nothing in time'
            : `ended with status ${this.process.exitCode}`
        await this.kill()
        throw new Error(`the daemon ${why}:\n${this.log}`)
      }
      await new Promise(done => setTimeout(done, 20))
    }
  }

  /** Waits for its end, which the front end's disconnection brings; the exit status, or null for a signal or none in time. */
  async exit(): Promise<number | null> {
    const late = new Promise<null>(done => setTimeout(() => done(null), EXIT_LIMIT_MS).unref())
    const status = await Promise.race([this.#exited, late])
    if (this.process.exitCode === null) this.process.kill('SIGKILL')
    rmSync(this.#folder, { recursive: true, force: true })
    return status
  }

  async kill(): Promise<void> {
    this.process.kill('SIGKILL')
    await this.#exited
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
