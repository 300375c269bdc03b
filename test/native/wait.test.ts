/** What wakes `wait`, what does not, and the signalling of call descriptors. */
import { closeSync, constants as files, openSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { native, PoolCall, SignalKind } from '../../src/native/addon.js'
import type { Context } from '../../src/native/context.js'
import {
  E,
  LONG_MS,
  makeContext,
  makeFifo,
  makeFolder,
  makePipe,
  open,
  own,
  reapAll,
  socketPair,
  startWorker,
} from './support.js'

const GUEST = 0x4000_0000
const USER = 0x7f00_0000_0000n

/** The tokens of one wait. */
function tokens(context: Context, timeoutMs = 0, spinUs = 0): number[] {
  const count = context.wait(timeoutMs, spinUs)
  if (count < 0) throw new Error(`wait: errno ${-count}`)
  return [...context.ready.subarray(0, count)]
}

/** Signals as a caller does that has just learned the descriptor's kind. */
function signal(context: Context, fd: number): number {
  return context.eventSignal(fd, native.signalKind(fd))
}

/** Milliseconds that `step` took. */
function took(step: () => void): number {
  const start = performance.now()
  step()
  return performance.now() - start
}

/** A ring's avail.idx in guest memory: its view and the memory's descriptor. */
function ring(t: ExecutionContext, context: Context): { view: ArrayBuffer; fd: number } {
  const fd = own(t, native.memfd('ring', 4096))
  t.is(context.raw.addRegion(fd, 0n, BigInt(GUEST), USER, 4096n), 0)
  const view = context.raw.mapView(USER, 64, 2)
  if (typeof view === 'number') throw new Error(`mapView: ${view}`)
  return { view, fd }
}

// --- descriptors ------------------------------------------------------------------------------------

test('an eventfd wakes once for each time it is signalled, and need not be read', t => {
  const context = makeContext(t)
  const fd = own(t, native.eventFd())
  t.is(context.raw.watchFd(fd, 2 ** 31 - 1, false), 0)
  t.deepEqual(tokens(context), [])
  native.eventWrite(fd)
  t.deepEqual(tokens(context, LONG_MS), [2 ** 31 - 1])
  t.deepEqual(tokens(context), [], 'it is not read, and yet it is not ready again')
  native.eventWrite(fd)
  native.eventWrite(fd)
  t.deepEqual(tokens(context, LONG_MS), [2 ** 31 - 1])
  t.deepEqual(tokens(context), [])
  t.is(native.eventRead(fd, 0), 3, 'nobody read it')
})

test('an eventfd signalled before it is watched wakes, too', t => {
  const context = makeContext(t)
  const fd = own(t, native.eventFd())
  native.eventWrite(fd)
  t.is(context.raw.watchFd(fd, 0, true), 0)
  t.deepEqual(tokens(context, LONG_MS), [0])
  t.deepEqual(tokens(context), [])
})

test('a pipe wakes until it is read; with drain it is read by wait', t => {
  const context = makeContext(t)
  const folder = makeFolder(t)
  const kept = makePipe(context, folder)
  const drained = makePipe(context, folder)
  t.is(context.raw.watchFd(kept.read, 1, false), 0)
  t.is(context.raw.watchFd(drained.read, 2, true), 0)
  for (const pipe of [kept, drained]) writeSync(pipe.write, Buffer.alloc(3000))
  t.deepEqual(tokens(context, LONG_MS).sort(), [1, 2])
  t.deepEqual(tokens(context), [1], 'level-triggered')
  t.throws(() => readSync(drained.read, Buffer.alloc(1)), { code: 'EAGAIN' })
  t.is(readSync(kept.read, Buffer.alloc(4000)), 3000)
  t.deepEqual(tokens(context), [])
  writeSync(drained.write, 'x')
  t.deepEqual(tokens(context, LONG_MS), [2], 'and again')
  for (const pipe of [kept, drained]) {
    context.raw.unwatchFd(pipe.read)
    closeSync(pipe.read)
    closeSync(pipe.write)
  }
})

test('draining a blocking descriptor does not block', t => {
  const context = makeContext(t)
  const [near, far] = socketPair(t)
  t.is(context.raw.watchFd(near, 5, true), 0)
  for (let i = 0; i < 3; i++) {
    native.eventWrite(far)
    t.deepEqual(tokens(context, LONG_MS), [5])
    t.deepEqual(tokens(context), [])
  }
})

test('a socket wakes while it has something to read, and when its peer is gone', t => {
  const context = makeContext(t)
  const pair = new Int32Array(2)
  native.socketPair(pair)
  const near = own(t, pair[0]!)
  t.is(context.raw.watchFd(near, 9, false), 0)
  t.deepEqual(tokens(context), [])
  native.eventWrite(pair[1]!)
  t.deepEqual(tokens(context, LONG_MS), [9])
  t.deepEqual(tokens(context), [9])
  t.is(native.eventRead(near, 0), 1)
  t.deepEqual(tokens(context), [])
  native.closeFd(pair[1]!)
  t.deepEqual(tokens(context, LONG_MS), [9])
})

test('a kick pipe or socket whose other end is closed does not keep wait awake', t => {
  const context = makeContext(t)
  const folder = makeFolder(t)
  const pipe = makePipe(context, folder)
  const pair = new Int32Array(2)
  native.socketPair(pair)
  const near = own(t, pair[0]!)
  t.is(context.raw.watchFd(pipe.read, 1, true), 0)
  t.is(context.raw.watchFd(near, 2, true), 0)
  writeSync(pipe.write, 'kick')
  native.eventWrite(pair[1]!)
  closeSync(pipe.write)
  native.closeFd(pair[1]!)
  const seen: number[] = []
  for (let i = 0; i < 10; i++) seen.push(...tokens(context))
  t.true(seen.includes(1) && seen.includes(2), 'the last kick is reported')
  let awake = 0
  for (let i = 0; i < 5; i++) awake += tokens(context, 10).length
  t.is(awake, 0)
  closeSync(pipe.read)
})

test('as many as are ready are reported, each once', t => {
  const context = makeContext(t)
  const fds = Array.from({ length: 150 }, () => own(t, native.eventFd()))
  for (const [i, fd] of fds.entries()) t.is(context.raw.watchFd(fd, i, false), 0)
  for (let round = 0; round < 3; round++) {
    for (const fd of fds) native.eventWrite(fd)
    const seen: number[] = []
    for (let i = 0; i < 4; i++) {
      const some = tokens(context)
      t.true(some.length <= context.ready.length)
      seen.push(...some)
    }
    t.deepEqual(
      seen.sort((a, b) => a - b),
      fds.map((_, i) => i),
    )
    t.deepEqual(tokens(context), [])
  }
})

test('descriptors that are always ready do not starve others', t => {
  const context = makeContext(t)
  for (let i = 0; i < 80; i++) {
    const [near, far] = socketPair(t)
    native.eventWrite(far)
    t.is(context.raw.watchFd(near, i, false), 0)
  }
  const seen = new Set<number>()
  for (let i = 0; i < 10; i++) for (const token of tokens(context)) seen.add(token)
  t.is(seen.size, 80)
})

test('tokens come in the order in which the descriptors became ready', t => {
  const context = makeContext(t)
  const fds = [0, 1, 2, 3, 4].map(() => own(t, native.eventFd()))
  for (const [i, fd] of fds.entries()) t.is(context.raw.watchFd(fd, 10 + i, false), 0)
  for (const i of [3, 0, 4, 1]) native.eventWrite(fds[i]!)
  t.deepEqual(tokens(context), [13, 10, 14, 11])
})

test('watchFd and unwatchFd: a descriptor is watched once, and not after it is forgotten', t => {
  const context = makeContext(t)
  const fd = own(t, native.eventFd())
  t.is(context.raw.watchFd(fd, 1, false), 0)
  t.is(context.raw.watchFd(fd, 2, false), -E.EEXIST)
  native.eventWrite(fd)
  t.deepEqual(tokens(context), [1])
  t.is(context.raw.unwatchFd(fd), 0)
  t.is(context.raw.unwatchFd(fd), -E.ENOENT)
  native.eventWrite(fd)
  t.deepEqual(tokens(context), [])
  t.is(context.raw.watchFd(fd, 2, false), 0)
  t.deepEqual(tokens(context), [2])
  t.is(context.raw.watchFd(2 ** 30, 1, false), -E.EBADF)
  t.is(context.raw.watchFd(-1, 1, false), -E.EBADF)
  const file = own(t, native.memfd('file', 0))
  t.is(context.raw.watchFd(file, 1, false), -E.EPERM, 'a file cannot be waited for')
  const watch = context.raw.watchFd as (...args: unknown[]) => number
  for (const args of [[], [fd], [fd, -1, false], [fd, 1, 0], ['1', 1, false], [fd, 1.5, false]])
    t.throws(() => watch(...args), { instanceOf: TypeError })
})

test('a descriptor closed while it is watched is not reported any more, nor is its successor', t => {
  const context = makeContext(t)
  const fd = native.eventFd()
  t.is(context.raw.watchFd(fd, 1, false), 0)
  native.closeFd(fd)
  const next = own(t, native.eventFd())
  t.is(next, fd, 'the number is used again')
  native.eventWrite(next)
  t.deepEqual(tokens(context), [])
  context.raw.unwatchFd(fd)
  t.is(context.raw.watchFd(next, 2, false), 0)
  t.deepEqual(tokens(context), [2])
})

// --- time, jobs and rings ---------------------------------------------------------------------------

test('a time-out of 0 does not block, others end', t => {
  const context = makeContext(t)
  t.true(took(() => t.deepEqual(tokens(context, 0), [])) < LONG_MS)
  const elapsed = took(() => t.deepEqual(tokens(context, 60), []))
  t.true(elapsed >= 50 && elapsed < LONG_MS, `${elapsed} ms`)
  const spun = took(() => t.deepEqual(tokens(context, 0, 60_000), []))
  t.true(spun >= 50 && spun < LONG_MS, `${spun} ms`)
})

test('a finished job wakes a wait for ever, asleep or spinning', t => {
  const context = makeContext(t, { poolThreads: 2 })
  const fd = own(t, native.memfd('file', 4096))
  for (let round = 0; round < 500; round++) {
    t.is(context.submit(PoolCall.fsync, round, fd, 0), 0)
    let token = context.reap()
    for (let waits = 0; token < 0; waits++) {
      if (waits > 100) throw new Error('wait comes back without a finished job')
      t.deepEqual(tokens(context, -1, round % 3 === 0 ? 100 : 0), [])
      token = context.reap()
    }
    t.is(token, round)
  }
  t.is(context.reap(), -1)
})

test('a job that was finished before does not let wait sleep', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('file', 4096))
  t.is(context.submit(PoolCall.fsync, 1, fd, 0), 0)
  tokens(context, -1)
  // Not reaped yet: it is there for every wait.
  const elapsed = took(() => {
    for (let i = 0; i < 5; i++) t.deepEqual(tokens(context, LONG_MS), [])
  })
  t.true(elapsed < LONG_MS)
  t.deepEqual([...reapAll(context, 1)], [[1, 0]])
})

