/** Daemons with --coherence=strict on one directory, and what their guests are told. */
import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { LONGEST_WRITE_MS } from '../../src/coherence/leased-replies.js'
import { CHANGE_MS } from '../../src/coherence/leases.js'
import { TICK_MS } from '../../protocol/version-table/layout.js'
import { longLeaseMs } from '../../src/coherence/options.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { text } from '../helpers/fuse-client.js'
import { monotonicMs } from './monotonic.js'
import {
  entryOf,
  Fattr,
  type MockGuest,
  mockGuests,
  setattrBody,
  type Stat,
  type Times,
  writeBody,
} from './mock-guest.js'

const TIMES = { leaseMs: 100, marginMs: 50, quietMs: 40 }
const WAIT_MS = TIMES.leaseMs + TIMES.marginMs
const sleep = (ms: number): Promise<void> => new Promise(done => setTimeout(done, ms))

/**
 * The clock of leases and guests, and that of change times. Where a test holds them no lease ends, and nothing gets
 * old, because the machine is busy; they go on as far as the test lets them, and never faster than time.
 */
class Clock {
  static readonly #date = Date.now
  #heldMs: number | undefined
  #heldDate = 0

  readonly nowMs = (): number => this.#heldMs ?? monotonicMs()

  /** `date`: milliseconds since the epoch. */
  hold(date = Clock.#date()): void {
    this.#heldMs = this.nowMs()
    this.#heldDate = date
    Date.now = () => this.#heldDate
  }

  /** For requests that wait in one call. */
  release(): void {
    this.#heldMs = undefined
    Date.now = Clock.#date
  }

  async pass(ms: number): Promise<void> {
    await sleep(ms)
    this.jump(ms)
  }

