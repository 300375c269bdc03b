/**
 * Three daemons with --coherence=strict and locks on one tree, each with a guest that works all the time. Again
 * and again one of them is killed in the middle of it: the others go on, its locks and leases end, nothing that
 * was answered is lost, and it comes back.
 */
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import {
  BUCKET_SLOTS,
  BUCKET_WORDS,
  HEADER_WORDS,
  Slot,
  SLOT_WORDS,
  tickOf,
  ticksFor,
  ticksLeft,
} from '../../protocol/version-table/layout.js'
import { monotonicMs } from '../coherence/monotonic.js'
import { DEFAULT_LEASE_MS, DEFAULT_MARGIN_MS, longLeaseMs } from '../../src/coherence/options.js'
import { attrOf, entryOf, Fattr, setattrBody } from '../coherence/mock-guest.js'
import { BusyDriver } from '../helpers/busy-driver.js'
import { countersOf } from '../helpers/control.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { text } from '../helpers/fuse-client.js'
import { connect, Launched, Place, READY } from '../helpers/launch.js'
import { UNLOCK, WRITE } from '../helpers/lock-guest.js'
import { random } from '../helpers/random.js'
import { checkRecords, FOLDERS, LockHolders, SHARED, Worker } from './kill-worker.js'

/** By hand: 100. */
const KILLS = Number(process.env.KILLS ?? 5)
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 1e9))
const DAEMONS = 3
/** Of each guest: such that work where others do, and such that never wait for others. */
const SHARING = 4
const ALONE = 3
/** Against a hang. Changes that waited for too long are counted by the daemons: see `forced`. */
const LIMIT_MS = 60_000
/** Who has a lock writes, and waits for leases; several wait for the lock. */
const LOCK_LIMIT_MS = 120_000
/** Locks that the test itself takes are of another owner than the workers'. */
const OWNER = 1000n
const LEASE_TICKS = ticksFor(longLeaseMs(DEFAULT_LEASE_MS) + DEFAULT_MARGIN_MS)

/** One guest with its daemon. */
interface Guest {
  readonly socket: string
  readonly workers: readonly Worker[]
  daemon: Launched
  driver: BusyDriver
  runs: Promise<void>[]
}

/** A file that the test itself has open in one guest. */
interface Open {
  readonly nodeid: number
  readonly fh: bigint
}

const controlOf = (socket: string): string => `${socket}.control`

class World {
  readonly share: string
  readonly guests: Guest[] = []
  readonly locks = new LockHolders()
  readonly workers: Worker[] = []
  longestMs = 0
  readonly #t: ExecutionContext
  readonly #table: string
  readonly #options: readonly string[]
  #fault: unknown
  #ended = false
  #polling: Promise<void> = Promise.resolve()

