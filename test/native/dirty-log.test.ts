/** The dirty log of the shim: bits for exactly the pages that were written. */
import { ftruncateSync, readSync, writeFileSync, writeSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { native, PoolCall } from '../../src/native/addon.js'
import type { Context } from '../../src/native/context.js'
import { E, inChild, makeContext, own, reapAll } from './support.js'

const PAGE = 4096
const PAGES = 64
const GUEST = 0x10_0000
const USER = 0x7000_0000n
const FIRST = GUEST / PAGE
/** Bytes of a log with a bit for each page up to the last. */
const LOG_BYTES = (FIRST + PAGES) / 8

interface Scene {
  readonly context: Context
  readonly memory: number
  readonly log: number
}

function scene(t: ExecutionContext, logBytes = LOG_BYTES): Scene {
  const context = makeContext(t)
  const memory = own(t, native.memfd('guest', PAGES * PAGE))
  t.is(context.raw.addRegion(memory, 0n, BigInt(GUEST), USER, BigInt(PAGES * PAGE)), 0)
  const log = own(t, native.memfd('log', logBytes))
  t.is(context.raw.setDirtyLog(log, 0n, BigInt(logBytes)), 0)
  return { context, memory, log }
}

function contentOf(fd: number, bytes: number): Buffer {
  const into = Buffer.alloc(bytes)
  readSync(fd, into, 0, bytes, 0)
  return into
}

/** Pages (from GUEST on) that are marked; the log is cleared. */
function takeMarked(log: number, bytes = LOG_BYTES): number[] {
  const bits = contentOf(log, bytes)
  writeSync(log, Buffer.alloc(bytes), 0, bytes, 0)
  const pages: number[] = []
  for (let page = 0; page < bytes * 8; page++)
    if ((bits[page >> 3]! & (1 << (page & 7))) !== 0) pages.push(page - FIRST)
  return pages
}

function changedPages(before: Buffer, after: Buffer): number[] {
  const pages: number[] = []
  for (let page = 0; page < PAGES; page++)
    if (
      !before
        .subarray(page * PAGE, (page + 1) * PAGE)
        .equals(after.subarray(page * PAGE, (page + 1) * PAGE))
    )
      pages.push(page)
  return pages
}

/** Segments (page-crossing, touching, empty) that do not overlap. */
const segments = fc
  .uniqueArray(fc.integer({ min: 0, max: PAGES * PAGE }), { minLength: 2, maxLength: 16 })
  .map(cuts => {
    const sorted = cuts.sort((a, b) => a - b)
    const found: [at: number, bytes: number][] = []
    for (let i = 0; i + 1 < sorted.length; i += 2)
      found.push([sorted[i]!, Math.min(sorted[i + 1]! - sorted[i]!, 9000)])
    return found
  })

test('copyOut and readv mark exactly the pages that change, whatever the segments', t => {
  const { context, memory, log } = scene(t)
  context.raw.enableDirtyLog(true)
  const file = own(t, native.memfd('file', 0))
  let fill = 0
  fc.assert(
    fc.property(
      segments,
      fc.nat(20_000),
      fc.nat(60_000),
      fc.boolean(),
      (list, skip, bytes, copy) => {
        // Never the same bytes as before: what is written changes.
        fill = (fill % 255) + 1
        for (const [i, [at, length]] of list.entries())
          context.segments.set([GUEST + at, length], i * 2)
        const before = contentOf(memory, PAGES * PAGE)
        let answer: number
        if (copy) {
          context.bytes.fill(fill)
          answer = context.copyOut(0, list.length, skip, 0, bytes)
        } else {
          const data = Buffer.alloc(bytes, fill)
          ftruncateSync(file, bytes)
          writeSync(file, data, 0, bytes, 0)
          answer = context.readv(file, 0, list.length, skip, 60_000, 0, 0)
        }
        t.true(answer >= 0)
        const after = contentOf(memory, PAGES * PAGE)
        t.deepEqual(takeMarked(log), changedPages(before, after))
      },
    ),
    { numRuns: 300 },
  )
  t.is(context.raw.dirtyLogMisses(), 0)
})

test('a job that was begun before the log was on is marked when it is done', t => {
  const { context, memory, log } = scene(t)
  const file = own(t, native.memfd('file', 0))
  writeFileSync(`/proc/self/fd/${file}`, Buffer.alloc(6000, 1))
  context.segments.set([GUEST + PAGE - 10, 20, GUEST + 9 * PAGE, 100_000])
  t.is(context.submit(PoolCall.readv, 1, file, 0, 2, 0, 100_000, 0, 0), 0)
  context.raw.enableDirtyLog(true)
  t.is(reapAll(context, 1).get(1), 6000)
  t.deepEqual(takeMarked(log), [0, 1, 9, 10], 'only what was read')
  t.deepEqual(
    changedPages(Buffer.alloc(PAGES * PAGE), contentOf(memory, PAGES * PAGE)),
    [0, 1, 9, 10],
  )
  t.is(context.submit(PoolCall.writev, 2, file, 0, 2, 0, 100, 0, 0), 0)
  t.is(reapAll(context, 1).get(2), 100)
  t.deepEqual(takeMarked(log), [], 'guest memory was only read')
})

test('nothing is marked while it is off, by copyIn and writev, or when nothing was written', t => {
  const { context, log } = scene(t)
  context.segments.set([GUEST, 10])
  t.is(context.copyOut(0, 1, 0, 0, 10), 10)
  t.is(context.markDirty(GUEST, 10), 0)
  context.raw.enableDirtyLog(true)
  t.is(context.copyIn(0, 1, 0, 0, 10), 10)
  t.is(context.copyOut(0, 1, 0, 0, 0), 0)
  t.is(context.copyOut(0, 1, 0, -1, 10), -E.EFAULT)
  const file = own(t, native.memfd('file', 0))
  t.is(context.writev(file, 0, 1, 0, 10, 0, 0), 10)
  t.is(context.readv(file, 0, 1, 0, 10, 100, 0), 0)
  t.deepEqual(takeMarked(log), [])
  t.is(context.markDirty(GUEST + 3 * PAGE - 1, 2), 0)
  t.deepEqual(takeMarked(log), [2, 3])
  context.raw.enableDirtyLog(false)
  t.is(context.copyOut(0, 1, 0, 0, 10), 10)
  t.deepEqual(takeMarked(log), [])
})

test('a write past the end of the log marks what it can and is counted', t => {
  const bytes = FIRST / 8 + 1
  const { context, log } = scene(t, bytes)
  context.raw.enableDirtyLog(true)
  context.segments.set([GUEST + 7 * PAGE, 2 * PAGE])
  t.is(context.copyOut(0, 1, 0, 0, 2 * PAGE), 2 * PAGE)
  t.deepEqual(takeMarked(log, bytes), [7])
  t.is(context.raw.dirtyLogMisses(), 1)
  t.is(context.markDirty(2 ** 53 - 4096, 4096), 0)
  t.is(context.raw.dirtyLogMisses(), 2)
  const longer = own(t, native.memfd('log', LOG_BYTES))
  t.is(context.raw.setDirtyLog(longer, 0n, BigInt(LOG_BYTES)), 0)
  t.is(context.raw.dirtyLogMisses(), 2, 'they stay lost')
  t.is(context.copyOut(0, 1, 0, 0, 2 * PAGE), 2 * PAGE)
  t.deepEqual(takeMarked(longer), [7, 8], 'the new log is in use at once')
})

test('setDirtyLog: an offset in the file; what is refused', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('log', 8192))
  t.is(context.raw.enableDirtyLog(true), -E.ENOENT)
  t.is(context.raw.setDirtyLog(fd, 0n, 8193n), -E.EOVERFLOW)
  t.is(context.raw.setDirtyLog(fd, 8000n, 193n), -E.EOVERFLOW)
  t.is(context.raw.setDirtyLog(fd, 0n, 0n), -E.EINVAL)
  t.is(context.raw.setDirtyLog(fd, (1n << 63n) - 1n, 1n), -E.EINVAL)
  t.is(context.raw.setDirtyLog(fd, 0n, 1n << 60n), -E.EINVAL)
  t.is(context.raw.setDirtyLog(own(t, native.eventFd()), 0n, 8n), -E.EINVAL)
  t.is(context.raw.setDirtyLog(2 ** 30, 0n, 8n), -E.EBADF)
  t.is(context.raw.setDirtyLog(fd, 5001n, 10n), 0)
  t.is(context.raw.enableDirtyLog(true), 0)
  t.is(context.markDirty(9 * PAGE, 1), 0)
  t.is(contentOf(fd, 8192)[5002], 2)
  t.is(context.raw.setDirtyLog(-1, 0n, 0n), 0)
  t.is(context.markDirty(9 * PAGE, 1), 0, 'without a log it is off')
})

test('a log that its owner cuts short ends nothing', t => {
  const ended = inChild(({ native: module, Context: Made }) => {
    const context = new Made({ arenaBytes: 4096, maxSegments: 4, poolThreads: 1 })
    const fd = module.memfd('log', 65536)
    context.raw.setDirtyLog(fd, 0n, 65536n)
    context.raw.enableDirtyLog(true)
    context.markDirty(0, 4096)
    context.ftruncate(fd, 0)
    context.markDirty(8192, 4096)
    context.markDirty(8192, 4096)
    return context.raw.dirtyLogMisses()
  })
  t.is(ended.signal, null)
  t.is(typeof ended.value, 'number')
})
