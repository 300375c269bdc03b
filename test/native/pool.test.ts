/** The thread pool: every job comes back once, with its result, and ending never hangs. */
import {
  closeSync,
  constants as files,
  existsSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { native, PoolCall } from '../../src/native/addon.js'
import type { Context } from '../../src/native/context.js'
import { StalledFileSystem } from '../helpers/stalled-fs.js'
import {
  ADDON,
  CONTEXT,
  descriptors,
  E,
  inBareChild,
  inChild,
  LONG_MS,
  makeContext,
  makeFolder,
  open,
  own,
  reapAll,
  ROOT,
  startWorker,
} from './support.js'

const MAX_JOBS = 16384

/** A file with a lock that somebody holds: its waiter blocks in the pool until `release`. */
function heldLock(
  t: ExecutionContext,
  context: Context,
): { waiter: number; release: () => void; holder: number } {
  const path = join(makeFolder(t), 'lock')
  writeFileSync(path, '')
  const holder = open(t, path, files.O_RDWR)
  const waiter = open(t, path, files.O_RDWR)
  t.is(context.flock(holder, 2), 0)
  const release = (): void => void context.flock(holder, 8)
  t.teardown(release)
  return { waiter, release, holder }
}

function poolThreads(): number {
  return readdirSync('/proc/self/task').filter(task => {
    try {
      return readFileSync(`/proc/self/task/${task}/comm`, 'utf8').startsWith('virtiofsd-pool')
    } catch {
      return false
    }
  }).length
}

test('16384 jobs may be in flight, one more is EAGAIN, and each comes back once', t => {
  const context = makeContext(t)
  const { waiter, release } = heldLock(t, context)
  const fd = own(t, native.memfd('file', 1))
  t.is(context.submit(PoolCall.flock, 0, waiter, 2), 0)
  for (let token = 1; token < MAX_JOBS; token++)
    if (context.submit(PoolCall.fsync, token, fd, 0) !== 0) t.fail(`job ${token}`)
  for (let i = 0; i < 3; i++) t.is(context.submit(PoolCall.fsync, 9999, fd, 0), -E.EAGAIN)
  t.is(context.reap(), -1)
  release()
  const first = reapAll(context, 1)
  t.deepEqual([...first], [[0, 0]])
  t.is(context.submit(PoolCall.fsync, MAX_JOBS, fd, 0), 0, 'there is room for one again')
  t.is(context.submit(PoolCall.fsync, 9999, fd, 0), -E.EAGAIN, 'and for one only')
  const results = reapAll(context, MAX_JOBS)
  t.deepEqual(
    [...results.keys()].sort((a, b) => a - b),
    Array.from({ length: MAX_JOBS }, (_, i) => i + 1),
  )
  t.deepEqual([...new Set(results.values())], [0])
  t.is(context.reap(), -1)
  t.is(context.submit(PoolCall.fsync, 1, fd, 0), 0)
  t.deepEqual([...reapAll(context, 1)], [[1, 0]])
})

test('jobs that are refused take no room', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('file', 1))
  context.segments.set([1, 1])
  for (let i = 0; i < MAX_JOBS + 10; i++) {
    t.is(context.submit(PoolCall.readv, i, fd, 0, 1, 0, 1, 0, 0), -E.EFAULT)
    t.is(context.submit(99 as never, i, fd), -E.EINVAL)
    t.is(context.submit(PoolCall.fsync, -1, fd), -E.EINVAL)
  }
  t.is(context.reap(), -1)
  t.is(context.submit(PoolCall.fsync, 5, fd), 0)
  t.deepEqual([...reapAll(context, 1)], [[5, 0]])
})

test('many threads, many jobs: every token comes back exactly once', t => {
  // Threads of the test before may be on their way out.
  const before = poolThreads()
  const context = makeContext(t, { poolThreads: 8 })
  const fd = own(t, native.memfd('file', 4096))
  let next = 0
  const seen = new Set<number>()
  while (seen.size < 20_000) {
    while (next < 20_000 && context.submit(PoolCall.fsync, next, fd, next & 1) === 0) {
      next++
      if (next % 100 === 0) break
    }
    let token = context.reap()
    if (token < 0) context.wait(1000, next % 3 === 0 ? 50 : 0)
    for (; token >= 0; token = context.reap()) {
      if (seen.has(token)) t.fail(`token ${token} came twice`)
      if (context.reapedResult !== 0) t.fail(`token ${token}: ${context.reapedResult}`)
      seen.add(token)
    }
  }
  t.is(next, 20_000)
  t.is(Math.max(...seen), 19_999)
  t.true(poolThreads() <= before + 8)
})