  /** While it is held. */
  jump(ms: number): void {
    if (this.#heldMs === undefined) return
    this.#heldMs += ms
    this.#heldDate += ms
  }
}

/** What the host has changed just now is not cached. */
const SETTLED_MS = TIMES.quietMs + 20

async function scene(
  t: ExecutionContext,
  count = 2,
  times: Times = TIMES,
  prepare?: (folder: string) => void,
) {
  const clock = new Clock()
  t.teardown(() => clock.release())
  const made = mockGuests(t, count, { nowMs: clock.nowMs, ...times }, prepare)
  writeFileSync(join(made.folder, 'file'), 'contents')
  writeFileSync(join(made.folder, 'other'), '')
  mkdirSync(join(made.folder, 'dir'))
  mkdirSync(join(made.folder, 'full'))
  for (let i = 0; i < 5; i++) writeFileSync(join(made.folder, 'full', `f${i}`), '')
  await sleep(SETTLED_MS)
  return { ...made, clock, a: made.guests[0]!, b: made.guests[1]! }
}

test('what is there, and what is not, may be cached for the lease', async t => {
  const { a, b } = await scene(t)
  for (const guest of [a, b]) {
    const entry = guest.lookup('file')
    t.is(entry.entryMs, TIMES.leaseMs)
    t.is(entry.attrMs, TIMES.leaseMs)
    t.is(guest.getattr(entry.nodeid).attrMs, TIMES.leaseMs)
    const none = guest.lookup('nothing')
    t.like(none, { error: 0, nodeid: 0, entryMs: TIMES.leaseMs })
  }
})

/** Every change, by the request that makes it. `ready`: before anybody looks. */
const CHANGES: readonly {
  readonly what: string
  readonly opcode: number
  readonly body: (nodeid: number, fh: bigint) => Uint8Array
  /** On the node of `file` (default), or on the root. */
  readonly onRoot?: boolean
  /** What the other guest looked at: the file (default), or the name. */
  readonly name?: string
}[] = [
  { what: 'chmod', opcode: 4, body: () => setattrBody(Fattr.mode, { mode: 0o600 }) },
  { what: 'truncate', opcode: 4, body: () => setattrBody(Fattr.size, { size: 1 }) },
  { what: 'utimes', opcode: 4, body: () => setattrBody(Fattr.mtime, { mtime: 1 }) },
  { what: 'write', opcode: 16, body: (_, fh) => writeBody(fh, 0, text('new')) },
  {
    what: 'fallocate',
    opcode: 43,
    body: (_, fh) => concat(u64(fh), u64(0n), u64(99n), u32s(0, 0)),
  },
  { what: 'open with O_TRUNC', opcode: 14, body: () => u32s(0o1002, 0) },
  {
    what: 'link',
    opcode: 13,
    onRoot: true,
    body: nodeid => concat(u64(BigInt(nodeid)), text('new')),
  },
  { what: 'unlink', opcode: 10, onRoot: true, body: () => text('file') },
  {
    what: 'rename away',
    opcode: 12,
    onRoot: true,
    body: () => concat(u64(1n), text('file'), text('new')),
  },
  {
    what: 'rename over it',
    opcode: 12,
    onRoot: true,
    body: () => concat(u64(1n), text('other'), text('file')),
  },
  {
    what: 'mkdir',
    opcode: 9,
    onRoot: true,
    name: 'new',
    body: () => concat(u32s(0o755, 0), text('new')),
  },
  { what: 'rmdir', opcode: 11, onRoot: true, name: 'dir', body: () => text('dir') },
  {
    what: 'symlink',
    opcode: 6,
    onRoot: true,
    name: 'new',
    body: () => concat(text('new'), text('target')),
  },
  {
    what: 'mknod',
    opcode: 8,
    onRoot: true,
    name: 'new',
    body: () => concat(u32s(0o100644, 0, 0, 0), text('new')),
  },
  {
    what: 'create',
    opcode: 35,
    onRoot: true,
    name: 'new',
    body: () => concat(u32s(0o102, 0o100644, 0, 0), text('new')),
  },
]

for (const { what, opcode, body, onRoot = false, name = 'file' } of CHANGES)
  test(`${what} waits for the lease of another guest; other requests of its own do not`, async t => {
    const { a, b, folder, clock } = await scene(t)
    const node = a.lookup('file').nodeid
    const dir = a.lookup('dir').nodeid
    const { fh } = a.open(node)
    await sleep(WAIT_MS + 20)
    clock.hold()
    const began = clock.nowMs()
    const seen = b.lookup(name)
    t.is(seen.entryMs, TIMES.leaseMs)
    a.start(opcode, onRoot ? 1 : node, body(node, fh), reply => t.is(reply.error, 0))
    a.poll()
    t.true(a.busy)
    // The same ring serves others meanwhile. Their buffers lie elsewhere.
    const { ring, front } = a.client
    const bytes = a.client.header(Opcode.FUSE_GETATTR, dir, 16, 77n)
    front.memory.set(concat(bytes, new Uint8Array(16)), 0x38_0000)
    const head = ring.direct([
      [0x38_0000, 56, false],
      [0x38_1000, 256, true],
    ])
    ring.offer(head)
    a.rig.pump()
    t.deepEqual(
      ring.takeUsed().map(used => used.head),
      [head],
    )
    // Nobody gets a new lease on what is about to change.
    if (onRoot) t.is(b.lookup(name).entryMs, 0)
    else t.is(b.getattr(seen.nodeid).attrMs, 0)
    t.deepEqual(readFileSync(join(folder, 'file'), 'utf8'), 'contents')
    while (a.busy) {
      await clock.pass(2)
      a.poll()
    }
    t.true(clock.nowMs() - began >= WAIT_MS - 8)
    t.is(a.rig.coherence!.leases.counters.conflicts, 1)
    t.is(a.rig.coherence!.leases.counters.forced, 0)
  })

test('a change of what nobody else has looked at does not wait, and its maker may cache it', async t => {
  const { a, b, clock } = await scene(t)
  clock.hold()
  b.lookup('dir')
  let made = { nodeid: 0 }
  const body = concat(u32s(0o755, 0), text('sub'))
  a.start(Opcode.FUSE_MKDIR, a.lookup('dir').nodeid, body, reply => {
    made = entryOf(reply.body)
  })
  for (a.poll(); a.busy; a.poll()) await clock.pass(2)
  t.is(a.rig.coherence!.leases.counters.conflicts, 1)
  const again = entryOf(
    a.client.do(Opcode.FUSE_MKDIR, made.nodeid, concat(u32s(0o755, 0), text('deep'))).body,
  )
  t.is(a.rig.coherence!.leases.counters.conflicts, 1)
  const ownMs = longLeaseMs(TIMES.leaseMs)
  t.is(again.entryMs, ownMs)
  t.is(again.attrMs, ownMs)
  t.is(a.setattr(again.nodeid, Fattr.mode, { mode: 0o700 }).attrMs, ownMs)
  // Others ask each time until it has been quiet.
  t.is(b.lookup('dir').attrMs, 0)
})

test('a name moved to another directory, which its guest goes on caching, is waited for there', async t => {
  const { a, b } = await scene(t)
  const [from, to] = [a.lookup('full').nodeid, a.lookup('dir').nodeid]
  const theirs = b.lookup('dir').nodeid
  const file = b.client.lookup(b.lookup('full').nodeid, 'f0')
  const { fh } = b.open(file)
  await sleep(WAIT_MS + 20)
  // What is in it changes all the time, that it is there does not.
  b.client.write(file, fh, 0, text('new'))
  const began = performance.now()
  const cached = entryOf(a.client.do(Opcode.FUSE_LOOKUP, from, text('f0')).body)
  t.is(cached.entryMs, TIMES.leaseMs)
  a.client.do(Opcode.FUSE_RENAME, from, concat(u64(BigInt(to)), text('f0'), text('f0')))
  b.client.do(Opcode.FUSE_UNLINK, theirs, text('f0'))
  t.true(performance.now() - began >= cached.entryMs)
})

test('pages are kept at open while nobody has changed the file', async t => {
  const { a, b, folder, clock } = await scene(t)
  const node = a.lookup('file').nodeid
  const theirs = b.lookup('file').nodeid
  // What a process of the host writes may still be under way.
  clock.hold(changedAt(folder) + LONGEST_WRITE_MS)
  t.false(a.open(node).keepCache)
  t.false(a.open(node).keepCache)
  clock.jump(1)
  t.false(a.open(node).keepCache)
  const { fh, keepCache } = a.open(node)
  t.true(keepCache)
  clock.release()
  await sleep(WAIT_MS + 20)
  const other = b.open(theirs)
  for (const [index, change] of [
    () => b.client.write(theirs, other.fh, 0, text('theirs')),
    () => b.setattr(theirs, Fattr.size, { size: 3 }),
    () => a.client.write(node, fh, 0, text('mine')),
    () => appendFileSync(join(folder, 'file'), 'of the host'),
    // Neither size nor mtime tell.
    () => writeThere(join(folder, 'file')),
  ].entries()) {
    change()
    // As if it were asked at that moment, however long it took to get there.
    clock.hold(changedAt(folder))
    t.false(a.open(node).keepCache, `${index}`)
    clock.hold(changedAt(folder) + LONGEST_WRITE_MS + 1)
    t.false(a.open(node).keepCache, `${index}`)
    t.true(a.open(node).keepCache, `${index}`)
    clock.release()
    await sleep(SETTLED_MS)
  }
})

/** Milliseconds since the epoch. */
const changedAt = (folder: string): number => statSync(join(folder, 'file')).ctimeMs

/** Other data under the same size and mtime. */
function writeThere(path: string): void {
  const { atimeNs, mtimeNs } = statSync(path, { bigint: true })
  const bytes = readFileSync(path)
  const fd = openSync(path, 'r+')
  writeSync(fd, bytes.reverse())
  closeSync(fd)
  utimesSync(path, Number(atimeNs) / 1e9, Number(mtimeNs) / 1e9)
}

/**
 * `guest` is told that data behind this mtime changed: in every reply that may overtake another, and no longer.
 * `off`: in what the mtime is off.
 */
async function tells(
  t: ExecutionContext,
  clock: Clock,
  guest: MockGuest,
  nodeid: number,
  stat: Stat,
  off = 1,
): Promise<void> {
  clock.hold()
  const { mtime, mtimeNsec, size } = stat
  const told = { attrMs: 0, stat: { size, mtime, mtimeNsec: mtimeNsec ^ off } }
  for (let i = 0; i < 2; i++) t.like(guest.getattr(nodeid), told)
  await clock.pass(TIMES.marginMs - 10)
  t.like(guest.lookup('file'), told)
  await clock.pass(10)
  clock.release()
  t.like(guest.getattr(nodeid).stat, { mtime, mtimeNsec })
}

test('data that changed under the same mtime is dropped, by an mtime that is off for a moment', async t => {
  const { a, b, clock } = await scene(t)
  const node = a.lookup('file').nodeid
  const theirs = b.lookup('file').nodeid
  a.open(node)
  const { fh } = b.open(theirs)
  const real = a.getattr(node).stat
  const { mtime, mtimeNsec } = real
  for (const off of [1, 2]) {
    b.client.write(theirs, fh, 0, text(`${off}`))
    b.setattr(theirs, Fattr.mtime, { mtime, mtimeNsec })
    await tells(t, clock, a, node, real, off)
  }
  // Its own changes do not do that, nor what is no change of data.
  a.setattr(node, Fattr.mode, { mode: 0o640 })
  t.is(a.getattr(node).stat.mtimeNsec, mtimeNsec)
  b.setattr(theirs, Fattr.mode, { mode: 0o644 })
  t.is(a.getattr(node).stat.mtimeNsec, mtimeNsec)
  b.client.do(Opcode.FUSE_LINK, 1, concat(u64(BigInt(theirs)), text('linked')))
  t.is(a.getattr(node).stat.mtimeNsec, mtimeNsec)
})

test('data that changed under the same mtime is dropped by who has seen the file by name only, too', async t => {
  const { a, b, clock } = await scene(t)
  const theirs = b.lookup('file').nodeid
  const { fh } = b.open(theirs)
  // The attributes that the guest has are from before it opened the file.
  const { nodeid, stat } = a.lookup('file')
  const { mtime, mtimeNsec } = stat!
  a.open(nodeid)
  b.client.write(theirs, fh, 0, text('changed'))
  b.setattr(theirs, Fattr.mtime, { mtime, mtimeNsec })
  await tells(t, clock, a, nodeid, stat!)
})

test('data that changed under the same mtime is dropped when the guest has grown the file itself', async t => {
  const { a, b, clock } = await scene(t)
  const theirs = b.lookup('file').nodeid
  const other = b.open(theirs)
  const { nodeid } = a.lookup('file')
  const { fh } = a.open(nodeid)
  const { stat } = a.getattr(nodeid)
  const { mtime, mtimeNsec, size } = stat
  // It knows the new size from its own write, and no new mtime.
  const more = text('more')
  a.client.write(nodeid, fh, size, more)
  b.client.write(theirs, other.fh, 0, text('changed'))
  b.setattr(theirs, Fattr.mtime, { mtime, mtimeNsec })
  await tells(t, clock, a, nodeid, { ...stat, size: size + more.length })
})

test('what another guest writes while a SETATTR is under way is told', async t => {
  const { a, b } = await scene(t)
  const node = a.lookup('file').nodeid
  const theirs = b.lookup('file').nodeid
  const { fh } = b.open(theirs)
  a.open(node)
  // So that nobody has a lease, and nobody waits.
  b.client.write(theirs, fh, 0, text('before'))
  a.getattr(node)
  const { fs } = a.rig
  const inner = fs.setattr.bind(fs)
  fs.setattr = (...args) => {
    b.client.write(theirs, fh, 0, text('meanwhile'))
    return inner(...args)
  }
  const answer = a.setattr(node, Fattr.mode, { mode: 0o640 })
  fs.setattr = inner
  t.not(a.getattr(node).stat.mtimeNsec, answer.stat.mtimeNsec)
})

test('two writes at the same time are told once', async t => {
  const { a, b, clock } = await scene(t)
  const node = a.lookup('file').nodeid
  const theirs = b.lookup('file').nodeid
  const [mine, other] = [a.open(node), b.open(theirs)]
  const { fs } = a.rig
  const inner = fs.write.bind(fs)
  fs.write = (...args) => {
    b.client.write(theirs, other.fh, 0, text('theirs'))
    return inner(...args)
  }
  a.client.write(node, mine.fh, 0, text('mine'))
  fs.write = inner
  const { stat } = a.getattr(node)
  const seen = b.getattr(theirs).stat
  clock.hold()
  // Nobody says when the last of them is done.
  clock.jump(CHANGE_MS + TICK_MS)
  t.is(a.getattr(node).stat.mtimeNsec, stat.mtimeNsec)
  t.is(b.getattr(theirs).stat.mtimeNsec, seen.mtimeNsec)
})

test('of a write that is under way the time tells nothing: Linux sets it first', async t => {
  const { a, b, clock } = await scene(t)
  const node = a.lookup('file').nodeid
  const theirs = b.lookup('file').nodeid
  const { fh } = b.open(theirs)
  a.open(node)
  const { fs } = b.rig
  const inner = fs.write.bind(fs)
  let seen: Stat | undefined
  fs.write = (...args) => {
    const outcome = inner(...args)
    // As if the data came later.
    clock.hold()
    clock.jump(30)
    seen = a.getattr(node).stat
    t.false(a.open(node).keepCache)
    clock.release()
    return outcome
  }
  b.client.write(theirs, fh, 0, text('changed'))
  fs.write = inner
  await tells(t, clock, a, node, seen!)
})

test('an answer that was held up for long comes when the leases that others got meanwhile have ended', async t => {
  const clock = new Clock()
  const paused: number[] = []
  const pause = (ms: number): void => {
    paused.push(ms)
    clock.jump(ms)
  }
  t.teardown(() => clock.release())
  const { guests, folder } = mockGuests(t, 2, { ...TIMES, nowMs: clock.nowMs, pause })
  writeFileSync(join(folder, 'file'), '')
  await sleep(SETTLED_MS)
  const [a, b] = [guests[0]!, guests[1]!]
  a.lookup('file')
  clock.hold()
  const { fs } = a.rig
  const inner = fs.unlink.bind(fs)
  fs.unlink = (...args) => {
    clock.jump(CHANGE_MS + 2 * TIMES.quietMs)
    t.true(b.lookup('file').entryMs > 0)
    return inner(...args)
  }
  a.client.do(Opcode.FUSE_UNLINK, 1, text('file'))
  t.is(b.cachedName('file'), undefined)
  t.is(paused.length, 1)
  t.is(a.rig.coherence!.leases.counters.lapsed, 1)
})

test('a file of overlayfs that moves to the upper layer stays the same, to leases as well', async t => {
  let mounted = false
  const { a, b, folder, clock } = await scene(t, 2, TIMES, share => {
    const layers = mkdtempSync('/dev/shm/virtiofsd-layers-')
    t.teardown(() => rmSync(layers, { recursive: true }))
    for (const name of ['lower', 'upper', 'work']) mkdirSync(join(layers, name))
    writeFileSync(join(layers, 'lower', 'below'), 'contents')
    const options = `lowerdir=${layers}/lower,upperdir=${layers}/upper,workdir=${layers}/work`
    try {
      execFileSync('mount', ['-t', 'overlay', '-o', options, 'overlay', share], { stdio: 'pipe' })
    } catch (cause) {
      t.log(`not tried: ${String(cause)}`)
      return
    }
    mounted = true
    t.teardown(() => execFileSync('umount', ['--lazy', share]))
  })
  t.pass()
  if (!mounted) return
  const theirs = b.lookup('below').nodeid
  // What is opened for writing moves.
  const { fh } = b.open(theirs)
  const { nodeid } = a.lookup('below')
  await sleep(WAIT_MS)
  t.is(b.lookup('below').nodeid, theirs)
  t.is(b.getattr(theirs).stat.size, 'contents'.length)
  const { counters } = b.rig.coherence!.leases
  t.is(counters.conflicts, 0)
  clock.hold()
  t.true(a.getattr(nodeid).attrMs > 0)
  const body = writeBody(fh, 0, text('contents and more'))
  b.start(Opcode.FUSE_WRITE, theirs, body, reply => t.is(reply.error, 0))
  for (b.poll(); b.busy; b.poll()) await clock.pass(2)
  t.is(counters.conflicts, 1)
  t.is(a.getattr(nodeid).stat.size, statSync(join(folder, 'below')).size)
})

/** Of a reply to READDIRPLUS: struct fuse_direntplus. */
function entriesOf(bytes: Uint8Array) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const entries = []
  for (let at = 0; at < bytes.length; ) {
    entries.push({ ...entryOf(view, at), cookie: view.getBigUint64(at + 128 + 8, true) })
    at += (128 + 24 + view.getUint32(at + 128 + 16, true) + 7) & ~7
  }
  return entries
}

