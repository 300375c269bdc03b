/** A rehearsal step by step: it ends, every request is answered as it should be, and nothing is left. */
import { mkdtempSync, openSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { CoherenceOptions } from '../../src/coherence/options.js'
import { Rehearsal, type RehearsalSettings } from '../../src/device/rehearsal.js'
import { HostChanges } from '../../src/filesystems/host/host-changes.js'
import { DEFAULT_HOST_OPTIONS, type HostOptions } from '../../src/filesystems/host/options.js'
import { ARENA_BYTES } from '../../src/fuse/layout.js'
import { DEFAULT_SESSION_OPTIONS } from '../../src/fuse/session.js'
import { Context } from '../../src/native/context.js'
import { openDescriptors } from '../helpers/rig.js'

const STEPS_AT_MOST = 100_000

function stage(t: ExecutionContext, host: Partial<HostOptions> = {}, coherence?: CoherenceOptions) {
  const context = new Context({ arenaBytes: ARENA_BYTES, maxSegments: 33024, poolThreads: 1 })
  context.unshareFs()
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-stage-'))
  t.teardown(() => {
    context.dispose()
    rmSync(folder, { recursive: true, force: true })
  })
  const before = openDescriptors()
  const log: string[] = []
  const settings: RehearsalSettings = {
    pollUs: 0,
    passthrough: true,
    logLevel: 'info',
    fuse: DEFAULT_SESSION_OPTIONS,
    host: { ...DEFAULT_HOST_OPTIONS, sharedDir: '/nowhere', ...host },
    stageFd: openSync(folder, 'r'),
    coherence,
    // Its rounds end it, however dear sanitizers and a busy machine make each step.
    mostCpuUs: 60_000_000,
  }
  const changes = HostChanges.open(context)
  const make = (): Rehearsal =>
    new Rehearsal(context, settings, changes, (level, message) => log.push(`${level}: ${message}`))
  return { context, folder, before, log, make }
}

test('it ends by itself, and leaves no descriptor and no guest memory', t => {
  const { context, before, log, make } = stage(t)
  const rehearsal = make()
  let steps = 0
  while (rehearsal.step()) t.true(++steps < STEPS_AT_MOST)
  t.true(steps > 10)
  t.false(rehearsal.step())
  t.is(log.length, 1)
  t.regex(log[0]!, /^debug: rehearsed \d+ requests from 2 beginnings$/)
  t.is(openDescriptors(), before)
  t.is(context.raw.clearRegions(), 0)
})

test('ended at any step, it leaves nothing either', t => {
  for (const steps of [0, 1, 2, 7, 30]) {
    const { context, before, make } = stage(t)
    const rehearsal = make()
    for (let i = 0; i < steps; i++) rehearsal.step()
    rehearsal.end()
    rehearsal.end()
    t.false(rehearsal.step())
    t.is(openDescriptors(), before, `after ${steps} steps`)
    t.is(context.raw.clearRegions(), 0)
  }
})

test('under leases it takes the same steps, with a table of its own', t => {
  // Whoever touched the shared table would find no file there.
  const coherence = { tableFd: -1, tablePath: '/nowhere', leaseMs: 250, marginMs: 250 }
  const { context, before, log, make } = stage(t, {}, coherence)
  const rehearsal = make()
  let steps = 0
  while (rehearsal.step()) t.true(++steps < STEPS_AT_MOST)
  t.true(steps > 10)
  t.is(log.length, 1)
  t.regex(log[0]!, /^debug: rehearsed \d+ requests from 2 beginnings, \d+ leases$/)
  const leases = Number(/(\d+) leases/.exec(log[0]!)![1])
  t.true(leases > steps, log[0])
  t.is(openDescriptors(), before)
  t.is(context.raw.clearRegions(), 0)
})

test('only its stage is touched', t => {
  const { folder, make } = stage(t)
  const rehearsal = make()
  rehearsal.step()
  t.is(readdirSync(folder).length, 24)
  rehearsal.end()
})

test('what it is refused ends it, and says so in the log', t => {
  const { before, log, make } = stage(t, { openFiles: 0 })
  const rehearsal = make()
  t.false(rehearsal.step())
  t.deepEqual(log, [
    'debug: the rehearsal ends: opcode 35: ENFILE',
    'debug: rehearsed 0 requests from 1 beginnings',
  ])
  t.is(openDescriptors(), before)
})
