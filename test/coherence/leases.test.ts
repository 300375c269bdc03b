/** Leases with a clock moved by hand: no promise is broken, no change waits for ever, what is shared settles. */
import test from 'ava'
import {
  BUCKET_SLOTS,
  MOST_AHEAD,
  MOST_BELIEVED,
  pack,
  Slot,
  tickOf,
  TICK_MS,
} from '../../protocol/version-table/layout.js'
import type { Change } from '../../src/coherence/change.js'
import { longLeaseMs } from '../../src/coherence/options.js'
import { QUIET_MS, SETTLED_MS } from '../../src/coherence/contention.js'
import { CHANGE_MS, Leases } from '../../src/coherence/leases.js'
import { SWEEP_MS, SWEEPS } from '../../src/coherence/version-table.js'
import {
  changeOf,
  guests,
  keyOf,
  LEASE_MS,
  MARGIN_MS,
  tableInMemory,
  TestClock,
  randomOf,
} from './support.js'

/** The longest a change may wait: a lease, its margin and what rounding to ticks adds. */
const MOST_WAIT_MS = LEASE_MS + MARGIN_MS + 3 * TICK_MS
const MOST_LONG_WAIT_MS = longLeaseMs(LEASE_MS) + MARGIN_MS + 3 * TICK_MS

function scene(count = 3) {
  const clock = new TestClock()
  const { table, words } = tableInMemory()
  return { clock, table, words, all: guests(count, clock, table) }
}

function lease(guest: Leases, ino: number): boolean {
  return guest.grant(keyOf(ino), guest.look(), false) > 0
}

/** Makes a change, waiting as told; milliseconds it waited. */
function apply(guest: Leases, clock: TestClock, change: Change): number {
  const began = clock.ms
  for (let again = false; ; again = true) {
    const wait = guest.begin(change, again, false)
    if (wait === 0) break
    clock.ms += wait
  }
  guest.end(change)
  return clock.ms - began
}

test('what nobody changes every guest may cache', t => {
  const { all } = scene()
  for (const guest of all) t.true(lease(guest, 1))
})

test('a change waits for the lease of another guest, no longer, and not for its own', t => {
  const { all, clock } = scene()
  t.true(lease(all[0]!, 1))
  t.is(apply(all[0]!, clock, changeOf(1)), 0)
  const waited = apply(all[1]!, clock, changeOf(1))
  t.true(waited >= LEASE_MS + MARGIN_MS && waited <= MOST_WAIT_MS, `${waited}`)
  t.is(all[1]!.counters.conflicts, 1)
})

test('with leases of several guests each waits for all of them', t => {
  const { all, clock } = scene()
  t.true(lease(all[0]!, 1))
  clock.ms += LEASE_MS
  t.true(lease(all[1]!, 1))
  const waited = apply(all[0]!, clock, changeOf(1))
  t.true(waited >= LEASE_MS + MARGIN_MS && waited <= MOST_WAIT_MS, `${waited}`)
})

test('while a change waits nobody gets a lease: readers do not keep it waiting', t => {
  const { all, clock } = scene()
  t.true(lease(all[0]!, 1))
  const change = changeOf(1)
  let waited = 0
  for (let again = false; ; again = true) {
    const wait = all[2]!.begin(change, again, false)
    if (wait === 0) break
    // A crowd of readers, at every tick.
    for (let ms = 0; ms < wait; ms += TICK_MS) {
      clock.ms += TICK_MS
      waited += TICK_MS
      t.false(lease(all[0]!, 1))
      t.false(lease(all[1]!, 1))
    }
  }
  t.true(waited <= MOST_WAIT_MS, `${waited}`)
  all[2]!.end(change)
})

test('a short lease does not end a longer one of another guest', t => {
  const { clock, table } = scene()
  const make = (guest: number, leaseMs: number): Leases =>
    new Leases(table, { guest, leaseMs, marginMs: 0, nowMs: () => clock.ms, onDamage: () => {} })
  t.true(lease(make(1, 1000), 1))
  t.true(lease(make(2, 100), 1))
  t.true(apply(make(3, 100), clock, changeOf(1)) >= 1000)
})

