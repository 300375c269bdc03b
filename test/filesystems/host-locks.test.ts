/** Locks of guests as locks of the host: between two guests, with their daemons in this process, and with a process of the host. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { native } from '../../src/native/addon.js'
import {
  END,
  type LockAsked,
  LockGuest,
  READ,
  UNLOCK,
  until,
  WRITE,
} from '../helpers/lock-guest.js'
import { LockProcess, lockProgram } from '../helpers/lock-process.js'
import { openDescriptors, Rig, type RigOptions } from '../helpers/rig.js'

const EINTR = 4
const EBADF = 9
const EAGAIN = 11
const EDEADLK = 35
const ENOLCK = 37
const ENOSYS = 38

const NAMES = ['a', 'b']
const program = lockProgram()
test.after.always(() => program.remove())

/** A guest with `a` and `b` open for reading and writing. */
class Guest extends LockGuest {
  readonly nodes: number[]
  readonly fhs: bigint[]

  constructor(made: Rig) {
    super(made)
    this.nodes = NAMES.map(name => this.client.lookup(1, name))
    this.fhs = this.nodes.map(nodeid => this.client.open(nodeid))
  }
  lock(asked: LockAsked, file = 0): number {
    return this.set(this.nodes[file]!, this.fhs[file]!, asked)
  }
  waitFor(asked: LockAsked, file = 0): number {
    return this.wait(this.nodes[file]!, this.fhs[file]!, asked)
  }
  inTheWay(asked: LockAsked): ReturnType<LockGuest['get']> {
    return this.get(this.nodes[0]!, this.fhs[0]!, asked)
  }
}

/** Checked afterwards: nothing is left of them. */
function guests(t: ExecutionContext, count: number, options: RigOptions = {}): Guest[] {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-locks-'))
  for (const name of NAMES) writeFileSync(join(folder, name), 'data')
  const before = openDescriptors()
  const host = { flockLocks: true, posixLocks: true, ...options.host }
  const rigs = Array.from({ length: count }, () => new Rig({ ...options, folder, host }))
  t.teardown(() => {
    for (const made of rigs) made.end()
    const left = rigs.map(({ fs, server }) => [
      fs.nodeCount - 1,
      fs.handleCount,
      fs.locks.held,
      fs.locks.waiting,
      server.pendingCount,
    ])
    for (const made of rigs) made.close()
    rmSync(folder, { recursive: true })
    const surplus = openDescriptors() - before
    // Assertions are over by now: a leak is thrown.
    if (surplus !== 0 || left.flat().some(number => number !== 0))
      throw new Error(`left over: ${JSON.stringify(left)}, ${surplus} descriptors`)
  })
  return rigs.map(made => new Guest(made))
}

/** A process of the host that has the guests' file `a` open. */
function hostProcess(t: ExecutionContext, guest: Guest): LockProcess {
  const made = new LockProcess(program.path, join(guest.rig.folder, 'a'))
  t.teardown(() => made.kill())
  return made
}

const bytes = (start: number, end: number): { start: bigint; end: bigint } => ({
  start: BigInt(start),
  end: BigInt(end),
})

/** Waits of `guest` that the kernel keeps. */
const threads = (guest: LockGuest): number => guest.rig.fs.locks.threads

// --- conflicts --------------------------------------------------------------------------------------

for (const flock of [false, true])
  for (const held of [READ, WRITE])
    for (const wanted of [READ, WRITE]) {
      const names = ['read', 'write']
      const title = `${flock ? 'flock' : 'POSIX'}: a ${names[held]} lock and another's ${names[wanted]} lock`
      const free = held === READ && wanted === READ
      test.serial(`${title}, in one guest, in two, and of the host`, async t => {
        const [one, two] = guests(t, 2) as [Guest, Guest]
        const host = hostProcess(t, one)
        const kind = { flock }
        t.is(one.lock({ ...kind, type: held }), 0)
        // Another owner in the same guest: for flock that is another open file.
        const fh = one.client.open(one.nodes[0]!)
        const other = { ...kind, type: wanted, owner: 2n }
        t.is(one.set(one.nodes[0]!, fh, other), free ? 0 : -EAGAIN)
        t.is(one.set(one.nodes[0]!, fh, { ...other, type: UNLOCK }), 0)
        t.is(two.lock({ ...kind, type: wanted }), free ? 0 : -EAGAIN)
        t.is(two.lock({ ...kind, type: UNLOCK }), 0)
        const commands = flock ? ['s', 'x', 'n'] : ['r', 'w', 'u']
        t.is(await host.do(commands[wanted]!), free ? 0 : EAGAIN)
        t.is(await host.do(commands[2]!), 0)
        t.is(one.lock({ ...kind, type: UNLOCK }), 0)
        // The other way round.
        t.is(await host.do(commands[held]!), 0)
        t.is(one.lock({ ...kind, type: wanted }), free ? 0 : -EAGAIN)
        await host.kill()
        t.is(one.lock({ ...kind, type: wanted }), 0)
        one.client.release(one.nodes[0]!, fh)
      })
    }

