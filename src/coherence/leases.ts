/**
 * Leases: what guests may answer from their caches, and what changes wait for. Pure logic over the shared
 * table; the clock is handed in.
 *
 * A reply that carries attributes or a name is a promise: for its timeouts the guest may act as if nothing
 * changed. `grant` writes the promise into the inode's slot; a change by another guest first announces
 * itself, which ends the granting, waits until the promises have ended (`begin`), and counts when it is
 * done (`end`). One lease of an inode covers its attributes, its data and, of a directory, every name in
 * it, there or not.
 *
 * Why nothing slips between: who takes a lease writes it and then looks for changes; who changes announces
 * that and then looks for leases. All of these are sequentially consistent, so at least one of the two sees
 * the other. Changes that came and went between the look at the file and the lease show by the version.
 *
 * An inode that somebody else has changed gets no lease until it was left alone for a while (QUIET_MS, and
 * double that for each time a change still met a lease): what is shared all the time is asked for each
 * time, and costs its writers nothing. That goes for who changed it last, too, while others do so in turn. One that
 * was left alone for long gets long leases: to the guest that works on it alone they cost nothing, and are worth as
 * much as --cache=auto.
 *
 * Processes of the host do not wait: what they change may be seen late by as long as a guest may cache.
 * They are known by change times that no change of a guest explains.
 */
import {
  dataCountOf,
  MANY,
  MOST_AHEAD,
  NONE,
  ownerOf,
  pack,
  Slot,
  TICK_MS,
  tickOf,
  ticksFor,
  ticksLeft,
  ticksSince,
} from '../../protocol/version-table/layout.js'
import type { InodeKey } from '../vfs/identities.js'
import type { Change } from './change.js'
import { Contention, QUIET_MS } from './contention.js'
import { longLeaseMs } from './options.js'
import { SlotCounts } from './slot-counts.js'
import { FULL, type VersionTable } from './version-table.js'

/** A change that is announced and not renewed ends by itself: its daemon is gone. */
export const CHANGE_MS = 4000
/** Meanwhile it is renewed so often. */
const RENEW_MS = 500
/** Who takes longer to announce a change may not trust what he saw by the clock then. */
const STALL_MS = 200
/** No inode changed last so far in the future. */
export const AGE_UNKNOWN = -0x4000_0000
/** `begin` says to look again when the table has no slot to spare right now. */
const AGAIN_MS = TICK_MS

/** `several`: or one and this guest. Nobody says when they are done: it ends by time. */
export type Others = 'none' | 'one' | 'several'

export interface LeaseOptions {
  /** The number of this guest in the table. */
  readonly guest: number
  /** How long a guest may cache what others change now and then; 0: nothing, and it is never late. */
  readonly leaseMs: number
  /** What a lease lasts longer than that: see `Coherence` in the README for what must fit. */
  readonly marginMs: number
  /** Milliseconds of the host's CLOCK_MONOTONIC, the same for all daemons. */
  readonly nowMs: () => number
  /** Returns after so many of them; but for tests it stops the thread. */
  readonly pause?: (ms: number) => void
  /** QUIET_MS, but for tests. */
  readonly quietMs?: number
  /** Called once, when the table turns out to be damaged: from then on there are no leases and no waits. */
  readonly onDamage: () => void
}

export interface LeaseCounters {
  granted: number
  /** No lease: a change is under way, or others have changed it lately. */
  refused: number
  /** No lease: no slot. */
  unplaced: number
  changes: number
  /** Changes that had to wait for another guest's lease. */
  conflicts: number
  /** Changes that went ahead though leases were there: the table is hostile, or very full. */
  forced: number
  /** Changes that took so long, without being announced again, that others got leases meanwhile. */
  lapsed: number
  /** Changes by processes of the host that were noticed. */
  hostChanges: number
}

function stopThread(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}

