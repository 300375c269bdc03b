/** How many CPUs stand idle, and what is said when that is not known. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { IdleCpus, runnable } from '../../src/device/idle-cpus.js'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

for (const [text, count] of [
  ['0.20 0.18 0.12 1/80 11206\n', 1],
  ['120.20 0.18 0.12 4071/80 11206\n', 4071],
  ['0.20 0.18 0.12 ', -1],
  ['0.20 0.18 0.12 x/80 1', -1],
  ['0.20', -1],
  ['', -1],
] as const)
  test(`of ${JSON.stringify(text)} ${count} threads are runnable`, t => {
    const all = bytes(text)
    t.is(runnable(all, all.length), count)
    // What a longer text left in the buffer is not read.
    t.is(runnable(bytes(`${text}77 88 99 11/22`), all.length), count)
  })

for (const [running, busy, cpus, helpers] of [
  [1, 0, 4, 3],
  [2, 0, 4, 2],
  [4, 0, 4, 0],
  [9, 0, 4, 0],
  [3, 2, 4, 3],
  [4, 2, 4, 2],
  [1, 3, 4, 3],
] as const)
  test(`${running} runnable threads, ${busy} of them helpers, on ${cpus} CPUs: ${helpers} may help`, t => {
    const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-idle-'))
    t.teardown(() => rmSync(folder, { recursive: true }))
    const path = join(folder, 'loadavg')
    writeFileSync(path, `0.20 0.18 0.12 ${running}/80 11206\n`)
    const idle = IdleCpus.open(path, cpus)!
    t.teardown(() => idle.close())
    t.is(idle.helpers(busy), helpers)
    t.is(idle.helpers(busy), helpers)
  })

test('nobody helps where it is not known, or there is one CPU', t => {
  t.is(IdleCpus.open('/nowhere/loadavg', 4), undefined)
  t.is(IdleCpus.open('/proc/loadavg', 1), undefined)
  const idle = IdleCpus.open('/dev/null', 4)!
  t.teardown(() => idle.close())
  t.is(idle.helpers(0), 0)
})

test('this machine says', t => {
  const idle = IdleCpus.open('/proc/loadavg', 1_000_000)!
  t.teardown(() => idle.close())
  const helpers = idle.helpers(0)
  t.true(helpers > 0 && helpers < 1_000_000, `${helpers}`)
})