test.serial('flock and POSIX locks leave each other alone', t => {
  const [one, two] = guests(t, 2) as [Guest, Guest]
  t.is(one.lock({ type: WRITE }), 0)
  t.is(two.lock({ type: WRITE, flock: true }), 0)
})

test.serial(
  'ranges: what touches not is free, what was unlocked in the middle is free',
  async t => {
    const [one, two] = guests(t, 2) as [Guest, Guest]
    const host = hostProcess(t, one)
    t.is(one.lock({ type: WRITE, ...bytes(10, 99) }), 0)
    t.is(two.lock({ type: WRITE, ...bytes(0, 9) }), 0)
    t.is(two.lock({ type: WRITE, start: 100n, end: END }), 0)
    t.is(two.lock({ type: READ, ...bytes(99, 99) }), -EAGAIN)
    t.is(one.lock({ type: UNLOCK, ...bytes(40, 59) }), 0)
    t.is(one.rig.fs.locks.held, 2)
    t.is(two.lock({ type: WRITE, ...bytes(39, 59) }), -EAGAIN)
    t.is(two.lock({ type: WRITE, ...bytes(40, 60) }), -EAGAIN)
    t.is(two.lock({ type: WRITE, ...bytes(40, 59) }), 0)
    t.is(await host.do('w', 30, 10), EAGAIN)
    t.is(one.lock({ type: UNLOCK, ...bytes(30, 39) }), 0)
    t.is(await host.do('w', 30, 10), 0)
  },
)

test.serial('a read lock becomes a write lock when nobody else reads, and a read lock again', t => {
  const [one, two] = guests(t, 2) as [Guest, Guest]
  for (const flock of [false, true]) {
    t.is(one.lock({ flock, type: READ }), 0)
    t.is(two.lock({ flock, type: READ }), 0)
    t.is(one.lock({ flock, type: WRITE }), -EAGAIN)
    t.is(two.lock({ flock, type: UNLOCK }), 0)
    t.is(one.lock({ flock, type: WRITE }), 0)
    t.is(two.lock({ flock, type: READ }), -EAGAIN)
    t.is(one.lock({ flock, type: READ }), 0)
    t.is(two.lock({ flock, type: READ }), 0)
    t.is(one.lock({ flock, type: UNLOCK }), 0)
    t.is(two.lock({ flock, type: UNLOCK }), 0)
  }
})

test.serial('a flock that cannot become another is lost, as flock(2) has it', t => {
  const [one, two] = guests(t, 2) as [Guest, Guest]
  t.is(one.lock({ flock: true, type: READ }), 0)
  t.is(two.lock({ flock: true, type: READ }), 0)
  t.is(one.lock({ flock: true, type: WRITE }), -EAGAIN)
  t.is(one.rig.fs.locks.held, 0)
  t.is(two.lock({ flock: true, type: WRITE }), 0)
})

test.serial('a process that has the file open twice has one set of locks on it', t => {
  const [one, two] = guests(t, 2) as [Guest, Guest]
  const nodeid = one.nodes[0]!
  const reader = one.client.open(nodeid, 0)
  t.is(one.set(nodeid, reader, { type: READ, ...bytes(0, 9) }), 0)
  t.is(one.set(nodeid, reader, { type: READ, ...bytes(20, 29) }), 0)
  // A descriptor for reading cannot have it: the read locks move to one that can.
  t.is(one.lock({ type: WRITE, ...bytes(5, 9) }), 0)
  t.is(two.lock({ type: READ, ...bytes(0, 9) }), -EAGAIN)
  t.is(two.lock({ type: READ, ...bytes(0, 4) }), 0)
  t.is(two.lock({ type: WRITE, ...bytes(20, 20) }), -EAGAIN)
  one.flush(nodeid, reader)
  t.is(two.lock({ type: WRITE }), 0)
  one.client.release(nodeid, reader)
})

