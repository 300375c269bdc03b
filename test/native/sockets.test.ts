/** Messages with descriptors over UNIX sockets, listeners, and the small descriptors of a session. */
import { spawn } from 'node:child_process'
import {
  existsSync,
  fstatSync,
  constants as files,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { MAX_MESSAGE_FDS, native } from '../../src/native/addon.js'
import type { Context, Received } from '../../src/native/context.js'
import {
  descriptors,
  E,
  inChild,
  LONG_MS,
  makeContext,
  makeFifo,
  makeFolder,
  open,
  own,
  socketPair,
  startWorker,
} from './support.js'

function receive(context: Context, fd: number, bytes = 4096): Received & { answer: number } {
  const result = { bytes: -1, fdCount: -1, truncated: true }
  const answer = context.receive(fd, 0, bytes, result)
  return { ...result, answer }
}

function sameFile(a: number, b: number): boolean {
  const [one, two] = [fstatSync(a), fstatSync(b)]
  return one.dev === two.dev && one.ino === two.ino
}

/** Whether `fd` is closed by exec. */
function closeOnExec(fd: number): boolean {
  const flags = /flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))![1]!
  return (Number.parseInt(flags, 8) & 0o2000000) !== 0
}

// --- messages ---------------------------------------------------------------------------------------

test('bytes and descriptors arrive as they were sent', t => {
  const context = makeContext(t)
  const [near, far] = socketPair(t)
  const sent = [0, 1, 2].map(i => own(t, native.memfd(`f${i}`, 100 + i)))
  context.fds.set(sent)
  context.bytes.set(Buffer.from('message'), 500)
  t.is(context.raw.send(near, 500, 7, 3), 7)
  const before = descriptors().length
  const got = receive(context, far)
  t.deepEqual(got, { answer: 7, bytes: 7, fdCount: 3, truncated: false })
  t.is(Buffer.from(context.bytes.subarray(0, 7)).toString(), 'message')
  t.is(descriptors().length, before + 3)
  for (let i = 0; i < 3; i++) {
    const fd = context.fds[i]!
    t.false(sent.includes(fd), 'a descriptor of its own')
    t.true(sameFile(fd, sent[i]!))
    t.true(closeOnExec(fd))
    t.is(native.closeFd(fd), 0)
  }
  t.is(descriptors().length, before)
  // The next message has none.
  t.is(context.raw.send(far, 500, 7, 0), 7)
  t.deepEqual(receive(context, near), { answer: 7, bytes: 7, fdCount: 0, truncated: false })
})

test('as many descriptors as one message can carry', t => {
  const context = makeContext(t)
  const [near, far] = socketPair(t)
  const before = descriptors().length
  const file = own(t, native.memfd('f', 1))
  context.fds.fill(file)
  t.is(context.raw.send(near, 0, 1, MAX_MESSAGE_FDS), 1)
  t.deepEqual(receive(context, far), {
    answer: 1,
    bytes: 1,
    fdCount: MAX_MESSAGE_FDS,
    truncated: false,
  })
  t.is(new Set(context.fds).size, MAX_MESSAGE_FDS)
  for (const fd of context.fds) t.is(native.closeFd(fd), 0)
  t.is(descriptors().length, before + 1)
  for (const count of [MAX_MESSAGE_FDS + 1, -1, 2 ** 31 - 1])
    t.is(context.raw.send(near, 0, 1, count), -E.EINVAL)
})

