/** A rehearsal for tests, with a folder of its own as the stage. */
import { mkdtempSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import type { CoherenceOptions } from '../../src/coherence/options.js'
import { Rehearsal, type RehearsalSettings } from '../../src/device/rehearsal.js'
import { HostChanges } from '../../src/filesystems/host/host-changes.js'
import { DEFAULT_HOST_OPTIONS, type HostOptions } from '../../src/filesystems/host/options.js'
import { ARENA_BYTES } from '../../src/fuse/layout.js'
import { DEFAULT_SESSION_OPTIONS } from '../../src/fuse/session.js'
import { Context } from '../../src/native/context.js'
import { openDescriptors } from '../helpers/rig.js'

/** Whoever touched the shared table would find no file there. */
export const LEASES: CoherenceOptions = {
  tableFd: -1,
  tablePath: '/nowhere',
  leaseMs: 250,
  marginMs: 250,
}

/** `shared`: the context of somebody else, who disposes of it. `before`: descriptors that were open. */
export function stage(
  t: ExecutionContext,
  host: Partial<HostOptions> = {},
  coherence?: CoherenceOptions,
  shared?: Context,
) {
  const context =
    shared ?? new Context({ arenaBytes: ARENA_BYTES, maxSegments: 33024, poolThreads: 1 })
  context.unshareFs()
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-stage-'))
  t.teardown(() => {
    if (shared === undefined) context.dispose()
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