test.serial(
  'a descriptor for reading cannot have a write lock, nor one for writing a read lock',
  t => {
    const [one] = guests(t, 1) as [Guest]
    const nodeid = one.nodes[0]!
    const reader = one.client.open(nodeid, 0)
    const writer = one.client.open(nodeid, 1)
    t.is(one.set(nodeid, reader, { type: WRITE }), -EBADF)
    t.is(one.set(nodeid, writer, { type: READ }), -EBADF)
    t.is(one.set(nodeid, writer, { type: WRITE }), 0)
    // flock asks for no access.
    t.is(one.set(nodeid, reader, { type: WRITE, flock: true }), 0)
    one.release(nodeid, reader)
    one.release(nodeid, writer)
  },
)

test.serial(
  'GETLK names the lock in the way, and its process when that is of this guest',
  async t => {
    const [one, two] = guests(t, 2) as [Guest, Guest]
    const host = hostProcess(t, one)
    t.is(one.inTheWay({ type: WRITE }), undefined)
    t.is(one.lock({ type: READ, ...bytes(5, 9), pid: 4711 }), 0)
    t.is(one.inTheWay({ type: WRITE }), undefined, 'its own is not in its way')
    t.is(one.inTheWay({ type: READ, owner: 2n }), undefined)
    t.deepEqual(one.inTheWay({ type: WRITE, owner: 2n }), { ...bytes(5, 9), type: READ, pid: 4711 })
    t.deepEqual(two.inTheWay({ type: WRITE }), { ...bytes(5, 9), type: READ, pid: 0 })
    t.is(one.lock({ type: UNLOCK }), 0)
    t.is(await host.do('w', 7, 0), 0)
    t.deepEqual(one.inTheWay({ type: READ }), { start: 7n, end: END, type: WRITE, pid: 0 })
  },
)

test.serial(
  'a lock that a process gets is not in the way of what it waits for by another descriptor',
  async t => {
    const [one, two] = guests(t, 2) as [Guest, Guest]
    const nodeid = two.nodes[0]!
    const reader = two.client.open(nodeid, 0)
    t.is(one.lock({ type: WRITE, ...bytes(0, 9) }), 0)
    const number = two.wait(nodeid, reader, { type: READ, ...bytes(0, 19) })
    t.is(two.lock({ type: WRITE, ...bytes(10, 19) }), 0)
    t.is(one.lock({ type: UNLOCK }), 0)
    t.is(await two.answer(number), 0)
    t.is(one.lock({ type: READ }), 0, 'it has read locks alone')
    two.release(nodeid, reader)
  },
)

// --- who has them, and when they end ----------------------------------------------------------------

test.serial('FLUSH ends the locks of its owner on that file, and no others', t => {
  const [one, two] = guests(t, 2) as [Guest, Guest]
  t.is(one.lock({ type: WRITE, ...bytes(0, 9), owner: 1n }), 0)
  t.is(one.lock({ type: WRITE, ...bytes(10, 19), owner: 2n << 32n }), 0)
  t.is(one.lock({ type: WRITE, ...bytes(0, 9), owner: 1n }, 1), 0)
  one.flush(one.nodes[0]!, one.fhs[0]!, 2n)
  t.is(one.rig.fs.locks.held, 3)
  one.flush(one.nodes[0]!, one.fhs[0]!, 1n)
  t.is(two.lock({ type: WRITE, ...bytes(0, 9) }), 0)
  t.is(two.lock({ type: WRITE, ...bytes(10, 19) }), -EAGAIN)
  t.is(two.lock({ type: WRITE }, 1), -EAGAIN)
  one.flush(one.nodes[0]!, one.fhs[0]!, 2n << 32n)
  t.is(two.lock({ type: WRITE, ...bytes(10, 19) }), 0)
})