export class Leases {
  readonly counters: LeaseCounters = {
    granted: 0,
    refused: 0,
    unplaced: 0,
    changes: 0,
    conflicts: 0,
    forced: 0,
    lapsed: 0,
    hostChanges: 0,
  }
  readonly leaseMs: number
  /** So long after it was sent a guest has looked at a reply. */
  readonly marginMs: number
  /** What nobody else has changed for a while may be cached for so long. */
  readonly longLeaseMs: number
  readonly #table: VersionTable
  readonly #guest: number
  /** What `grant` writes, for a lease and a long one. */
  readonly #ticks: number
  readonly #longTicks: number
  readonly #nowMs: () => number
  readonly #pause: (ms: number) => void
  readonly #contention: Contention
  readonly #onDamage: () => void
  /** Own changes under way, by slot. */
  readonly #active = new SlotCounts()
  /** Own changes under way of inodes that have no slot. */
  readonly #guarding = new Set<Change>()
  /** All changes under way have been announced since then. */
  #renewedAt = 0
  /** How often that was too long ago. */
  #lapses = 0
  #pinned = false
  #pinnedAt = 0
  #damaged = false

  constructor(table: VersionTable, options: LeaseOptions) {
    this.#table = table
    this.#guest = options.guest
    this.leaseMs = options.leaseMs
    this.longLeaseMs = longLeaseMs(options.leaseMs)
    const { leaseMs, marginMs } = options
    this.marginMs = marginMs
    this.#ticks = Math.min(ticksFor(leaseMs + marginMs), MOST_AHEAD)
    this.#longTicks = Math.min(ticksFor(this.longLeaseMs + marginMs), MOST_AHEAD)
    this.#nowMs = options.nowMs
    this.#pause = options.pause ?? stopThread
    this.#contention = new Contention(table, options.quietMs ?? QUIET_MS)
    this.#onDamage = options.onDamage
  }

  /**
   * The table was overwritten or cut short: guests cache nothing any more, and others may see changes late. As of the
   * last `look`, `pin` or `begin`.
   */
  get damaged(): boolean {
    return this.#damaged
  }

  #examine(): void {
    if (this.#damaged || this.#table.intact) return
    this.#damaged = true
    this.#onDamage()
  }

  get #now(): number {
    return tickOf(this.#nowMs())
  }

