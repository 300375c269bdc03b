/** Files whose size and place change while a real guest has them mapped, what reaches the disk, and traps of QEMU 11.1. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { check, counter, daxTest, hostSum, MIB, PAGE } from './helpers/dax-lab.js'
import { registerMissing } from './helpers/missing.js'

const FSX_ROUNDS = Number(process.env.DAX_FSX ?? 3000)

daxTest(
  'files that stay mapped while they are renamed over, unlinked, truncated, punched, emptied and grown',
  ['--dax-window', '16M', '--dax=exclusive'],
  async (t, { share, daemon, run }) => {
    for (const name of ['a', 'b', 'c', 'd', 'e'])
      writeFileSync(join(share, name), Buffer.alloc(MIB, name))
    // What is not on the disk yet is one large folio, all of which a store into the hole would fill again.
    execFileSync('sync', [join(share, 'd')])
    const result = await run({ command: './check shapes' })
    t.is(result.status, 0, result.output)
    t.regex(result.output, /^shapes ok$/m)
    t.deepEqual(readdirSync(share).sort(), ['c', 'check', 'd', 'e'])
    t.is(statSync(join(share, 'c')).size, 3 * MIB)
    const d = readFileSync(join(share, 'd'))
    const want = Buffer.alloc(MIB, 'd').fill(0, 65536, 196608).fill(0, 300000, 301000)
    want.write('D', 70000)
    t.true(d.equals(want))
    t.true(statSync(join(share, 'd')).blocks * 512 < 2 * MIB - 100_000, 'the hole is one')
    t.is(statSync(join(share, 'e')).size, MIB)
    t.true((await counter(daemon, 'shrunk')) >= 3)
  },
)

for (const policy of ['exclusive', 'always'])
  daxTest(
    `${policy}: ${FSX_ROUNDS} random writes, mapped writes, truncations, holes and reads of two files, and appending while others map`,
    ['--dax-window', '16M', `--dax=${policy}`],
    async (t, { share, run }) => {
      const names = ['even', 'odd']
      for (const name of [...names, 'log']) writeFileSync(join(share, name), Buffer.alloc(65536, 7))
      const result = await run({
        mountOptions: 'rw',
        command: `
          cp check /tmp/check
          /tmp/check fsx even ${FSX_ROUNDS} 0 1 & even=$!
          /tmp/check fsx odd ${FSX_ROUNDS} 1 2 || exit 1
          wait $even || exit 1
          /tmp/check append log 600 || exit 1
          sync`,
      })
      t.is(result.status, 0, result.output)
      t.regex(result.output, /^append ok \d+$/m)
      for (const name of names) {
        const [, size, fnv] = new RegExp(`fsx ${name} ok, size (\\d+) fnv (\\w+)`).exec(
          result.output,
        )!
        t.is(statSync(join(share, name)).size, Number(size))
        t.is(hostSum(share, name), `${fnv} ${name}\n`)
      }
    },
  )

daxTest(
  'a file that the host makes longer page by page: whatever size the guest is told, the bytes are there',
  ['--dax-window', '16M', '--dax=exclusive', '--cache=never', '--allow-mmap'],
  async (t, { share, daemon, run }) => {
    const pages = Buffer.alloc(5 * MIB)
    for (let at = 0; at < pages.length; at += PAGE)
      pages.fill(1 + ((at / PAGE) % 250), at, at + PAGE)
    const path = join(share, 'file')
    writeFileSync(path, pages.subarray(0, 16 * PAGE))
    const guest = run({ command: `./check follow file ${pages.length}` })
    const ended = guest.then(() => true)
    while (!existsSync(join(share, 'follows')))
      if (await Promise.race([ended, sleep(50, false)])) break
    for (let at = 16 * PAGE; at < pages.length; at += 9 * PAGE) {
      appendFileSync(path, pages.subarray(at, at + 9 * PAGE))
      // A slow guest sees several steps all the same.
      await sleep(25)
    }
    const result = await guest
    t.is(result.status, 0, result.output)
    t.regex(result.output, /^follow ok$/m)
    t.true((await counter(daemon, 'grown')) > 3)
    t.is(await counter(daemon, 'padded'), 0)
  },
  { others: true },
)

// --- durability -------------------------------------------------------------------------------------

/** A folder whose file system tells which pages of a file are not on the disk yet. */
function folderWithDisk(): string | undefined {
  for (const base of [tmpdir(), '/var/tmp', process.cwd()]) {
    const folder = mkdtempSync(join(base, 'virtiofsd-disk-'))
    try {
      if (Number(dirtyPages('dirty-probe', join(folder, 'probe'))) > 0) return base
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }
  return undefined
}

function dirtyPages(how: 'dirty' | 'dirty-probe', path: string): string {
  return execFileSync(check(), [how, path]).toString().trim()
}

const withDisk = folderWithDisk()
const DURABLE =
  'msync, fsync and sync in the guest bring what was stored through the window to the disk'
if (withDisk === undefined)
  registerMissing(DURABLE, 'no folder where cachestat(2) tells: Linux 6.5 and a disk are needed')
else
  daxTest(
    DURABLE,
    ['--dax-window', '16M', '--dax=exclusive'],
    async (t, { share, run }) => {
      const file = join(share, 'file')
      writeFileSync(file, Buffer.alloc(4 * MIB, 1))
      const guest = run({ command: './check disk file' })
      const seen: string[] = []
      const until = async (step: string): Promise<void> => {
        const done = guest.then(() => true)
        while (!existsSync(join(share, step)))
          if (await Promise.race([done, sleep(50, false)])) return
        seen.push(`${step} ${dirtyPages('dirty', file)}`)
        writeFileSync(join(share, `${step}-seen`), '')
      }
      for (const step of ['stored', 'msynced', 'fsynced', 'all-synced']) await until(step)
      const result = await guest
      t.is(result.status, 0, result.output)
      t.log(`pages that are not on the disk: ${seen.join(', ')}`)
      t.deepEqual(seen.slice(1), ['msynced 0', 'fsynced 0', 'all-synced 0'])
    },
    { folder: withDisk },
  )

// --- traps (the table is in test/dax/traps.test.ts) ---------------------------------------------------

daxTest(
  'trap 1: what the host runs, and what the guest may only read, arrives all the same',
  ['--dax-window', '16M', '--dax=exclusive'],
  async (t, { share, daemon, run }) => {
    for (const name of ['busybox-runs', 'busybox-plain']) {
      copyFileSync('/bin/busybox', join(share, name))
      truncateSync(join(share, name), Math.ceil(statSync('/bin/busybox').size / PAGE) * PAGE)
    }
    // The kernel lets nobody write to it now, nor open it for that.
    const running = spawn(join(share, 'busybox-runs'), ['sleep', '1000'])
    await once(running, 'spawn')
    const result = await run({
      mountOptions: 'rw',
      command: `
        cp check /tmp/check
        printf 'busybox-runs\\nbusybox-plain\\n' | /tmp/check sums
        chmod 0555 busybox-plain; printf 'busybox-plain\\n' | /tmp/check sums
        ./busybox-plain echo runs from the window`,
    })
    running.kill('SIGKILL')
    t.is(result.status, 0, result.output)
    const sums = hostSum(share, 'busybox-runs').slice(0, 16)
    t.is(result.output.match(new RegExp(`^${sums} `, 'gm'))?.length, 3, result.output)
    t.regex(result.output, /^runs from the window$/m)
    t.true((await counter(daemon, 'FUSE_READ')) > 0)
    t.true((await counter(daemon, 'maps')) > 0)
  },
)

daxTest(
  'trap 3: mounted with `dax`, a file with an odd end is an error and never zeros; trap 4: an empty one stays empty',
  ['--dax-window', '16M', '--dax=exclusive'],
  async (t, { share, daemon, run }) => {
    writeFileSync(join(share, 'odd'), Buffer.alloc(12345, 99))
    writeFileSync(join(share, 'long'), Buffer.alloc(2 * MIB + 77, 99))
    writeFileSync(join(share, 'empty'), '')
    const result = await run({
      command: `
        cp check /tmp/check
        for at in 0 8191 12344; do st=0; /tmp/check touch odd $at || st=$?; echo odd $st; done
        cat odd > /tmp/out && echo read anyway; echo got $(wc -c < /tmp/out)
        /tmp/check touch long 2097151
        st=0; /tmp/check touch long 2097152 || st=$?; echo long $st
        st=0; /tmp/check touch empty 0 || st=$?; echo empty $st`,
    })
    t.is(result.status, 0, result.output)
    t.is(result.output.match(/^odd 77$/gm)?.length, 3, result.output)
    t.notRegex(result.output, /read anyway|byte 0/)
    t.regex(result.output, /^got 0\nbyte 99\nlong 77\nempty 77$/m)
    t.is(statSync(join(share, 'empty')).size, 0)
    t.is(statSync(join(share, 'odd')).size, 12345)
    t.true((await counter(daemon, 'size')) > 0)
  },
)

for (const [window, why] of [
  ['2M', 'one range for two processes'],
  ['4M', 'two ranges for four processes'],
] as const)
  daxTest(
    `trap 6: a window of ${window}, ${why}: everybody waits for his turn, and all is right`,
    ['--dax-window', window, '--dax=exclusive'],
    async (t, { share, daemon, run }) => {
      for (let file = 0; file < 2; file++) {
        const data = new BigUint64Array((9 * MIB) / 8)
        for (let i = 0; i < data.length; i += 512) {
          data[i] = BigInt(file)
          data[i + 1] = BigInt(i / 512)
          data[i + 511] = BigInt(i / 512)
        }
        writeFileSync(join(share, `block${file}`), data)
      }
      const result = await run({
        mountOptions: 'rw',
        command: `cp check /tmp/check && /tmp/check random 2 9 400 ${window === '2M' ? 2 : 4}`,
      })
      t.is(result.status, 0, result.output)
      t.regex(result.output, /^random ok$/m)
      t.true((await counter(daemon, 'maps')) > 300)
      t.is(await counter(daemon, 'front-end'), 0)
    },
  )
