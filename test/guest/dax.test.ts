/** DAX in a real guest: QEMU 11.1 and Linux 7.2 (scripts/setup-dax). */
import { execFile, execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import test from 'ava'
import { daxBench, MODES } from '../../scripts/bench/dax-run.js'
import { findDaxLab } from '../../scripts/lab/qemu-dax.js'
import { random } from '../helpers/random.js'
import { check, counter, daxTest, lastWord, LIMIT_MS, MIB, PAGE } from './helpers/dax-lab.js'
import { registerMissing } from './helpers/missing.js'

const FILES = Number(process.env.DAX_FILES ?? 2500)

interface Tree {
  /** What `sha256sum -c` takes. */
  readonly sums: string
  readonly paths: readonly string[]
  readonly sizes: ReadonlyMap<string, number>
}

/** Files of random sizes: small ones, some of whole pages, some of several ranges. */
function makeTree(share: string): Tree {
  const below = random(11)
  const next = (): number => below(2 ** 32) / 2 ** 32
  const noise = Buffer.alloc(12 * MIB)
  for (let i = 0; i < noise.length; i += 4) noise.writeUInt32LE((next() * 2 ** 32) >>> 0, i)
  const sizes = new Map<string, number>()
  const sums: string[] = []
  for (let i = 0; i < FILES; i++) {
    const folder = join('tree', `d${i % 37}`)
    mkdirSync(join(share, folder), { recursive: true })
    const path = join(folder, `f${i}`)
    const kind = next()
    let size = Math.floor(next() * (kind < 0.5 ? 20_000 : kind < 0.97 ? 150_000 : 3 * MIB))
    if (next() < 0.4) size = Math.ceil(size / PAGE) * PAGE
    if (i % 500 === 0) size = 5 * MIB + i
    const at = Math.floor(next() * (noise.length - size))
    const data = noise.subarray(at, at + size)
    writeFileSync(join(share, path), data)
    utimesSync(join(share, path), 1000 + i, 2000 + i)
    sizes.set(path, size)
    sums.push(`${createHash('sha256').update(data).digest('hex')}  ${path}\n`)
  }
  return { sums: sums.join(''), paths: [...sizes.keys()], sizes }
}

/** By mmap and by read; each file's FNV is made by the same program on the host. */
const READ_ALL = `
  cp check /tmp/check
  sha256sum -c /lab/sums > /tmp/sums.out 2>&1 || { grep -v ': OK' /tmp/sums.out | head -20; exit 1; }
  echo sha $(grep -c ': OK' /tmp/sums.out)
  /tmp/check sums < /lab/paths > /tmp/fnv || { tail -3 /tmp/fnv; exit 1; }
  cmp /tmp/fnv /lab/fnv && echo fnv $(wc -l < /tmp/fnv)`

function treeFiles(share: string, tree: Tree): Record<string, string> {
  const paths = tree.paths.map(path => `${path}\n`).join('')
  const fnv = execFileSync(check(), ['sums'], { cwd: share, input: paths, maxBuffer: 64 * MIB })
  return { sums: tree.sums, paths, fnv: fnv.toString() }
}

daxTest(
  `dax=always: ${FILES} files of random sizes, read and mapped, arrive as they are without a FUSE_READ`,
  ['--dax-window', '64M', '--dax=always'],
  async (t, { share, daemon, run }) => {
    const tree = makeTree(share)
    const result = await run({
      files: treeFiles(share, tree),
      command: READ_ALL,
    })
    t.is(result.status, 0, result.output)
    t.regex(result.output, new RegExp(`^sha ${FILES}$`, 'm'))
    t.regex(result.output, new RegExp(`^fnv ${FILES}$`, 'm'))
    t.is(await counter(daemon, 'FUSE_READ'), 0)
    t.true((await counter(daemon, 'padded')) > FILES / 2)
    t.log(await lastWord(daemon))
    for (const [index, path] of tree.paths.entries()) {
      const info = statSync(join(share, path))
      t.is(info.size, tree.sizes.get(path)!, path)
      t.is(info.mtimeMs, (2000 + index) * 1000, path)
    }
  },
)

daxTest(
  'per-inode DAX in a window of 8 MiB: what is mapped is not read, what is read is right, nothing is refused',
  ['--dax-window', '8M', '--dax=exclusive'],
  async (t, { share, daemon, run }) => {
    const tree = makeTree(share)
    for (let file = 0; file < 3; file++) {
      const data = new BigUint64Array((9 * MIB) / 8)
      for (let i = 0; i < data.length; i += 512) {
        data[i] = BigInt(file)
        data[i + 1] = BigInt(i / 512)
        data[i + 511] = BigInt(i / 512)
      }
      writeFileSync(join(share, `block${file}`), data)
    }
    writeFileSync(join(share, 'count'), new Uint8Array(65536))
    writeFileSync(join(share, 'grow'), Buffer.alloc(65536, 7))
    const result = await run({
      mountOptions: 'rw',
      files: treeFiles(share, tree),
      command: `${READ_ALL}
        /tmp/check random 3 9 3000 2 || exit 1
        /tmp/check counters count || exit 1
        /tmp/check grow grow || exit 1
        sync`,
    })
    t.is(result.status, 0, result.output)
    t.regex(result.output, new RegExp(`^fnv ${FILES}$`, 'm'))
    t.regex(result.output, /^random ok$/m)
    t.is(readFileSync(join(share, 'count')).readUInt32LE(4), 200_000)
    t.true((await counter(daemon, 'maps')) > 500)
    t.is(await counter(daemon, 'front-end'), 0)
    t.is(await counter(daemon, 'size'), 0)
    t.log(await lastWord(daemon))
  },
)

daxTest(
  'guest and host share a mapped file both ways',
  ['--dax-window', '16M', '--dax=exclusive'],
  async (t, { share, run }) => {
    writeFileSync(join(share, 'shared'), new Uint8Array(65536))
    const rounds = 200
    // At first the guest waits for an even number, this one for an odd one.
    const partner = promisify(execFile)(
      check(),
      ['partner', join(share, 'shared'), '1', String(rounds)],
      { timeout: LIMIT_MS },
    )
    const result = await run({ command: `./check partner shared 0 ${rounds}` })
    t.is(result.status, 0, result.output)
    t.regex((await partner).stdout, /partner ok/)
    t.regex(result.output, /partner ok/)
    t.deepEqual(readdirSync(share).sort(), ['check', 'shared'])
  },
)

daxTest(
  'mapped files that a process of the host cuts are unmapped when the daemon hears of it, and the VMM lives',
  ['--dax-window', '64M', '--dax=exclusive'],
  async (t, { share, daemon, run }) => {
    const count = 20
    for (let i = 0; i < count; i++) writeFileSync(join(share, `f${i}`), Buffer.alloc(MIB, 99))
    const cutAt: number[] = []
    let said = ''
    const result = await run({
      onOutput(text) {
        said += text
        if (!said.includes('cut now') || cutAt.length > 0) return
        for (let i = 0; i < count; i++) {
          cutAt.push(Date.now())
          truncateSync(join(share, `f${i}`), 4096 * i)
          // Each alone.
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)
        }
        const heard = setInterval(() => {
          // The first is also warned of.
          if (daemon.log.match(/ DEBUG .*was cut to/g)?.length !== count) return
          clearInterval(heard)
          writeFileSync(join(share, 'heard'), '')
        }, 50)
        t.teardown(() => clearInterval(heard))
      },
      command: `
        set -e
        cp check /tmp/check
        for i in $(seq 0 ${count - 1}); do /tmp/check touch f$i 900000; done
        # Sizes are cached for a second.
        echo cut now; while [ ! -e heard ]; do sleep 0.1; done; sleep 3
        for i in $(seq 0 ${count - 1}); do
          st=0; /tmp/check touch f$i 900000 || st=$?; echo after $st
          [ $i = 0 ] || /tmp/check touch f$i 4000
        done`,
    })
    t.is(result.status, 0, result.output)
    t.is(result.output.match(/^after 77$/gm)?.length, count, result.output)
    t.is(result.output.match(/^byte 99$/gm)?.length, count + count - 1)
    const seen = [...daemon.log.matchAll(/^\[(\S+) DEBUG .*was cut to/gm)].map(one =>
      Date.parse(one[1]!),
    )
    t.is(seen.length, count)
    const late = seen.map((at, i) => at - cutAt[i]!).sort((a, b) => a - b)
    t.log(`milliseconds until it was unmapped: median ${late[count / 2]}, most ${late[count - 1]}`)
  },
  { others: true },
)

const BENCH = 'the bench of DAX runs to its end and has a figure for every row'
if ('missing' in findDaxLab()) registerMissing(BENCH, 'run "scripts/setup-dax"')
else
  test.serial(BENCH, async t => {
    t.timeout(LIMIT_MS)
    const { rows, map, unmap } = await daxBench({ rounds: 1, fileMiB: 2, reads: 50 })
    t.is(rows.size, 7)
    for (const [name, row] of rows)
      for (const mode of MODES) t.true(row[mode] > 0, `${name} ${mode}`)
    // Each of the two files, and the program that was copied from there.
    t.is(map.count, 3)
    t.is(unmap.count, 3)
    t.true(map.us > 0 && unmap.us > 0)
  })