test.serial('RELEASE ends a flock, and what was locked through the handle without a FLUSH', t => {
  const [one, two] = guests(t, 2) as [Guest, Guest]
  const nodeid = one.nodes[0]!
  const fh = one.client.open(nodeid)
  t.is(one.set(nodeid, fh, { type: WRITE, flock: true }), 0)
  t.is(one.set(nodeid, fh, { type: WRITE, owner: 77n }), 0)
  one.flush(nodeid, fh, 1n)
  t.is(two.lock({ type: READ, flock: true }), -EAGAIN)
  t.is(two.lock({ type: READ }), -EAGAIN)
  one.release(nodeid, fh)
  t.is(two.lock({ type: READ, flock: true }), 0)
  t.is(two.lock({ type: READ }), 0)
  t.is(one.rig.fs.locks.held, 0)
})

test.serial(
  'a file that is open with POSIX locks offered sends FLUSH, without them it does not',
  t => {
    const FOPEN_NOFLUSH = 1 << 5
    for (const posixLocks of [false, true]) {
      const [one] = guests(t, 1, { host: { posixLocks } }) as [Guest]
      const { body } = one.client.do(14, one.nodes[0]!, new Uint8Array([2, 0, 0, 0, 0, 0, 0, 0]))
      t.is((body.getUint32(8, true) & FOPEN_NOFLUSH) !== 0, !posixLocks)
      one.client.release(one.nodes[0]!, body.getBigUint64(0, true))
    }
  },
)

test.serial('a guest that goes, or unmounts, leaves no lock behind', async t => {
  const [one, two] = guests(t, 2) as [Guest, Guest]
  const host = hostProcess(t, one)
  for (const guest of [one, two]) {
    t.is(guest.lock({ type: WRITE, ...bytes(0, 9) }), 0)
    t.is(guest.lock({ type: WRITE, flock: true }), 0)
    t.is(await host.do('w'), EAGAIN)
    t.is(await host.do('x'), EAGAIN)
    if (guest === one) guest.rig.end()
    else guest.client.destroy()
    t.is(await host.do('w'), 0)
    t.is(await host.do('x'), 0)
    t.is(await host.do('u'), 0)
    t.is(await host.do('n'), 0)
  }
})

test.serial('locks that were not offered are not taken', t => {
  const [one] = guests(t, 1, { host: { flockLocks: false, posixLocks: false } }) as [Guest]
  t.is(one.lock({ type: WRITE }), -ENOSYS)
  t.is(one.lock({ type: WRITE, flock: true }), -ENOSYS)
  const FUSE_LOCKS = (1 << 1) | (1 << 10)
  for (const [host, flags] of [
    [{ flockLocks: false, posixLocks: false }, 0],
    [{ flockLocks: false, posixLocks: true }, 1 << 1],
    [{ flockLocks: true, posixLocks: false }, 1 << 10],
  ] as const) {
    const [guest] = guests(t, 1, { host }) as [Guest]
    t.is(guest.client.init().body.getUint32(12, true) & FUSE_LOCKS, flags)
  }
})

test.serial('a read-only share gives read locks and flocks', t => {
  const [one] = guests(t, 1) as [Guest]
  const host = { readOnly: true, flockLocks: true, posixLocks: true }
  const reading = new Rig({ folder: one.rig.folder, host })
  t.teardown(() => reading.close())
  const two = new LockGuest(reading)
  const nodeid = two.client.lookup(1, 'a')
  const fh = two.client.open(nodeid, 0)
  t.is(two.set(nodeid, fh, { type: READ }), 0)
  t.is(two.set(nodeid, fh, { type: WRITE }), -EBADF)
  t.is(two.set(nodeid, fh, { type: WRITE, flock: true }), 0)
  t.is(one.lock({ type: WRITE }), -EAGAIN)
  two.release(nodeid, fh)
  t.is(one.lock({ type: WRITE }), 0)
})

// --- waiting ----------------------------------------------------------------------------------------

