/**
 * Cases that run inside one guest boot: each is shell text executed in a directory of its own on the
 * mount; a status other than 0 fails it, and what it printed is shown.
 */
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Daemon } from '../../../scripts/lab/daemon.js'
import { findUml, runUml, TAG } from '../../../scripts/lab/uml.js'
import { registerMissing } from './missing.js'

export interface GuestCase {
  /** A sentence of behaviour. */
  readonly title: string
  /**
   * bash, run with `set -e` in the case's folder; `$HELPERS` holds compiled helper programs. `as USER
   * GROUP COMMAND...` runs it as another user, `fails COMMAND...` wants it to fail (`!` does not stop a
   * script), `host NAME` has the host run an action and waits for it.
   */
  readonly script: string
  /** What the script may have the host do meanwhile, by name. */
  readonly actions?: Readonly<Record<string, (folder: string) => void>>
  /** Before the boot, on the host. */
  readonly prepare?: (folder: string) => void
  /** Checks on the host's side, after the guest is gone. `folder` is the case's folder on the host. */
  readonly host?: (t: ExecutionContext, folder: string) => void
}

export interface SuiteOptions {
  readonly title: string
  readonly daemonArgs?: readonly string[]
  readonly timeoutMs: number
  /** What to run before the daemon's own arguments: `[program, ...arguments]` (see Daemon.start). */
  readonly program?: readonly string[]
  readonly mountOptions?: string
  readonly memoryMiB?: number
  /** Before the daemon starts, on the host; what it returns is called at the end, whatever happened. */
  readonly prepare?: (share: string) => () => void
  /** C sources of helper programs, compiled on the host: name -> source. */
  readonly helpers?: Readonly<Record<string, string>>
}

const MISSING = 'no user-mode Linux kernel in the cache: run "scripts/setup guest"'

/** Registers one boot test and a test a case. */
export function guestSuite(options: SuiteOptions, cases: readonly GuestCase[]): void {
  if (findUml() === undefined) {
    registerMissing(options.title, MISSING)
    return
  }
  const share = mkdtempSync(join(tmpdir(), 'virtiofsd-share-'))
  // The guest's /tmp is its own; what lies elsewhere on the host it sees through hostfs.
  const replies = mkdtempSync('/var/tmp/virtiofsd-replies-')
  let undo: (() => void) | undefined
  const results = new Map<string, { status: number; output: string }>()
  test.serial(`${options.title}: the guest boots, mounts, runs its cases and unmounts`, async t => {
    t.timeout(options.timeoutMs + 60_000)
    // Other users of the guest must get at what is inside.
    chmodSync(share, 0o755)
    mkdirSync(join(share, '.results'))
    undo = options.prepare?.(share)
    compileHelpers(share, options.helpers ?? {})
    for (const [index, one] of cases.entries()) {
      mkdirSync(join(share, `case${index}`))
      one.prepare?.(join(share, `case${index}`))
      writeFileSync(join(share, '.results', `${index}.sh`), `set -e\n${FUNCTIONS}\n${one.script}\n`)
    }
    const daemon = await Daemon.start({
      sharedDir: share,
      args: ['--tag', TAG, ...(options.daemonArgs ?? [])],
      ...(options.program === undefined ? {} : { program: options.program }),
    })
    let console = ''
    const serve = (text: string): void => {
      const end = console.lastIndexOf('\n') + 1
      console += text.replaceAll('\r', '')
      for (const [, index, name] of console.slice(end).matchAll(/^host (\d+) (\S+)\n/gm)) {
        cases[Number(index)]!.actions![name!]!(join(share, `case${index}`))
        writeFileSync(join(replies, 'new'), '')
        renameSync(join(replies, 'new'), join(replies, `${index}-${name}`))
      }
    }
    try {
      const guest = await runUml({
        socketPath: daemon.socketPath,
        command: `export REPLIES=${replies}\n${RUNNER.replace('COUNT', String(cases.length))}`,
        timeoutMs: options.timeoutMs,
        onOutput: serve,
        ...(options.mountOptions === undefined ? {} : { mountOptions: options.mountOptions }),
        ...(options.memoryMiB === undefined ? {} : { memoryMiB: options.memoryMiB }),
      })
      t.is(guest.status, 0, guest.console.slice(-4000))
      t.is(await daemon.exit(), 0, daemon.log)
      t.false(/ERROR|WARN/.test(daemon.log), daemon.log)
    } catch (cause) {
      await daemon.kill()
      t.log(daemon.log.slice(-3000))
      throw cause
    } finally {
      for (const index of cases.keys())
        results.set(cases[index]!.title, readResult(share, index, console))
    }
  })
  for (const [index, one] of cases.entries())
    test.serial(`${options.title}: ${one.title}`, t => {
      const result = results.get(one.title)
      t.truthy(result, 'the guest did not get so far')
      t.is(result!.status, 0, result!.output.slice(-3000))
      one.host?.(t, join(share, `case${index}`))
    })
  test.after.always(() => {
    undo?.()
    rmSync(share, { recursive: true, force: true })
    rmSync(replies, { recursive: true, force: true })
  })
}

function compileHelpers(share: string, sources: Readonly<Record<string, string>>): void {
  const folder = join(share, '.results', 'bin')
  mkdirSync(folder)
  for (const [name, source] of Object.entries(sources)) {
    const args = ['-O1', '-Wall', '-D_GNU_SOURCE', '-x', 'c', '-', '-o', join(folder, name)]
    execFileSync('cc', args, { input: source })
  }
}

function readResult(
  share: string,
  index: number,
  console: string,
): { status: number; output: string } {
  // On a share that cannot be written the guest says it on its console.
  const said = new RegExp(`^result ${index} (\\d+) (\\S*)$`, 'm').exec(console)
  if (said !== null)
    return { status: Number(said[1]), output: Buffer.from(said[2]!, 'base64').toString() }
  try {
    const folder = join(share, '.results')
    return {
      status: Number(readFileSync(join(folder, `${index}.status`), 'utf8')),
      output: readFileSync(join(folder, `${index}.out`), 'utf8'),
    }
  } catch {
    return { status: -1, output: 'the case did not run to its end' }
  }
}

/** For the cases' scripts. */
const FUNCTIONS = `
as() { local user=$1 group=$2; shift 2; setpriv --reuid $user --regid $group --clear-groups "$@"; }
fails() { if "$@" 2>/tmp/fails; then echo "worked, but should have failed: $*"; exit 1; fi; }
host() {
  printf 'host %s %s\\n' $CASE $1 >&9
  for _ in $(seq 2400); do [ ! -e $REPLIES/$CASE-$1 ] || return 0; sleep 0.05; done
  echo "the host did not do $1"; return 1
}`

/** Runs the cases one by one; output and status go to the share itself. */
const RUNNER = `
share=$PWD
export HELPERS=$share/.results/bin
exec 9>&1
for i in $(seq 0 $((COUNT - 1))); do
  cd $share/case$i
  export CASE=$i
  bash $share/.results/$i.sh >/tmp/out 2>&1; status=$?
  cd $share
  if ! { cp /tmp/out .results/$i.out && echo $status > .results/$i.status; } 2>/dev/null; then
    echo "result $i $status $(tail -c 3000 /tmp/out | base64 -w0)"
  fi
  echo "case $i: $status"
done
exit 0
`