  /** Before a file is looked at whose attributes shall get a lease: what `grant` is given. */
  look(): number {
    if (this.#pinned) return this.#pinnedAt
    this.#examine()
    return this.#table.clock
  }

  /**
   * From here on `look` answers as of the last call of this. For a back end that answers from attributes it has
   * kept: they are as good as at the moment when it last read who has changed what, and that must come after.
   */
  pin(): void {
    this.#examine()
    this.#pinnedAt = this.#table.clock
    this.#pinned = true
  }

  /** Milliseconds of the clock that leases go by. */
  get clockMs(): number {
    return this.#nowMs()
  }

  /**
   * Gives this guest a lease on what it saw of `key` after `looked`. `own`: the answer belongs to this
   * guest's own change of that inode, which is under way. `ageMs`: how long ago it changed last, as its
   * ctime says; AGE_UNKNOWN (default): not known. `now`: the tick of `clockMs`, read when the inode was looked at,
   * or so shortly before that the margin covers it. Returns for how many milliseconds the guest may cache that; 0: not at all.
   */
  grant(
    key: InodeKey,
    looked: number,
    own: boolean,
    ageMs: number = AGE_UNKNOWN,
    now = this.#now,
  ): number {
    if (this.leaseMs === 0 || this.damaged) return 0
    const table = this.#table
    table.seek(key)
    const found = table.findLoosely()
    const slot = found >= 0 ? found : table.insert(now)
    if (slot < 0) {
      this.counters.unplaced++
      return 0
    }
    // Once each, and loosely: what is told here decides whether a lease is a good idea, not whether it holds.
    const contention = this.#contention
    let conflict = table.wordLoosely(slot, Slot.conflict)
    let change = table.wordLoosely(slot, Slot.change)
    if (contention.isNews(conflict, change, ageMs, now)) {
      if (contention.changedByHost(slot, change, ageMs, now)) this.counters.hostChanges++
      conflict = table.word(slot, Slot.conflict)
      change = table.word(slot, Slot.change)
    }
    if (!this.#mayCache(slot, conflict, change, now, own)) {
      this.counters.refused++
      return 0
    }
    const long = contention.settled(conflict, change, this.#guest, ageMs, now)
    this.#publish(slot, now, long ? this.#longTicks : this.#ticks)
    // From here on a change that begins waits for us. What began before shows now.
    const ok =
      table.belongs(slot) &&
      !this.#isChanging(slot, table.word(slot, Slot.change), now, own) &&
      this.#unchanged(slot, looked, own)
    if (!ok) {
      this.counters.refused++
      return 0
    }
    this.counters.granted++
    return long ? this.longLeaseMs : this.leaseMs
  }

  #isChanging(slot: number, change: number, now: number, own: boolean): boolean {
    if (ticksLeft(change, now) === 0) return false
    return !own || ownerOf(change) !== this.#guest || this.#active.of(slot) !== 1
  }

  #mayCache(slot: number, conflict: number, change: number, now: number, own: boolean): boolean {
    if (this.#isChanging(slot, change, now, own)) return false
    const owner = ownerOf(change)
    if (owner === NONE) return true
    if (owner === this.#guest) return !this.#contention.byTurns(slot, conflict, now)
    return ticksSince(change, now) >= ticksFor(this.#contention.quietMs(conflict, now))
  }

  /**
   * A guest has changed `key` this moment, or is about to: no change time tells `grant` more than that. `now`: the tick
   * of `clockMs`.
   */
  justChanged(key: InodeKey, now: number): boolean {
    const table = this.#table
    table.seek(key)
    const slot = table.find()
    return slot >= 0 && this.#contention.explains(table.word(slot, Slot.change), now)
  }

  /** This guest has made the inode `key` just now, at tick `now`. */
  made(key: InodeKey, now = this.#now): void {
    if (this.leaseMs === 0 || this.damaged) return
    const table = this.#table
    table.seek(key)
    const slot = table.insert(now)
    if (slot < 0) return
    const word = table.word(slot, Slot.change)
    if (ticksLeft(word, now) === 0) table.swap(slot, Slot.change, word, pack(this.#guest, now))
  }

  /** Makes the slot say that this guest has a lease from now on, for `leaseTicks`. */
  #publish(slot: number, now: number, leaseTicks: number): void {
    const table = this.#table
    for (;;) {
      const old = table.wordLoosely(slot, Slot.lease)
      const left = ticksLeft(old, now)
      const owner = left === 0 || ownerOf(old) === this.#guest ? this.#guest : MANY
      const ticks = Math.max(left, leaseTicks)
      if (table.swap(slot, Slot.lease, old, pack(owner, now + ticks))) return
    }
  }

  #unchanged(slot: number, looked: number, own: boolean): boolean {
    const table = this.#table
    const version = table.word(slot, Slot.version)
    // Nobody but us has changed it: `#isChanging` has seen to that, as long as the announcement holds.
    if (own && this.#active.of(slot) === 1) {
      const change = table.word(slot, Slot.change)
      if (ownerOf(change) === this.#guest && ticksLeft(change, this.#now) > 0) return true
    }
    if (((version - looked) | 0) <= 0) return true
    // A version that the clock has not reached is 2^31 changes old.
    const { clock } = table
    if (((version - clock) | 0) > 0) table.swap(slot, Slot.version, version, clock)
    return false
  }

  /** After `versionOf` or `track`: of that inode, a number that changes with its data, 0 to 511. */
  dataCount = 0
  /** After the same: who else is changing that inode. */
  others: Others = 'none'

  /** The version of `key`, at tick `now`; 0 when it is not known. */
  versionOf(key: InodeKey, now = this.#now): number {
    this.#table.seek(key)
    return this.#versionAt(this.#table.find(), now)
  }

  /**
   * As `versionOf`, but makes sure that the inode has a slot from now on: without one a later change
   * would not show.
   */
  track(key: InodeKey, now = this.#now): number {
    this.#table.seek(key)
    return this.#versionAt(this.#table.insert(now), now)
  }

  #versionAt(slot: number, now: number): number {
    this.others = 'none'
    if (slot < 0) return 0
    const change = this.#table.word(slot, Slot.change)
    if (ticksLeft(change, now) > 0 && ownerOf(change) !== this.#guest)
      this.others = ownerOf(change) === MANY ? 'several' : 'one'
    // A change makes a new version first, then counts: read in this order the count is never newer than that.
    this.dataCount = dataCountOf(this.#table.word(slot, Slot.conflict))
    return this.#table.word(slot, Slot.version)
  }

  // --- changes ------------------------------------------------------------------------------------------

  /**
   * Announces `change`. 0: it may be made now, and `end` must follow. Else milliseconds after which to ask
   * again, with nothing to be undone; meanwhile nobody gets new leases. `again`: this is not the first time.
   * `force`: it has waited long enough, whatever the table says.
   */
  begin(change: Change, again: boolean, force: boolean): number {
    this.#examine()
    if (this.damaged) {
      change.count = 0
      return 0
    }
    const ms = this.#nowMs()
    const now = tickOf(ms)
    let ticks = 0
    for (let i = 0; i < change.count; i++) {
      const left = this.#announce(change, i, now)
      if (left > ticks) ticks = left
    }
    if (ticks === 0 && change.movesFrom >= 0) ticks = this.#move(change, now)
    // Whoever was stopped meanwhile has announced nothing, and may take a lease for one that is over.
    if (ticks === 0 && ticksSince(now, this.#now) > ticksFor(STALL_MS)) ticks = ticksFor(AGAIN_MS)
    if (ticks > 0 && !force) {
      this.#unguard(change)
      if (!again) this.#conflict(change, now)
      // Before what is announced here has ended by itself.
      return Math.min(ticks * TICK_MS, CHANGE_MS / 2)
    }
    if (ticks > 0) this.counters.forced++
    this.counters.changes++
    if (!this.busy) this.#renewedAt = ms
    change.lapses = this.#lapses
    for (let i = 0; i < change.count; i++) {
      const slot = change.slots[i]!
      if (slot >= 0) this.#active.add(slot)
      else if (change.guards[i] !== 0) this.#guarding.add(change)
    }
    return 0
  }

  /** Announces the change of one inode; ticks until the leases of others have ended. */
  #announce(change: Change, index: number, now: number): number {
    const table = this.#table
    table.seek(change.keys[index]!)
    for (;;) {
      const slot = table.insert(now)
      change.slots[index] = slot
      if (slot < 0) {
        change.before[index] = 0
        change.after[index] = 0
        change.counts[index] = 0
        change.buckets[index] = table.bucket
        change.guards[index] = 0
        if (this.#guarded(change, index)) return 0
        change.guards[index] = slot === FULL ? table.guard(now) : 0
        if (change.guards[index] === 0) return ticksFor(AGAIN_MS)
        // Without a slot nobody has a lease, and now nobody gets one.
        if (table.find() < 0) return 0
        table.unguard(table.bucket, change.guards[index]!)
        continue
      }
      const old = table.word(slot, Slot.change)
      const others = ticksLeft(old, now) > 0 && ownerOf(old) !== this.#guest
      const end = now + ticksFor(CHANGE_MS)
      if (!table.swap(slot, Slot.change, old, pack(others ? MANY : this.#guest, end))) continue
      if (!table.belongs(slot)) continue
      // As in `#versionAt`, the count first.
      change.counts[index] = dataCountOf(table.word(slot, Slot.conflict))
      change.after[index] = table.bump(slot)
      change.before[index] = table.replaced
      // The first of two; the other is in `end`.
      if (change.data) this.#contention.countData(slot)
      this.#contention.remember(slot, now)
      if (ownerOf(old) !== this.#guest) this.#contention.takesOver(slot, now)
      return this.#leasedToOthers(slot, now)
    }
  }

  /**
   * The guest goes on caching a name that it takes to another directory for as long as it did in the old one: Linux
   * moves the dentry with its timeout (fs/dcache.c, __d_move). So what lease it has on that becomes one on the
   * new one. 0; or ticks until the guest caches the name no more, as somebody else is changing that directory
   * and does not wait.
   */
  #move(change: Change, now: number): number {
    const from = change.slots[change.movesFrom]!
    const to = change.slots[change.movesTo]!
    const ticks = this.#carry(from, to, now)
    return change.exchanges ? Math.max(ticks, this.#carry(to, from, now)) : ticks
  }

  #carry(from: number, to: number, now: number): number {
    if (from < 0) return 0
    const table = this.#table
    const lease = table.word(from, Slot.lease)
    const left = ticksLeft(lease, now)
    if (left === 0 || from === to) return 0
    if (to >= 0) {
      this.#publish(to, now, left)
      // As with `grant`: who announces himself from here on waits.
      if (ownerOf(table.word(to, Slot.change)) === this.#guest) return 0
    }
    // Nor may it cache names of the old one again at once, as after any other change of its own.
    const word = table.word(from, Slot.change)
    table.swap(from, Slot.change, word, pack(MANY, now + ticksFor(CHANGE_MS)))
    return left
  }

  /** An inode of the same change, before this one, has the guard of its bucket. */
  #guarded(change: Change, index: number): boolean {
    for (let i = 0; i < index; i++)
      if (
        change.slots[i]! < 0 &&
        change.guards[i] !== 0 &&
        change.buckets[i] === change.buckets[index]
      )
        return true
    return false
  }

  #unguard(change: Change): void {
    if (this.#guarding.size > 0) this.#guarding.delete(change)
    for (let i = 0; i < change.count; i++)
      if (change.slots[i]! < 0 && change.guards[i] !== 0) {
        this.#table.unguard(change.buckets[i]!, change.guards[i]!)
        change.guards[i] = 0
      }
  }

  /** A change has to wait: what it is about is shared by guests that want to cache it. */
  #conflict(change: Change, now: number): void {
    this.counters.conflicts++
    for (let i = 0; i < change.count; i++) {
      const slot = change.slots[i]!
      if (this.#leasedToOthers(slot, now) > 0) this.#contention.raise(slot, now)
    }
  }

  /** The change is made, or failed: whoever looks now sees what it left. The answer follows this. */
  end(change: Change): void {
    const table = this.#table
    const ms = this.#nowMs()
    const now = tickOf(ms)
    // This thread was held up, by this change or another: a frozen file system, a stopped process.
    if (ms - this.#renewedAt >= CHANGE_MS) this.renew()
    const lapsed = change.lapses !== this.#lapses
    let ticks = 0
    for (let i = 0; i < change.count; i++) {
      const slot = change.slots[i]!
      table.seek(change.keys[i]!)
      if (slot < 0) {
        // Nobody may take what he saw before for what is there now.
        table.advance()
        if (lapsed) ticks = Math.max(ticks, this.#leasedToOthers(table.find(), now))
        continue
      }
      if (table.belongs(slot)) {
        const version = table.bump(slot)
        change.after[i] = table.replaced === change.after[i] ? version : 0
        if (change.data) this.#contention.countData(slot)
      } else {
        table.advance()
        change.after[i] = 0
      }
      if (lapsed) ticks = Math.max(ticks, this.#leasedToOthers(table.find(), now))
      if (this.#active.remove(slot) > 0) continue
      // With several writers nobody knows who is the last: it ends by time.
      const word = table.word(slot, Slot.change)
      if (ownerOf(word) === this.#guest && ticksLeft(word, now) > 0)
        table.swap(slot, Slot.change, word, pack(this.#guest, now))
    }
    this.#unguard(change)
    if (ticks === 0) return
    // Who got a lease meanwhile may use what was there before.
    this.counters.lapsed++
    this.#pause(Math.min(ticks, MOST_AHEAD) * TICK_MS)
  }

  #leasedToOthers(slot: number, now: number): number {
    if (slot < 0) return 0
    const lease = this.#table.word(slot, Slot.lease)
    return ownerOf(lease) === this.#guest ? 0 : ticksLeft(lease, now)
  }

  /** Wants to be called every SWEEP_MS: see VersionTable. */
  sweep(): void {
    this.#examine()
    if (!this.damaged) this.#table.sweep(this.#now)
  }

  /** Milliseconds until `renew` wants to be called, while `busy`. */
  get renewMs(): number {
    return Math.max(0, Math.ceil(this.#renewedAt + RENEW_MS - this.#nowMs()))
  }

  /** Changes that take long are announced again. */
  renew(): void {
    const ms = this.#nowMs()
    if (ms - this.#renewedAt < RENEW_MS) return
    if (ms - this.#renewedAt >= CHANGE_MS) this.#lapses++
    this.#renewedAt = ms
    const now = tickOf(ms)
    for (const slot of this.#active.slots()) {
      const word = this.#table.word(slot, Slot.change)
      const owner = ownerOf(word) === this.#guest ? this.#guest : MANY
      this.#table.swap(slot, Slot.change, word, pack(owner, now + ticksFor(CHANGE_MS)))
    }
    for (const { buckets, guards, slots, count } of this.#guarding)
      for (let i = 0; i < count; i++)
        if (slots[i]! < 0 && guards[i] !== 0)
          guards[i] = this.#table.keepGuard(buckets[i]!, guards[i]!, now)
  }

  /** Changes are under way. */
  get busy(): boolean {
    return this.#active.total > 0 || this.#guarding.size > 0
  }
}
