/** DAX in a real guest: QEMU 11.1 and Linux 7.2 (scripts/setup-dax). */
import { execFile, execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import { Daemon } from '../../scripts/lab/daemon.js'
import type { QemuOptions } from '../../scripts/lab/qemu.js'
import { findDaxLab, runQemuDax } from '../../scripts/lab/qemu-dax.js'
import { type GuestResult, TAG } from '../../scripts/lab/uml.js'
import { packageFile } from '../../src/native/addon.js'
import { registerMissing } from './helpers/missing.js'

const LIMIT_MS = 400_000
const extra = (process.env.DAX_ARGS ?? '').split(' ').filter(word => word !== '')
const MIB = 1 << 20
const PAGE = 4096
const FILES = Number(process.env.DAX_FILES ?? 2500)

interface Lab {
  readonly share: string
  readonly daemon: Daemon
  run(options: Omit<QemuOptions, 'socketPath'>): Promise<GuestResult>
}

const check = compile()
test.after.always(() => {
  if (check !== '') rmSync(check, { force: true })
})

/** The guest's program, static: its root is busybox' initramfs. '' without the lab. */
function compile(): string {
  if ('missing' in findDaxLab()) return ''
  const program = join(mkdtempSync(join(tmpdir(), 'virtiofsd-check-')), 'dax-check')
  const source = packageFile('test', 'guest', 'helpers', 'dax-check.c')
  execFileSync('cc', ['-O1', '-Wall', '-static', source, '-o', program])
  return program
}

/** With a daemon of its own, which must end with status 0 and have nothing to complain of. */
function daxTest(
  title: string,
  args: readonly string[],
  body: (t: ExecutionContext, lab: Lab) => Promise<void>,
): void {
  const found = findDaxLab()
  if ('missing' in found) {
    registerMissing(title, `${found.missing}: run "scripts/setup-dax"`)
    return
  }
  test.serial(title, async t => {
    t.timeout(LIMIT_MS + 60_000)
    const share = mkdtempSync(join(tmpdir(), 'virtiofsd-share-'))
    copyFileSync(check, join(share, 'check'))
    // A mount with `dax` reads nothing: what has an odd end is refused there, but with --dax=always.
    truncateSync(join(share, 'check'), Math.ceil(statSync(check).size / PAGE) * PAGE)
    const daemon = await Daemon.start({
      sharedDir: share,
      args: ['--tag', TAG, '--log-level', 'debug', ...extra, ...args],
    })
    const { socketPath } = daemon
    const run: Lab['run'] = options =>
      runQemuDax({ socketPath, timeoutMs: LIMIT_MS, cpus: 2, ...options })
    try {
      await body(t, { share, daemon, run })
      t.is(await daemon.exit(), 0, daemon.log)
      t.false(/ERROR|WARN/.test(daemon.log), daemon.log)
    } catch (cause) {
      await daemon.kill()
      t.log(daemon.log.slice(-3000))
      throw cause
    } finally {
      rmSync(share, { recursive: true, force: true })
    }
  })
}

/** A counter of the daemon's last word on the window. */
async function counter(daemon: Daemon, name: string): Promise<number> {
  await daemon.exit()
  const line = daemon.log.split('\n').findLast(one => one.includes('DAX: ')) ?? ''
  return Number(new RegExp(`\\b${name} (\\d+)`).exec(line)?.[1] ?? Number.NaN)
}

/** The same numbers each time (mulberry32). */
function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let word = Math.imul(state ^ (state >>> 15), 1 | state)
    word = (word + Math.imul(word ^ (word >>> 7), 61 | word)) ^ word
    return ((word ^ (word >>> 14)) >>> 0) / 2 ** 32
  }
}

interface Tree {
  /** What `sha256sum -c` takes. */
  readonly sums: string
  readonly paths: readonly string[]
  readonly sizes: ReadonlyMap<string, number>
}

