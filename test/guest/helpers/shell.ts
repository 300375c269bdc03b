/** A guest that runs one script after the other, as the host hands them to it; several can share a tree. */
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Daemon } from '../../../scripts/lab/daemon.js'
import { type GuestResult, runUml, TAG } from '../../../scripts/lab/uml.js'

const STEP_LIMIT_MS = 240_000
const GUEST_LIMIT_MS = 900_000

/** Scripts come as files that the guest sees through hostfs; what they print goes to the console. */
const LOOP = `
for ((n = 0; ; n++)); do
  until [ -e $SCRIPTS/$n ]; do sleep 0.02; done
  [ -s $SCRIPTS/$n ] || exit 0
  bash $SCRIPTS/$n </dev/null >/tmp/out 2>&1; status=$?
  echo "ran $n $status $(tail -c 3000 /tmp/out | base64 -w0)"
done`

/** `fails COMMAND...` wants it to fail (`!` does not stop a script). */
const PRELUDE = `set -e
fails() { if "$@"; then echo "worked, but should have failed: $*"; exit 1; fi; }`

export interface Ran {
  readonly status: number
  readonly output: string
}

export class GuestShell {
  readonly daemon: Daemon
  #console = ''
  #steps = 0
  #kill: () => void = () => undefined
  readonly #scripts = mkdtempSync('/var/tmp/virtiofsd-scripts-')
  readonly #end: Promise<GuestResult>

  /** Boots a guest with a daemon of its own. The scripts run in the mounted share. */
  static async start(sharedDir: string, daemonArgs: readonly string[]): Promise<GuestShell> {
    const args = ['--tag', TAG, ...daemonArgs]
    return new GuestShell(await Daemon.start({ sharedDir, args }))
  }

  private constructor(daemon: Daemon) {
    this.daemon = daemon
    this.#end = runUml({
      socketPath: daemon.socketPath,
      command: `SCRIPTS=${this.#scripts}\n${LOOP}`,
      timeoutMs: GUEST_LIMIT_MS,
      memoryMiB: 256,
      onStart: kill => {
        this.#kill = kill
      },
      onOutput: text => {
        this.#console += text.replaceAll('\r', '')
      },
    })
    this.#end.catch(() => undefined)
  }

  /** Runs bash text, with `set -e` and `fails`. Errors: it is not done in some minutes. */
  async run(script: string): Promise<Ran> {
    const step = this.#steps++
    this.#hand(step, `${PRELUDE}\n${script}\n`)
    const limit = Date.now() + STEP_LIMIT_MS
    for (;;) {
      const done = new RegExp(`^ran ${step} (\\d+) (\\S*)\\n`, 'm').exec(this.#console)
      if (done !== null)
        return { status: Number(done[1]), output: Buffer.from(done[2]!, 'base64').toString() }
      if (Date.now() > limit)
        throw new Error(`the guest does not finish: ${script}\n${this.#console.slice(-2000)}`)
      await new Promise(go => setTimeout(go, 10))
    }
  }

  #hand(step: number, text: string): void {
    writeFileSync(join(this.#scripts, 'new'), text)
    renameSync(join(this.#scripts, 'new'), join(this.#scripts, String(step)))
  }

  /** Unmounts and powers off: the daemon's exit status. */
  async leave(): Promise<number | null> {
    this.#hand(this.#steps++, '')
    await this.#end
    this.#remove()
    return this.daemon.exit()
  }

  /** The guest's end, by SIGKILL; its daemon notices. */
  async kill(): Promise<number | null> {
    this.#kill()
    this.#kill = () => undefined
    await this.#end.catch(() => undefined)
    this.#remove()
    return this.daemon.exit()
  }

  #remove(): void {
    rmSync(this.#scripts, { recursive: true, force: true })
  }
}