function sleepMs(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}

/** Guest memory of 1 MiB, named by `count` segments: a read into all of them takes as long as one likes. */
function longSegments(t: ExecutionContext, context: Context, count: number): void {
  const memory = own(t, native.memfd('guest', 1 << 20))
  t.is(context.raw.addRegion(memory, 0n, 0x1000n, 0x1000n, 1n << 20n), 0)
  for (let i = 0; i < count; i++) context.segments.set([0x1000, 1 << 20], i * 2)
}

test('reads that were begun are taken in turn, while one is waited for as well', t => {
  // Those of a test before may be ending still.
  const threads = poolThreads()
  const context = makeContext(t, { poolThreads: 8, maxSegments: 1024 })
  longSegments(t, context, 256)
  const zero = open(t, '/dev/zero', files.O_RDONLY)
  const fd = own(t, native.memfd('file', 4096))
  t.is(context.submit(PoolCall.readBegun, 1, fd, 9999, 1, 0, 64, 0, 0), -E.EINVAL)
  t.is(context.submit(PoolCall.readBegun, 0, zero, 0, 256, 0, 2 ** 28, 0, 0), 0)
  for (let token = 1; token < 64; token++)
    t.is(context.submit(PoolCall.readBegun, token, fd, 0, 1, 0, 64, token * 60, 0), 0)
  // The first call takes all that is there: nobody has to wait for it.
  const order: number[] = []
  for (let token = context.reap(); order.length < 64; token = context.reap())
    if (token < 0) sleepMs(1)
    else order.push(token)
  t.deepEqual(
    order.toSorted((a, b) => a - b),
    Array.from({ length: 64 }, (_, i) => i),
  )
  // The pool's thread takes some once it is through with the long one. Each taker goes upwards: it may be
  // overtaken by the other, who has the next one.
  t.true(ascendingRuns(order.filter(token => token > 0)) <= 2, order.join(' '))
  t.true(poolThreads() <= threads + 1)
})

/** The fewest ascending sequences of which `order` is a merge. */
function ascendingRuns(order: number[]): number {
  const tails: number[] = []
  for (const token of order) {
    const behind = tails.filter(tail => tail < token)
    if (behind.length > 0) tails.splice(tails.indexOf(Math.max(...behind)), 1)
    tails.push(token)
  }
  return tails.length
}

const mounts = ROOT && existsSync('/dev/fuse') ? test : test.skip

mounts('a read that was begun and takes long does not hold up the others', async t => {
  const stalled = await StalledFileSystem.mount()
  t.teardown(() => stalled.close())
  const context = makeContext(t, { poolThreads: 3 })
  longSegments(t, context, 1)
  const slow = openSync(join(stalled.folder, 'slow'), 'r')
  t.teardown(() => closeSync(slow))
  const fd = own(t, native.memfd('file', 4096))
  t.is(context.submit(PoolCall.readBegun, 0, slow, 0, 1, 0, 4096, 0, 0), 0)
  t.true(stalled.waitHeld(1))
  for (let token = 1; token < 20; token++)
    t.is(context.submit(PoolCall.readBegun, token, fd, 0, 1, 0, 10, 0, 0), 0)
  t.false(reapAll(context, 19).has(0))
  stalled.open()
  t.deepEqual([...reapAll(context, 1)], [[0, 4096]])
})

test('a token may be any number up to 2^31-1, also the same twice', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('file', 1))
  for (const token of [0, 2 ** 31 - 1, 7]) {
    t.is(context.submit(PoolCall.fsync, token, fd), 0)
    t.deepEqual([...reapAll(context, 1)], [[token, 0]])
  }
  t.is(context.submit(PoolCall.fsync, 7, fd), 0)
  t.is(context.submit(PoolCall.fsync, 7, fd), 0)
  t.deepEqual([...reapAll(context, 1)], [[7, 0]])
  t.deepEqual([...reapAll(context, 1)], [[7, 0]])
})