test('several inodes of one change are waited for together', t => {
  const { all, clock } = scene()
  t.true(lease(all[0]!, 1))
  clock.ms += LEASE_MS / 2
  t.true(lease(all[0]!, 2))
  const waited = apply(all[1]!, clock, changeOf(3, 1, 2))
  t.true(waited >= LEASE_MS + MARGIN_MS && waited <= MOST_WAIT_MS, `${waited}`)
})

test('what was seen before a change that came and went gets no lease', t => {
  const { all, clock } = scene()
  const looked = all[0]!.look()
  apply(all[1]!, clock, changeOf(1))
  clock.ms += QUIET_MS * 2
  t.is(all[0]!.grant(keyOf(1), looked, false), 0)
  t.true(lease(all[0]!, 1))
})

test('what was kept since before a change gets no lease, however late it is looked at', t => {
  const { all, clock } = scene()
  all[0]!.pin()
  t.true(lease(all[0]!, 2))
  apply(all[1]!, clock, changeOf(1))
  clock.ms += QUIET_MS * 2
  t.false(lease(all[0]!, 1))
  all[0]!.pin()
  t.true(lease(all[0]!, 1))
})

test('a guest caches what it has changed itself at once, others after a quiet time', t => {
  const { all, clock } = scene()
  const change = changeOf(1)
  t.is(all[0]!.begin(change, false, false), 0)
  t.true(all[0]!.grant(keyOf(1), all[0]!.look(), true) > 0)
  t.is(all[0]!.grant(keyOf(1), all[0]!.look(), false), 0)
  all[0]!.end(change)
  t.true(lease(all[0]!, 1))
  t.false(lease(all[1]!, 1))
  clock.ms += QUIET_MS + 2 * TICK_MS
  t.true(lease(all[1]!, 1))
})

/** A RENAME from directory `from` to `to`. */
function renameOf(from: number, to: number): Change {
  const change = changeOf(from, to)
  change.moves(0, 1)
  return change
}

test('a name that a guest takes to another directory stays cached: its lease goes with it', t => {
  const { all, clock } = scene()
  t.true(lease(all[0]!, 1))
  t.is(apply(all[0]!, clock, renameOf(1, 2)), 0)
  clock.ms += 50
  const waited = apply(all[1]!, clock, changeOf(2))
  t.true(waited >= LEASE_MS + MARGIN_MS - 50 && waited <= MOST_WAIT_MS, `${waited}`)
  // A guest that had cached nothing there takes nothing with it.
  t.is(apply(all[2]!, clock, renameOf(5, 6)), 0)
  t.is(apply(all[1]!, clock, changeOf(6)), 0)
})

test('where others are changing that directory, who moves a name there waits until his own cache is over', t => {
  const { all, clock } = scene()
  const other = changeOf(2)
  t.is(all[1]!.begin(other, false, false), 0)
  t.true(lease(all[0]!, 1))
  const change = renameOf(1, 2)
  const wait = all[0]!.begin(change, false, false)
  t.true(wait >= LEASE_MS + MARGIN_MS && wait <= MOST_WAIT_MS, `${wait}`)
  clock.ms += wait / 2
  t.false(lease(all[0]!, 1))
  clock.ms += wait / 2
  t.is(all[0]!.begin(change, true, false), 0)
  all[0]!.end(change)
  all[1]!.end(other)
  // He is not kept waiting each time.
  t.false(lease(all[0]!, 1))
  t.is(apply(all[0]!, clock, renameOf(1, 2)), 0)
})

test('two changes of one guest at once: the reply of the first grants nothing', t => {
  const { all } = scene()
  const [one, two] = [changeOf(1), changeOf(1)]
  t.is(all[0]!.begin(one, false, false), 0)
  t.is(all[0]!.begin(two, false, false), 0)
  t.is(all[0]!.grant(keyOf(1), all[0]!.look(), true), 0)
  all[0]!.end(one)
  t.false(lease(all[1]!, 1))
  t.true(all[0]!.grant(keyOf(1), all[0]!.look(), true) > 0)
  all[0]!.end(two)
})

