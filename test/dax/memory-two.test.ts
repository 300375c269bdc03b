/** Two guests that have one file system in memory, each by a view of its own, and its files in their windows. */
import { fstatSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { MemoryFileSystem } from '../../src/filesystems/memory/memory-filesystem.js'
import { MemoryStore } from '../../src/filesystems/memory/store.js'
import type { Context } from '../../src/native/context.js'
import { random } from '../helpers/random.js'
import { FileModel } from './model.js'
import { type DaxRig, daxRigs, MIB, pattern, RANGE } from './rig.js'

const STEPS = Number(process.env.DAX_STEPS ?? 400)

function two(t: ExecutionContext): [DaxRig, DaxRig] {
  const store = new MemoryStore()
  const makeFs = (context: Context): MemoryFileSystem => new MemoryFileSystem(context, store)
  const one = { backEnd: 'memory', makeFs } as const
  return daxRigs(t, one, one) as [DaxRig, DaxRig]
}

test('a file in memory is the same memory in the windows of two guests; what one cuts off is taken from the other first', t => {
  const [a, b] = two(t)
  const { nodeid, fh } = a.guest.create(1, 'f')
  for (let at = 0; at < MIB; at += 65536)
    a.guest.write(nodeid, fh, at, pattern(MIB).subarray(at, at + 65536))
  const inB = b.guest.lookup(1, 'f')
  t.is(a.setup(nodeid, 0), 0)
  t.is(b.setup(inB, 8 * MIB), 0)
  const [one, other] = [a, b].map(r => fstatSync([...r.vmm.mappings.values()][0]!.fd).ino)
  t.is(one, other)

  t.true(b.vmm.read(8 * MIB, MIB).equals(pattern(MIB)))
  b.vmm.write(8 * MIB + 4096, Buffer.from('from the second'))
  t.is(a.vmm.read(4096, 15).toString(), 'from the second')
  t.is(Buffer.from(a.guest.read(nodeid, fh, 4096, 15)).toString(), 'from the second')
  a.vmm.write(9000, Buffer.from('from the first'))
  t.is(b.vmm.read(8 * MIB + 9000, 14).toString(), 'from the first')

  const sizes: number[] = []
  b.vmm.onUnmap = mapped => sizes.push(fstatSync(mapped!.fd).size)
  // The front ends answer each other's daemon here, as they would by themselves.
  t.is(a.truncate(nodeid, 65536), 0)
  t.deepEqual(sizes, [MIB])
  t.notThrows(() => b.vmm.read(8 * MIB, MIB))
  t.is(b.getattr(inB).size, 65536)
  t.is(b.window.counters.shrunkByOthers, 0)
  t.deepEqual([...a.log, ...b.log], [])
})

test('nodes and handles of one guest are nothing to the other; a file lives until the last has left it', t => {
  const [a, b] = two(t)
  const { nodeid, fh } = a.guest.create(1, 'f')
  const inB = b.guest.lookup(1, 'f')
  const opened = b.guest.open(inB)
  a.guest.write(nodeid, fh, 0, pattern(8192))
  b.guest.forget(inB, 100)
  t.is(a.getattr(nodeid).size, 8192)
  t.throws(() => b.getattr(inB), { message: /116|ESTALE/ })
  const again = b.guest.lookup(1, 'f')
  // Gone for both; each has it open.
  a.guest.do(10, 1, new TextEncoder().encode('f\0'))
  a.end()
  t.true(Buffer.from(b.guest.read(again, opened, 0, 8192)).equals(pattern(8192)))
  t.is(b.guest.lookup(1, 'f'), -2)
})

for (const seed of [1, 2, 3])
  test(`${STEPS} random steps of both, seed ${seed}: up to the size that each is told, its window has the file's bytes`, t => {
    const rigs = two(t)
    const pick = random(seed)
    const made = rigs[0].guest.create(1, 'f')
    const inB = rigs[1].guest.lookup(1, 'f')
    const guests = [
      { r: rigs[0], nodeid: made.nodeid, fh: made.fh },
      { r: rigs[1], nodeid: inB, fh: rigs[1].guest.open(inB) },
    ]
    const model = new FileModel()
    for (let step = 0; step < STEPS; step++) {
      const { r, nodeid, fh } = guests[pick(2)]!
      switch (pick(4)) {
        case 0: {
          const size = pick(3 * MIB)
          t.is(r.truncate(nodeid, size), 0)
          model.resize(size)
          break
        }
        case 1: {
          const at = pick(model.length + 1)
          const data = Buffer.alloc(1 + pick(30_000), step | 1)
          t.is(r.guest.write(nodeid, fh, at, data), data.length)
          model.write(at, data)
          break
        }
        case 2:
          r.setup(nodeid, pick(4) * RANGE, pick(2) * RANGE)
          break
        default:
          // Who asks nothing has what he was told of before.
          model.store(r, r.getattr(nodeid).size, pick)
      }
      for (const guest of guests)
        for (const { offset, fileOffset, file, covered } of guest.r.window.table.ranges.values()) {
          const want = model.bytes.subarray(fileOffset, Math.min(file.told, fileOffset + RANGE))
          // But for pages that wait for the file to grow, past what the guest knows of.
          guest.r.vmm.read(offset, Math.min(covered, Math.max(0, file.told - fileOffset)))
          if (!guest.r.vmm.read(offset, want.length).equals(want))
            t.fail(`step ${step}: range at ${offset} of a file of ${model.length}`)
        }
    }
    t.true(rigs.every(r => r.window.counters.maps > 0))
    t.deepEqual(
      rigs.flatMap(r => r.log),
      [],
    )
  })