test('no more threads than asked for, and none before it is needed', t => {
  const context = makeContext(t, { poolThreads: 3 })
  const before = poolThreads()
  const { waiter, release } = heldLock(t, context)
  t.true(poolThreads() <= before)
  for (let i = 0; i < 10; i++) t.is(context.submit(PoolCall.flock, i, waiter, 2), 0)
  t.true(poolThreads() <= before + 3)
  release()
  t.deepEqual([...new Set(reapAll(context, 10).values())], [0], 'one description: no conflict')
  const fd = own(t, native.memfd('file', 1))
  for (let i = 0; i < 200; i++) {
    t.is(context.submit(PoolCall.fsync, i, fd), 0)
    reapAll(context, 1)
  }
  t.true(poolThreads() <= before + 3)
  context.dispose()
  // A thread leaves the process a moment after it has left the pool.
  const until = Date.now() + LONG_MS
  while (poolThreads() > before && Date.now() < until) sleepMs(1)
  t.true(poolThreads() <= before)
})

test('a descriptor closed while a job has yet to use it stays until the job is done', t => {
  const context = makeContext(t)
  const memory = own(t, native.memfd('guest', 4096))
  t.is(context.raw.addRegion(memory, 0n, 0x1000n, 0x1000n, 4096n), 0)
  context.segments.set([0x1000, 4])
  const { waiter, release } = heldLock(t, context)
  const folder = makeFolder(t)
  for (const name of ['mine', 'else']) writeFileSync(join(folder, name), name)
  const fd = native.dupFd(open(t, join(folder, 'mine'), files.O_RDONLY))
  t.is(context.submit(PoolCall.flock, 1, waiter, 2), 0)
  t.is(context.submit(PoolCall.readv, 2, fd, 0, 1, 0, 4, 0, 0), 0)
  t.is(context.submit(PoolCall.copyFileRange, 3, fd, 0, memory, 100, 4), 0)
  t.is(context.close(fd), 0)
  for (let i = 0; i < 3; i++) t.not(open(t, join(folder, 'else'), files.O_RDONLY), fd)
  release()
  const results = reapAll(context, 3)
  t.is(results.get(2), 4)
  t.is(readFileSync(`/proc/self/fd/${memory}`, 'latin1').slice(0, 4), 'mine')
  t.is(native.closeFd(fd), -E.EBADF, 'it went with the last of them')
  t.is(context.close(fd), -E.EBADF)
  // With the context, when nobody reaps.
  const second = native.dupFd(memory)
  t.is(context.submit(PoolCall.fsync, 4, second, 0), 0)
  t.is(context.close(second), 0)
  context.dispose()
  t.is(native.closeFd(second), -E.EBADF)
})

test('a job that blocks does not hold up the others', t => {
  const context = makeContext(t, { poolThreads: 2 })
  const { waiter, release } = heldLock(t, context)
  const fd = own(t, native.memfd('file', 1))
  t.is(context.submit(PoolCall.flock, 1000, waiter, 2), 0)
  for (let i = 0; i < 50; i++) t.is(context.submit(PoolCall.fsync, i, fd), 0)
  t.is(reapAll(context, 50).has(1000), false)
  release()
  t.deepEqual([...reapAll(context, 1)], [[1000, 0]])
})