test('what is shared all the time is not cached, and recovers when it is left alone', t => {
  const { all, clock } = scene(2)
  const [reader, writer] = all as [Leases, Leases]
  // One writes every 100 ms, one reads all the time: few changes wait.
  let waits = 0
  for (let i = 0; i < 1000; i++) {
    lease(reader, 1)
    if (apply(writer, clock, changeOf(1)) > 0) waits++
    clock.ms += 100
  }
  t.true(waits <= 1, `${waits} of 1000 changes waited`)
  // Every 3 s: it takes ever longer until the reader may cache again.
  waits = 0
  for (let i = 0; i < 40; i++) {
    for (let ms = 0; ms < 3000; ms += 250) {
      lease(reader, 1)
      clock.ms += 250
    }
    if (apply(writer, clock, changeOf(1)) > 0) waits++
  }
  t.true(waits > 0 && waits <= 10, `${waits} of 40 changes waited`)
  clock.ms += 120_000
  t.true(lease(reader, 1))
  apply(writer, clock, changeOf(1))
  clock.ms += QUIET_MS * 2 + 3 * TICK_MS
  t.true(lease(reader, 1))
})

test('what guests change in turn, each caching what it has changed, soon costs no waits, and recovers', t => {
  const { all, clock } = scene(2)
  let waits = 0
  const change = (guest: Leases): void => {
    const made = changeOf(1)
    for (let again = false; ; again = true) {
      const wait = guest.begin(made, again, false)
      if (wait === 0) break
      if (!again) waits++
      clock.ms += wait
    }
    // In the reply, and asked for afterwards.
    guest.grant(keyOf(1), guest.look(), true)
    guest.end(made)
    lease(guest, 1)
  }
  // Under a lock, as fast as it goes.
  for (let i = 0; i < 1000; i++) {
    change(all[i % 2]!)
    clock.ms += 10
  }
  t.true(waits <= 2, `${waits} of 1000 changes waited`)
  // One is left over, who goes on with changes of his own.
  change(all[0]!)
  for (let i = 0; i < 500; i++) {
    clock.ms += 10
    change(all[0]!)
  }
  t.true(lease(all[0]!, 1))
  waits = 0
  for (let i = 0; i < 500; i++) change(all[0]!)
  t.is(waits, 0)
})

test('a change that waits for a long lease stays announced: nobody gets new ones meanwhile', t => {
  const { clock, table } = scene()
  const make = (guest: number): Leases =>
    new Leases(table, {
      guest,
      leaseMs: 5000,
      marginMs: MARGIN_MS,
      nowMs: () => clock.ms,
      onDamage: () => {},
    })
  const [reader, writer] = [make(1), make(2)]
  t.true(lease(reader, 1))
  const change = changeOf(1)
  let waited = 0
  for (let again = false; ; again = true) {
    const wait = writer.begin(change, again, false)
    if (wait === 0) break
    for (let ms = 0; ms < wait; ms += TICK_MS) {
      clock.ms += TICK_MS
      waited += TICK_MS
      t.false(lease(reader, 1))
    }
  }
  t.true(waited <= 5000 + MARGIN_MS + 3 * TICK_MS, `${waited}`)
})

test('who is stopped for longer than its change was announced for gets no lease on what others made of it', t => {
  const { all, clock } = scene()
  const own = changeOf(1)
  t.is(all[0]!.begin(own, false, false), 0)
  all[0]!.pin()
  const looked = all[0]!.look()
  clock.ms += CHANGE_MS + 200
  t.is(apply(all[1]!, clock, changeOf(1)), 0)
  clock.ms += QUIET_MS * 2
  t.is(all[0]!.grant(keyOf(1), looked, true), 0)
  all[0]!.end(own)
})