for (const count of [MAX_MESSAGE_FDS + 1, MAX_MESSAGE_FDS + 2, 253])
  test(`of ${count} descriptors in one message none is left over`, async t => {
    const context = makeContext(t)
    const [near, far] = socketPair(t)
    const before = descriptors().length
    // Another program sends them: our own `send` would not.
    const script =
      'import socket,os,array\n' +
      's=socket.socket(fileno=3)\n' +
      `f=array.array("i",[0]*${count})\n` +
      's.sendmsg([b"hello"],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,f)])\n'
    const child = spawn('python3', ['-c', script], { stdio: ['pipe', 'inherit', 'inherit', near] })
    const status = await new Promise(resolve => child.once('exit', resolve))
    child.stdin!.destroy()
    await new Promise(resolve => setImmediate(resolve))
    t.is(status, 0)
    t.is(descriptors().length, before)
    const got = receive(context, far)
    t.deepEqual(got, { answer: 5, bytes: 5, fdCount: MAX_MESSAGE_FDS, truncated: true })
    for (let i = 0; i < got.fdCount; i++) t.is(native.closeFd(context.fds[i]!), 0)
    t.is(descriptors().length, before)
    // And the connection goes on.
    t.is(context.raw.send(near, 0, 3, 0), 3)
    t.deepEqual(receive(context, far), { answer: 3, bytes: 3, fdCount: 0, truncated: false })
  })

test('a message that does not fit is read in parts, its descriptors with the first', t => {
  const context = makeContext(t)
  const [near, far] = socketPair(t)
  context.fds[0] = near
  t.is(context.raw.send(near, 0, 100, 1), 100)
  const first = receive(context, far, 60)
  t.deepEqual(first, { answer: 60, bytes: 60, fdCount: 1, truncated: false })
  native.closeFd(context.fds[0]!)
  t.deepEqual(receive(context, far, 60), {
    answer: 40,
    bytes: 40,
    fdCount: 0,
    truncated: false,
  })
})

test('receive: end of stream is 0, nothing there is EAGAIN, and bad arguments are errors', t => {
  const context = makeContext(t)
  const pair = new Int32Array(2)
  t.is(native.socketPair(pair), 0)
  const near = own(t, pair[0]!)
  t.is(native.setNonBlocking(near, true), 0)
  t.is(receive(context, near).answer, -E.EAGAIN)
  t.is(context.raw.send(pair[1]!, 0, 4, 0), 4)
  native.closeFd(pair[1]!)
  t.is(receive(context, near).answer, 4, 'what was sent before comes first')
  for (let i = 0; i < 3; i++)
    t.deepEqual(receive(context, near), { answer: 0, bytes: 0, fdCount: 0, truncated: false })

  const out = new Int32Array(2)
  const { raw } = context
  t.is(raw.receive(2 ** 30, 0, 10, out), -E.EBADF)
  t.is(raw.receive(own(t, native.memfd('f', 1)), 0, 10, out), -E.ENOTSOCK)
  for (const [at, bytes] of [
    [65536, 1],
    [65530, 7],
    [-1, 1],
    [0.5, 1],
    [Number.NaN, 1],
    [2 ** 32, 1],
  ] as const) {
    t.is(raw.receive(near, at, bytes, out), -E.EFAULT, `${bytes} at ${at}`)
    t.is(raw.send(near, at, bytes, 0), -E.EFAULT, `${bytes} at ${at}`)
  }
  for (const bytes of [-1, 0.5, Number.NaN, Infinity, 65537, 2 ** 32]) {
    t.is(raw.receive(near, 0, bytes, out), -E.EINVAL, `${bytes} bytes`)
    t.is(raw.send(near, 0, bytes, 0), -E.EINVAL, `${bytes} bytes`)
  }
  const type = { instanceOf: TypeError }
  t.throws(() => raw.receive(near, 0, 1, new Int32Array(1)), type)
  t.throws(() => raw.receive(near, 0, 1, new Float64Array(2) as never), type)
  t.throws(() => (raw.receive as (...args: unknown[]) => number)(near, 0, 1), type)
  t.throws(() => raw.send('1' as never, 0, 1, 0), type)
})

