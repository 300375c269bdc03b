/**
 * Measures the DAX window and writes a table.
 *
 *   npm run bench:dax -- [--rounds 5] [--mib 32] [--reads 4000] [--out FOLDER]
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { scriptArguments } from '../arguments.js'
import { type DaxBench, daxBench } from './dax-run.js'
import { describeMachine, machine } from './report.js'

const NAMES: Readonly<Record<string, string>> = {
  'first-pread': 'first pass, pread',
  'first-mmap': 'first pass, mmap',
  'pread-random': 'warm random pread',
  'pread-sequential': 'warm sequential pread',
  'mmap-random': 'warm random mmap',
  'mmap-sequential': 'warm sequential mmap',
}

function table({ rows, map, unmap }: DaxBench, heading: readonly string[]): string {
  const lines = [
    ...heading,
    '',
    '| 4 KiB, ns | DAX | FUSE_READ, cache=auto | FUSE_READ, cache=never | DAX is faster: than auto | than never |',
    '|---|---:|---:|---:|---:|---:|',
  ]
  for (const [name, text] of Object.entries(NAMES)) {
    const row = rows.get(name)
    if (row === undefined) continue
    const { dax, auto, never } = row
    lines.push(
      `| ${text} | ${dax} | ${auto} | ${never} | x${(auto / dax).toFixed(2)} | x${(never / dax).toFixed(2)} |`,
    )
  }
  lines.push(
    '',
    `First touch of 2 MiB in the guest: ${rows.get('touch-2M-us')?.dax} us (median). In the daemon a map is ${map.us.toFixed(0)} us`,
    `(mean of ${map.count}), an unmap ${unmap.us.toFixed(0)} us (mean of ${unmap.count}): request, QEMU, barrier.`,
  )
  return `${lines.join('\n')}\n`
}

async function main(): Promise<number> {
  const { values } = scriptArguments(import.meta.url, {
    options: {
      rounds: { type: 'string', default: '5' },
      mib: { type: 'string', default: '32' },
      reads: { type: 'string', default: '4000' },
      out: {
        type: 'string',
        default: join(
          'bench-results',
          `dax-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}`,
        ),
      },
    },
  })
  const bench = await daxBench({
    rounds: Number(values.rounds),
    fileMiB: Number(values.mib),
    reads: Number(values.reads),
  })
  const text = table(bench, [
    `# DAX window, ${new Date().toISOString().slice(0, 16)}`,
    '',
    describeMachine(machine('none')),
    '',
    `QEMU 11.1 without hardware virtualisation (TCG), one CPU; medians of ${values.rounds} rounds in one guest, by turns.`,
  ])
  mkdirSync(values.out, { recursive: true })
  writeFileSync(join(values.out, 'table.md'), text)
  writeFileSync(
    join(values.out, 'results.json'),
    `${JSON.stringify({ ...bench, rows: Object.fromEntries(bench.rows) }, null, 1)}\n`,
  )
  console.log(text)
  console.log(`written to ${values.out}`)
  return 0
}

process.exitCode = await main()
