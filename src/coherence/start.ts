/** Puts coherence over a back end: maps the table, takes the guest's number. */
import { writeSync } from 'node:fs'
import type { Context } from '../native/context.js'
import type { FileSystem } from '../vfs/filesystem.js'
import { CoherentFileSystem } from './coherent-filesystem.js'
import { Leases } from './leases.js'
import { MappingLeases } from './mapping-leases.js'
import type { CoherenceOptions } from './options.js'
import { SizeLocks } from './size-locks.js'
import { mapTable, takeGuestNumber } from './table-file.js'

export interface Coherence {
  readonly fs: CoherentFileSystem
  readonly leases: Leases
  readonly mappings: MappingLeases
}

/** `report` gets a sentence when the table turns out to be damaged. Errors thrown: VersionTableError. */
export function startCoherence(
  context: Context,
  inner: FileSystem,
  options: CoherenceOptions,
  report: (message: string) => void,
): Coherence {
  const { tableFd, tablePath, clockOffsetMs = 0 } = options
  const table = mapTable(context, tableFd)
  const guest = takeGuestNumber(context, tableFd)
  const nowMs = options.nowMs ?? (() => context.nowUs() / 1000 - clockOffsetMs)
  const leases = new Leases(table, {
    ...options,
    nowMs,
    guest,
    onDamage() {
      // Others may still see the part that is left: they must stop as well. Our mapping may be ours alone by now.
      writeSync(tableFd, new Uint8Array(4).fill(0xff), 0, 4, 0)
      report(
        `the version table ${tablePath} was damaged: guests cache nothing from now on; end the daemons that use it, remove it, start them again`,
      )
    },
  })
  const sizes = new SizeLocks(context, tableFd, table)
  const mappings = new MappingLeases(table, leases, sizes, inner.identities!, { guest, nowMs })
  return { fs: new CoherentFileSystem(inner, leases, mappings, sizes), leases, mappings }
}