test('a peer that is gone is EPIPE, not a signal', t => {
  const ended = inChild(({ native, Context }) => {
    // Node ignores SIGPIPE; so that a mistake shows, it kills here.
    const none = (): void => undefined
    process.on('SIGPIPE', none)
    process.off('SIGPIPE', none)
    const context = new Context({ arenaBytes: 4096, maxSegments: 1, poolThreads: 1 })
    const pair = new Int32Array(2)
    native.socketPair(pair)
    native.closeFd(pair[1]!)
    const answers = [context.raw.send(pair[0]!, 0, 10, 0), context.raw.send(pair[0]!, 0, 10, 0)]
    answers.push(context.eventSignal(pair[0]!, native.signalKind(pair[0]!)))
    answers.push(native.eventWrite(pair[0]!))
    context.dispose()
    return answers
  })
  t.deepEqual(ended.value, [-E.EPIPE, -E.EPIPE, -E.EPIPE, -E.EPIPE], ended.stderr)
  t.is(ended.status, 0)
})

// --- a peer that does not read ----------------------------------------------------------------------

for (const blocking of [false, true])
  test(`send to a peer that never reads ends by itself on a ${blocking ? 'blocking' : 'non-blocking'} socket`, t => {
    t.timeout(3 * LONG_MS)
    // In a process of its own: one that hangs is killed.
    const ended = inChild(({ native, Context }, blocking: boolean) => {
      const context = new Context({ arenaBytes: 1 << 20, maxSegments: 1, poolThreads: 1 })
      const pair = new Int32Array(2)
      native.socketPair(pair)
      native.setNonBlocking(pair[0]!, !blocking)
      return context.raw.send(pair[0]!, 0, 1 << 20, 0)
    }, blocking)
    t.true(ended.value === -E.ETIMEDOUT || ended.value === -E.EAGAIN, JSON.stringify(ended))
  })

test('send to a peer that takes a little now and then ends, too', t => {
  t.timeout(3 * LONG_MS)
  const ended = inChild(async ({ native, Context }) => {
    const { Worker } = process.getBuiltinModule('node:worker_threads')
    const pair = new Int32Array(2)
    native.socketPair(pair)
    native.setNonBlocking(pair[0]!, true)
    const reader = new Worker(
      `const { readSync } = process.getBuiltinModule('node:fs')
       const buffer = Buffer.alloc(65536)
       setInterval(() => readSync(${pair[1]}, buffer), 100)
       process.getBuiltinModule('node:worker_threads').parentPort.postMessage('reads')`,
      { eval: true },
    )
    await new Promise(resolve => reader.once('message', resolve))
    const context = new Context({ arenaBytes: 64 << 20, maxSegments: 1, poolThreads: 1 })
    const answer = context.raw.send(pair[0]!, 0, 64 << 20, 0)
    process.stdout.write(`answer ${answer}\n`)
    native.exitNow(0)
  })
  t.is(ended.value, -E.ETIMEDOUT, JSON.stringify(ended))
})

test('send waits for a peer that does read, and everything arrives', async t => {
  const context = makeContext(t, { arenaBytes: 4 << 20 })
  const [near, far] = socketPair(t)
  const BYTES = 4 << 20
  for (let i = 0; i < BYTES; i += 997) context.bytes[i] = i % 251
  const reads = own(t, native.eventFd())
  const { worker, answer } = startWorker(
    ({ Context, native }, fd: number, bytes: number, reads: number) => {
      const context = new Context({ arenaBytes: bytes, maxSegments: 1, poolThreads: 1 })
      native.eventWrite(reads)
      const result = { bytes: 0, fdCount: 0, truncated: false }
      let got = 0
      while (got < bytes) {
        if (context.receive(fd, got, Math.min(50_000, bytes - got), result) <= 0) return 'error'
        got += result.bytes
      }
      for (let i = 0; i < bytes; i += 997) if (context.bytes[i] !== i % 251) return `byte ${i}`
      context.dispose()
      return got
    },
    far,
    BYTES,
    reads,
  )
  t.is(native.eventRead(reads, LONG_MS), 1)
  t.is(context.raw.send(near, 0, BYTES, 0), BYTES)
  t.is(await answer, BYTES)
  await worker.terminate()
})

// --- listeners --------------------------------------------------------------------------------------