test('what others have written is told after a SETATTR, too, whose answer Linux takes without dropping pages', async t => {
  const { a, b, folder } = await scene(t)
  const node = a.lookup('file').nodeid
  const theirs = b.lookup('file').nodeid
  a.open(node)
  a.getattr(node)
  const { fh } = b.open(theirs)
  for (const [index, change] of [{ mode: 0o640 }, { mtime: 7, mtimeNsec: 8 }].entries()) {
    b.client.write(theirs, fh, 0, text('changed'))
    const answer = a.setattr(node, 'mode' in change ? Fattr.mode : Fattr.mtime, change)
    const real = statSync(join(folder, 'file'), { bigint: true }).mtimeNs % 1_000_000_000n
    t.deepEqual([answer.attrMs, answer.stat.mtimeNsec], [0, Number(real) ^ (index + 1)])
    t.is(a.getattr(node).stat.mtimeNsec, Number(real))
  }
})

test('READDIRPLUS entries have leases, which changes wait for', async t => {
  const { a, b, clock } = await scene(t)
  clock.hold()
  const began = clock.nowMs()
  const dir = b.lookup('full').nodeid
  const fh = b.client.opendir(dir)
  let leased = 0
  // A reply is cut short when it takes long.
  for (let cookie = 0n; ; ) {
    const entries = entriesOf(b.client.readdir(dir, fh, cookie, 4096, true))
    if (entries.length === 0) break
    for (const { nodeid, entryMs, attrMs } of entries)
      if (nodeid !== 0 && entryMs === TIMES.leaseMs && attrMs === TIMES.leaseMs) leased++
    cookie = entries.at(-1)!.cookie
  }
  t.is(leased, 5)
  const theirs = a.client.lookup(a.lookup('full').nodeid, 'f3')
  clock.release()
  a.setattr(theirs, Fattr.mode, { mode: 0o600 })
  t.true(clock.nowMs() - began > TIMES.leaseMs)
})