test('a ring that moved before wait ends it; one that is not looked at does not', t => {
  const context = makeContext(t)
  const { view } = ring(t, context)
  const idx = new Uint16Array(view, 2, 1)
  t.is(context.raw.watchRing(3, view), 0)
  idx[0] = 7
  context.lastAvail[3] = 7
  t.true(took(() => tokens(context, 60)) >= 50, 'nothing new: it sleeps')
  context.lastAvail[3] = -1
  idx[0] = 8
  t.true(took(() => tokens(context, 60)) >= 50, 'not looked at: it sleeps')
  context.lastAvail[3] = 7
  t.true(took(() => t.deepEqual(tokens(context, LONG_MS, 0), [])) < LONG_MS - 1000, 'it moved')
  t.true(took(() => t.deepEqual(tokens(context, LONG_MS, 1000), [])) < LONG_MS - 1000)
  // Around the end of 16 bits.
  idx[0] = 0
  context.lastAvail[3] = 65535
  t.true(took(() => tokens(context, LONG_MS)) < LONG_MS - 1000)
  idx[0] = 65535
  t.true(took(() => tokens(context, 60)) >= 50)
})

test('a ring that is forgotten, or whose view went, does not wake', t => {
  const context = makeContext(t)
  const { view, fd } = ring(t, context)
  context.lastAvail[0] = 5
  t.is(context.raw.watchRing(0, view), 0)
  t.true(took(() => tokens(context, LONG_MS)) < LONG_MS - 1000)
  t.is(context.raw.watchRing(0, null), 0)
  t.true(took(() => tokens(context, 60)) >= 50)
  t.is(context.raw.watchRing(0, view), 0)
  context.raw.unmapView(view)
  t.true(took(() => tokens(context, 60, 1000)) >= 50)
  const again = context.raw.mapView(USER, 64, 2) as ArrayBuffer
  t.is(context.raw.watchRing(0, again), 0)
  t.true(took(() => tokens(context, LONG_MS)) < LONG_MS - 1000)
  t.is(context.raw.clearRegions(), 1)
  t.true(took(() => tokens(context, 60, 1000)) >= 50, 'nothing is read that is not mapped')
  void fd
})