test('a daemon that dies in the middle of a change leaves nothing behind for long', t => {
  const { all, clock } = scene()
  t.is(all[0]!.begin(changeOf(1), false, false), 0)
  t.false(lease(all[1]!, 1))
  t.is(apply(all[1]!, clock, changeOf(1)), 0)
  clock.ms += CHANGE_MS + QUIET_MS * 2 + 3 * TICK_MS
  t.true(lease(all[1]!, 1))
  t.true(lease(all[2]!, 1))
})

test('a change that takes long is announced again', t => {
  const { all, clock } = scene()
  const change = changeOf(1)
  t.is(all[0]!.begin(change, false, false), 0)
  t.true(all[0]!.busy)
  for (let ms = 0; ms < 5 * CHANGE_MS; ms += 500) {
    clock.ms += 500
    all[0]!.renew()
    t.false(lease(all[1]!, 1))
  }
  all[0]!.end(change)
  t.false(all[0]!.busy)
  clock.ms += QUIET_MS + 3 * TICK_MS
  t.true(lease(all[1]!, 1))
})

test('a daemon that is stopped while it announces a change looks at the clock again', t => {
  for (const stoppedMs of [300, 3000, 7900, 60_000]) {
    const { all, clock, table } = scene()
    let stopped = false
    const one = new Leases(table, {
      guest: 9,
      leaseMs: LEASE_MS,
      marginMs: MARGIN_MS,
      onDamage: () => undefined,
      nowMs() {
        const { ms } = clock
        if (stopped) return ms
        stopped = true
        clock.ms += stoppedMs
        t.true(lease(all[0]!, 1))
        return ms
      },
    })
    const until = clock.ms + stoppedMs + LEASE_MS + MARGIN_MS
    const change = changeOf(1)
    for (let again = false; ; again = true) {
      const wait = one.begin(change, again, false)
      if (wait === 0) break
      clock.ms += wait
    }
    t.true(clock.ms >= until, `${until - clock.ms}`)
    one.end(change)
  }
})

/** A guest looks at an inode that changed `ageMs` ago. */
function leaseAged(guest: Leases, ino: number, ageMs: number): boolean {
  return guest.grant(keyOf(ino), guest.look(), false, ageMs) > 0
}

test('what a process of the host has just changed is not cached, other guests know it, and it passes', t => {
  const { all, clock } = scene()
  t.true(leaseAged(all[0]!, 1, 2000))
  const version = all[1]!.versionOf(keyOf(1))
  clock.ms += 2 * (LEASE_MS + MARGIN_MS)
  t.false(leaseAged(all[0]!, 1, 10))
  t.is(all[0]!.counters.hostChanges, 1)
  t.not(all[1]!.versionOf(keyOf(1)), version)
  // A guest whose back end does not know the time of the change.
  t.false(lease(all[1]!, 1))
  clock.ms += 20
  t.false(leaseAged(all[0]!, 1, 30))
  t.is(all[0]!.counters.hostChanges, 1)
  clock.ms += QUIET_MS
  t.true(leaseAged(all[0]!, 1, QUIET_MS + 30))
  t.true(lease(all[1]!, 1))
})

test('a change of a guest explains what was changed before it ended, not what came later', t => {
  const { all, clock } = scene()
  t.is(apply(all[0]!, clock, changeOf(1)), 0)
  clock.ms += 40
  t.true(leaseAged(all[0]!, 1, 50))
  // That change waits, and then it is about what two guests do.
  apply(all[1]!, clock, changeOf(1))
  clock.ms += 40
  t.false(leaseAged(all[0]!, 1, 50))
  t.true(leaseAged(all[1]!, 1, 50))
  t.is(all[0]!.counters.hostChanges + all[1]!.counters.hostChanges, 0)
  clock.ms += 40
  t.false(leaseAged(all[1]!, 1, 10))
  t.is(all[1]!.counters.hostChanges, 1)
})

test('what a guest has made it may cache at once, though it is new', t => {
  const { all, clock } = scene()
  all[0]!.made(keyOf(1))
  clock.ms += 8
  t.true(leaseAged(all[0]!, 1, 8))
  t.false(leaseAged(all[1]!, 1, 8))
  t.is(all[1]!.counters.hostChanges, 0)
})

