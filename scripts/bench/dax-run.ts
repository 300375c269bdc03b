/**
 * Reads through a DAX window against FUSE_READ, in one guest (QEMU 11.1, Linux 7.2) with two daemons: what is mounted by turns is
 * the first with its window, the first without, and the second, which lets the guest cache nothing. Files of host-warm data.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { Daemon } from '../lab/daemon.js'
import { compileCheck, runQemuDax } from '../lab/qemu-dax.js'
import { TAG } from '../lab/uml.js'
import { median } from './statistics.js'

const MIB = 1 << 20
const LIMIT_MS = 30 * 60_000
const NO_CACHE_TAG = 'nocache'

export const MODES = ['dax', 'auto', 'never'] as const
export type Mode = (typeof MODES)[number]

export interface DaxBenchOptions {
  readonly rounds: number
  /** Of each of the two files: up to half of the window of 128 MiB, so that everything stays mapped. */
  readonly fileMiB: number
  /** Warm reads for each figure. */
  readonly reads: number
}

export interface DaxBench {
  /** Medians over the rounds; nanoseconds for 4 KiB, `touch-2M-us` microseconds. */
  readonly rows: ReadonlyMap<string, Readonly<Record<Mode, number>>>
  /** Means in the daemon, the barrier included, and how many there were. */
  readonly map: { readonly us: number; readonly count: number }
  readonly unmap: { readonly us: number; readonly count: number }
  /** What the guest said. */
  readonly console: string
}

const MOUNT: Readonly<Record<Mode, string>> = {
  dax: `-o dax ${TAG}`,
  auto: `-o dax=never ${TAG}`,
  never: NO_CACHE_TAG,
}

export async function daxBench(options: DaxBenchOptions): Promise<DaxBench> {
  const share = mkdtempSync(join(tmpdir(), 'virtiofsd-bench-'))
  const daemons: Daemon[] = []
  try {
    const program = compileCheck(mkdtempSync(join(tmpdir(), 'virtiofsd-check-')))
    execFileSync('mv', [program, join(share, 'check')])
    rmSync(dirname(program), { recursive: true })
    for (const name of ['one', 'two'])
      writeFileSync(join(share, name), Buffer.alloc(options.fileMiB * MIB, name))
    const log = ['--log-level', 'debug']
    const window = ['--dax-window', '128M', '--dax=exclusive', '--cache=auto']
    daemons.push(
      await Daemon.start({ sharedDir: share, args: ['--tag', TAG, ...window, ...log] }),
      await Daemon.start({
        sharedDir: share,
        args: ['--tag', NO_CACHE_TAG, '--cache=never', '--allow-mmap', ...log],
      }),
    )
    const result = await runQemuDax({
      socketPath: daemons[0]!.socketPath,
      otherSockets: [daemons[1]!.socketPath],
      timeoutMs: LIMIT_MS,
      memoryMiB: 512 + 2 * options.fileMiB,
      command: script(options),
    })
    if (result.status !== 0) throw new Error(`the guest failed:\n${result.console.slice(-3000)}`)
    for (const daemon of daemons) await daemon.exit()
    return {
      rows: rows(result.output),
      map: mean(daemons[0]!.log, 'maps', 'mapUs'),
      unmap: mean(daemons[0]!.log, 'unmaps', 'unmapUs'),
      console: result.output,
    }
  } catch (cause) {
    for (const daemon of daemons) await daemon.kill()
    throw cause
  } finally {
    rmSync(share, { recursive: true, force: true })
  }
}

function script({ rounds, reads }: DaxBenchOptions): string {
  const lines = ['cp check /tmp/check', 'cd /', 'umount /mnt']
  for (let round = 0; round < rounds; round++)
    for (let i = 0; i < MODES.length; i++) {
      const mode = MODES[(i + round) % MODES.length]!
      lines.push(
        `mount -t virtiofs ${MOUNT[mode]} /mnt`,
        `echo mode ${mode}`,
        `/tmp/check speed /mnt/one /mnt/two ${reads}`,
        'umount /mnt',
      )
    }
  // The guest's init unmounts once more.
  lines.push(`mount -t virtiofs -o dax ${TAG} /mnt`)
  return `set -e\n${lines.join('\n')}\n`
}

function rows(output: string): Map<string, Record<Mode, number>> {
  const found = new Map<string, Record<Mode, number[]>>()
  let mode: Mode = 'dax'
  for (const line of output.split('\n')) {
    const turn = /^mode (\w+)$/.exec(line)
    if (turn !== null) mode = turn[1] as Mode
    const figure = /^speed (\S+) (\d+)$/.exec(line)
    if (figure === null) continue
    const row = found.get(figure[1]!) ?? { dax: [], auto: [], never: [] }
    row[mode].push(Number(figure[2]))
    found.set(figure[1]!, row)
  }
  return new Map(
    [...found].map(([name, { dax, auto, never }]) => [
      name,
      { dax: median(dax), auto: median(auto), never: median(never) },
    ]),
  )
}

function mean(log: string, count: string, total: string): { us: number; count: number } {
  const line = log.split('\n').findLast(one => one.includes('DAX: ')) ?? ''
  const value = (name: string): number =>
    Number(new RegExp(`\\b${name} (\\d+)`).exec(line)?.[1] ?? Number.NaN)
  return { us: value(total) / value(count), count: value(count) }
}