test('where the host takes long over one entry, nothing of that READDIRPLUS may be cached', async t => {
  const { b, clock } = await scene(t)
  const { context } = b.rig
  const statx = context.statx.bind(context)
  let looks = 0
  let slowMs = 0
  context.statx = (...args) => {
    if (++looks === 4) clock.jump(slowMs)
    return statx(...args)
  }
  clock.hold()
  const dir = b.lookup('full').nodeid
  for (slowMs of [0, 1000]) {
    const fh = b.client.opendir(dir)
    looks = 0
    const entries = entriesOf(b.client.readdir(dir, fh, 0n, 4096, true))
    t.true(looks >= 4)
    const known = entries.filter(({ nodeid }) => nodeid !== 0)
    const ms = slowMs > 0 ? 0 : TIMES.leaseMs
    t.true(known.length >= 3)
    for (const { entryMs, attrMs } of known) t.deepEqual([entryMs, attrMs], [ms, ms])
    for (const { nodeid } of known) b.client.forget(nodeid, 1)
  }
})

test('a lease is told to the guest before the next request is begun, which may take long', async t => {
  const { a } = await scene(t)
  const nodes = ['file', 'other', 'dir'].map(name => a.lookup(name).nodeid)
  const { ring, front } = a.client
  const signals: number[] = []
  const taken: number[] = []
  const { counters } = a.rig.device
  const { fs } = a.rig
  const getattr = fs.getattr.bind(fs)
  fs.getattr = (...call) => {
    signals.push(counters.signals)
    taken.push(ring.takeUsed().length)
    return getattr(...call)
  }
  const before = counters.signals
  for (const [i, node] of nodes.entries()) {
    const at = 0x38_0000 + i * 0x2000
    const bytes = a.client.header(Opcode.FUSE_GETATTR, node, 16, BigInt(1000 + 2 * i))
    front.memory.set(concat(bytes, new Uint8Array(16)), at)
    ring.offer(
      ring.direct([
        [at, 56, false],
        [at + 0x1000, 256, true],
      ]),
    )
  }
  a.rig.pump()
  t.deepEqual(taken, [0, 1, 1])
  t.deepEqual(signals, [before, before + 1, before + 2])
})

