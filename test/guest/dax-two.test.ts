/** Two guests, a daemon and a QEMU 11.1 each, that have the same files of one share in their DAX windows. */
import { execFileSync } from 'node:child_process'
import { existsSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { check, counter, daxTest, lastWord, MIB } from './helpers/dax-lab.js'

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
