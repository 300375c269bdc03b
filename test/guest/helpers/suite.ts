/**
 * Cases that run inside one guest boot: each is shell text executed in a directory of its own on the
 * mount; a status other than 0 fails it, and what it printed is shown.
 */
import { mkdtempSync, readFileSync, rmSync, mkdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Daemon } from '../../../scripts/lab/daemon.js'
import { findUml, runUml, TAG } from '../../../scripts/lab/uml.js'

export interface GuestCase {
  /** A sentence of behaviour. */
  readonly title: string
  /** bash, run with `set -e` in the case's folder; `$HELPERS` holds compiled helper programs. */
  readonly script: string
  /** Checks on the host's side, after the guest is gone. `folder` is the case's folder on the host. */
  readonly host?: (t: ExecutionContext, folder: string) => void
}

export interface SuiteOptions {
  readonly title: string
  readonly daemonArgs?: readonly string[]
  readonly timeoutMs: number
  /** C sources of helper programs, compiled on the host: name -> source. */
  readonly helpers?: Readonly<Record<string, string>>
}

const MISSING = 'no user-mode Linux kernel in the cache: run "scripts/setup guest"'

/** Registers one boot test and a test a case. */
export function guestSuite(options: SuiteOptions, cases: readonly GuestCase[]): void {
  if (findUml() === undefined) {
    if (process.env.CI !== undefined) test(options.title, t => t.fail(MISSING))
    else test.skip(`${options.title} (${MISSING})`, () => undefined)
    return
  }
  const share = mkdtempSync(join(tmpdir(), 'virtiofsd-share-'))
  const results = new Map<string, { status: number; output: string }>()
  test.serial(`${options.title}: the guest boots, mounts, runs its cases and unmounts`, async t => {
    t.timeout(options.timeoutMs + 60_000)
    mkdirSync(join(share, '.results'))
    for (const [index, one] of cases.entries()) {
      mkdirSync(join(share, `case${index}`))
      writeFileSync(join(share, '.results', `${index}.sh`), `set -e\n${one.script}\n`)
    }
    const daemon = await Daemon.start({
      sharedDir: share,
      args: ['--tag', TAG, ...(options.daemonArgs ?? [])],
    })
    try {
      const guest = await runUml({
        socketPath: daemon.socketPath,
        command: RUNNER.replace('COUNT', String(cases.length)),
        timeoutMs: options.timeoutMs,
      })
      t.is(guest.status, 0, guest.console.slice(-4000))
      t.is(await daemon.exit(), 0, daemon.log)
      t.false(/ERROR|WARN/.test(daemon.log), daemon.log)
    } catch (cause) {
      await daemon.kill()
      t.log(daemon.log.slice(-3000))
      throw cause
    } finally {
      for (const index of cases.keys()) results.set(cases[index]!.title, readResult(share, index))
    }
  })
  for (const [index, one] of cases.entries())
    test.serial(`${options.title}: ${one.title}`, t => {
      const result = results.get(one.title)
      t.truthy(result, 'the guest did not get so far')
      t.is(result!.status, 0, result!.output.slice(-3000))
      one.host?.(t, join(share, `case${index}`))
    })
  test.after.always(() => rmSync(share, { recursive: true, force: true }))
}

function readResult(share: string, index: number): { status: number; output: string } {
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

/** Runs the cases one by one; output and status go to the share itself. */
const RUNNER = `
share=$PWD
for i in $(seq 0 $((COUNT - 1))); do
  cd $share/case$i
  bash $share/.results/$i.sh >/tmp/out 2>&1; status=$?
  cd $share
  cp /tmp/out .results/$i.out; echo $status > .results/$i.status
  echo "case $i: $status"
done
exit 0
`
