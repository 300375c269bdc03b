/** Puts coherence over a back end: maps the table, takes the guest's number. */
import { writeSync } from 'node:fs'
import type { Context } from '../native/context.js'
import type { FileSystem } from '../vfs/filesystem.js'
import { CoherentFileSystem } from './coherent-filesystem.js'
import { Leases } from './leases.js'
import type { CoherenceOptions } from './options.js'
import { mapTable, takeGuestNumber } from './table-file.js'

export interface Coherence {
  readonly fs: CoherentFileSystem
  readonly leases: Leases
}

/** `report` gets a sentence when the table turns out to be damaged. Errors thrown: VersionTableError. */
export function startCoherence(
  context: Context,
  inner: FileSystem,
  options: CoherenceOptions,
  report: (message: string) => void,
): Coherence {
  const { tableFd, tablePath } = options
  const table = mapTable(context, tableFd)
  const leases = new Leases(table, {
    nowMs: () => context.nowUs() / 1000,
    ...options,
    guest: takeGuestNumber(context, tableFd),
    onDamage() {
      // Others may still see the part that is left: they must stop as well. Our mapping may be ours alone by now.
      writeSync(tableFd, new Uint8Array(4).fill(0xff), 0, 4, 0)
      report(
        `the version table ${tablePath} was damaged: guests cache nothing from now on; end the daemons that use it, remove it, start them again`,
      )
    },
  })
  return { fs: new CoherentFileSystem(inner, leases), leases }
}