test('errors come back as results', t => {
  const context = makeContext(t)
  const none = 2 ** 30
  const memory = own(t, native.memfd('guest', 4096))
  t.is(context.raw.addRegion(memory, 0n, 0x1000n, 0x1000n, 4096n), 0)
  context.segments.set([0x1000, 100])
  const event = own(t, native.eventFd())
  const path = join(makeFolder(t), 'file')
  writeFileSync(path, 'x')
  const readOnly = open(t, path, files.O_RDONLY)
  const expected: [PoolCall, number[], number][] = [
    [PoolCall.readv, [none, 0, 1, 0, 10, 0, 0], -E.EBADF],
    [PoolCall.writev, [none, 0, 1, 0, 10, 0, 0], -E.EBADF],
    [PoolCall.writev, [readOnly, 0, 1, 0, 10, 0, 0], -E.EBADF],
    [PoolCall.readv, [readOnly, 0, 1, 0, 10, 0, 0], 1],
    [PoolCall.fsync, [none], -E.EBADF],
    [PoolCall.fsync, [event], -E.EINVAL],
    [PoolCall.syncfs, [none], -E.EBADF],
    [PoolCall.fallocate, [none, 0, 0, 1], -E.EBADF],
    [PoolCall.fallocate, [memory, 0, 0, 0], -E.EINVAL],
    [PoolCall.copyFileRange, [none, 0, memory, 0, 1], -E.EBADF],
    [PoolCall.close, [none], -E.EBADF],
    [PoolCall.flock, [none, 2], -E.EBADF],
    [PoolCall.flock, [readOnly, 3], -E.EINVAL],
    [PoolCall.ftruncate, [none, 0], -E.EBADF],
    [PoolCall.ftruncate, [readOnly, 0], -E.EINVAL],
    [PoolCall.fsync, [-1], -E.EBADF],
    [PoolCall.fsync, [0.5], -E.EINVAL],
    [PoolCall.ftruncate, [memory, Number.NaN], -E.EINVAL],
  ]
  for (const [i, [call, args]] of expected.entries()) {
    const [a, ...rest] = args
    t.is(context.submit(call, i, a!, ...rest), 0)
  }
  const results = reapAll(context, expected.length)
  for (const [i, [call, args, result]] of expected.entries())
    t.is(results.get(i), result, `call ${call}(${args.join(', ')})`)
})

test('every call of the pool does what it says', t => {
  const context = makeContext(t)
  const memory = own(t, native.memfd('guest', 8192))
  t.is(context.raw.addRegion(memory, 0n, 0x1000n, 0x1000n, 8192n), 0)
  const guest = Buffer.alloc(8192)
  guest.write('from the guest')
  writeFileSync(`/proc/self/fd/${memory}`, guest)
  context.segments.set([0x1000, 14, 0x2000, 14])
  const folder = makeFolder(t)
  const file = open(t, join(folder, 'file'), files.O_RDWR | files.O_CREAT)
  const copy = open(t, join(folder, 'copy'), files.O_RDWR | files.O_CREAT)
  const run = (call: PoolCall, a: number, ...rest: number[]): number => {
    t.is(context.submit(call, 3, a, ...rest), 0)
    return reapAll(context, 1).get(3)!
  }
  t.is(run(PoolCall.writev, file, 0, 1, 5, 100, 2, 0), 9)
  t.is(readFileSync(join(folder, 'file'), 'latin1'), '\0\0the guest')
  t.is(run(PoolCall.readv, file, 1, 1, 1, 4, 2, 0), 4)
  t.is(readFileSync(`/proc/self/fd/${memory}`).toString('latin1', 4096, 4102), '\0the \0')
  t.is(run(PoolCall.copyFileRange, file, 2, copy, 0, 100), 9)
  t.is(readFileSync(join(folder, 'copy'), 'latin1'), 'the guest')
  t.is(run(PoolCall.ftruncate, copy, 3), 0)
  t.is(fstatSync(copy).size, 3)
  t.is(run(PoolCall.fallocate, memory, 0, 0, 10_000), 0)
  t.is(fstatSync(memory).size, 10_000)
  t.is(run(PoolCall.fsync, memory, 1), 0)
  const spare = native.dupFd(memory)
  t.is(run(PoolCall.syncfs, spare, 0), 0)
  t.is(run(PoolCall.syncfs, spare, 1), 0)
  t.is(native.closeFd(spare), -E.EBADF)
  const other = native.dupFd(memory)
  t.is(run(PoolCall.close, other), 0)
  t.is(native.closeFd(other), -E.EBADF)
  t.is(run(PoolCall.flock, file, 2), 0)
})

test('dispose finishes what was submitted, closes what is its own, and may be called twice', t => {
  const before = descriptors()
  const context = makeContext(t, { poolThreads: 2 })
  // Not on a disk: dispose does not wait for ever.
  const fd = own(t, native.memfd('file', 0))
  const copies = Array.from({ length: 100 }, () => native.dupFd(fd))
  for (let i = 0; i < 100; i++) t.is(context.submit(PoolCall.ftruncate, i, copies[i]!, i + 1), 0)
  for (let i = 0; i < 100; i++) t.is(context.submit(PoolCall.close, 100 + i, copies[i]!), 0)
  context.dispose()
  context.dispose()
  t.true(fstatSync(fd).size > 0)
  t.deepEqual(descriptors().sort(), [...before, String(fd)].sort())
  t.is(context.reap(), -E.EBADF)
  t.is(context.submit(PoolCall.fsync, 1, fd), -E.EBADF)
  t.is(context.wait(0, 0), -E.EBADF)
  t.is(context.raw.watchFd(fd, 1, false), -E.EBADF)
  t.is(context.raw.unwatchFd(fd), -E.EBADF)
})

