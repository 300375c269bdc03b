/** Data that a disk is about to deliver: who waits for it. Counts, no times. */
import { execFileSync } from 'node:child_process'
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, statfsSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { DiskWaits } from '../../src/filesystems/host/disk-waits.js'
import { PoolCall } from '../../src/native/addon.js'
import { GUEST } from './harness.js'
import { share } from './host-share.js'

const EAGAIN = -11
const RWF_NOWAIT = 8
const PAGE = 4096
const PAGES = 64
const TMPFS = 0x01021994
const LONG_US = 10e6

/** A file of which nothing is in memory; undefined: the folder for temporary files is in memory. */
function coldFile(
  t: ExecutionContext,
): { folder: string; path: string; drop: () => void } | undefined {
  if (statfsSync(tmpdir()).type === TMPFS) return undefined
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-cold-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'f')
  const fd = openSync(path, 'w')
  for (let i = 0; i < PAGES; i++) writeSync(fd, Buffer.alloc(PAGE, i))
  fsyncSync(fd)
  closeSync(fd)
  // posix_fadvise(POSIX_FADV_DONTNEED)
  const drop = (): void =>
    void execFileSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'])
  drop()
  return { folder, path, drop }
}

/** How often the cache is dropped until the disk is late. On a busy machine it may be done before anybody looks. */
const TRIES = 100

/** Repeats `count` until it counted something. */
function someTime(t: ExecutionContext, what: string, count: () => number): number {
  for (let tries = 0; tries < TRIES; tries++) {
    const counted = count()
    if (counted > 0) return counted
  }
  t.fail(`${what}: never in ${TRIES} times`)
  return 0
}

test('a read is tried again until the data is there, but not while there is other work', t => {
  const file = coldFile(t)
  if (file === undefined) {
    t.pass('no disk')
    return
  }
  const { h } = share(t, 'never', file.folder)
  const { context, guest } = h
  const fd = openSync(file.path, 'r')
  t.teardown(() => closeSync(fd))
  context.segments.set([GUEST, PAGE])
  const read = (page: number, forUs: number): number =>
    context.readv(fd, 0, 1, 0, PAGE, page * PAGE, RWF_NOWAIT, forUs)

  someTime(t, 'a page was not there at once', () => {
    file.drop()
    let cold = 0
    for (let page = 0; page < PAGES; page += 8) {
      if (read(page, 0) === EAGAIN) cold++
      t.is(read(page, LONG_US), PAGE)
      t.is(guest[0], page)
    }
    return cold
  })

  // A finished job is work.
  t.is(context.submit(PoolCall.fsync, 1, fd, 0), 0)
  t.is(context.wait(30_000, 0), 0)
  someTime(t, 'a page was left to others', () => {
    file.drop()
    let left = 0
    for (let page = 0; page < PAGES; page += 8) if (read(page, LONG_US) === EAGAIN) left++
    return left
  })
  t.is(context.reap(), 1)
  t.is(read(0, LONG_US), PAGE)
})

test('what is cold is read right, whether other requests wait or not', t => {
  const file = coldFile(t)
  if (file === undefined) {
    t.pass('no disk')
    return
  }
  const { h } = share(t, 'never', file.folder)
  const nodeid = h.lookup(1, 'f')
  const fh = h.open(nodeid, 0)
  const handedOver = (alone: boolean): number => {
    file.drop()
    h.request.alone = alone
    const before = h.request.lastToken
    for (let page = 0; page < PAGES; page += 8)
      t.is(h.readText(nodeid, fh, page * PAGE, PAGE).charCodeAt(0), page)
    return h.request.lastToken - before
  }
  // It depends on the disk how many fewer: what it reads ahead meanwhile is there at the next look.
  someTime(t, 'no more were handed over when nobody else waited', () => {
    const among = someTime(t, 'a read was handed over', () => handedOver(false))
    return handedOver(true) <= among ? 1 : 0
  })
  h.release(nodeid, fh)
})

test('waits in vain come to an end, and are tried again ever more seldom', t => {
  const waits = new DiskWaits()
  /** Reads that were left to the pool until one waited. */
  const pause = (): number => {
    for (let reads = 0; ; reads++) if (waits.next() > 0) return reads
  }
  const fail = (times: number): void => {
    for (let i = 0; i < times; i++) waits.inVain()
  }
  t.is(pause(), 0)
  fail(3)
  t.is(pause(), 0)
  fail(1)
  t.is(pause(), 16)
  fail(4)
  t.is(pause(), 32)
  waits.paid()
  fail(3)
  t.is(pause(), 0)
  fail(1)
  t.is(pause(), 16)
  for (let i = 0; i < 20; i++) {
    fail(4)
    pause()
  }
  fail(4)
  t.is(pause(), 256)
})