test('a ring that moves while wait spins ends it', async t => {
  const context = makeContext(t)
  const { view, fd } = ring(t, context)
  const idx = new Uint16Array(view, 2, 1)
  t.is(context.raw.watchRing(0, view), 0)
  context.lastAvail[0] = 0
  // Another thread moves the index when told to, through the memory's file.
  const event = own(t, native.eventFd())
  const started = own(t, native.eventFd())
  const { worker, answer } = startWorker(
    ({ native }, event: number, started: number, fd: number) => {
      const { writeSync } = process.getBuiltinModule('node:fs')
      native.eventWrite(started)
      if (native.eventRead(event, 90_000) !== 1) return 'not told'
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100)
      return writeSync(fd, Uint8Array.of(1), 0, 1, 2)
    },
    event,
    started,
    fd,
  )
  t.is(native.eventRead(started, LONG_MS), 1)
  native.eventWrite(event)
  const spin = (): number => took(() => t.deepEqual(tokens(context, 0, 10e6), []))
  let elapsed = spin()
  // The other thread had no CPU for so long.
  for (let i = 0; i < 8 && elapsed >= 10_000 && idx[0] === 0; i++) elapsed = spin()
  t.is(idx[0], 1, 'not before it moved')
  t.true(elapsed < 10_000, `${elapsed} ms`)
  t.is(await answer, 1)
  await worker.terminate()
})

