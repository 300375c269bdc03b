/** The dirty log as a front end sees it: each page the daemon writes is in it, and no other. */
import { readSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { native } from '../../src/native/addon.js'
import {
  concat,
  type DriverRing,
  GUEST_BASE,
  LOG_ALL,
  MEMORY_BYTES,
  u32s,
  u64,
} from '../helpers/front-end.js'
import { FuseClient } from '../helpers/fuse-client.js'
import { saveState, setStateFd, makePipe, stopRings, SAVE } from '../helpers/migrate.js'
import { type Rig, rig, type RigOptions } from '../helpers/rig.js'

const PAGE = 4096
const FIRST = Number(GUEST_BASE) / PAGE
const PAGES = MEMORY_BYTES / PAGE
const LOG_BYTES = Math.ceil((FIRST + PAGES) / 8)
const GETATTR = concat(u32s(0, 0), u64(0n))

class Log {
  readonly fd: number
  readonly #rig: Rig

  constructor(t: ExecutionContext, r: Rig, bytes = LOG_BYTES) {
    this.#rig = r
    this.fd = native.memfd('log', bytes)
    t.teardown(() => native.closeFd(this.fd))
    // SET_LOG_BASE: a reply comes without being asked for.
    r.front.send(6, concat(u64(BigInt(bytes)), u64(0n)), [this.fd])
    const reply = r.front.receive()!
    t.is(reply.request, 6)
    t.is(reply.payload.getBigUint64(0, true), 0n)
  }

  /** SET_FEATURES and the addresses of the rings, as QEMU has it while they run. */
  on(used = true): void {
    const { front } = this.#rig
    front.ask(2, u64(front.get(1)))
    for (const ring of front.rings) ring.logUsed(used)
  }

  off(): void {
    const { front } = this.#rig
    front.ask(2, u64(front.get(1) & ~LOG_ALL))
    for (const ring of front.rings) ring.logUsed(false)
  }

  /** Pages of guest memory that are marked; clears them. */
  take(): number[] {
    const bits = Buffer.alloc(LOG_BYTES)
    readSync(this.fd, bits, 0, LOG_BYTES, 0)
    writeSync(this.fd, Buffer.alloc(LOG_BYTES), 0, LOG_BYTES, 0)
    const pages: number[] = []
    for (let page = 0; page < LOG_BYTES * 8; page++)
      if ((bits[page >> 3]! & (1 << (page & 7))) !== 0) pages.push(page - FIRST)
    return pages
  }
}

/** Pages that change from the kick of `head` until the back end has nothing to do any more. */
function changedBy(r: Rig, ring: DriverRing, head: number, done: () => boolean): number[] {
  ring.offer(head)
  const before = r.front.memory.slice()
  const limit = performance.now() + 60_000
  while (!done() && performance.now() < limit) r.pump()
  const pages: number[] = []
  for (let page = 0; page < PAGES; page++) {
    const at = page * PAGE
    if (
      Buffer.compare(before.subarray(at, at + PAGE), r.front.memory.subarray(at, at + PAGE)) !== 0
    )
      pages.push(page)
  }
  return pages
}

/** Where a request is put; its reply's buffers are given by the test. */
const REQUEST_AT = 0x30_0000

function exact(
  t: ExecutionContext,
  r: Rig,
  log: Log,
  request: Uint8Array,
  reply: readonly (readonly [at: number, bytes: number])[],
): void {
  const ring = r.front.rings[1]!
  r.front.memory.set(request, REQUEST_AT)
  for (const [at, bytes] of reply) r.front.memory.fill(0xee, at, at + bytes)
  const head = ring.direct([
    [REQUEST_AT, request.length, false],
    ...reply.map(([at, bytes]) => [at, bytes, true] as const),
  ])
  const served = r.device.counters.requests
  log.take()
  const changed = changedBy(
    r,
    ring,
    head,
    () => r.device.counters.requests > served && r.server.pendingCount === 0,
  )
  t.deepEqual(log.take(), changed)
  t.is(ring.waitUsed()?.head, head)
}

const variants: readonly (readonly [string, RigOptions])[] = [
  ['EVENT_IDX', {}],
  ['flags', { eventIdx: false }],
]
for (const [name, options] of variants)
  test(`${name}: replies, read data and the used ring are marked, exactly`, t => {
    const r = rig(t, options)
    const client = new FuseClient(r.front, r.front.rings[1]!)
    client.init()
    writeFileSync(join(r.folder, 'file'), Buffer.alloc(20_000, 7))
    const node = client.lookup(1, 'file')
    const fh = client.open(node)
    const log = new Log(t, r)
    log.on()
    const header = (opcode: number, id: number, body: Uint8Array): Uint8Array =>
      concat(client.header(opcode, id, body.length, 99n), body)
    const read = (size: number): Uint8Array =>
      header(15, node, concat(u64(fh), u64(0n), u32s(size, 0), u64(0n), u32s(0, 0)))
    exact(t, r, log, header(3, 1, GETATTR), [[0x40_0000, 120]])
    exact(t, r, log, header(3, 1, GETATTR), [
      [0x40_0ff8, 16],
      [0x50_0fff, 104],
    ])
    exact(t, r, log, header(3, 999, GETATTR), [[0x40_0000, 9000]])
    exact(t, r, log, read(9000), [
      [0x41_0ff0, 16],
      [0x42_0801, 9000],
    ])
    exact(t, r, log, read(65536), [
      [0x41_0ff0, 16],
      [0x42_0800, 10_000],
      [0x60_0000, 60_000],
    ])
    // A request that changes no more than the file.
    const write = header(
      16,
      node,
      concat(u64(fh), u64(0n), u32s(4, 0), u64(0n), u32s(0, 0), u32s(1)),
    )
    exact(t, r, log, write, [[0x43_0000, 24]])
    log.off()
    client.do(3, 1, GETATTR)
    t.deepEqual(log.take(), [])
    client.forget(node, 1)
    client.release(node, fh)
  })

test('without VHOST_VRING_F_LOG the used ring is left out', t => {
  const r = rig(t)
  const client = r.client()
  const log = new Log(t, r)
  log.on(false)
  client.do(3, 1, GETATTR)
  t.true(
    log.take().every(page => page * PAGE >= 0x10_0000),
    'rings lie below the buffers',
  )
})

test('a ring that stops and starts again is logged as before', t => {
  const r = rig(t)
  const client = r.client()
  const log = new Log(t, r)
  log.on()
  const ring = r.front.rings[1]!
  const base = ring.stop()
  ring.start(base)
  ring.logUsed(true)
  log.take()
  client.do(3, 1, GETATTR)
  t.true(log.take().some(page => page * PAGE < 0x10_0000))
})

test('a log that is too short: the state is not given away', t => {
  const r = rig(t)
  const client = r.client()
  const log = new Log(t, r, FIRST / 8 + 1)
  log.on()
  client.do(3, 1, GETATTR)
  stopRings(r)
  const { read, write } = makePipe(r.front)
  t.is(setStateFd(r.front, SAVE, write), 0x101n)
  for (const fd of [read, write]) native.closeFd(fd)
  t.regex(r.log.join('\n'), /fell outside the dirty log/)
})

test('a log that is as long as need be: the state is given away', t => {
  const r = rig(t)
  const client = r.client()
  new Log(t, r).on()
  client.do(3, 1, GETATTR)
  stopRings(r)
  t.true(saveState(r)!.length > 0)
})

for (const [what, payload, fds] of [
  ['without a descriptor', concat(u64(4096n), u64(0n)), 0],
  ['longer than its file', concat(u64(1n << 40n), u64(0n)), 1],
  ['without bytes', concat(u64(0n), u64(0n)), 1],
  ['as a lone address', u64(4096n), 1],
] as const)
  test(`SET_LOG_BASE ${what} ends the connection`, t => {
    const r = rig(t)
    const fd = native.memfd('log', 4096)
    r.front.send(6, payload, fds === 1 ? [fd] : [])
    t.is(r.front.receive(), undefined)
    native.closeFd(fd)
  })

test('SET_LOG_FD: it is signalled when requests were served', t => {
  const r = rig(t)
  const client = r.client()
  const fd = native.eventFd()
  t.is(r.front.ask(7, new Uint8Array(0), [fd]), 0)
  client.do(3, 1, GETATTR)
  t.true(native.eventRead(fd, 100) > 0)
  t.is(r.front.ask(7), 0)
  client.do(3, 1, GETATTR)
  t.is(native.eventRead(fd, 0), -11)
  native.closeFd(fd)
})
