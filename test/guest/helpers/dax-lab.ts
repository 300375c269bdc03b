/** Guest tests with a DAX window: QEMU 11.1 and Linux 7.2 (scripts/setup-dax). */
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Daemon } from '../../../scripts/lab/daemon.js'
import type { QemuOptions } from '../../../scripts/lab/qemu.js'
import { compileCheck, findDaxLab, runQemuDax } from '../../../scripts/lab/qemu-dax.js'
import { type GuestResult, TAG } from '../../../scripts/lab/uml.js'
import { registerMissing } from './missing.js'

export const LIMIT_MS = 400_000
export const MIB = 1 << 20
export const PAGE = 4096
const extra = (process.env.DAX_ARGS ?? '').split(' ').filter(word => word !== '')

export interface Lab {
  readonly share: string
  /** One for each guest, each with its own window, all on `share`. */
  readonly daemons: readonly Daemon[]
  readonly daemon: Daemon
  /** Boots the guest of that daemon, the first unless said. */
  run(options: Omit<QemuOptions, 'socketPath'>, guest?: number): Promise<GuestResult>
}

let program = ''

/** The guest's program; on the share it is `check`. */
export function check(): string {
  if (program !== '') return program
  program = compileCheck(mkdtempSync(join(tmpdir(), 'virtiofsd-check-')))
  process.on('exit', () => rmSync(dirname(program), { recursive: true, force: true }))
  return program
}

/** What `check sums` says of a file of the share on the host: "FNV NAME". */
export function hostSum(share: string, name: string): string {
  return execFileSync(check(), ['sums'], { cwd: share, input: `${name}\n` }).toString()
}

export interface DaxTestOptions {
  readonly guests?: number
  /** Where the share is made. */
  readonly folder?: string
  /** Somebody else changes the size of files that are mapped: a daemon warns of that. */
  readonly others?: boolean
}

/** With daemons of its own, which must end with status 0 and have nothing to complain of. */
export function daxTest(
  title: string,
  args: readonly string[],
  body: (t: ExecutionContext, lab: Lab) => Promise<void>,
  { guests = 1, folder = tmpdir(), others = false }: DaxTestOptions = {},
): void {
  const found = findDaxLab()
  if ('missing' in found) {
    registerMissing(title, `${found.missing}: run "scripts/setup-dax"`)
    return
  }
  test.serial(title, async t => {
    t.timeout(LIMIT_MS + 60_000)
    const share = mkdtempSync(join(folder, 'virtiofsd-share-'))
    copyFileSync(check(), join(share, 'check'))
    const daemons: Daemon[] = []
    try {
      for (let i = 0; i < guests; i++)
        daemons.push(
          await Daemon.start({
            sharedDir: share,
            args: ['--tag', TAG, '--log-level', 'debug', ...extra, ...args],
          }),
        )
      const run: Lab['run'] = (options, guest = 0) => {
        const { socketPath } = daemons[guest]!
        return runQemuDax({
          socketPath,
          timeoutMs: LIMIT_MS,
          cpus: guests === 1 ? 2 : 1,
          mountOptions: 'dax',
          ...options,
        })
      }
      await body(t, { share, daemons, daemon: daemons[0]!, run })
      for (const daemon of daemons) {
        t.is(await daemon.exit(), 0, daemon.log)
        const complaints = daemon.log.split('\n').filter(line => /ERROR|WARN/.test(line))
        t.deepEqual(
          complaints.filter(line => !others || !/bytes,? by somebody else/.test(line)),
          [],
        )
      }
    } catch (cause) {
      for (const daemon of daemons) {
        await daemon.kill()
        t.log(daemon.log.slice(-3000))
      }
      throw cause
    } finally {
      rmSync(share, { recursive: true, force: true })
    }
  })
}

/** The daemon's last word on the window. */
export async function lastWord(daemon: Daemon): Promise<string> {
  await daemon.exit()
  return daemon.log.split('\n').findLast(one => one.includes('DAX: ')) ?? ''
}

/** A counter of it. */
export async function counter(daemon: Daemon, name: string): Promise<number> {
  const line = await lastWord(daemon)
  return Number(new RegExp(`\\b${name} (\\d+)`).exec(line)?.[1] ?? Number.NaN)
}