// --- ends that must not hang ------------------------------------------------------------------------

// In processes of their own: one that hangs is killed after LONG_MS and has no answer.

test('dispose returns although a job is blocked for good', t => {
  t.timeout(3 * LONG_MS)
  const path = join(makeFolder(t), 'lock')
  writeFileSync(path, '')
  const ended = inChild(({ addon, Context }, path: string) => {
    const { openSync } = process.getBuiltinModule('node:fs')
    const context = new Context({ arenaBytes: 4096, maxSegments: 1, poolThreads: 4 })
    const holder = openSync(path, 'r+')
    context.flock(holder, 2)
    for (let i = 0; i < 3; i++) context.submit(addon.PoolCall.flock, i, openSync(path, 'r+'), 2)
    const start = performance.now()
    context.dispose()
    return { ms: performance.now() - start, after: context.reap() }
  }, path)
  const value = ended.value as { ms: number; after: number } | undefined
  t.not(value, undefined, `dispose hangs: ${JSON.stringify(ended)}`)
  t.true(value!.ms < LONG_MS / 2, `${value!.ms} ms`)
  t.is(value!.after, -E.EBADF)
  t.is(ended.status, 0)
})

test('a process ends although a job is blocked and nobody disposed', t => {
  t.timeout(3 * LONG_MS)
  const path = join(makeFolder(t), 'lock')
  writeFileSync(path, '')
  const ended = inChild(({ addon, Context }, path: string) => {
    const { openSync } = process.getBuiltinModule('node:fs')
    const context = new Context({ arenaBytes: 4096, maxSegments: 1, poolThreads: 1 })
    context.flock(openSync(path, 'r+'), 2)
    return context.submit(addon.PoolCall.flock, 1, openSync(path, 'r+'), 2)
  }, path)
  t.is(ended.value, 0)
  t.is(ended.status, 0, JSON.stringify(ended))
})

test('a thread ends although a job is blocked and nobody disposed', async t => {
  t.timeout(3 * LONG_MS)
  const path = join(makeFolder(t), 'lock')
  writeFileSync(path, '')
  const holder = open(t, path, files.O_RDWR)
  const context = makeContext(t)
  t.is(context.flock(holder, 2), 0)
  const before = descriptors().length
  const { worker, answer } = startWorker(({ addon, Context }, path: string) => {
    const { openSync } = process.getBuiltinModule('node:fs')
    const context = new Context({ arenaBytes: 4096, maxSegments: 1, poolThreads: 1 })
    return context.submit(addon.PoolCall.flock, 1, openSync(path, 'r+'), 2)
  }, path)
  t.is(await answer, 0)
  let ended = false
  const gone = worker.terminate().then(() => {
    ended = true
  })
  await Promise.race([gone, sleep(LONG_MS, undefined, { ref: false })])
  t.true(ended)
  // The file that Node opened for the thread is closed by Node.
  t.true(descriptors().length <= before + 1)
})