/** Files of random sizes: small ones, some of whole pages, some of several ranges. */
function makeTree(share: string): Tree {
  const next = random(11)
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
  const fnv = execFileSync(check, ['sums'], { cwd: share, input: paths, maxBuffer: 64 * MIB })
  return { sums: tree.sums, paths, fnv: fnv.toString() }
}

daxTest(
  `dax=always: ${FILES} files of random sizes, read and mapped, arrive as they are without a FUSE_READ`,
  ['--dax-window', '64M', '--dax=always'],
  async (t, { share, daemon, run }) => {
    const tree = makeTree(share)
    const result = await run({
      mountOptions: 'dax',
      files: treeFiles(share, tree),
      command: READ_ALL,
    })
    t.is(result.status, 0, result.output)
    t.regex(result.output, new RegExp(`^sha ${FILES}$`, 'm'))
    t.regex(result.output, new RegExp(`^fnv ${FILES}$`, 'm'))
    t.is(await counter(daemon, 'FUSE_READ'), 0)
    t.true((await counter(daemon, 'padded')) > FILES / 2)
    t.log(daemon.log.split('\n').findLast(line => line.includes('DAX: ')))
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
    for (const name of ['even', 'odd', 'grow'])
      writeFileSync(join(share, name), Buffer.alloc(65536, 7))
    const result = await run({
      mountOptions: 'rw',
      files: treeFiles(share, tree),
      command: `${READ_ALL}
        /tmp/check random 3 9 3000 2 || exit 1
        /tmp/check counters count || exit 1
        /tmp/check grow grow || exit 1
        /tmp/check fsx even 1500 0 1 || exit 1
        /tmp/check fsx odd 1500 1 2 || exit 1
        sync`,
    })
    t.is(result.status, 0, result.output)
    t.regex(result.output, new RegExp(`^fnv ${FILES}$`, 'm'))
    t.regex(result.output, /^random ok$/m)
    t.is(readFileSync(join(share, 'count')).readUInt32LE(4), 200_000)
    for (const name of ['even', 'odd']) {
      const [, size, fnv] = new RegExp(`fsx ${name} ok, size (\\d+) fnv (\\w+)`).exec(
        result.output,
      )!
      t.is(statSync(join(share, name)).size, Number(size))
      const host = execFileSync(check, ['sums'], { cwd: share, input: `${name}\n` }).toString()
      t.is(host, `${fnv} ${name}\n`)
    }
    t.true((await counter(daemon, 'maps')) > 500)
    t.is(await counter(daemon, 'front-end'), 0)
    t.is(await counter(daemon, 'size'), 0)
    t.log(daemon.log.split('\n').findLast(line => line.includes('DAX: ')))
  },
)

daxTest(
  'guest and host share a mapped file both ways; unlink, rename, truncation and holes of a mapped file',
  ['--dax-window', '16M', '--dax=exclusive'],
  async (t, { share, run }) => {
    for (const name of ['shared', 'a', 'b', 'c'])
      writeFileSync(join(share, name), Buffer.alloc(MIB, name.charCodeAt(0)))
    writeFileSync(join(share, 'shared'), new Uint8Array(65536))
    const rounds = 200
    // At first the guest waits for an even number, this one for an odd one.
    const partner = promisify(execFile)(
      check,
      ['partner', join(share, 'shared'), '1', String(rounds)],
      { timeout: LIMIT_MS },
    )
    const result = await run({
      mountOptions: 'dax',
      command: `
        set -e
        cp check /tmp/check
        /tmp/check partner shared 0 ${rounds}
        exec 3<a; mv b a; head -c 4 <&3; echo; head -c 4 a; echo; rm a; exec 3<&-
        /tmp/check touch c 1000000
        truncate -s 8192 c; /tmp/check touch c 8000
        truncate -s 1048576 c; /tmp/check touch c 500000
        st=0; /tmp/check touch c 1048576 || st=$?; echo past-end $st`,
    })
    t.is(result.status, 0, result.output)
    t.regex((await partner).stdout, /partner ok/)
    t.regex(result.output, /partner ok/)
    t.regex(result.output, /^aaaa\nbbbb\nbyte 99\nbyte 99\nbyte 0\npast-end 77$/m)
    t.deepEqual(readdirSync(share).sort(), ['c', 'check', 'shared'])
  },
)