test('what others have left alone for long may be cached for longer, and its changers wait that long', t => {
  const { all, clock } = scene()
  const [one, other] = all as [Leases, Leases]
  const aged = (guest: Leases, ageMs: number): number =>
    guest.grant(keyOf(1), guest.look(), false, ageMs)
  t.is(one.longLeaseMs, 4 * LEASE_MS)
  t.is(aged(one, SETTLED_MS - 100), LEASE_MS)
  t.is(aged(one, Number.NaN), LEASE_MS)
  t.is(aged(one, 3_600_000), 4 * LEASE_MS)
  const waited = apply(other, clock, changeOf(1))
  t.true(waited >= 4 * LEASE_MS + MARGIN_MS && waited <= MOST_LONG_WAIT_MS)
  // What met a lease is no such thing for a while, not even for who changed it.
  t.is(aged(other, 0), LEASE_MS)
  clock.ms += SETTLED_MS - 100
  t.is(aged(one, SETTLED_MS - 100), LEASE_MS)
  clock.ms += 3 * QUIET_MS
  t.is(aged(one, 2 * SETTLED_MS), 4 * LEASE_MS)
  t.is(aged(other, 2 * SETTLED_MS), 4 * LEASE_MS)
  // Its own changes are no reason.
  clock.ms += 60_000
  apply(one, clock, changeOf(2))
  t.is(one.grant(keyOf(2), one.look(), false, 0), 4 * LEASE_MS)
  t.true(apply(other, clock, changeOf(2)) > 4 * LEASE_MS)
})

test('change times of another clock say nothing', t => {
  const { all } = scene()
  t.true(leaseAged(all[0]!, 1, -3_600_000))
  t.true(leaseAged(all[0]!, 2, Number.NaN))
})

test('what host and guest change in turn is late a few times, then not cached, and recovers', t => {
  const { all, clock } = scene(1)
  const guest = all[0]!
  let changedAt = -1e9
  let leasedUntil = 0
  const late = (everyMs: number, changes: number): number => {
    let count = 0
    for (let i = 0; i < changes; i++) {
      for (let ms = 0; ms < everyMs; ms += 20) {
        clock.ms += 20
        const ms = guest.grant(keyOf(1), guest.look(), false, clock.ms - changedAt)
        if (ms > 0) leasedUntil = clock.ms + ms
      }
      if (clock.ms < leasedUntil) count++
      changedAt = clock.ms
    }
    return count
  }
  // Less than the quiet time apart: while the first lease lasts, which is a long one.
  const often = late(300, 100)
  t.true(often <= 3, `${often} of 100`)
  const sometimes = late(3000, 40)
  t.true(often + sometimes > 0 && sometimes <= 10, `${sometimes} of 40`)
  clock.ms += 120_000
  t.true(leaseAged(guest, 1, 120_000))
})

test('without a lease time nothing is cached and nothing waits, but changes are counted', t => {
  const { clock, table } = scene()
  const make = (guest: number): Leases =>
    new Leases(table, { guest, leaseMs: 0, marginMs: 0, nowMs: () => clock.ms, onDamage: () => {} })
  const [one, other] = [make(1), make(2)]
  one.track(keyOf(1))
  const version = one.versionOf(keyOf(1))
  t.false(lease(one, 1))
  t.is(apply(other, clock, changeOf(1)), 0)
  t.not(one.versionOf(keyOf(1)), version)
  // Who gives leases is waited for all the same.
  const { all } = { all: guests(1, clock, table) }
  clock.ms += QUIET_MS * 2
  t.true(lease(all[0]!, 1))
  t.true(apply(other, clock, changeOf(1)) >= LEASE_MS + MARGIN_MS)
})