test('a listener takes connections; checkListener knows it from everything else', t => {
  const context = makeContext(t)
  const path = join(makeFolder(t), 'socket')
  const listener = own(t, native.unixListen(path, 1))
  t.true(closeOnExec(listener))
  t.is(native.checkListener(listener), 0)
  t.is(native.unixAccept(listener, 0), -E.ETIMEDOUT)
  t.is(native.unixAccept(listener, 20), -E.ETIMEDOUT)
  const client = own(t, native.unixConnect(path))
  const server = own(t, native.unixAccept(listener, LONG_MS))
  t.true(closeOnExec(client) && closeOnExec(server))
  t.is(context.raw.send(client, 0, 5, 0), 5)
  t.is(receive(context, server).answer, 5)

  t.is(native.checkListener(client), -E.EINVAL, 'connected')
  t.is(native.checkListener(socketPair(t)[0]), -E.EINVAL)
  t.is(native.checkListener(own(t, native.memfd('f', 1))), -E.ENOTSOCK)
  t.is(native.checkListener(own(t, native.eventFd())), -E.ENOTSOCK)
  t.is(native.checkListener(2 ** 30), -E.EBADF)
  t.throws(() => native.checkListener('3' as never), { instanceOf: TypeError })
  t.true(native.unixAccept(client, 0) < 0)
  t.true(native.unixAccept(2 ** 30, 0) < 0)
})

test('unixListen and unixConnect: what is wrong with a path', t => {
  const folder = makeFolder(t)
  const before = descriptors().length
  const path = join(folder, 'socket')
  const listener = native.unixListen(path, 1)
  t.true(listener > 2)
  t.is(native.unixListen(path, 1), -E.EADDRINUSE)
  native.closeFd(listener)
  t.is(native.unixListen(path, 1), -E.EADDRINUSE, 'the file is still there')
  t.is(native.unixConnect(path), -E.ECONNREFUSED)
  rmSync(path)
  t.is(native.unixConnect(path), -E.ENOENT)
  t.is(native.unixListen(join(folder, 'missing', 'socket'), 1), -E.ENOENT)
  writeFileSync(join(folder, 'file'), '')
  t.is(native.unixListen(join(folder, 'file'), 1), -E.EADDRINUSE)
  t.is(native.unixConnect(join(folder, 'file')), -E.ECONNREFUSED)

  // sun_path has 108 bytes, one of them for the end.
  const longest = join(folder, 'x'.repeat(107 - folder.length - 1))
  t.is(longest.length, 107)
  const last = native.unixListen(longest, 1)
  t.true(last > 2 && existsSync(longest))
  native.closeFd(last)
  t.is(native.unixListen(`${longest}x`, 1), -E.ENAMETOOLONG)
  t.is(native.unixConnect(`${longest}x`), -E.ENAMETOOLONG)
  t.is(native.unixListen('y'.repeat(100_000), 1), -E.ENAMETOOLONG)
  // Bytes count, not characters.
  t.is(native.unixListen(join(folder, 'ü'.repeat(53)), 1), -E.ENAMETOOLONG)
  // No abstract address, and no path that ends early.
  for (const bad of ['', '\0name', `${path}\0`]) {
    t.true(native.unixListen(bad, 1) < 0)
    t.true(native.unixConnect(bad) < 0)
  }
  t.false(existsSync(path))
  t.throws(() => native.unixListen(3 as never, 1), { instanceOf: TypeError })
  t.throws(() => native.unixConnect(undefined as never), { instanceOf: TypeError })
  t.is(descriptors().length, before)
})

// --- the rest of the module -------------------------------------------------------------------------

test('eventRead takes what was signalled, of any kind, or gives up', t => {
  const context = makeContext(t)
  const event = own(t, native.eventFd())
  t.true(closeOnExec(event))
  t.is(native.eventRead(event, 0), -E.EAGAIN)
  t.is(native.eventRead(event, 20), -E.EAGAIN)
  for (let i = 0; i < 3; i++) t.is(native.eventWrite(event), 0)
  t.is(native.eventRead(event, LONG_MS), 3)
  t.is(native.eventRead(event, 0), -E.EAGAIN)
  const path = join(makeFolder(t), 'fifo')
  makeFifo(context, path)
  const fifo = open(t, path, files.O_RDWR)
  t.is(native.eventRead(fifo, 0), -E.EAGAIN)
  t.is(native.eventWrite(fifo), 0)
  t.is(native.eventRead(fifo, 0), 1)
  t.is(native.eventRead(2 ** 30, 0) < 0, true)
  t.is(native.eventWrite(2 ** 30), -E.EBADF)
})

