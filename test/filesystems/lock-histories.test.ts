/**
 * Random histories of locks of two guests with three owners each, against a model of who has what. After each
 * step everybody who can have what he waits for has it, and nobody has what he cannot.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { type LockAsked, LockGuest, READ, UNLOCK, until, WRITE } from '../helpers/lock-guest.js'
import { openDescriptors, Rig } from '../helpers/rig.js'

const EINTR = 4
const EAGAIN = 11
const EDEADLK = 35
const BYTES = 6
const OWNERS = 6

/** Requests have a place of their own in guest memory. */
const STEPS = 40

interface Step {
  readonly what: 'set' | 'wait' | 'flush' | 'interrupt'
  readonly owner: number
  readonly from: number
  readonly to: number
  readonly type: number
}

const step: fc.Arbitrary<Step> = fc.record({
  what: fc.constantFrom<Step['what']>('set', 'set', 'wait', 'wait', 'wait', 'flush', 'interrupt'),
  owner: fc.nat(OWNERS - 1),
  from: fc.nat(BYTES - 1),
  to: fc.nat(BYTES - 1),
  type: fc.constantFrom(READ, WRITE, UNLOCK),
})

interface Waiting {
  readonly owner: number
  readonly start: number
  readonly end: number
  readonly type: number
  readonly number: number
}

class Model {
  /** By owner and byte. */
  readonly held = Array.from({ length: OWNERS }, () => Array<number>(BYTES).fill(UNLOCK))
  waits: Waiting[] = []

  free({ owner, start, end, type }: Omit<Waiting, 'number'>): boolean {
    return this.held.every(
      (bytes, other) =>
        other === owner ||
        bytes.slice(start, end + 1).every(had => had === UNLOCK || (type === READ && had === READ)),
    )
  }
  set({ owner, start, end, type }: Omit<Waiting, 'number'>): void {
    this.held[owner]!.fill(type, start, end + 1)
  }
  /** No byte is locked by two who exclude each other. */
  get sound(): boolean {
    return this.held.every((bytes, owner) =>
      bytes.every((type, at) => type === UNLOCK || this.free({ owner, start: at, end: at, type })),
    )
  }
}

async function play(flock: boolean, steps: readonly Step[]): Promise<void> {
  const before = openDescriptors()
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-locks-'))
  writeFileSync(join(folder, 'f'), '')
  const host = { flockLocks: true, posixLocks: true }
  const rigs = [0, 1].map(() => new Rig({ folder, host }))
  const guests = rigs.map(made => new LockGuest(made))
  const owners = Array.from({ length: OWNERS }, (_, owner) => {
    const guest = guests[owner % 2]!
    const nodeid = guest.client.lookup(1, 'f')
    return { guest, nodeid, fh: guest.client.open(nodeid), number: BigInt(owner) }
  })
  const model = new Model()

  /** Answers that came, into the model: those of one owner in the order in which they came. */
  const take = (): void => {
    const answered = model.waits.filter(({ owner, number }) =>
      owners[owner]!.guest.answers.has(number),
    )
    const place = ({ owner, number }: Waiting): number => owners[owner]!.guest.order.indexOf(number)
    for (const wait of answered.sort((one, other) => place(one) - place(other))) {
      const answer = owners[wait.owner]!.guest.answers.get(wait.number)
      if (answer === 0) model.set(wait)
      else if (answer !== -EDEADLK && answer !== -EINTR) throw new Error(`answered ${answer}`)
    }
    model.waits = model.waits.filter(wait => !answered.includes(wait))
  }
  const settle = (): Promise<void> =>
    until(
      () => {
        take()
        // A thread that was slow to heed its interruption may have a lock for a moment.
        const quiet = rigs.every(made => made.fs.locks.abandoned === 0)
        return quiet && !model.waits.some(wait => model.free(wait))
      },
      ...guests,
    )
  /** flock gives up what it has before it asks for another. */
  const loses = (wanted: Omit<Waiting, 'number'>): void => {
    if (flock && model.held[wanted.owner]![0] !== wanted.type)
      model.set({ ...wanted, type: UNLOCK })
  }

  for (const { what, owner, from, to, type } of steps) {
    const { guest, nodeid, fh, number: id } = owners[owner]!
    // What becomes of a flock that another thread asks to change is the kernel's to say.
    if (flock && what !== 'interrupt' && model.waits.some(wait => wait.owner === owner)) continue
    const start = flock ? 0 : Math.min(from, to)
    const end = flock ? BYTES - 1 : Math.max(from, to)
    const wanted = { owner, start, end, type }
    const range = flock ? {} : { start: BigInt(start), end: BigInt(end) }
    const asked: LockAsked = { ...range, type, owner: id, flock }
    if (what === 'set' || (what === 'wait' && type === UNLOCK)) {
      const expected = type === UNLOCK || model.free(wanted) ? 0 : -EAGAIN
      // Before its own step is looked at, no other may come in.
      const answer = guest.set(nodeid, fh, asked)
      if (answer !== expected) throw new Error(`set: ${answer}, not ${expected}`)
      if (answer === 0) model.set(wanted)
      else loses(wanted)
    } else if (what === 'wait') {
      const free = model.free(wanted)
      const number = guest.wait(nodeid, fh, asked)
      if (!free) loses(wanted)
      model.waits.push({ ...wanted, number })
    } else if (what === 'flush' && !flock) {
      guest.flush(nodeid, fh, id)
      model.held[owner]!.fill(UNLOCK)
    } else if (what === 'interrupt' && model.waits.length > 0) {
      const wait = model.waits[owner % model.waits.length]!
      owners[wait.owner]!.guest.interrupt(wait.number)
    }
    await settle()
    if (!model.sound) throw new Error('two exclude each other')
  }
  for (const wait of model.waits) owners[wait.owner]!.guest.interrupt(wait.number)
  take()
  await until(() => rigs.every(made => made.fs.locks.threads === 0), ...guests)
  if (model.waits.length > 0) throw new Error('an interrupted wait was not answered')
  for (const { guest, nodeid, fh } of owners) guest.release(nodeid, fh)
  for (const made of rigs) {
    const { held, waiting } = made.fs.locks
    if (held + waiting > 0) throw new Error(`left: ${held} held, ${waiting} waiting`)
    made.close()
  }
  rmSync(folder, { recursive: true })
  const surplus = openDescriptors() - before
  if (surplus !== 0) throw new Error(`left open: ${surplus} descriptors`)
}

for (const flock of [false, true])
  test.serial(`${flock ? 'flock' : 'POSIX'} locks: any history is as the model has it`, async t => {
    t.timeout(300_000)
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: STEPS }), steps =>
        play(flock, steps),
      ),
      { numRuns: Number(process.env.LOCK_RUNS ?? 40), includeErrorInReport: true },
    )
    t.pass()
  })
