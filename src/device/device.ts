/**
 * The device: serves the rings of one front-end connection. One thread, one loop: look at every ring,
 * take what the pool has finished, spin a little, sleep in `wait`. It never turns the event loop.
 */
import { VIRTIO_FS_HIPRIO_QUEUE } from '../../protocol/virtio/fs.js'
import type { FuseServer } from '../fuse/server.js'
import { AGAIN, SUSPENDED, VIOLATION as FUSE_VIOLATION } from '../fuse/server.js'
import { MAX_RINGS, native } from '../native/addon.js'
import type { Context } from '../native/context.js'
import type { RingSetup, StateDirection, VhostDevice } from '../vhost/device.js'
import { OWN_JOBS, type Waits } from '../vfs/filesystem.js'
import type { Log } from '../vhost/log.js'
import { type Chain, describeViolation } from '../virtio/chain.js'
import { EMPTY, Virtqueue, VIOLATION } from '../virtio/virtqueue.js'
import { type DeferredRequest, DeferredRequests } from './deferred.js'
import { LINGER_MS, Patience } from './patience.js'
import { AdaptivePolling } from './polling.js'
import { StateTransfer, type TransferLimits } from './state-transfer.js'

/** Tokens of the event set. */
export const Token = {
  socket: 0,
  listener: 1,
  transfer: 2,
  dax: 4,
  status: 8,
  firstRing: 16,
} as const

/** Requests of one ring served before its driver is signalled and the next ring has its turn. */
const BATCH = 16
/**
 * So many answers wake the guest, where there are twice as many to come. With one it is done with it before the next
 * ones are there, and sleeps again; with eight it is waited for.
 */
const WAKING = 4
/** Finished jobs answered before drivers are signalled and the rings looked at. */
const REAPED_BATCH = 8
/** Turns with ring work after which the socket is looked at all the same; a power of two. */
const BUSY_TURNS = 32
/** How often a ring without kick descriptor is looked at. */
const POLLED_RING_MS = 1
/** The same violation is logged once in this time. */
const LOG_AGAIN_MS = 10_000

export interface DeviceOptions {
  /** Longest spin before sleeping, microseconds; 0: never. */
  readonly pollUs: number
  readonly log: Log
  /** The places of its rings (see RING_PLACES); default: those of a front end. */
  readonly rings?: { readonly first: number; readonly count: number } | undefined
  /** For tests; see StateTransfer. */
  readonly transferLimits?: TransferLimits
}

/** Counters of the loop, for tests, benches and metrics. */
export interface LoopCounters {
  batches: number
  requests: number
  signals: number
  /** Looks at the rings for a while before a sleep, and those that found something. */
  spins: number
  spinsThatPaid: number
  sleeps: number
  violations: number
}

export class Device implements VhostDevice {
  readonly queues: readonly Virtqueue[]
  readonly counters: LoopCounters = {
    batches: 0,
    requests: 0,
    signals: 0,
    spins: 0,
    spinsThatPaid: 0,
    sleeps: 0,
    violations: 0,
  }
  readonly #context: Context
  readonly #server: FuseServer
  readonly #chain: Chain
  readonly #log: Log
  readonly #polling: AdaptivePolling
  readonly #patience = new Patience()
  readonly #transfer: StateTransfer
  readonly #waits: Waits | undefined
  readonly #deferred = new DeferredRequests()
  readonly #callFds: Int32Array
  /** SignalKind of each call descriptor. */
  readonly #callKinds: Int32Array
  readonly #kickFds: Int32Array
  readonly #loggedAt = new Map<string, number>()
  /** Queues that are up, hiprio last: nobody waits for it. */
  #serving: Virtqueue[] = []
  #polledRings = 0
  #logFd = -1
  #logKind = 0
  #busyTurns = 0
  /** Suspended requests were answered, and their drivers not told. */
  #unsignalled = false
  /** The guest was given an answer since the last spin. */
  #answered = false

