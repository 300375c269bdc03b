/** Files that others change while the guest has them mapped: another guest with a daemon of its own, processes of the host. */
import { appendFileSync, mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { random } from '../helpers/random.js'
import { FileModel } from './model.js'
import { type DaxRig, type DaxRigOptions, daxRig, daxRigs, MIB, pattern, RANGE } from './rig.js'

const PAGE = 4096
const STEPS = Number(process.env.DAX_STEPS ?? 400)

/** Two guests with a daemon each, on one directory. */
function two(t: ExecutionContext, options: DaxRigOptions = {}): [DaxRig, DaxRig, string] {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-dax-two-'))
  const [a, b] = daxRigs(t, { folder, ...options }, { folder, ...options })
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return [a!, b!, folder]
}

/** The daemon looks at what its watcher has to say. */
function notice(r: DaxRig): void {
  r.pump()
  r.pump()
}

test('two daemons: a store of one guest is what the other reads, without a word between the daemons', t => {
  const [a, b, folder] = two(t)
  writeFileSync(join(folder, 'f'), pattern(RANGE))
  t.is(a.setup(a.guest.lookup(1, 'f'), 0), 0)
  t.is(b.setup(b.guest.lookup(1, 'f'), 4 * RANGE), 0)
  const before = [a, b].map(r => r.device.counters.requests)
  a.vmm.write(5000, Buffer.from('from a'))
  b.vmm.write(4 * RANGE + RANGE - 6, Buffer.from('from b'))
  t.is(b.vmm.read(4 * RANGE + 5000, 6).toString(), 'from a')
  t.is(a.vmm.read(RANGE - 6, 6).toString(), 'from b')
  t.deepEqual(
    [a, b].map(r => r.device.counters.requests),
    before,
  )
})

test('two daemons: one guest truncates; the other one is unmapped as soon as its daemon looks, and no later than it is asked', t => {
  for (const look of ['watcher', 'request'] as const) {
    const [a, b, folder] = two(t)
    writeFileSync(join(folder, 'f'), pattern(2 * RANGE))
    const inA = a.guest.lookup(1, 'f')
    const inB = b.guest.lookup(1, 'f')
    t.is(a.setup(inA, 0), 0)
    for (const at of [0, RANGE]) t.is(b.setup(inB, at, at), 0)
    t.is(a.truncate(inA, MIB), 0)
    // The daemon that truncates has unmapped before; the other does not know yet.
    t.is(
      [...a.vmm.mappings.values()].reduce((sum, one) => sum + one.bytes, 0),
      MIB,
    )
    t.throws(() => b.vmm.read(0, RANGE), { message: /SIGBUS/ })
    if (look === 'watcher') notice(b)
    t.is(b.getattr(inB).size, MIB)
    t.true(b.window.counters.shrunkByOthers > 0)
    t.notThrows(() => b.vmm.read(0, 2 * RANGE))
    t.true(b.vmm.read(0, MIB).equals(pattern(MIB)))
    t.deepEqual(
      [...b.vmm.mappings].map(([at, one]) => [at, one.bytes]),
      [[0, MIB]],
    )
  }
})

test('two daemons: one guest makes the file longer by writes; the other has it in its window before it hears of the size', t => {
  const [a, b, folder] = two(t)
  writeFileSync(join(folder, 'f'), pattern(PAGE))
  const inA = a.guest.lookup(1, 'f')
  const fh = a.guest.open(inA)
  const inB = b.guest.lookup(1, 'f')
  t.is(a.setup(inA, 0), 0)
  t.is(b.setup(inB, 0), 0)
  for (let size = PAGE; size < 40 * PAGE; size += 1000) {
    a.guest.write(inA, fh, size, pattern(1000, size))
    const seen = b.getattr(inB).size
    t.is(seen, size + 1000)
    t.true(b.vmm.read(size, 1000).equals(pattern(1000, size)))
  }
})

test('a host that appends in the moment in which a file is lengthened is noticed, and said aloud', t => {
  const r = daxRig(t, { dax: { policy: 'always' } })
  const path = join(r.folder, 'f')
  writeFileSync(path, pattern(10_000))
  r.vmm.onMap = () => appendFileSync(path, 'appended')
  t.is(r.setup(r.guest.lookup(1, 'f'), 0), 0)
  t.is(r.window.counters.disturbed, 1)
  t.regex(r.log.join(), /lies behind zeros.*--dax=always is for shares where only this guest/)
})

test('that the trust is broken is said aloud once', t => {
  const r = daxRig(t)
  for (const name of ['f', 'g']) {
    const path = join(r.folder, name)
    writeFileSync(path, pattern(MIB))
    t.is(r.setup(r.guest.lookup(1, name), name === 'f' ? 0 : RANGE), 0)
    truncateSync(path, PAGE)
    notice(r)
  }
  t.is(r.window.counters.shrunkByOthers, 2)
  t.is(r.log.filter(line => /^warn: a mapped file was cut to 4096 bytes/.test(line)).length, 1)
})

test('a host that appends whole pages to a mapped file never finds it lengthened by the daemon', t => {
  const r = daxRig(t)
  const path = join(r.folder, 'f')
  writeFileSync(path, pattern(PAGE))
  const nodeid = r.guest.lookup(1, 'f')
  t.is(r.setup(nodeid, 0), 0)
  for (let pages = 2; pages < 50; pages++) {
    appendFileSync(path, pattern(PAGE, pages))
    if (pages % 3 === 0) notice(r)
    t.is(r.getattr(nodeid).size, pages * PAGE)
    t.true(r.vmm.read((pages - 1) * PAGE, PAGE).equals(pattern(PAGE, pages)))
  }
  t.is(r.window.counters.padded, 0)
  t.regex(r.log.join(), /made longer, to 8192 bytes, by somebody else/)
})

// --- a process of the host --------------------------------------------------------------------------

for (const policy of ['exclusive', 'always'] as const)
  for (const seed of [1, 2, 3, 4])
    test(`${policy}: ${STEPS} random changes by the host, seed ${seed}: up to the size that the guest is told, the window has the file's bytes`, t => {
      const r = daxRig(t, { dax: { policy, minFileBytes: 1 }, regions: seed === 2 })
      const pick = random(seed)
      const path = join(r.folder, 'f')
      writeFileSync(path, pattern(RANGE))
      const model = new FileModel(pattern(RANGE))
      const nodeid = r.guest.lookup(1, 'f')
      const fh = r.guest.open(nodeid)
      let told = RANGE
      for (let step = 0; step < STEPS; step++) {
        const bytes = 1 + pick(40_000)
        switch (pick(6)) {
          case 0: {
            const size = pick(3) === 0 ? pick(2) * PAGE : pick(3 * MIB)
            truncateSync(path, size)
            model.resize(size)
            break
          }
          case 1: {
            const data = Buffer.alloc(bytes, step | 1)
            if (model.length + bytes > 4 * MIB) break
            appendFileSync(path, data)
            model.append(data)
            break
          }
          case 2: {
            const data = pattern(pick(3) * PAGE, step)
            if (model.length + data.length > 4 * MIB) break
            appendFileSync(path, data)
            model.append(data)
            break
          }
          case 3:
            // Refused where there is nothing, or, by `exclusive`, an odd end of a file that never was of whole pages.
            r.setup(nodeid, pick(4) * RANGE, pick(2) * RANGE)
            break
          case 4:
            r.remove([pick(4) * RANGE, RANGE])
            break
          default: {
            // The guest writes where it believes the file to end.
            const data = Buffer.alloc(bytes, step | 1)
            if (told + bytes > 4 * MIB) break
            if (r.guest.write(nodeid, fh, told, data) !== bytes) throw new Error('WRITE failed')
            model.write(told, data)
          }
        }
        if (pick(2) === 0) notice(r)
        told = r.getattr(nodeid).size
        t.true(told <= model.length)
        for (const range of r.window.table.ranges.values()) {
          const want = model.bytes.subarray(
            range.fileOffset,
            Math.min(told, range.fileOffset + range.bytes),
          )
          // Beyond the end lies nothing that would kill the VMM, but for pages that wait for the file to grow.
          if (range.pieces.length <= 4) r.vmm.read(range.offset, range.covered)
          if (!r.vmm.read(range.offset, want.length).equals(want))
            t.fail(
              `step ${step}: range at ${range.offset} of a file of ${model.length}, told ${told}`,
            )
        }
        // What the daemon does for its mappings changes neither size nor bytes.
        if (statSync(path).size !== model.length)
          t.fail(`step ${step}: ${statSync(path).size}, not ${model.length}`)
      }
      t.pass()
    })