test('a table full of leases gives no more, and holds up no changes', t => {
  const { all, clock } = scene(2)
  let granted = 0
  for (let ino = 0; ino < 500; ino++) if (lease(all[0]!, ino)) granted++
  t.true(granted > 20 && granted <= 48, `${granted}`)
  t.true(all[0]!.counters.unplaced >= 452)
  for (let ino = 1000; ino < 1100; ino++) {
    const change = changeOf(ino)
    t.is(all[1]!.begin(change, false, false), 0)
    // What has no slot gets none meanwhile, nor with what was seen meanwhile.
    const looked = all[0]!.look()
    clock.ms += LEASE_MS
    t.false(lease(all[0]!, ino))
    all[1]!.end(change)
    t.is(all[0]!.grant(keyOf(ino), looked, false), 0)
    clock.ms -= LEASE_MS
  }
  const both = changeOf(2000, 2001, 2002, 2003)
  t.is(all[1]!.begin(both, false, false), 0)
  all[1]!.end(both)
})

test('who finds a slot while it is being given to an inode gets no lease on what he saw before', t => {
  const { all, clock, table } = scene()
  const bucketOf = (ino: number): number => {
    table.seek(keyOf(ino))
    return table.bucket
  }
  const same = Array.from({ length: 1000 }, (_, i) => i + 2).filter(
    ino => bucketOf(ino) === bucketOf(1),
  )
  for (const ino of same.slice(0, BUCKET_SLOTS)) t.true(lease(all[0]!, ino))
  const looked = all[1]!.look()
  // It has no slot, and gets none for this.
  t.is(apply(all[2]!, clock, changeOf(1)), 0)
  clock.ms += MOST_WAIT_MS
  let granted = -1
  const real = Atomics.compareExchange
  t.teardown(() => {
    Atomics.compareExchange = real
  })
  Atomics.compareExchange = <T>(...args: T[]): never => {
    const before = real(...(args as unknown as Parameters<typeof real>))
    table.seek(keyOf(1))
    if (granted < 0 && table.find() >= 0) {
      granted = 0
      granted = all[1]!.grant(keyOf(1), looked, false)
      table.seek(keyOf(1))
    }
    return before as never
  }
  all[0]!.track(keyOf(1))
  t.is(granted, 0)
})

test('a long change of what has no slot keeps others from getting one', t => {
  const { all, clock } = scene(2)
  for (let ino = 0; ino < 500; ino++) lease(all[0]!, ino)
  let ino = 1000
  while (all[0]!.track(keyOf(ino)) !== 0) ino++
  const change = changeOf(ino)
  t.is(all[1]!.begin(change, false, false), 0)
  t.true(all[1]!.busy)
  for (let ms = 0; ms < 3 * MOST_AHEAD * TICK_MS; ms += 500) {
    clock.ms += 500
    if (all[1]!.renewMs === 0) all[1]!.renew()
    t.false(lease(all[0]!, ino), `after ${ms} ms`)
  }
  all[1]!.end(change)
  t.false(all[1]!.busy)
  t.true(lease(all[0]!, ino))
})

for (const how of ['by this change', 'by another, until it is renewed'] as const)
  test(`a daemon held up for longer than an announcement lasts, ${how}, answers when the leases of others have ended`, t => {
    const { all, clock } = scene()
    const [one, other] = [all[0]!, all[1]!]
    // Announced at the same time, and ended with no lease of anybody's, at once.
    const quiet = changeOf(2)
    t.is(one.begin(quiet, false, false), 0)
    const change = changeOf(1)
    t.is(one.begin(change, false, false), 0)
    t.false(lease(other, 1))
    clock.ms += CHANGE_MS + QUIET_MS + 3 * TICK_MS
    const until = clock.ms + LEASE_MS + MARGIN_MS
    t.true(lease(other, 1))
    if (how !== 'by this change') {
      one.renew()
      t.false(lease(other, 1), 'announced again')
    }
    const before = clock.ms
    one.end(quiet)
    t.is(clock.ms, before)
    one.end(change)
    t.true(clock.ms >= until && clock.ms <= before + MOST_WAIT_MS)
    t.is(one.counters.lapsed, 1)
    // What begins now was announced in time.
    t.is(apply(one, clock, changeOf(1, 2)), 0)
    t.is(one.counters.lapsed, 1)
  })

