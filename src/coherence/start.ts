/** Puts coherence over a back end: maps the table, takes the guest's number. */
import { writeSync } from 'node:fs'
import { HEADER_WORDS, tableBytes } from '../../protocol/version-table/layout.js'
import type { Context } from '../native/context.js'
import type { FileSystem } from '../vfs/filesystem.js'
import { CoherentFileSystem } from './coherent-filesystem.js'
import { Leases } from './leases.js'
import { MappingLeases } from './mapping-leases.js'
import type { CoherenceOptions } from './options.js'
import { SizeLocks } from './size-locks.js'
import { mapTable, takeGuestNumber } from './table-file.js'
import { VersionTable } from './version-table.js'

/** 3,072 inodes: many more than a rehearsal has. */
const REHEARSAL_BUCKET_BITS = 10

export interface Coherence {
  readonly fs: CoherentFileSystem
  readonly leases: Leases
  readonly mappings: MappingLeases
}

/** That of a rehearsal. */
export interface RehearsedCoherence extends Coherence {
  /** Empties its table: no inode was ever seen. Not while a change is under way. */
  clear(): void
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
  const guest = takeGuestNumber(context, tableFd)
  return over(context, inner, table, guest, options, () => {
    // Others may still see the part that is left: they must stop as well. Our mapping may be ours alone by now.
    writeSync(tableFd, new Uint8Array(4).fill(0xff), 0, 4, 0)
    report(
      `the version table ${tablePath} was damaged: guests cache nothing from now on; end the daemons that use it, remove it, start them again`,
    )
  })
}

/** The same for a rehearsal (src/device/rehearsal.ts), with a small table that nobody else has. */
export function rehearseCoherence(
  context: Context,
  inner: FileSystem,
  options: CoherenceOptions,
): RehearsedCoherence {
  const words = new Int32Array(tableBytes(REHEARSAL_BUCKET_BITS) / 4)
  VersionTable.format(words, REHEARSAL_BUCKET_BITS)
  // No file, no locks: nobody has a window. All its files are new, and shall have leases as old ones have.
  const alone = { ...options, tableFd: -1, quietMs: 0 }
  const coherence = over(context, inner, new VersionTable(words), 1, alone, () => undefined)
  return { ...coherence, clear: () => void words.fill(0, HEADER_WORDS) }
}

function over(
  context: Context,
  inner: FileSystem,
  table: VersionTable,
  guest: number,
  options: CoherenceOptions,
  onDamage: () => void,
): Coherence {
  const { clockOffsetMs = 0 } = options
  // Whole: a fraction that one function hands to another is an object of its own (as are 2^31 ms, 24 days).
  const nowMs = options.nowMs ?? (() => Math.floor(context.nowUs() / 1000 - clockOffsetMs))
  const leases = new Leases(table, { ...options, nowMs, guest, onDamage })
  const sizes = new SizeLocks(context, options.tableFd, table)
  const mappings = new MappingLeases(table, leases, sizes, inner.identities!, { guest, nowMs })
  return { fs: new CoherentFileSystem(inner, leases, mappings, sizes), leases, mappings }
}