test.serial(
  'a daemon that was stopped for long while a change waited waits for new leases, too',
  async t => {
    const real = performance.now.bind(performance)
    let skippedMs = 0
    let nowMs = monotonicMs()
    performance.now = () => real() + skippedMs
    t.teardown(() => {
      performance.now = real
    })
    function skip(ms: number): void {
      skippedMs += ms
      nowMs += ms
    }
    const { a, b } = await scene(t, 2, { ...TIMES, nowMs: () => nowMs })
    const node = a.lookup('other').nodeid
    skip(1000)
    t.true(b.lookup('other').attrMs > 0)
    a.start(Opcode.FUSE_SETATTR, node, setattrBody(Fattr.mode, { mode: 0o600 }), reply =>
      t.is(reply.error, 0),
    )
    a.poll()
    t.true(a.busy)
    skip(60_000)
    t.true(b.lookup('other').attrMs > 0)
    a.poll()
    t.true(a.busy)
    t.is(a.rig.coherence!.leases.counters.forced, 0)
    skip(1000)
    a.poll()
    t.false(a.busy)
  },
)

test('GET_VRING_BASE answers changes that wait first', async t => {
  const { a, b, folder, clock } = await scene(t)
  clock.hold()
  b.lookup('file')
  a.start(Opcode.FUSE_UNLINK, 1, text('file'), reply => t.is(reply.error, 0))
  a.poll()
  t.true(a.busy)
  clock.release()
  a.client.ring.stop()
  t.throws(() => readFileSync(join(folder, 'file')), { code: 'ENOENT' })
  t.is(a.client.ring.takeUsed().length, 1)
})