for (const flock of [false, true]) {
  const kind = flock ? 'flock' : 'POSIX'

  test.serial(
    `${kind}: who waits gets the lock when another guest, or the host, lets go of it`,
    async t => {
      const [one, two] = guests(t, 2) as [Guest, Guest]
      const host = hostProcess(t, one)
      t.is(one.lock({ flock, type: WRITE }), 0)
      const number = two.waitFor({ flock, type: WRITE })
      t.is(threads(two), 1)
      t.is(two.client.do(3, two.nodes[0]!, new Uint8Array(16)).error, 0, 'others are served')
      t.is(one.lock({ flock, type: UNLOCK }), 0)
      t.is(await two.answer(number), 0)
      t.is(one.lock({ flock, type: READ }), -EAGAIN)
      host.send(flock ? 'X' : 'W')
      t.is(two.lock({ flock, type: UNLOCK }), 0)
      t.is(await host.answer(), 0)
      const again = one.waitFor({ flock, type: READ })
      t.is(one.waiting, 1)
      await host.kill()
      t.is(await one.answer(again), 0)
      t.is(threads(one), 0)
    },
  )

  test.serial(
    `${kind}: who waits for an owner of the same guest needs no thread, and they come in turn`,
    t => {
      const [one] = guests(t, 1) as [Guest]
      const nodeid = one.nodes[0]!
      const fhs = Array.from({ length: 5 }, () => one.client.open(nodeid))
      const asked = (i: number, type: number): LockAsked => ({ flock, type, owner: BigInt(i) })
      t.is(one.set(nodeid, fhs[0]!, asked(0, WRITE)), 0)
      const waits = [1, 2, 3, 4].map(i => one.wait(nodeid, fhs[i]!, asked(i, WRITE)))
      t.is(threads(one), 0)
      for (const i of [0, 1, 2, 3]) {
        t.deepEqual(one.order, waits.slice(0, i))
        t.is(one.set(nodeid, fhs[i]!, asked(i, UNLOCK)), 0)
      }
      t.deepEqual(one.order, waits)
      for (const fh of fhs) one.release(nodeid, fh)
    },
  )

  test.serial(
    `${kind}: 200 wait for the host with one thread while others are served; each has its turn`,
    async t => {
      const [one] = guests(t, 1, { size: 512 }) as [Guest]
      const host = hostProcess(t, one)
      const nodeid = one.nodes[0]!
      t.is(await host.do(flock ? 'x' : 'w'), 0)
      const fhs = Array.from({ length: 200 }, () => one.client.open(nodeid))
      const waits = fhs.map((fh, i) =>
        one.wait(nodeid, fh, { flock, type: WRITE, owner: BigInt(i + 10) }),
      )
      t.is(one.waiting, 200)
      t.is(threads(one), 1)
      for (let i = 0; i < 100; i++)
        t.is(Buffer.from(one.client.read(nodeid, one.fhs[0]!, 0, 4)).toString(), 'data')
      t.is(await host.do(flock ? 'n' : 'u'), 0)
      const owner = (number: number): number => waits.indexOf(number)
      for (let turn = 0; turn < 200; turn++) {
        await until(() => one.order.length > turn, one)
        t.is(one.order.length, turn + 1, 'one at a time')
        const i = owner(one.order[turn]!)
        one.set(nodeid, fhs[i]!, { flock, type: UNLOCK, owner: BigInt(i + 10) })
      }
      t.deepEqual(one.order, waits, 'in the order they came')
      t.deepEqual(new Set(one.answers.values()), new Set([0]))
      for (const fh of fhs) one.release(nodeid, fh)
    },
  )

  test.serial(`${kind}: a wait that is interrupted ends with EINTR and takes nothing`, async t => {
    const [one, two] = guests(t, 2) as [Guest, Guest]
    t.is(one.lock({ flock, type: WRITE }), 0)
    const inKernel = two.waitFor({ flock, type: WRITE })
    const fh = two.client.open(two.nodes[0]!)
    const behind = two.wait(two.nodes[0]!, fh, { flock, type: WRITE, owner: 5n })
    t.is(threads(two), 1)
    two.interrupt(inKernel)
    t.is(two.answers.get(inKernel), -EINTR)
    await until(() => threads(two) === 1 && two.rig.fs.locks.waiting === 1, two)
    two.interrupt(behind)
    t.is(two.answers.get(behind), -EINTR)
    await until(() => threads(two) === 0, two)
    t.is(one.lock({ flock, type: UNLOCK }), 0)
    t.is(one.lock({ flock, type: WRITE }), 0, 'nobody has taken it')
    two.release(two.nodes[0]!, fh)
  })

  test.serial(
    `${kind}: a ring that is stopped, and a guest that goes, leave nobody waiting`,
    async t => {
      const [one, two] = guests(t, 2) as [Guest, Guest]
      t.is(one.lock({ flock, type: WRITE }), 0)
      const number = two.waitFor({ flock, type: WRITE })
      const fh = two.client.open(two.nodes[0]!)
      const behind = two.wait(two.nodes[0]!, fh, { flock, type: READ, owner: 5n })
      t.is(two.client.ring.stop(), two.client.ring.availIndex)
      two.look()
      t.is(two.answers.get(number), -ENOLCK)
      t.is(two.answers.get(behind), -ENOLCK)
      t.is(two.rig.server.pendingCount, 0)
      two.client.ring.start(two.client.ring.availIndex)
      two.waitFor({ flock, type: WRITE })
      two.rig.end()
      t.is(two.rig.server.pendingCount, 0)
      t.is(two.rig.fs.locks.waiting, 0)
      t.is(one.lock({ flock, type: UNLOCK }), 0)
      // A thread that is slow to heed its interruption may have it for a moment.
      await until(() => one.lock({ flock, type: WRITE }) === 0, one)
    },
  )
}