test('memory files, copies and limits of descriptors', t => {
  const file = own(t, native.memfd('file', 12345))
  t.is(fstatSync(file).size, 12345)
  t.true(closeOnExec(file))
  const copy = native.dupFd(file)
  t.true(copy !== file && sameFile(copy, file) && closeOnExec(copy))
  t.is(native.closeFd(copy), 0)
  t.is(native.closeFd(copy), -E.EBADF)
  t.is(native.dupFd(copy), -E.EBADF)
  t.is(native.setNonBlocking(copy, true), -E.EBADF)
  t.true(native.memfd('x'.repeat(300), 0) < 0)
  for (const bytes of [-1, 0.5, Number.NaN, Infinity, 2 ** 53])
    t.throws(() => native.memfd('f', bytes), { instanceOf: TypeError })

  const ended = inChild(({ native }) => {
    const limits = new Float64Array(2)
    const first = native.getNoFileLimit(limits)
    const [soft, hard] = limits
    const lower = native.setNoFileLimit(50, hard!)
    native.getNoFileLimit(limits)
    const now = [...limits]
    const over = native.setNoFileLimit(hard! + 1, hard!)
    let fd = 0
    while (fd >= 0) fd = native.eventFd()
    return {
      first,
      soft,
      hard,
      lower,
      now,
      over,
      full: fd,
      pair: native.socketPair(new Int32Array(2)),
    }
  })
  const value = ended.value as Record<string, unknown>
  t.is(value.first, 0)
  t.is(value.lower, 0)
  t.deepEqual(value.now, [50, value.hard])
  t.is(value.over, -E.EINVAL)
  t.is(value.full, -E.EMFILE)
  t.is(value.pair, -E.EMFILE)
})

test('receiving descriptors when no more can be opened loses them, and nothing else', t => {
  const ended = inChild(({ native, Context }) => {
    const context = new Context({ arenaBytes: 4096, maxSegments: 1, poolThreads: 1 })
    const pair = new Int32Array(2)
    native.socketPair(pair)
    context.fds.fill(pair[0]!)
    const sent = context.raw.send(pair[0]!, 0, 8, 4)
    const limits = new Float64Array(2)
    native.getNoFileLimit(limits)
    native.setNoFileLimit(64, limits[1]!)
    const all: number[] = []
    for (let fd = native.eventFd(); fd >= 0; fd = native.eventFd()) all.push(fd)
    native.closeFd(all.pop()!)
    const result = { bytes: 0, fdCount: 0, truncated: false }
    const answer = context.receive(pair[1]!, 0, 100, result)
    return { sent, answer, ...result }
  })
  t.deepEqual(
    ended.value,
    { sent: 8, answer: 8, bytes: 8, fdCount: 1, truncated: true },
    ended.stderr,
  )
})

test('exitNow ends the process with its status, whatever is going on', t => {
  const ended = inChild(({ native }) => {
    process.on('exit', () => process.stdout.write('answer 1\n'))
    setInterval(() => undefined, 1000)
    native.exitNow(7)
  })
  t.is(ended.status, 7)
  t.is(ended.value, undefined)
})

test('setProcessName names the process', t => {
  const ended = inChild(({ native }) => {
    const answer = native.setProcessName('a-new-name-that-is-long')
    const { readFileSync } = process.getBuiltinModule('node:fs')
    return [answer, readFileSync(`/proc/${process.pid}/comm`, 'utf8').trim()]
  })
  t.deepEqual(ended.value, [0, 'a-new-name-that'])
})