test('a daemon that goes while a change waits leaves nothing that keeps others', async t => {
  const { a, b, folder } = await scene(t)
  b.lookup('file')
  a.start(Opcode.FUSE_UNLINK, 1, text('file'), () => undefined)
  a.poll()
  a.rig.end()
  writeFileSync(join(folder, 'file'), 'again')
  const node = b.lookup('file').nodeid
  b.setattr(node, Fattr.mode, { mode: 0o600 })
  t.is(b.rig.coherence!.leases.counters.forced, 0)
})

test('a damaged table is said once, and stops the caching for all', async t => {
  const { a, b, table } = await scene(t)
  t.is(a.lookup('file').entryMs, TIMES.leaseMs)
  truncateSync(table, 4096)
  for (let i = 0; i < 50; i++) a.lookup(`name${i}`)
  t.is(a.lookup('file').entryMs, 0)
  t.is(a.lookup('dir').attrMs, 0)
  t.is(b.lookup('file').entryMs, 0)
  for (const guest of [a, b]) {
    t.is(guest.rig.log.length, 1)
    t.regex(guest.rig.log[0]!, /version table .* was damaged: .* remove it, start them again/)
  }
  const node = a.lookup('file').nodeid
  a.setattr(node, Fattr.mode, { mode: 0o600 })
})

