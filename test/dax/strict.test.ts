/** DAX windows with --coherence=strict: guests with a daemon each on one tree and one version table. */
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import { HEADER_WORDS } from '../../protocol/version-table/layout.js'
import { LONGEST_WRITE_MS } from '../../src/coherence/leased-replies.js'
import { LOOK_MS, SEAT_MS } from '../../src/coherence/mapping-leases.js'
import { longLeaseMs } from '../../src/coherence/options.js'
import { openTableFile } from '../../src/coherence/table-file.js'
import { attrOf, entryOf, Fattr, setattrBody, writeBody } from '../coherence/mock-guest.js'
import { monotonicMs } from '../coherence/monotonic.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { type FuseReply, text } from '../helpers/fuse-client.js'
import { random } from '../helpers/random.js'
import { makeContext } from '../native/support.js'
import { FileModel } from './model.js'
import { type DaxRig, type DaxRigOptions, daxRigs, MIB, pattern, RANGE } from './rig.js'

const PAGE = 4096
const TIMES = { leaseMs: 20, marginMs: 10, quietMs: 10 }
const O_RDWR = 2
const O_TRUNC = 0o1000
const LIMIT_MS = 60_000
const STEPS = Number(process.env.DAX_STEPS ?? 150)

/** Daemons that run as long as they are in `running`, and a clock that tests can set forward. */
class Scene {
  readonly folder: string
  readonly table: string
  readonly rigs: DaxRig[]
  readonly running: Set<DaxRig>
  aheadMs = 0
  #heldMs: number | undefined