// --- eventSignal ------------------------------------------------------------------------------------

test('signalKind tells eventfds, sockets and the rest apart', t => {
  const context = makeContext(t)
  const pipe = makePipe(context, makeFolder(t))
  const [near] = socketPair(t)
  t.is(native.signalKind(own(t, native.eventFd())), SignalKind.eventFd)
  t.is(native.signalKind(near), SignalKind.socket)
  t.is(native.signalKind(pipe.write), SignalKind.other)
  t.is(native.signalKind(own(t, native.memfd('[eventfd]', 0))), SignalKind.other)
  closeSync(pipe.read)
  closeSync(pipe.write)
})

test('eventSignal with a wrong kind of a pipe or socket neither blocks nor raises a signal', t => {
  const context = makeContext(t)
  const { blocking } = fullPipe(t, context)
  for (const kind of [SignalKind.other, 0, 4, -1, 2 ** 31 - 1])
    t.is(context.eventSignal(blocking, kind), 0, `kind ${kind}`)
  t.is(context.eventSignal(blocking, SignalKind.socket), -E.ENOTSOCK)
  const [near] = socketPair(t)
  for (let i = 0; i < 10_000; i++) context.eventSignal(near, SignalKind.socket)
  t.is(context.eventSignal(near, SignalKind.other), 0, 'a full socket')
})

test('eventSignal adds 1 to an eventfd, and a full one is signalled enough', t => {
  const context = makeContext(t)
  const fd = own(t, native.eventFd())
  t.is(signal(context, fd), 0)
  t.is(signal(context, fd), 0)
  t.is(native.eventRead(fd, 0), 2)
  const full = Buffer.alloc(8, 0xff)
  full[0] = 0xfe
  writeSync(fd, full)
  t.is(signal(context, fd), 0)
  t.is(signal(context, 2 ** 30), -E.EBADF)
})