test('a change that is renewed in time does not wait when it ends', t => {
  const { all, clock } = scene()
  const change = changeOf(1)
  // Long after the last one.
  clock.ms += 10 * CHANGE_MS
  t.is(all[0]!.begin(change, false, false), 0)
  for (let i = 0; i < 4; i++) {
    clock.ms += CHANGE_MS - 2 * TICK_MS
    all[0]!.renew()
    t.false(lease(all[1]!, 1))
  }
  const before = clock.ms
  all[0]!.end(change)
  t.is(clock.ms, before)
  t.is(all[0]!.counters.lapsed, 0)
})

test('a hostile table makes a change wait for a bounded time, and force ends that', t => {
  const { all, clock, table } = scene(2)
  const change = changeOf(1)
  for (let i = 0; i < 5; i++) {
    table.seek(keyOf(1))
    const slot = table.insert(tickOf(clock.ms))
    const now = tickOf(clock.ms)
    table.swap(slot, Slot.lease, table.word(slot, Slot.lease), pack(9, now + MOST_AHEAD))
    const wait = all[0]!.begin(change, i > 0, false)
    t.true(wait > 0 && wait <= MOST_AHEAD * TICK_MS)
    clock.ms += wait
  }
  table.seek(keyOf(1))
  const slot = table.find()
  table.swap(slot, Slot.lease, table.word(slot, Slot.lease), pack(9, tickOf(clock.ms) + 100))
  t.is(all[0]!.begin(change, true, true), 0)
  t.is(all[0]!.counters.forced, 1)
  all[0]!.end(change)
})

test('with a damaged table nothing is cached, nothing waits, and it is said once', t => {
  const { all, words } = scene(1)
  t.true(lease(all[0]!, 1))
  words.fill(0)
  t.false(lease(all[0]!, 1))
  const change = changeOf(1)
  t.is(all[0]!.begin(change, false, false), 0)
  all[0]!.end(change)
  t.true(all[0]!.damaged)
})

/** After so long a tick comes again. */
const ROUND_MS = 2 ** 20 * TICK_MS

test('when ticks begin anew, words that were never written are no leases, changes or guards', t => {
  const { all, clock } = scene()
  clock.ms = ROUND_MS - MOST_BELIEVED * TICK_MS
  for (let ino = 1; clock.ms < ROUND_MS + 1000; ino++, clock.ms += 200) {
    t.is(apply(all[0]!, clock, changeOf(ino)), 0)
    t.true(lease(all[0]!, ino))
    t.true(lease(all[0]!, 100 + ino))
  }
})

test('what ended long ago does not begin again when ticks come round', t => {
  const { all, clock } = scene()
  for (const late of [0, 3000, 6000]) {
    const ino = 1 + late
    t.true(lease(all[0]!, ino))
    apply(all[1]!, clock, changeOf(20 + ino))
    const until = clock.ms + ROUND_MS - late
    for (; clock.ms + SWEEP_MS < until; clock.ms += SWEEP_MS) all[2]!.sweep()
    clock.ms = until
    t.is(apply(all[1]!, clock, changeOf(ino)), 0)
    t.true(lease(all[0]!, 20 + ino))
  }
})

test('what is held now is not swept away', t => {
  const { all, clock } = scene()
  t.true(lease(all[0]!, 1))
  t.is(all[1]!.begin(changeOf(2), false, false), 0)
  for (let i = 0; i < SWEEPS; i++) all[2]!.sweep()
  t.true(apply(all[1]!, clock, changeOf(1)) >= LEASE_MS + MARGIN_MS)
  t.false(lease(all[0]!, 2))
})

type Task =
  | { kind: 'look'; ino: number; looked: number; value: number }
  | {
      kind: 'change'
      inos: number[]
      change: Change
      state: 'new' | 'waits' | 'goes' | 'made'
      at: number
    }

/**
 * Guests that look and change in steps, any of which may come between any others. After every step each
 * guest's cache must hold what is there now, unless it changed that itself; when a change is made nobody else
 * may cache what it is about. Throws otherwise. Returns leases granted and changes made.
 */