test.serial('a flock that one thread has and another waits to change', async t => {
  const [one, two] = guests(t, 2) as [Guest, Guest]
  t.is(one.lock({ flock: true, type: READ }), 0)
  const change = two.waitFor({ flock: true, type: WRITE })
  t.is(two.lock({ flock: true, type: READ }), 0)
  // The kernel drops the read lock when the change is tried once more: who waits for that must see it.
  const fh = two.client.open(two.nodes[0]!)
  const other = two.wait(two.nodes[0]!, fh, { flock: true, type: WRITE })
  t.is(one.lock({ flock: true, type: UNLOCK }), 0)
  await until(() => two.order.length > 0, two)
  const first = two.order[0]!
  t.is(two.answers.get(first), 0)
  if (first === change) t.is(two.lock({ flock: true, type: UNLOCK }), 0)
  else t.is(two.set(two.nodes[0]!, fh, { flock: true, type: UNLOCK }), 0)
  t.is(await two.answer(first === change ? other : change), 0)
  two.release(two.nodes[0]!, fh)
})

test.serial('an answer that another ring brings about is signalled on its own', t => {
  const [one] = guests(t, 1) as [Guest]
  t.is(one.lock({ type: WRITE, owner: 2n }), 0)
  const number = one.waitFor({ type: WRITE })
  const { callFd } = one.client.ring
  native.eventRead(callFd, 0)
  t.true(native.eventRead(callFd, 0) < 0)
  one.interrupt(number)
  t.is(one.answers.get(number), -EINTR)
  t.true(native.eventRead(callFd, 0) > 0)
})

test.serial('an interrupt that overtakes its request is not lost', t => {
  const [one] = guests(t, 1) as [Guest]
  t.is(one.lock({ type: WRITE, owner: 2n }), 0)
  one.interrupt(one.nextNumber)
  const number = one.waitFor({ type: WRITE })
  t.is(one.answers.get(number), -EINTR)
  one.waitFor({ type: WRITE })
  t.is(one.waiting, 1)
})

for (const [start, end] of [
  [0n, END],
  [0n, 29n],
  [20n, 99n],
] as const)
  test.serial(
    `a wait for part of a range is not behind one for all of it, ${start} to ${end}`,
    async t => {
      const [one, two] = guests(t, 2) as [Guest, Guest]
      for (const at of [0, 20, 90]) t.is(one.lock({ type: WRITE, ...bytes(at, at + 9) }), 0)
      const whole = two.waitFor({ type: WRITE, start, end, owner: 1n })
      const part = two.waitFor({ type: WRITE, ...bytes(20, 29), owner: 2n })
      t.is(threads(two), 2)
      t.is(one.lock({ type: UNLOCK, ...bytes(20, 29) }), 0)
      t.is(await two.answer(part), 0)
      t.is(two.waiting, 1)
      t.is(one.lock({ type: UNLOCK }), 0)
      t.is(two.lock({ type: UNLOCK, owner: 2n }), 0)
      t.is(await two.answer(whole), 0)
    },
  )

test.serial('a wait for a read lock is not behind one for a write lock', async t => {
  const [one, two] = guests(t, 2) as [Guest, Guest]
  t.is(one.lock({ type: WRITE }), 0)
  const writer = two.waitFor({ type: WRITE, owner: 1n })
  const reader = two.waitFor({ type: READ, owner: 2n })
  t.is(one.lock({ type: READ }), 0)
  t.is(await two.answer(reader), 0)
  t.is(two.lock({ type: UNLOCK, owner: 2n }), 0)
  t.is(one.lock({ type: UNLOCK }), 0)
  t.is(await two.answer(writer), 0)
})