  constructor(context: Context, chain: Chain, server: FuseServer, options: DeviceOptions) {
    this.#context = context
    this.#chain = chain
    this.#server = server
    this.#waits = server.fs.waits
    this.#log = options.log
    this.#polling = new AdaptivePolling(options.pollUs)
    this.#transfer = new StateTransfer(
      context,
      server,
      Token.transfer,
      options.log,
      options.transferLimits,
    )
    const { first, count } = options.rings ?? { first: 0, count: MAX_RINGS }
    this.queues = Array.from(
      { length: count },
      (_, index) => new Virtqueue(context, chain, index, first + index),
    )
    this.#callFds = new Int32Array(count).fill(-1)
    this.#callKinds = new Int32Array(count)
    this.#kickFds = new Int32Array(count).fill(-1)
  }

  // --- what the session asks ----------------------------------------------------------------------

  ringUp(index: number, setup: RingSetup): number {
    this.#transfer.abort('a ring was started before it was done')
    const queue = this.queues[index]!
    const fault = queue.start(setup)
    if (fault < 0) return fault
    this.ringCall(index, setup.callFd)
    if (setup.kickFd < 0) {
      this.#polledRings++
    } else {
      const watched = this.#context.raw.watchFd(setup.kickFd, Token.firstRing + index, true)
      if (watched < 0) {
        queue.stop()
        return watched
      }
      this.#kickFds[index] = setup.kickFd
    }
    this.#listQueues()
    return 0
  }

  ringCall(index: number, callFd: number): void {
    this.#callFds[index] = callFd
    if (callFd >= 0) this.#callKinds[index] = native.signalKind(callFd)
  }

  ringLog(index: number, logAt: number): void {
    this.queues[index]!.logAt = logAt
  }

  logCall(fd: number): void {
    this.#logFd = fd
    if (fd >= 0) this.#logKind = native.signalKind(fd)
  }

  ringDown(index: number): number {
    const queue = this.queues[index]!
    this.#server.giveUpWaits(index)
    while (this.#server.inFlight(index) > 0 || this.#deferred.has(index)) {
      this.#context.wait(this.#timedMs(this.#context.nowUs() / 1000), 0)
      this.#reap()
      this.#serveDeferred()
    }
    if (index === VIRTIO_FS_HIPRIO_QUEUE) this.#patience.end()
    this.#signal(index)
    const base = queue.stop()
    this.#listQueues()
    if (this.#kickFds[index]! >= 0) this.#context.raw.unwatchFd(this.#kickFds[index]!)
    else this.#polledRings--
    this.#kickFds[index] = -1
    this.#callFds[index] = -1
    return base
  }

  #listQueues(): void {
    const [hiprio, ...others] = this.queues
    this.#serving = [...others, hiprio!].filter(queue => queue.up)
  }

  get migratable(): boolean {
    return this.#server.fs.migration !== undefined
  }

  transferState(direction: StateDirection, fd: number): string {
    return this.#transfer.start(direction, fd)
  }

  checkState(): string {
    return this.#transfer.check()
  }

  guestGone(): void {
    this.#transfer.abort('the guest is gone')
    this.#server.session.window?.drop()
    this.#server.fs.destroy()
    this.#server.session.reset()
  }

  /** A suspended request was answered. */
  completed(queue: number, head: number, written: number): void {
    this.queues[queue]!.push(head, written)
    this.#unsignalled = true
    this.#answered = true
  }

  /** See ServerOptions: half of what the ring holds. */
  waitRoom(queue: number): number {
    return Math.floor(this.queues[queue]!.requestRoom / 2)
  }

  // --- the loop -----------------------------------------------------------------------------------

  /**
   * Serves what the rings hold; with nothing to do it waits, `mostMs` milliseconds at most (-1: as
   * long as there is nothing), unless `mayWait` is false. Returns how many
   * tokens are in `context.ready` (0: nothing but ring work, call again).
   */
  turn(mayWait = true, mostMs = -1): number {
    let worked = this.#serve()
    if (this.#reap()) worked = true
    if (this.#deferred.count > 0 && this.#serveDeferred()) worked = true
    if (this.#waits?.busy === true) this.#waits.upkeep(this.#context.nowUs() / 1000)
    if (this.#transfer.active && this.#transfer.step()) worked = true
    // While there is work, the other descriptors have their turn now and then.
    if (worked) {
      if ((++this.#busyTurns & (BUSY_TURNS - 1)) !== 0) return 0
      this.#patience.end()
      this.#signal(VIRTIO_FS_HIPRIO_QUEUE)
      const nowMs = this.#context.nowUs() / 1000
      this.#server.fs.tidy(nowMs)
      this.#waits?.upkeep(nowMs)
      return this.#context.wait(0, 0)
    }
    if (!mayWait) return this.#context.wait(0, 0)
    const { spinUs } = this.#polling
    // Only a guest that was answered is about to ask again. While all it asked is in the pool, the pool
    // has more use for the CPU.
    if (spinUs > 0 && this.#answered) {
      this.#answered = false
      this.counters.spins++
      const ready = this.#context.wait(0, spinUs)
      if (this.#polling.wantsToKnow) this.#polling.preempted(this.#context.preemptions())
      if (ready > 0 || this.anyPending()) {
        this.counters.spinsThatPaid++
        this.#polling.spun()
        return ready
      }
      this.#polling.spunInVain()
    }
    return this.#sleep(mostMs)
  }

  /** Some ring holds a request that was not taken yet. */
  anyPending(): boolean {
    return this.#requestPending() || this.queues[VIRTIO_FS_HIPRIO_QUEUE]!.pending()
  }

  #requestPending(): boolean {
    for (const queue of this.#serving)
      if (queue.index !== VIRTIO_FS_HIPRIO_QUEUE && queue.pending()) return true
    return false
  }

  #sleep(mostMs: number): number {
    const lingers = this.#patience.waiting
    let missed = false
    for (const queue of this.#serving) {
      const patient = lingers && queue.index === VIRTIO_FS_HIPRIO_QUEUE
      if (queue.enableKicks(patient ? queue.size >> 2 : 0)) missed = true
    }
    if (missed) {
      for (const queue of this.#serving) queue.disableKicks()
      return 0
    }
    this.counters.sleeps++
    // How long the pool takes says nothing of when the guest comes back.
    const forGuest = this.#server.pendingCount === 0
    // As of the last look for other work, some turns ago: what is due waits a little longer.
    const sleepMs = sooner(this.#sleepMs(this.#context.waitedUs / 1000), mostMs)
    const ready = this.#context.wait(lingers ? sooner(LINGER_MS, sleepMs) : sleepMs, 0)
    const { sleptUs } = this.#context
    for (const queue of this.#serving) queue.disableKicks()
    if (lingers && sleptUs >= LINGER_MS * 1000 && !this.#requestPending()) {
      this.#patience.timedOut()
      this.#signal(VIRTIO_FS_HIPRIO_QUEUE)
    } else if (forGuest) this.#polling.slept(sleptUs)
    return ready
  }

  #sleepMs(nowMs: number): number {
    const tidyMs = this.#server.fs.tidy(nowMs)
    if (this.#polledRings > 0) return POLLED_RING_MS
    return sooner(sooner(tidyMs, this.#transfer.waitMs), this.#timedMs(nowMs))
  }

  /** Milliseconds until a request or the file system that makes them wait is due; -1: none is. */
  #timedMs(nowMs: number): number {
    if (this.#waits === undefined) return -1
    const again = this.#deferred.count > 0 ? this.#deferred.waitMs(performance.now()) : -1
    return sooner(again, this.#waits.upkeep(nowMs))
  }

  /** Hands in again what is due. True when anything was. */
  #serveDeferred(): boolean {
    const now = performance.now()
    let worked = false
    for (;;) {
      const request = this.#deferred.take(now)
      if (request === undefined) return worked
      worked = true
      this.#serveAgain(request, now)
    }
  }

  #serveAgain({ queue: index, head, sinceMs: since, dueMs }: DeferredRequest, now: number): void {
    const queue = this.queues[index]!
    // It waited for what others do. When this thread was stopped, or had no time, was not of that.
    const sinceMs = since + now - dueMs
    this.#server.fs.renew()
    const taken = queue.popAgain(head)
    if (taken === EMPTY) return
    if (taken === VIOLATION) this.#chainViolation(queue)
    else this.#handle(queue, head, sinceMs, Math.max(now - sinceMs, 1))
    this.#signal(index)
  }

  /** One batch of every ring. True when there was anything to do. */
  #serve(): boolean {
    let worked = false
    for (let i = 0; i < this.#serving.length; i++) {
      const queue = this.#serving[i]!
      const { available } = queue
      if (available === 0) continue
      worked = true
      if (queue.index !== VIRTIO_FS_HIPRIO_QUEUE) this.#patience.paid()
      else if (queue.eventIdx) this.#patience.served()
      this.#serveBatch(queue, available)
    }
    if (this.#unsignalled) this.#signalAll()
    return worked
  }

  /** `available`: what the ring was seen to hold. Only that may be answered with what is kept from here on. */
  #serveBatch(queue: Virtqueue, available: number): void {
    const { index } = queue
    this.counters.batches++
    const most = Math.min(available, BATCH)
    // One of the first answers wakes a guest that sleeps, so that it works while the rest of the batch is done.
    const early = most < 2 * WAKING ? 0 : WAKING - 1
    this.#server.fs.renew()
    for (let i = 0; i < most; i++) {
      const head = queue.pop()
      if (head === EMPTY) break
      this.counters.requests++
      if (head === VIOLATION) {
        this.#chainViolation(queue)
        continue
      }
      const answered = this.#handle(queue, head, 0, 0)
      // They are done while this thread does others: the guest need not wait for the end of the batch.
      if (this.#server.spreadCount > 0) this.#reap()
      // A lease runs from now on: the next request may take longer than it lasts beyond what the guest was told.
      const promised = this.#waits?.promised() === true
      if ((i === early && answered) || promised) this.#signal(index)
    }
    this.#signal(index)
  }

  /** Handles the request in the shared chain. False: it will be answered later. */
  #handle(queue: Virtqueue, head: number, sinceMs: number, waitedMs: number): boolean {
    const { index } = queue
    const written = this.#server.handle(index, head, this.#chain, waitedMs)
    if (written === SUSPENDED) return false
    if (written === AGAIN) {
      const now = performance.now()
      const since = waitedMs === 0 ? now : sinceMs
      this.#deferred.add({
        queue: index,
        head,
        sinceMs: since,
        dueMs: now + Math.max(this.#server.againMs, 1),
      })
      return false
    }
    if (written === FUSE_VIOLATION) this.#report(index, this.#server.violation)
    queue.push(head, written === FUSE_VIOLATION ? 0 : written)
    this.#answered = true
    return true
  }

  #signal(index: number): void {
    if (this.#logFd >= 0) this.#context.eventSignal(this.#logFd, this.#logKind)
    const queue = this.queues[index]!
    const patient = index === VIRTIO_FS_HIPRIO_QUEUE && this.#patience.waiting
    if (patient && queue.unsignalled < queue.size >> 1) return
    if (!queue.needsSignal() || this.#callFds[index]! < 0) return
    this.counters.signals++
    const fault = this.#context.eventSignal(this.#callFds[index]!, this.#callKinds[index]!)
    if (fault < 0)
      this.#report(index, `the call descriptor does not take signals (errno ${-fault})`)
  }

  /** Takes what the pool has finished, all of it unless a request waits. True when there was anything. */
  #reap(): boolean {
    let token = this.#context.reap()
    if (token < 0) return false
    for (let count = 0; token >= 0; count++) {
      const result = this.#context.reapedResult
      if (token < OWN_JOBS) this.#server.complete(token, result)
      else this.#server.fs.finished(token - OWN_JOBS, result)
      // The guest, told early, asks again while the rest is taken: so the disk need not stand still.
      if (count % REAPED_BATCH === 0) {
        this.#signalAll()
        if (this.#requestPending()) return true
      }
      token = this.#context.reap()
    }
    this.#signalAll()
    return true
  }

  #signalAll(): void {
    this.#unsignalled = false
    for (let i = 0; i < this.#serving.length; i++) this.#signal(this.#serving[i]!.index)
  }

  #chainViolation(queue: Virtqueue): void {
    this.#report(queue.index, describeViolation(queue.violation))
    if (queue.violationHead >= 0) queue.push(queue.violationHead, 0)
    else if (queue.broken)
      this.#log(
        'error',
        `queue ${queue.index} is left alone until the guest resets it: its avail index is impossible`,
      )
  }

  #report(index: number, what: string): void {
    this.counters.violations++
    const now = performance.now()
    const key = `${index} ${what}`
    if (now - (this.#loggedAt.get(key) ?? Number.NEGATIVE_INFINITY) < LOG_AGAIN_MS) return
    if (this.#loggedAt.size > 256) this.#loggedAt.clear()
    this.#loggedAt.set(key, now)
    this.#log('warn', `queue ${index}: the guest broke the protocol: ${what}`)
  }
}

/** The sooner of two waits in milliseconds, of which -1 is none. */
function sooner(one: number, other: number): number {
  return one < 0 ? other : other < 0 ? one : Math.min(one, other)
}