function history(seed: number, steps: number, inodes: number, count = 3): [number, number] {
  const random = randomOf(seed)
  const { all, clock } = scene(count)
  const truth = new Int32Array(inodes)
  const caches = all.map(() => new Map<number, { value: number; until: number }>())
  const tasks: Task[][] = all.map(() => [])
  let made = 0

  /** One step of a look: first the file, then the lease. True when it is done. */
  function look(guest: number, task: Task & { kind: 'look' }): boolean {
    if (task.value < 0) {
      task.value = truth[task.ino]!
      return false
    }
    const ms = all[guest]!.grant(keyOf(task.ino), task.looked, false)
    if (ms > 0) remember(guest, task.ino, task.value, ms)
    return true
  }

  function change(guest: number, task: Task & { kind: 'change' }): boolean {
    const mine = all[guest]!
    if (task.state === 'made') {
      // The reply carries what is there now.
      for (const ino of task.inos) {
        const ms = mine.grant(keyOf(ino), mine.look(), true)
        if (ms > 0) remember(guest, ino, truth[ino]!, ms)
      }
      mine.end(task.change)
      return true
    }
    if (task.state === 'goes') {
      task.state = 'made'
      made++
      for (const ino of task.inos) make(guest, ino)
      return false
    }
    if (clock.ms < task.at) return false
    const wait = mine.begin(task.change, task.state === 'waits', false)
    if (wait > MOST_LONG_WAIT_MS) throw new Error(`a change shall wait ${wait} ms`)
    task.at = clock.ms + wait
    task.state = wait > 0 ? 'waits' : 'goes'
    return false
  }

  function make(guest: number, ino: number): void {
    truth[ino]!++
    for (const [other, cache] of caches.entries()) {
      const cached = cache.get(ino)
      if (cached === undefined) continue
      if (other === guest) cached.value = truth[ino]!
      else if (cached.until > clock.ms) throw new Error(`guest ${other} still caches ${ino}`)
    }
  }

  function remember(guest: number, ino: number, value: number, ms: number): void {
    caches[guest]!.set(ino, { value, until: clock.ms + ms })
  }

  for (let i = 0; i < steps; i++) {
    clock.ms += [0, 0, 0, 0, 1, 2, 4, 9, 40, 150][random(10)]!
    if (random(200) === 0) clock.ms += 2000
    for (const one of all) one.renew()
    const guest = random(count)
    const own = tasks[guest]!
    const ino = random(inodes)
    if (own.length < 4 && random(3) > 0) {
      if (random(5) > 0) own.push({ kind: 'look', ino, looked: all[guest]!.look(), value: -1 })
      else {
        const inos = [...new Set([ino, random(inodes)])]
        own.push({ kind: 'change', inos, change: changeOf(...inos), state: 'new', at: 0 })
      }
    } else if (own.length > 0) {
      const index = random(own.length)
      const task = own[index]!
      if (task.kind === 'look' ? look(guest, task) : change(guest, task)) own.splice(index, 1)
    }
    for (const [other, cache] of caches.entries())
      for (const [at, { value, until }] of cache)
        if (until <= clock.ms) cache.delete(at)
        else if (value !== truth[at])
          throw new Error(`guest ${other} caches ${value} of ${at}, which is ${truth[at]}`)
  }
  return [all.reduce((sum, guest) => sum + guest.counters.granted, 0), made]
}

for (const inodes of [3, 12, 90])
  test(`no guest ever caches what another has changed: random steps on ${inodes} inodes`, t => {
    const first = Math.floor(Math.random() * 2 ** 31)
    t.log(`seeds from ${first}`)
    let leases = 0
    let changes = 0
    for (let seed = first; seed < first + 100; seed++) {
      try {
        const [granted, made] = history(seed, 3000, inodes)
        leases += granted
        changes += made
      } catch (cause) {
        throw new Error(`seed ${seed}: ${String(cause)}`, { cause })
      }
    }
    t.log(`${leases} leases, ${changes} changes`)
    t.true(leases > 500 && changes > 2000)
  })