  constructor(t: ExecutionContext, ...options: DaxRigOptions[]) {
    const home = mkdtempSync('/dev/shm/virtiofsd-dax-strict-')
    this.folder = mkdtempSync(join(home, 'share-'))
    this.table = join(home, 'table')
    const fds = options.map(() => openTableFile(this.table))
    t.teardown(() => {
      for (const fd of fds) closeSync(fd)
      rmSync(home, { recursive: true })
    })
    const nowMs = (): number => (this.#heldMs ?? monotonicMs()) + this.aheadMs
    this.rigs = daxRigs(
      t,
      ...options.map((one, i) => ({
        folder: this.folder,
        coherence: { tableFd: fds[i]!, ...TIMES, nowMs },
        ...one,
      })),
    )
    this.running = new Set(this.rigs)
    for (const one of this.rigs) {
      const own = one.pump.bind(one)
      one.front.pump = () => {
        own()
        for (const other of this.running) if (other !== one) other.pump()
      }
    }
  }

  /** From here on only `aheadMs` moves the clock of leases and seats: none ends because the machine is busy. */
  hold(): void {
    this.#heldMs ??= monotonicMs()
  }

  release(): void {
    this.#heldMs = undefined
  }

  write(name: string, bytes: number): void {
    writeFileSync(join(this.folder, name), pattern(bytes))
  }

  turn(): void {
    for (const one of this.running) one.pump()
  }

  /** Lets daemons run for as long as that, or until `done`. */
  async run(ms: number, done: () => boolean = () => false): Promise<boolean> {
    const until = performance.now() + ms
    while (!done()) {
      if (performance.now() > until) return false
      this.turn()
      await new Promise(next => setTimeout(next, 1))
    }
    return true
  }

  /** Sends a request of `r`'s guest; the reply when it comes. */
  async ask(r: DaxRig, opcode: number, nodeid: number, body: Uint8Array): Promise<FuseReply> {
    const answer = this.start(r, opcode, nodeid, body)
    await this.run(LIMIT_MS, () => answer() !== undefined)
    const reply = answer()
    if (reply === undefined) throw new Error(`opcode ${opcode} was not answered`)
    return reply
  }

  start(r: DaxRig, opcode: number, nodeid: number, body: Uint8Array): () => FuseReply | undefined {
    r.guest.send(opcode, nodeid, body)
    let reply: FuseReply | undefined
    return () => {
      reply ??= r.guest.take()
      return reply
    }
  }

  async getattr(r: DaxRig, nodeid: number) {
    const { body } = await this.ask(r, Opcode.FUSE_GETATTR, nodeid, concat(u32s(0, 0), u64(0n)))
    return attrOf(body)
  }

  async lookup(r: DaxRig, name: string): Promise<number> {
    return entryOf((await this.ask(r, Opcode.FUSE_LOOKUP, 1, text(name))).body).nodeid
  }

  async open(r: DaxRig, nodeid: number) {
    const { body } = await this.ask(r, Opcode.FUSE_OPEN, nodeid, u32s(O_RDWR, 0))
    return { fh: body.getBigUint64(0, true), keepCache: (body.getUint32(8, true) & 2) !== 0 }
  }

  async setup(r: DaxRig, nodeid: number, moffset: number, foffset = 0): Promise<number> {
    return Math.abs((await this.ask(r, 48, nodeid, setupBody(moffset, foffset))).error)
  }
}

const setupBody = (moffset: number, foffset = 0): Uint8Array =>
  concat(
    u64(2n ** 64n - 1n),
    u64(BigInt(foffset)),
    u64(BigInt(RANGE)),
    u64(2n),
    u64(BigInt(moffset)),
  )
const sizeBody = (size: number): Uint8Array => setattrBody(Fattr.size, { size })

const CUTS: readonly [
  what: string,
  size: number,
  opcode: number,
  onRoot: boolean,
  body: Uint8Array,
][] = [
  ['ftruncate', MIB + 100, Opcode.FUSE_SETATTR, false, sizeBody(MIB + 100)],
  ['ftruncate to nothing', 0, Opcode.FUSE_SETATTR, false, sizeBody(0)],
  ['open with O_TRUNC', 0, Opcode.FUSE_OPEN, false, u32s(O_RDWR | O_TRUNC, 0)],
  [
    'create with O_TRUNC over it',
    0,
    Opcode.FUSE_CREATE,
    true,
    concat(u32s(O_RDWR | O_TRUNC | 0o100, 0o100644, 0, 0), text('f')),
  ],
]

for (const [what, size, opcode, onRoot, body] of CUTS)
  for (const mapsToo of [false, true])
    test(`${what}, by a guest that ${mapsToo ? 'has it mapped, too' : 'has not mapped it'}: the other VMM has let go before the file is shorter`, async t => {
      const scene = new Scene(t, {}, {})
      const [a, b] = scene.rigs as [DaxRig, DaxRig]
      scene.write('f', 2 * RANGE)
      const inA = await scene.lookup(a, 'f')
      const inB = await scene.lookup(b, 'f')
      if (mapsToo) t.is(await scene.setup(a, inA, 0), 0)
      t.is(await scene.setup(b, inB, 0), 0)
      t.is(await scene.setup(b, inB, RANGE, RANGE), 0)
      const sizes: number[] = []
      b.vmm.onUnmap = mapped => sizes.push(fstatSync(mapped!.fd).size)
      t.is((await scene.ask(a, opcode, onRoot ? 1 : inA, body)).error, 0)
      // Unmapped while the file was as long as ever, and mapped no further than it is now.
      t.true(sizes.length > 0)
      t.deepEqual([...new Set(sizes)], [2 * RANGE])
      t.is(statSync(join(scene.folder, 'f')).size, size)
      t.notThrows(() => b.vmm.read(0, 2 * RANGE))
      t.true(b.vmm.read(0, size).equals(pattern(2 * RANGE).subarray(0, size)))
      t.is((await scene.getattr(b, inB)).stat.size, size)
      t.is(b.window.counters.revoked, 1)
      t.is(b.window.counters.shrunkByOthers, 0)
      t.is(a.coherence!.mappings.counters.forced, 0)
      t.deepEqual([...a.log, ...b.log], [])
    })

test('three guests have it mapped: the cut waits for the slowest', async t => {
  const scene = new Scene(t, {}, {}, {}, {})
  const [a, b, c, d] = scene.rigs as [DaxRig, DaxRig, DaxRig, DaxRig]
  scene.write('f', RANGE)
  const inode = new Map<DaxRig, number>()
  for (const one of scene.rigs) inode.set(one, await scene.lookup(one, 'f'))
  for (const one of [a, b, c]) t.is(await scene.setup(one, inode.get(one)!, 0), 0)
  scene.hold()
  scene.aheadMs += LOOK_MS
  scene.turn()
  scene.running.delete(c)
  const cut = scene.start(a, Opcode.FUSE_SETATTR, inode.get(a)!, sizeBody(PAGE))
  scene.aheadMs += LOOK_MS
  t.true(await scene.run(LIMIT_MS, () => b.window.counters.revoked === 1))
  t.is(cut(), undefined)
  t.is(statSync(join(scene.folder, 'f')).size, RANGE)
  // What is about to be cut is not shown any more, and nobody maps it now.
  t.is((await scene.getattr(b, inode.get(b)!)).stat.size, PAGE)
  const again = scene.start(b, 48, inode.get(b)!, setupBody(0))
  const anew = scene.start(d, 48, inode.get(d)!, setupBody(0))
  for (let i = 0; i < 4; i++) {
    scene.aheadMs += LOOK_MS
    await scene.run(LOOK_MS / 2)
  }
  t.is(again(), undefined)
  t.is(anew(), undefined)
  t.is(d.vmm.mappings.size, 0)
  scene.release()
  scene.running.add(c)
  t.true(await scene.run(LIMIT_MS, () => cut() !== undefined))
  t.true(await scene.run(LIMIT_MS, () => again() !== undefined && anew() !== undefined))
  t.is(anew()!.error, 0)
  t.is(c.window.counters.revoked, 1)
  t.is(statSync(join(scene.folder, 'f')).size, PAGE)
  for (const one of scene.rigs) t.notThrows(() => one.vmm.read(0, RANGE))
})

test('a daemon that was killed: its seat ends by time, not before', async t => {
  const scene = new Scene(t, {}, {})
  const [a, b] = scene.rigs as [DaxRig, DaxRig]
  scene.write('f', RANGE)
  const inA = await scene.lookup(a, 'f')
  t.is(await scene.setup(b, await scene.lookup(b, 'f'), 0), 0)
  // Its seat is as new as can be.
  scene.hold()
  scene.aheadMs += LOOK_MS
  scene.turn()
  scene.running.delete(b)
  const cut = scene.start(a, Opcode.FUSE_SETATTR, inA, sizeBody(PAGE))
  await scene.run(100)
  scene.aheadMs += SEAT_MS - 1000
  await scene.run(100)
  t.is(cut(), undefined)
  t.is(statSync(join(scene.folder, 'f')).size, RANGE)
  scene.aheadMs += 1100
  scene.release()
  t.true(await scene.run(LIMIT_MS, () => cut() !== undefined))
  t.is(statSync(join(scene.folder, 'f')).size, PAGE)
  t.is(a.coherence!.mappings.counters.forced, 0)
  // One that was only stopped finds its seat again, and what is gone unmapped at once.
  scene.running.add(b)
  const reads = (): boolean => {
    try {
      b.vmm.read(0, RANGE)
      return true
    } catch {
      return false
    }
  }
  t.true(await scene.run(LIMIT_MS, reads))
})

test('a daemon that is killed while it wants to cut leaves nothing: what was let go comes back', async t => {
  const scene = new Scene(t, {}, {}, {})
  const [a, b, c] = scene.rigs as [DaxRig, DaxRig, DaxRig]
  scene.write('f', RANGE)
  const inB = await scene.lookup(b, 'f')
  t.is(await scene.setup(b, inB, 0), 0)
  t.is(await scene.setup(c, await scene.lookup(c, 'f'), 0), 0)
  scene.running.delete(c)
  scene.start(a, Opcode.FUSE_SETATTR, await scene.lookup(a, 'f'), sizeBody(PAGE))
  t.true(await scene.run(LIMIT_MS, () => b.window.counters.revoked === 1))
  t.false(b.vmm.read(0, RANGE).equals(pattern(RANGE)))
  scene.running.delete(a)
  scene.running.add(c)
  scene.aheadMs += SEAT_MS + 100
  t.true(await scene.run(LIMIT_MS, () => b.vmm.read(0, RANGE).equals(pattern(RANGE))))
  t.is((await scene.getattr(b, inB)).stat.size, RANGE)
})

test('cut and made longer again by one guest: the other, which asks nothing, has the new bytes in its window', async t => {
  const scene = new Scene(t, {}, {})
  const [a, b] = scene.rigs as [DaxRig, DaxRig]
  scene.write('f', RANGE)
  const inA = await scene.lookup(a, 'f')
  const { fh } = await scene.open(a, inA)
  t.is(await scene.setup(b, await scene.lookup(b, 'f'), 0), 0)
  t.is((await scene.ask(a, Opcode.FUSE_SETATTR, inA, sizeBody(0))).error, 0)
  await scene.run(2 * LOOK_MS)
  const data = pattern(PAGE, 7).subarray(0, 3000)
  t.is((await scene.ask(a, Opcode.FUSE_WRITE, inA, writeBody(fh, 9000, data))).error, 0)
  t.true(await scene.run(LIMIT_MS, () => b.vmm.read(9000, 3000).equals(data)))
  t.is(statSync(join(scene.folder, 'f')).size, 12000)
  t.deepEqual([...a.log, ...b.log], [])
})

/** Longer than a change time must be past, and than the time that a file others changed must be left alone. */
const SETTLES_MS = LONGEST_WRITE_MS + 300

test('what guests cache of a file ends while another one has it in its window', async t => {
  const scene = new Scene(t, {}, { noDax: true })
  const [a, b] = scene.rigs as [DaxRig, DaxRig]
  scene.write('f', RANGE)
  const path = join(scene.folder, 'f')
  utimesSync(path, 1_700_000_000, 1_700_000_000)
  const inA = await scene.lookup(a, 'f')
  const inB = await scene.lookup(b, 'f')
  // Until the last change is so old that another would show.
  await scene.run(SETTLES_MS)
  await scene.open(b, inB)
  t.true((await scene.open(b, inB)).keepCache)
  scene.hold()
  // Nobody has changed it for long.
  t.is((await scene.getattr(b, inB)).attrMs, longLeaseMs(TIMES.leaseMs))
  const mapped = scene.start(a, 48, inA, setupBody(0))
  const waits = (): boolean => a.coherence!.leases.counters.conflicts > 0
  t.true(await scene.run(LIMIT_MS, waits), 'it waits for the lease')
  t.is(mapped(), undefined)
  scene.release()
  t.true(await scene.run(LIMIT_MS, () => mapped() !== undefined))
  t.is(mapped()!.error, 0)
  let { stat } = await scene.getattr(b, inB)
  for (let i = 0; i < 5; i++) {
    a.vmm.write(i, Buffer.from('x'))
    // As a store into a page that is dirty already.
    utimesSync(path, 1_700_000_000, 1_700_000_000)
    const next = await scene.getattr(b, inB)
    t.is(next.attrMs, 0)
    t.not(next.stat.mtimeNsec, stat.mtimeNsec)
    ;({ stat } = next)
    t.false((await scene.open(b, inB)).keepCache)
  }
  t.is((await scene.getattr(a, inA)).attrMs, 0)
  t.is(a.remove([0, RANGE]), 0)
  await scene.run(SETTLES_MS)
  // Once more for what was stored last, then all is as it was.
  t.false((await scene.open(b, inB)).keepCache)
  t.true((await scene.open(b, inB)).keepCache)
  scene.aheadMs += 10_000
  t.true((await scene.getattr(b, inB)).attrMs >= TIMES.leaseMs)
})

test('a file that is lengthened to be mapped: what another guest appends at that moment waits, and is not cut off', async t => {
  const scene = new Scene(t, {}, { dax: { policy: 'always' } })
  const [a, b] = scene.rigs as [DaxRig, DaxRig]
  scene.write('f', 10_000)
  const inA = await scene.lookup(a, 'f')
  const { fh } = await scene.open(a, inA)
  const inB = await scene.lookup(b, 'f')
  let answered: (() => FuseReply | undefined) | undefined
  b.vmm.onMap = () => {
    if (answered !== undefined) return
    // It is in the middle of something.
    scene.running.delete(b)
    answered = scene.start(a, Opcode.FUSE_WRITE, inA, writeBody(fh, 10_000, text('appended')))
    for (let i = 0; i < 20; i++) a.pump()
    t.is(answered(), undefined)
    scene.running.add(b)
  }
  t.is(await scene.setup(b, inB, 0), 0)
  t.true(await scene.run(LIMIT_MS, () => answered!() !== undefined))
  t.is(b.window.counters.padded, 1)
  t.is(b.window.counters.disturbed, 0)
  t.is(readFileSync(join(scene.folder, 'f')).subarray(10_000).toString(), 'appended\0')
})

for (const seed of [1, 2, 3])
  test(`${STEPS} random steps of three guests, seed ${seed}: no VMM dies, and up to the size it is told each has the file's bytes`, async t => {
    const policy = seed === 2 ? 'always' : 'exclusive'
    const options = { dax: { policy, minFileBytes: 1 }, regions: seed === 3 } as const
    const scene = new Scene(t, options, options, options)
    const pick = random(seed)
    scene.write('f', RANGE)
    const model = new FileModel(pattern(RANGE))
    const guests: { r: DaxRig; nodeid: number; fh: bigint }[] = []
    for (const r of scene.rigs) {
      const nodeid = await scene.lookup(r, 'f')
      guests.push({ r, nodeid, ...(await scene.open(r, nodeid)) })
    }
    for (let step = 0; step < STEPS; step++) {
      const { r, nodeid, fh } = guests[pick(guests.length)]!
      switch (pick(5)) {
        case 0: {
          const size = pick(3) === 0 ? pick(2) * PAGE : pick(3 * MIB)
          t.is((await scene.ask(r, Opcode.FUSE_SETATTR, nodeid, sizeBody(size))).error, 0)
          model.resize(size)
          break
        }
        case 1: {
          const at = pick(model.length + 1)
          const data = Buffer.alloc(1 + pick(30_000), step | 1)
          if (at + data.length > 4 * MIB) break
          t.is((await scene.ask(r, Opcode.FUSE_WRITE, nodeid, writeBody(fh, at, data))).error, 0)
          model.write(at, data)
          break
        }
        case 2:
          await scene.setup(r, nodeid, pick(4) * RANGE, pick(2) * RANGE)
          break
        case 3:
          r.remove([pick(4) * RANGE, RANGE])
          break
        default:
          model.store(r, (await scene.getattr(r, nodeid)).stat.size, pick)
      }
      // What it was told before may be more than there is; then it reads zeros.
      for (const { r: one } of guests)
        for (const { offset, fileOffset, file, covered } of one.window.table.ranges.values())
          one.vmm.read(offset, Math.min(covered, Math.max(0, file.told - fileOffset)))
      for (const guest of guests) {
        const told = (await scene.getattr(guest.r, guest.nodeid)).stat.size
        t.is(told, model.length)
        for (const range of guest.r.window.table.ranges.values()) {
          const want = model.bytes.subarray(range.fileOffset, range.fileOffset + RANGE)
          if (!guest.r.vmm.read(range.offset, want.length).equals(want))
            t.fail(`step ${step}: range at ${range.offset} of a file of ${model.length}`)
        }
      }
    }
    t.true(readFileSync(join(scene.folder, 'f')).equals(model.bytes))
    t.true(scene.rigs.some(r => r.window.counters.revoked > 0))
    for (const r of scene.rigs) {
      t.is(r.coherence!.mappings.counters.forced, 0)
      t.is(r.window.counters.shrunkByOthers, 0)
      t.deepEqual(r.log, [])
    }
  })

test('whatever was written into the table, every request is answered in the end', async t => {
  t.timeout(600_000)
  const scene = new Scene(t, {}, {})
  const [a, b] = scene.rigs as [DaxRig, DaxRig]
  const fd = openTableFile(scene.table)
  t.teardown(() => closeSync(fd))
  const view = makeContext(t).raw.mapShared(fd, fstatSync(fd).size)
  if (typeof view === 'number') throw new Error(`no table: ${view}`)
  const words = new Int32Array(view)
  scene.write('f', RANGE)
  const inodes = [await scene.lookup(a, 'f'), await scene.lookup(b, 'f')]
  const pick = random(9)
  const used = (): number[] => {
    const found: number[] = []
    for (let i = HEADER_WORDS; i < words.length; i++) if (words[i] !== 0) found.push(i)
    return found
  }
  let places = used()
  for (let step = 0; step < 25; step++) {
    const index = pick(2)
    const r = scene.rigs[index]!
    const nodeid = inodes[index]!
    const ends =
      pick(2) === 0
        ? scene.start(r, 48, nodeid, setupBody(pick(4) * RANGE))
        : scene.start(r, Opcode.FUSE_SETATTR, nodeid, sizeBody((1 + pick(500)) * PAGE))
    if (step % 10 === 0) places = used()
    const began = performance.now()
    for (let turns = 0; ends() === undefined; turns++) {
      // A lease that was written there may last for 8 s, and so a device waits before it looks again.
      if (performance.now() - began > 100_000) throw new Error(`step ${step} is not answered`)
      const other = words[places[pick(places.length)]!]!
      const value = pick(2) === 0 ? pick(2 ** 32) | 0 : other
      // Who goes on for ever makes each request wait for 10 s.
      if (turns < 100) Atomics.store(words, places[pick(places.length)]!, value)
      // Time flies.
      scene.aheadMs += 20
      scene.turn()
      await new Promise(next => setTimeout(next, 1))
    }
  }
  t.pass()
})