daxTest(
  'mapped files that a process of the host cuts are unmapped within milliseconds, and the VMM lives',
  ['--dax-window', '64M', '--dax=exclusive'],
  async (t, { share, daemon, run }) => {
    const count = 20
    for (let i = 0; i < count; i++) writeFileSync(join(share, `f${i}`), Buffer.alloc(MIB, 99))
    const cutAt: number[] = []
    let said = ''
    const result = await run({
      mountOptions: 'dax',
      onOutput(text) {
        said += text
        if (!said.includes('cut now') || cutAt.length > 0) return
        for (let i = 0; i < count; i++) {
          cutAt.push(Date.now())
          truncateSync(join(share, `f${i}`), 4096 * i)
          // Each alone.
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)
        }
      },
      command: `
        set -e
        cp check /tmp/check
        for i in $(seq 0 ${count - 1}); do /tmp/check touch f$i 900000; done
        echo cut now; sleep 3
        for i in $(seq 0 ${count - 1}); do
          st=0; /tmp/check touch f$i 900000 || st=$?; echo after $st
          [ $i = 0 ] || /tmp/check touch f$i 4000
        done`,
    })
    t.is(result.status, 0, result.output)
    t.is(result.output.match(/^after 77$/gm)?.length, count, result.output)
    t.is(result.output.match(/^byte 99$/gm)?.length, count + count - 1)
    const seen = [...daemon.log.matchAll(/^\[(\S+) .*was cut to/gm)].map(one => Date.parse(one[1]!))
    t.is(seen.length, count)
    const late = seen.map((at, i) => at - cutAt[i]!).sort((a, b) => a - b)
    t.log(`milliseconds until it was unmapped: median ${late[count / 2]}, most ${late[count - 1]}`)
    t.true(late[count / 2]! < 100)
  },
)

daxTest(
  'DAX is faster than FUSE_READ without a guest cache',
  ['--dax-window', '64M', '--dax=exclusive', '--cache=never', '--allow-mmap'],
  async (t, { share, run }) => {
    writeFileSync(join(share, 'file'), Buffer.alloc(32 * MIB, 1))
    const measure = '/tmp/check speed file 4000'
    const result = await run({
      mountOptions: 'dax',
      cpus: 1,
      command: `
        set -e
        cp check /tmp/check
        for round in 1 2 3; do
          cd /mnt; echo dax; ${measure}; cd /; umount /mnt
          mount -t virtiofs -o dax=never ${TAG} /mnt; cd /mnt; echo read; ${measure}; cd /; umount /mnt
          mount -t virtiofs -o dax ${TAG} /mnt
        done`,
    })
    t.is(result.status, 0, result.output)
    const found = { dax: [] as number[][], read: [] as number[][] }
    for (const [, kind, line] of result.output.matchAll(/^(dax|read)\nspeed (.*)$/gm))
      found[kind as 'dax' | 'read'].push(
        [...line!.matchAll(/ns (\d+)/g)].map(one => Number(one[1])),
      )
    const median = (rows: number[][], i: number): number =>
      rows.map(row => row[i]!).sort((a, b) => a - b)[Math.floor(rows.length / 2)]!
    for (const [i, name] of [
      'pread random',
      'pread sequential',
      'mmap random',
      'mmap sequential',
    ].entries()) {
      const ratio = median(found.read, i) / median(found.dax, i)
      t.log(
        `${name}: ${median(found.dax, i)} ns by DAX, ${median(found.read, i)} ns without: x${ratio.toFixed(2)}`,
      )
      if (i < 2) t.true(ratio > 1.5, `${name}: x${ratio}`)
    }
    t.log(result.output.match(/first-touch-us \d+/g)?.join(', '))
  },
)