test('what the host changes is not cached for a while, names neither', async t => {
  const { a, b, folder, clock } = await scene(t)
  clock.hold()
  const node = b.lookup('file').nodeid
  t.is(b.getattr(node).attrMs, TIMES.leaseMs)
  appendFileSync(join(folder, 'file'), ' and more')
  utimesSync(join(folder, 'file'), 1, 1)
  // It is late by the lease where it was cached; who asks is told.
  t.like(b.getattr(node), { attrMs: 0, stat: { mtime: 1, size: 17 } })
  t.like(a.lookup('file'), { attrMs: 0, entryMs: TIMES.leaseMs })
  writeFileSync(join(folder, 'new'), '')
  t.is(a.lookup('file').entryMs, 0)
  t.not(a.lookup('nothing').error, 0)
  const counted = [a, b].map(({ rig }) => rig.coherence!.leases.counters.hostChanges)
  t.deepEqual(counted, [1, 1])
  // The guest has met a change in its lease: it asks for longer.
  clock.release()
  await sleep(2 * SETTLED_MS)
  t.is(b.getattr(node).attrMs, TIMES.leaseMs)
  t.is(a.lookup('file').entryMs, TIMES.leaseMs)
})

test('without a lease time guests ask each time, and changes of all are seen at once', async t => {
  const { a, b, folder, clock } = await scene(t, 2, { ...TIMES, leaseMs: 0, marginMs: 0 })
  const node = a.lookup('file').nodeid
  clock.hold(changedAt(folder) + LONGEST_WRITE_MS + 1)
  t.false(a.open(node).keepCache)
  t.true(a.open(node).keepCache)
  clock.release()
  const asked = a.lookup('file')
  t.deepEqual([asked.entryMs, asked.attrMs, a.getattr(node).attrMs], [0, 0, 0])
  t.not(a.lookup('nothing').error, 0)
  const theirs = b.lookup('file').nodeid
  b.setattr(theirs, Fattr.size, { size: 3 })
  t.is(a.getattr(node).stat.size, 3)
  appendFileSync(join(folder, 'file'), ' and more')
  t.is(a.getattr(node).stat.size, 12)
  t.false(a.open(node).keepCache)
  t.is(b.rig.coherence!.leases.counters.conflicts, 0)
  // What guests do is known even where mtime does not tell.
  const { fh } = b.open(theirs)
  const { mtime, mtimeNsec } = a.lookup('file').stat!
  b.client.write(theirs, fh, 0, text('Con'))
  b.setattr(theirs, Fattr.mtime, { mtime, mtimeNsec })
  t.is(a.lookup('file').stat!.mtimeNsec, mtimeNsec ^ 1)
  t.is(a.lookup('file').stat!.mtimeNsec, mtimeNsec)
})
