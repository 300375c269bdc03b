/** Two guests, a daemon and a QEMU 11.1 each, that have the same files of one share in their DAX windows. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { findDaxLab, runQemuDax } from '../../scripts/lab/qemu-dax.js'
import { packageFile } from '../../src/native/addon.js'
import { check, counter, daxTest, lastWord, LIMIT_MS, MIB } from './helpers/dax-lab.js'
import { registerMissing } from './helpers/missing.js'

const CUTS = Number(process.env.DAX_CUTS ?? 20)
const TABLE = `/dev/shm/virtiofsd-dax-two-${process.pid}`
const ROUNDS = Number(process.env.DAX_DUET ?? 100)

daxTest(
  'two guests write one file through MAP_SHARED and pwrite in turn, and find each page as the other left it',
  ['--dax-window', '16M', '--dax=exclusive'],
  async (t, { share, daemons, run }) => {
    const path = join(share, 'file')
    writeFileSync(path, '')
    truncateSync(path, 4 * MIB)
    const results = await Promise.all(
      daemons.map((_, guest) =>
        run({ command: `./check duet file ${1 - guest} ${ROUNDS}` }, guest),
      ),
    )
    for (const { status, output } of results) {
      t.is(status, 0, output)
      t.regex(output, new RegExp(`^duet ok ${2 * ROUNDS}$`, 'm'))
    }
    t.is(
      execFileSync(check(), ['duet', path, '2', String(ROUNDS)]).toString(),
      `duet ok ${2 * ROUNDS}\n`,
    )
    for (const daemon of daemons) {
      t.log(await lastWord(daemon))
      t.is(await counter(daemon, 'FUSE_READ'), 0)
    }
  },
  { guests: 2 },
)

daxTest(
  'one guest truncates what the other has mapped: the other is unmapped there, keeps the rest, and lives',
  ['--dax-window', '16M', '--dax=exclusive'],
  async (t, { share, daemons, run }) => {
    const left = MIB + 8192
    writeFileSync(join(share, 'file'), Buffer.alloc(4 * MIB, 99))
    const wait = (name: string): string => `while [ ! -e ${name} ]; do sleep 0.1; done`
    const [holder, cutter] = await Promise.all([
      run({ command: `./check hold file ${left}` }, 0),
      run(
        {
          command: `
            ${wait('held')}
            ./check touch file 3000000
            truncate -s ${left} file && touch cut
            ./check touch file ${left - 1}
            st=0; ./check touch file ${left} || st=$?; echo past $st`,
        },
        1,
      ),
    ])
    t.is(cutter!.status, 0, cutter!.output)
    t.regex(cutter!.output, /^byte 99\nbyte 99\npast 77$/m)
    t.is(holder!.status, 0, holder!.output)
    t.regex(holder!.output, /^hold ok$/m)
    t.true(existsSync(join(share, 'cut')))
    t.is(statSync(join(share, 'file')).size, left)
    t.is(await counter(daemons[0]!, 'shrunkByOthers'), 1)
    t.is(await counter(daemons[1]!, 'shrunk'), 1)
  },
  { guests: 2, others: true },
)

daxTest(
  '--coherence=strict: one guest cuts and fills a file while the other one touches all of it: nobody dies, and each size and byte is seen at once',
  ['--dax-window', '16M', '--dax=exclusive', '--coherence=strict', `--version-table=${TABLE}`],
  async (t, { share, daemons, run }) => {
    writeFileSync(join(share, 'file'), Buffer.alloc(4 * MIB, 1))
    writeFileSync(join(share, 'turns'), Buffer.alloc(65536))
    const results = await Promise.all(
      daemons.map((_, guest) => run({ command: `./check cuts file ${guest} ${CUTS}` }, guest)),
    )
    rmSync(TABLE)
    for (const { status, output } of results) {
      t.is(status, 0, output)
      t.regex(output, new RegExp(`^cuts ok ${CUTS}$`, 'm'))
    }
    const [touching, cutting] = daemons
    t.log(await lastWord(touching!))
    t.true((await counter(touching!, 'revoked')) > CUTS / 2)
    t.is(await counter(touching!, 'shrunkByOthers'), 0)
    t.is(await counter(touching!, 'FUSE_READ'), 0)
    t.regex(cutting!.log, /"cuts":\d+,"forced":0/)
    t.log(/coherence: .*/.exec(cutting!.log)?.[0])
  },
  { guests: 2 },
)

{
  const title =
    'two guests mount one file system in memory: what one stores through MAP_SHARED the other one reads, without a request'
  const found = findDaxLab()
  if ('missing' in found) registerMissing(title, `${found.missing}: run "scripts/setup-dax"`)
  else
    test.serial(title, async t => {
      t.timeout(LIMIT_MS + 60_000)
      const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-memory-'))
      t.teardown(() => rmSync(folder, { recursive: true, force: true }))
      const sockets = [0, 1].map(guest => join(folder, `vhost-${guest}.sock`))
      const server = spawn(process.execPath, [
        packageFile('dist', 'scripts', 'lab', 'memory-share.js'),
        String(16 * MIB),
        ...sockets,
      ])
      t.teardown(() => server.kill('SIGKILL'))
      let said = ''
      for (const stream of [server.stdout, server.stderr])
        stream.setEncoding('utf8').on('data', (text: string) => {
          said += text
        })
      const ended = once(server, 'close')
      while (!said.includes('listening')) {
        if (server.exitCode !== null) throw new Error(said)
        await new Promise(next => setTimeout(next, 20))
      }
      const command = (guest: number): string =>
        guest === 0
          ? `truncate -s ${4 * MIB} file && mkdir made && /lab/check duet file 1 ${ROUNDS} && while [ -d made ]; do sleep 0.1; done; echo done`
          : `while [ ! -d made ]; do sleep 0.1; done; /lab/check duet file 0 ${ROUNDS} && rmdir made`
      const results = await Promise.all(
        sockets.map((socketPath, guest) =>
          runQemuDax({
            socketPath,
            timeoutMs: LIMIT_MS,
            mountOptions: 'dax',
            command: command(guest),
            files: { check: readFileSync(check()) },
          }),
        ),
      )
      for (const { status, output } of results) {
        t.is(status, 0, output)
        t.regex(output, new RegExp(`^duet ok ${2 * ROUNDS}$`, 'm'))
      }
      const [status] = (await ended) as [number]
      t.is(status, 0, said)
      t.log(said)
      for (const guest of [0, 1])
        t.regex(said, new RegExp(`^guest ${guest}: FUSE_READ 0, FUSE_WRITE 0, `, 'm'))
      t.notRegex(said, /^(warn|error)/m)
    })
}