test('eventSignal writes eight bytes to a pipe or a socket', t => {
  const context = makeContext(t)
  const pipe = makePipe(context, makeFolder(t))
  const [near, far] = socketPair(t)
  for (let i = 0; i < 2; i++) {
    t.is(signal(context, pipe.write), 0)
    t.is(signal(context, near), 0)
  }
  t.is(readSync(pipe.read, Buffer.alloc(100)), 16)
  t.is(native.eventRead(far, 0), 1)
  t.is(native.eventRead(far, 0), 1)
  t.is(native.eventRead(far, 0), -E.EAGAIN)
  closeSync(pipe.read)
  t.is(signal(context, pipe.write), -E.EPIPE, 'and no SIGPIPE')
  closeSync(pipe.write)
})

test('eventSignal to a socket whose peer is gone is EPIPE', t => {
  const context = makeContext(t)
  const pair = new Int32Array(2)
  native.socketPair(pair)
  native.closeFd(pair[1]!)
  t.is(signal(context, own(t, pair[0]!)), -E.EPIPE)
})

/** A full FIFO, as a descriptor whose writes would block. */
function fullPipe(t: ExecutionContext, context: Context): { blocking: number; read: number } {
  const path = join(makeFolder(t), 'fifo')
  makeFifo(context, path)
  const blocking = open(t, path, files.O_RDWR)
  const read = open(t, path, files.O_RDONLY | files.O_NONBLOCK)
  const filler = openSync(path, files.O_WRONLY | files.O_NONBLOCK)
  t.throws(
    () => {
      for (;;) writeSync(filler, Buffer.alloc(4096))
    },
    { code: 'EAGAIN' },
  )
  closeSync(filler)
  return { blocking, read }
}

test('eventSignal to a full pipe does not block', t => {
  const context = makeContext(t)
  const { blocking, read } = fullPipe(t, context)
  for (let i = 0; i < 3; i++) t.is(signal(context, blocking), 0)
  // With room again it does write.
  while (read >= 0) {
    try {
      readSync(read, Buffer.alloc(65536))
    } catch {
      break
    }
  }
  t.is(signal(context, blocking), 0)
  t.is(readSync(read, Buffer.alloc(100)), 8)
})

test('eventSignal to a full socket does not block', t => {
  const context = makeContext(t)
  const [near] = socketPair(t)
  // A blocking socket; far more than it can hold.
  for (let i = 0; i < 100_000; i++)
    if (signal(context, near) !== 0) t.fail('a full socket is no error')
  t.pass()
})

test('a descriptor number that changes its kind is signalled in the new way', t => {
  const context = makeContext(t)
  const folder = makeFolder(t)
  const pipe = makePipe(context, folder)
  const pair = new Int32Array(2)
  native.socketPair(pair)
  // Given away by each kind in turn, always under the same number.
  const place = native.dupFd(pipe.write)
  const replace = (by: number): void => {
    native.closeFd(place)
    t.is(native.dupFd(by), place)
  }
  t.is(signal(context, place), 0)
  t.is(readSync(pipe.read, Buffer.alloc(100)), 8)
  replace(pair[0]!)
  t.is(signal(context, place), 0)
  t.is(native.eventRead(pair[1]!, 0), 1)
  replace(pipe.write)
  t.is(signal(context, place), 0)
  t.is(readSync(pipe.read, Buffer.alloc(100)), 8)
  const event = own(t, native.eventFd())
  replace(pair[0]!)
  t.is(signal(context, place), 0)
  replace(event)
  t.is(signal(context, place), 0)
  t.is(native.eventRead(event, 0), 1)
  // From an eventfd to a full pipe whose writes block.
  const { blocking } = fullPipe(t, context)
  replace(blocking)
  t.is(signal(context, place), 0)
  native.closeFd(place)
  for (const fd of [...pair]) native.closeFd(fd)
  closeSync(pipe.read)
  closeSync(pipe.write)
})

test('a wait tells how long it slept and when that was', t => {
  const context = makeContext(t)
  const before = context.nowUs()
  t.is(context.wait(3, 0), 0)
  const { sleptUs, waitedUs } = context
  // Whole milliseconds are counted from the kernel's own clock, which may be a little behind.
  t.true(sleptUs >= 2000)
  t.true(waitedUs >= before + sleptUs)
  t.true(waitedUs <= context.nowUs())
  for (const spinUs of [0, 10]) {
    const since = context.nowUs()
    t.is(context.wait(0, spinUs), 0)
    t.is(context.sleptUs, 0)
    t.true(context.waitedUs >= since)
    t.true(context.waitedUs <= context.nowUs())
  }
})