test.serial('readers that wait come in together', async t => {
  const [one, two] = guests(t, 2) as [Guest, Guest]
  t.is(one.lock({ type: WRITE }), 0)
  const waits = [1n, 2n, 3n].map(owner => two.waitFor({ type: READ, owner }))
  t.is(threads(two), 1)
  t.is(one.lock({ type: UNLOCK }), 0)
  for (const number of waits) t.is(await two.answer(number), 0)
})

test.serial('an upgrade that waits is not held back by a wait that it holds back', async t => {
  const [one, two] = guests(t, 2) as [Guest, Guest]
  t.is(one.lock({ type: READ }), 0)
  t.is(two.lock({ type: READ, owner: 1n }), 0)
  const other = two.waitFor({ type: WRITE, owner: 2n })
  const upgrade = two.waitFor({ type: WRITE, owner: 1n })
  t.is(one.lock({ type: UNLOCK }), 0)
  t.is(await two.answer(upgrade), 0)
  t.false(two.answers.has(other))
  t.is(two.lock({ type: UNLOCK, owner: 1n }), 0)
  t.is(await two.answer(other), 0)
})

test.serial('owners of one guest that would wait for each other get EDEADLK', t => {
  const [one] = guests(t, 1) as [Guest]
  t.is(one.lock({ type: WRITE, owner: 1n }, 0), 0)
  t.is(one.lock({ type: WRITE, ...bytes(0, 9), owner: 2n }, 1), 0)
  t.is(one.lock({ type: WRITE, ...bytes(10, 19), owner: 3n }, 1), 0)
  one.waitFor({ type: WRITE, ...bytes(10, 19), owner: 2n }, 1)
  one.waitFor({ type: READ, owner: 3n }, 0)
  const number = one.waitFor({ type: READ, ...bytes(5, 5), owner: 1n }, 1)
  t.is(one.answers.get(number), -EDEADLK)
  t.is(one.waiting, 2)
})

test.serial('some of the ring is left to others: a wait too many gets ENOLCK', t => {
  const [one] = guests(t, 1, { size: 32 }) as [Guest]
  t.is(one.lock({ type: WRITE }), 0)
  const waits = Array.from({ length: 20 }, (_, i) =>
    one.waitFor({ type: WRITE, owner: BigInt(i + 2) }),
  )
  t.is(one.waiting, 16)
  t.deepEqual(
    waits.slice(16).map(number => one.answers.get(number)),
    Array(4).fill(-ENOLCK),
  )
  t.is(Buffer.from(one.client.read(one.nodes[0]!, one.fhs[0]!, 0, 4)).toString(), 'data')
})

test.serial('RELEASE and FLUSH while their file is waited for: hostile, and harmless', async t => {
  const [one, two] = guests(t, 2) as [Guest, Guest]
  for (const flock of [false, true]) {
    const nodeid = two.nodes[0]!
    t.is(one.lock({ flock, type: WRITE }), 0)
    const fh = two.client.open(nodeid)
    const number = two.wait(nodeid, fh, { flock, type: WRITE })
    two.flush(nodeid, fh)
    t.false(two.answers.has(number))
    two.release(nodeid, fh)
    t.is(two.answers.get(number), -EBADF)
    await until(() => threads(two) === 0, two)
    t.is(one.lock({ flock, type: UNLOCK }), 0)
    t.is(one.lock({ flock, type: WRITE }), 0)
    t.is(one.lock({ flock, type: UNLOCK }), 0)
  }
})

test.serial(
  'lock descriptors count as open files: at the limit those without a lock make room',
  t => {
    const [one] = guests(t, 1, { host: { openFiles: 6 } }) as [Guest]
    // Two are open; so many owners can have a lock.
    for (const owner of [1n, 2n, 3n, 4n])
      t.is(one.lock({ type: READ, ...bytes(Number(owner), Number(owner)), owner }), 0)
    t.is(one.lock({ type: READ, owner: 9n }), -ENOLCK)
    t.is(one.lock({ type: UNLOCK, owner: 1n }), 0)
    t.is(one.lock({ type: READ, owner: 9n }), 0)
    t.is(one.lock({ type: UNLOCK, owner: 9n }), 0)
    const fh = one.client.open(one.nodes[0]!)
    one.client.release(one.nodes[0]!, fh)
  },
)
