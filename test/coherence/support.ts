/** A version table in ordinary memory, with a clock that only tests move. */
import { MIN_BUCKET_BITS, tableBytes } from '../../protocol/version-table/layout.js'
import { Change } from '../../src/coherence/change.js'
import { Leases } from '../../src/coherence/leases.js'
import { VersionTable } from '../../src/coherence/version-table.js'
import { InodeKey } from '../../src/vfs/identities.js'

export interface TestTable {
  readonly words: Int32Array
  readonly table: VersionTable
}

export function tableInMemory(bucketBits = MIN_BUCKET_BITS): TestTable {
  const words = new Int32Array(tableBytes(bucketBits) / 4)
  VersionTable.format(words, bucketBits)
  return { words, table: new VersionTable(words) }
}

export function keyOf(ino: number): InodeKey {
  const key = new InodeKey()
  key.devMajor = 8
  key.devMinor = 1
  key.inoLow = ino
  key.btimeSec = 1_700_000_000
  return key
}

export function changeOf(...inos: readonly number[]): Change {
  const change = new Change()
  for (const ino of inos) {
    Object.assign(change.next(), keyOf(ino))
    change.took(ino)
  }
  return change
}

/** Milliseconds that tests move by hand. */
export class TestClock {
  ms: number
  constructor(ms = 1_000_000) {
    this.ms = ms
  }
}

export const LEASE_MS = 200
export const MARGIN_MS = 100

/** `count` guests that share a table. */
export function guests(count: number, clock: TestClock, table: VersionTable): Leases[] {
  return Array.from(
    { length: count },
    (_, index) =>
      new Leases(table, {
        guest: index + 1,
        leaseMs: LEASE_MS,
        marginMs: MARGIN_MS,
        nowMs: () => clock.ms,
        pause(ms) {
          clock.ms += ms
        },
        onDamage: () => undefined,
      }),
  )
}

/** A small generator of numbers below `limit`, the same for the same seed. */
export function randomOf(seed: number): (limit: number) => number {
  let state = seed | 0
  return limit => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit
  }
}