  constructor(t: ExecutionContext, place: Place, next: (below: number) => number) {
    this.#t = t
    this.share = place.share
    for (const folder of FOLDERS) mkdirSync(join(this.share, folder))
    for (const name of [...SHARED, 'held', 'theirs']) writeFileSync(join(this.share, name), '')
    const folder = mkdtempSync('/dev/shm/virtiofsd-table-')
    t.teardown(() => rmSync(folder, { recursive: true }))
    chmodSync(folder, 0o1777)
    this.#table = join(folder, 'table')
    const sandbox = process.geteuid?.() === 0 ? [] : ['--sandbox=none']
    this.#options = [
      ...['--shared-dir', this.share, '--coherence=strict', `--version-table=${this.#table}`],
      ...['--posix-lock', '--flock', ...sandbox],
    ]
    const sharing: Worker[] = []
    for (let i = 0; i < DAEMONS; i++) {
      const own = `own-${i}`
      mkdirSync(join(this.share, own))
      for (let j = 0; j < SHARING + ALONE; j++) {
        const alone = j >= SHARING
        const folders = alone ? [own] : FOLDERS
        const seed = random(next(2 ** 30))
        const worker = new Worker(
          `${i}.${j}`,
          folders,
          alone,
          this.share,
          seed,
          this.locks,
          sharing,
        )
        this.workers.push(worker)
        if (!alone) sharing.push(worker)
      }
    }
  }

  async start(place: Place): Promise<void> {
    for (let i = 0; i < DAEMONS; i++) {
      const socket = join(place.folder, `socket-${i}`)
      const workers = this.workers.filter(({ who }) => who.startsWith(`${i}.`))
      this.guests.push({ socket, workers, runs: [], ...(await this.#launch(socket)) })
    }
    this.#t.teardown(async () => {
      this.#ended = true
      await this.#polling
      for (const { driver } of this.guests) driver.close()
      await this.settled()
    })
    this.#polling = this.#poll()
  }

  async #launch(socket: string): Promise<{ daemon: Launched; driver: BusyDriver }> {
    const own = ['--socket-path', socket, '--control-socket', controlOf(socket)]
    const daemon = new Launched(this.#t, [...own, ...this.#options])
    await daemon.ready()
    return { daemon, driver: new BusyDriver(await connect(socket)) }
  }

  /** Starts the daemon of a guest again, where it was. */
  async restart(guest: Guest): Promise<void> {
    Object.assign(guest, await this.#launch(guest.socket))
  }

  async #poll(): Promise<void> {
    while (!this.#ended) {
      for (const { driver } of this.guests) {
        driver.poll()
        for (const { opcode, atMs } of driver.waiting) {
          const limit = opcode === Opcode.FUSE_SETLKW ? LOCK_LIMIT_MS : LIMIT_MS
          if (performance.now() - atMs > limit)
            this.fail(new Error(`opcode ${opcode} was not answered in ${limit} ms`))
        }
      }
      await new Promise(done => setTimeout(done, 1))
    }
  }

  fail(cause: unknown): void {
    this.#fault ??= cause
  }

  /** Errors: what a worker has found, or a request that waits for too long. */
  async until(holds: () => boolean): Promise<void> {
    const limit = performance.now() + 2 * LOCK_LIMIT_MS
    for (;;) {
      if (this.#fault !== undefined) throw this.#fault
      if (holds()) return
      if (performance.now() > limit) throw new Error(`it did not come about: ${holds}`)
      await new Promise(done => setTimeout(done, 1))
    }
  }

  /** The answer, unless something is wrong meanwhile. */
  async answer<T>(promise: Promise<T>): Promise<T> {
    let value: T | undefined
    let here = false
    promise.then(
      result => {
        value = result
        here = true
      },
      cause => this.fail(cause),
    )
    await this.until(() => here)
    return value!
  }

  async ask(guest: Guest, opcode: number, nodeid: number, body: Uint8Array): Promise<DataView> {
    const { error, body: reply } = await this.answer(guest.driver.ask(opcode, nodeid, body))
    if (error !== 0) throw new Error(`opcode ${opcode}: ${error}`)
    return reply
  }

  work(guest: Guest): void {
    guest.runs = guest.workers.map(worker =>
      worker.run(guest.driver).catch(cause => this.fail(cause)),
    )
  }

  async settled(): Promise<void> {
    await Promise.all(this.guests.flatMap(({ runs }) => runs))
  }

  /** Everybody stops after what he is at. */
  async rest(): Promise<void> {
    for (const worker of this.workers) worker.stop()
    await this.answer(this.settled())
  }

  async lookup(guest: Guest, name: string): Promise<number> {
    return entryOf(await this.ask(guest, Opcode.FUSE_LOOKUP, 1, text(name))).nodeid
  }

  async open(guest: Guest, name: string): Promise<Open> {
    const nodeid = await this.lookup(guest, name)
    const reply = await this.ask(guest, Opcode.FUSE_OPEN, nodeid, u32s(2, 0))
    return { nodeid, fh: reply.getBigUint64(0, true) }
  }

  lock(guest: Guest, { nodeid, fh }: Open, type: number, flock: boolean): Promise<DataView> {
    const body = BusyDriver.lockBody(fh, OWNER, type, flock)
    return this.ask(guest, Opcode.FUSE_SETLKW, nodeid, body)
  }

  /** Changes that were made whatever the table said: an honest daemon never lets another wait for so long. */
  async forced(): Promise<(number | undefined)[]> {
    const counters = await Promise.all(
      this.guests.map(({ socket }) => countersOf(controlOf(socket))),
    )
    return counters.map(({ changesForced }) => changesForced)
  }

  /** Of all inodes in the table: for how many ticks leases and announced changes last from now on at most. */
  longest(): { readonly lease: number; readonly change: number } {
    const bytes = readFileSync(this.#table)
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
    const now = tickOf(monotonicMs())
    let lease = 0
    let change = 0
    for (let at = HEADER_WORDS; at + BUCKET_WORDS <= words.length; at += BUCKET_WORDS)
      for (let i = 0; i < BUCKET_SLOTS; i++) {
        const slot = at + 1 + i * SLOT_WORDS
        if (words[slot + Slot.tag] === 0) continue
        lease = Math.max(lease, ticksLeft(words[slot + Slot.lease]!, now))
        change = Math.max(change, ticksLeft(words[slot + Slot.change]!, now))
      }
    return { lease, change }
  }
}

test(`a daemon is killed in the middle of everything, ${KILLS} times (seed ${SEED})`, async t => {
  t.timeout(120_000 + KILLS * 120_000)
  const next = random(SEED)
  const place = new Place(t)
  const world = new World(t, place, next)
  await world.start(place)
  const total = { killed: 0, inFlight: 0, unanswered: 0, made: 0, longestMs: 0 }
  for (const guest of world.guests) world.work(guest)
  for (let round = 0; round < KILLS; round++) {
    const before = world.workers.map(({ answers }) => answers)
    await world.until(() => world.workers.every(({ answers }, i) => answers > before[i]! + 5))
    const first = next(DAEMONS)
    const [victim, one, two] = [0, 1, 2].map(i => world.guests[(first + i) % DAEMONS]!)
    await kill(t, world, [victim!, one!, two!], round, next, total)
  }
  t.log(JSON.stringify({ ...total, longestMs: Math.round(total.longestMs) }))
  const answers = world.workers.reduce((sum, worker) => sum + worker.answers, 0)
  const records = world.workers.reduce((sum, worker) => sum + worker.written.size, 0)
  t.log(JSON.stringify({ answers, records, locks: world.locks.taken }))
  t.is(total.killed, KILLS)
  // Each of them was killed with locks waited for, at least.
  t.true(total.unanswered >= KILLS)
  t.true(records > KILLS && world.locks.taken > KILLS)
})

interface Total {
  killed: number
  inFlight: number
  unanswered: number
  made: number
  longestMs: number
}

/** One round: `victim` dies with locks and a lease, waits for a lock, and comes back. */
async function kill(
  t: ExecutionContext,
  world: World,
  [victim, one, two]: readonly [Guest, Guest, Guest],
  round: number,
  next: (below: number) => number,
  total: Total,
): Promise<void> {
  const held = await Promise.all([victim, one, two].map(guest => world.open(guest, 'held')))
  const theirs = await Promise.all([victim, one, two].map(guest => world.open(guest, 'theirs')))
  const leased = `leased-${round}`
  writeFileSync(join(world.share, leased), '')
  const nodes = await Promise.all([victim, one, two].map(guest => world.lookup(guest, leased)))

  // It holds a lock of each kind that others wait for, and waits for one itself.
  await world.lock(victim, held[0]!, WRITE, false)
  await world.lock(victim, held[0]!, WRITE, true)
  await world.lock(one, theirs[1]!, WRITE, true)
  let got = 0
  const waiting = [
    world.lock(one, held[1]!, WRITE, false).then(() => got++),
    world.lock(two, held[2]!, WRITE, true).then(() => got++),
  ]
  const inVain = victim.driver
    .ask(
      Opcode.FUSE_SETLKW,
      theirs[0]!.nodeid,
      BusyDriver.lockBody(theirs[0]!.fh, OWNER, WRITE, true),
    )
    .then(
      () => true,
      () => false,
    )
  // At any moment.
  const until = performance.now() + next(150)
  await world.until(() => performance.now() > until)
  // It has just got a lease on the file when it dies.
  for (;;) {
    const body = concat(u32s(0, 0), u64(0n))
    const { attrMs } = attrOf(await world.ask(victim, Opcode.FUSE_GETATTR, nodes[0]!, body))
    if (attrMs > 0) break
  }
  t.is(got, 0)

  await world.until(() => victim.driver.inFlight > ALONE)
  total.inFlight += victim.driver.inFlight
  // It has got as far as it could in that time, unseen: what it has answered by then counts.
  const at = performance.now() + next(2000) / 1000
  while (performance.now() < at);
  victim.daemon.process.kill('SIGKILL')
  victim.driver.giveUp()
  world.locks.die(victim.workers)
  for (const guest of [one, two]) guest.driver.longestMs = 0
  t.is(await victim.daemon.end(), 'SIGKILL')
  // No lease lasts longer than one that was given just now.
  t.true(world.longest().lease <= LEASE_TICKS)
  total.unanswered += victim.driver.close()
  total.killed++
  await Promise.all(victim.runs)
  for (const worker of victim.workers) if (worker.reconcile()) total.made++
  checkRecords(world.share, world.workers, false)

  // Its lease ends, its locks are free; what it waited for it does not get.
  const mode = 0o640
  const body = setattrBody(Fattr.mode, { mode })
  const changes = [one, two].map((guest, i) =>
    world.ask(guest, Opcode.FUSE_SETATTR, nodes[i + 1]!, body),
  )
  for (const reply of await Promise.all(changes)) t.is(attrOf(reply).stat.mode & 0o777, mode)
  await Promise.all(waiting)
  await world.lock(one, held[1]!, UNLOCK, false)
  await world.lock(two, held[2]!, UNLOCK, true)
  t.false(await inVain)
  await world.lock(one, theirs[1]!, UNLOCK, true)
  await world.lock(two, theirs[2]!, WRITE, true)
  await world.lock(two, theirs[2]!, UNLOCK, true)
  total.longestMs = Math.max(total.longestMs, one.driver.longestMs, two.driver.longestMs)

  // It comes back, and all see what it left.
  await world.restart(victim)
  world.locks.revive(victim.workers)
  world.work(victim)
  const before = world.workers.map(({ answers }) => answers)
  await world.until(() => world.workers.every(({ answers }, i) => answers > before[i]! + 5))
  await world.rest()
  t.deepEqual(await world.forced(), [0, 0, 0])
  for (const worker of world.workers) t.false(worker.reconcile())
  checkRecords(world.share, world.workers, true)
  // Nobody asks for anything now: everything that was promised ends, and at last what was announced.
  await world.until(() => {
    const { lease, change } = world.longest()
    return lease === 0 && (round < KILLS - 1 || change === 0)
  })
  for (const guest of world.guests) {
    // Before that it may have advice about its options.
    const [, log] = guest.daemon.stderr.split(READY)
    t.false(/ERROR|WARN/.test(log!), log)
    world.work(guest)
  }
}