test('threads with contexts come and go', t => {
  t.timeout(3 * LONG_MS)
  // In a process whose main thread never loads the shim. It must stay loaded all the same: pool threads
  // are still on their way out, some may be left behind, and its signal handlers are installed.
  const ended = inBareChild(
    async (context: string, addon: string) => {
      const { Worker } = process.getBuiltinModule('node:worker_threads')
      const text = `
        import { PoolCall, native } from ${JSON.stringify(addon)}
        import { Context } from ${JSON.stringify(context)}
        const one = new Context({ arenaBytes: 4096, maxSegments: 1, poolThreads: 4 })
        const fd = native.memfd('f', 1)
        for (let i = 0; i < 50; i++) one.submit(PoolCall.fsync, i, fd)
        if (Math.random() < 0.5) one.dispose()`
      let good = 0
      for (let i = 0; i < 100; i++) {
        const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(text)}`))
        worker.once('error', error => console.error(error))
        const code = await new Promise(resolve => worker.once('exit', resolve))
        if (code === 0) good++
      }
      const { readFileSync } = process.getBuiltinModule('node:fs')
      return { good, loaded: readFileSync('/proc/self/maps', 'utf8').includes('virtiofsd_native') }
    },
    CONTEXT,
    ADDON,
  )
  t.deepEqual(ended.value, { good: 100, loaded: true }, JSON.stringify(ended))
  t.is(ended.status, 0)
})

test('a job of its own is none of the pool: with every pool thread blocked it comes back', t => {
  const context = makeContext(t)
  const { waiter, release, holder } = heldLock(t, context)
  for (let token = 0; token < 300; token++) context.submit(PoolCall.flock, token, waiter, 2)
  const other = heldLock(t, context)
  t.is(context.submitAlone(PoolCall.flock, 1000, other.waiter, 2), 0)
  t.is(context.reap(), -1)
  other.release()
  t.deepEqual([...reapAll(context, 1)], [[1000, 0]])
  const fd = other.holder
  t.is(context.flock(other.waiter, 8), 0)
  t.is(context.ofdLock(fd, 37, 1, 10, 10, 0), 0)
  t.is(context.submitAlone(PoolCall.ofdLock, 1001, other.waiter, 1, 15, 0), 0)
  t.is(context.ofdLock(fd, 37, 2, 0, 0, 0), 0)
  t.deepEqual([...reapAll(context, 1)], [[1001, 0]])
  t.is(context.ofdLock(fd, 37, 0, 19, 1, 0), -E.EAGAIN, 'it has what it waited for')
  t.is(context.ofdLock(fd, 37, 0, 10, 5, 0), 0)
  release()
  t.is(reapAll(context, 300).size, 300)
  t.is(context.flock(holder, 8), 0)
})

test('256 jobs have threads of their own, one more is EAGAIN; each can be interrupted alone', t => {
  const context = makeContext(t)
  const { waiter, holder } = heldLock(t, context)
  t.is(context.submitAlone(PoolCall.fsync, 0, holder), -E.EINVAL, 'only locks')
  for (let token = 0; token < 256; token++)
    if (context.submitAlone(PoolCall.flock, token, waiter, 2) !== 0) t.fail(`job ${token}`)
  t.is(context.submitAlone(PoolCall.flock, 256, waiter, 2), -E.EAGAIN)
  for (const token of [7, 255, 0]) {
    t.is(context.interrupt(token, 5000), 0)
    t.deepEqual([...reapAll(context, 1)], [[token, -E.EINTR]])
    t.is(context.interrupt(token, 0), 0, 'it is over')
  }
  t.is(context.reap(), -1)
  t.is(context.submitAlone(PoolCall.flock, 256, waiter, 2), 0)
})

test('nothing is done after dispose has returned', t => {
  t.timeout(3 * LONG_MS)
  const folder = makeFolder(t)
  for (const name of ['lock', 'file']) writeFileSync(join(folder, name), '')
  const ended = inChild(async ({ addon, native, Context }, folder: string) => {
    const { openSync } = process.getBuiltinModule('node:fs')
    const context = new Context({ arenaBytes: 4096, maxSegments: 1, poolThreads: 1 })
    const holder = openSync(`${folder}/lock`, 'r+')
    const waiter = openSync(`${folder}/lock`, 'r+')
    const file = openSync(`${folder}/file`, 'r+')
    context.flock(holder, 2)
    // More blocked jobs than dispose has patience for, and then one whose work could be seen.
    for (let i = 0; i < 2000; i++) context.submit(addon.PoolCall.flock, i, waiter, 2)
    context.submit(addon.PoolCall.ftruncate, 9999, file, 1000)
    context.dispose()
    // Who owns the descriptor closes it now, and its number goes to somebody else.
    const { fstatSync } = process.getBuiltinModule('node:fs')
    const before = fstatSync(file).size
    native.closeFd(holder)
    await new Promise(resolve => setTimeout(resolve, 1500))
    return { before, after: fstatSync(file).size }
  }, folder)
  const value = ended.value as { before: number; after: number } | undefined
  t.not(value, undefined, `it hangs: ${JSON.stringify(ended)}`)
  t.is(value!.after, value!.before)
})
