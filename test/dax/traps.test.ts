/**
 * What QEMU 11.1 was seen to do to a back end that maps carelessly, trap by trap, and that none of it happens. The VMM is
 * a fake that behaves so; a rule that is broken in any test of this folder fails it. Where it does not end QEMU the
 * same is in test/guest with the real one.
 *
 * | trap | here | in a guest (test/guest) |
 * |---|---|---|
 * | 1 a descriptor that cannot write is refused, and the guest gets EIO | "trap 1" | dax-sizes "trap 1" |
 * | 2 a mapping past the end of the file is refused | "trap 2" | dax "dax=always" (2,500 sizes) |
 * | 3 cut to whole pages, the last part reads as zeros | "trap 3" | dax-sizes "trap 3", dax "per-inode DAX" |
 * | 4 QEMU makes an empty file longer | "trap 4" | dax-sizes "trap 4" |
 * | 5 a file made shorter under a mapping kills QEMU | "trap 5" | dax-sizes (by the guest), dax (by the host, touched after it was seen), dax-two (by another guest) |
 * | 6 the guest waits when the window is full; a refusal is SIGBUS | "trap 6" | dax-sizes "trap 6", dax "per-inode DAX" (8 MiB window) |
 * | a mapping is not replaced: overlaps are refused, unmapping repeats it exactly | "no overlap" | every one |
 * | the answer to a mapping comes before it is done | "the barrier" | every one |
 * | each mapping is a memory region, asked on the main socket meanwhile | window.test.ts "memory regions" | every one |
 * | the 512th region aborts QEMU | "too many" | - (by hand: it aborts) |
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  copyFileSync,
  fstatSync,
  linkSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { MAX_SHMEM_MAPPINGS } from '../../src/vhost/backend-channel.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { text } from '../helpers/fuse-client.js'
import { daxRig, MIB, pattern, RANGE } from './rig.js'

const EIO = 5
const EOPNOTSUPP = 95
const O_TRUNC = 0o1000
const PAGE = 4096

test('trap 1: a file that the guest opened for reading is mapped with a descriptor that can write', t => {
  const r = daxRig(t)
  writeFileSync(join(r.folder, 'f'), pattern(MIB))
  const nodeid = r.guest.lookup(1, 'f')
  r.guest.open(nodeid, 0)
  let mode = -1
  r.vmm.onMap = fd => {
    mode = Number.parseInt(
      /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))![1]!,
      8,
    )
  }
  t.is(r.setup(nodeid, 0, 0, RANGE, 0), 0)
  t.is(mode & 3, 2)
})

test('trap 1: a program that runs cannot be opened for writing: it is not said to be DAX, and is refused', async t => {
  const r = daxRig(t)
  const path = join(r.folder, 'sleep')
  copyFileSync('/bin/sleep', path)
  truncateSync(path, Math.ceil(statSync(path).size / PAGE) * PAGE)
  const running = spawn(path, ['60'])
  await once(running, 'spawn')
  t.false(r.look('sleep').dax)
  const nodeid = r.guest.lookup(1, 'sleep')
  t.is(r.setup(nodeid, 0), EIO)
  t.deepEqual(r.vmm.journal, [])
  running.kill('SIGKILL')
  await once(running, 'exit')
})

test('trap 1: and the other way round, the host cannot start a program that is mapped', t => {
  const r = daxRig(t)
  const path = join(r.folder, 'true')
  copyFileSync('/bin/true', path)
  truncateSync(path, Math.ceil(statSync(path).size / PAGE) * PAGE)
  t.is(spawnSync(path).status, 0)
  t.is(r.setup(r.guest.lookup(1, 'true'), 0), 0)
  t.is((spawnSync(path).error as NodeJS.ErrnoException | undefined)?.code, 'ETXTBSY')
  r.remove([0, RANGE])
  t.is(spawnSync(path).status, 0)
})

test('trap 2: of a file of whole pages just these are mapped, however much the guest asks for', t => {
  const r = daxRig(t)
  writeFileSync(join(r.folder, 'f'), pattern(3 * PAGE))
  t.is(r.setup(r.guest.lookup(1, 'f'), 0), 0)
  t.deepEqual(r.vmm.journal, [`map 0+${3 * PAGE}`, 'barrier'])
})

for (const policy of ['exclusive', 'always'] as const)
  test(`trap 3: ${policy}: no size of a file shows zeros for data`, t => {
    const r = daxRig(t, { dax: { policy, minFileBytes: 1 } })
    for (const [index, bytes] of [
      1,
      4095,
      4096,
      4097,
      12_345,
      RANGE - 1,
      RANGE,
      RANGE + 1,
    ].entries()) {
      const path = join(r.folder, `f${index}`)
      writeFileSync(path, pattern(bytes))
      const nodeid = r.guest.lookup(1, `f${index}`)
      const whole = bytes % PAGE === 0
      t.is(r.look(`f${index}`).dax, whole || policy === 'always', `${bytes} bytes`)
      for (let from = 0; from < bytes; from += RANGE) {
        const errno = r.setup(nodeid, from, from)
        t.is(
          errno,
          whole || policy === 'always' || from + RANGE <= bytes ? 0 : EIO,
          `${bytes} bytes at ${from}`,
        )
        const want = pattern(bytes).subarray(from, from + RANGE)
        if (errno === 0) t.true(r.vmm.read(from, want.length).equals(want))
      }
      t.is(statSync(path).size, bytes)
      r.remove([0, 4 * RANGE])
    }
  })

test('trap 4: an empty file is not mapped, and not made longer', t => {
  for (const policy of ['exclusive', 'always'] as const) {
    const r = daxRig(t, { dax: { policy, minFileBytes: 0 } })
    writeFileSync(join(r.folder, 'f'), '')
    t.is(r.setup(r.guest.lookup(1, 'f'), 0), EIO)
    t.deepEqual(r.vmm.journal, [])
    t.is(statSync(join(r.folder, 'f')).size, 0)
  }
})

test('trap 5: every way in which a guest makes a file shorter unmaps before', t => {
  const r = daxRig(t)
  const path = join(r.folder, 'f')
  let seen = -1
  const shorten: [why: string, act: (nodeid: number, fh: bigint) => void][] = [
    ['SETATTR', nodeid => t.is(r.truncate(nodeid, 0), 0)],
    [
      'SETATTR with a handle',
      (nodeid, fh) => {
        const body = concat(u32s(8 | 64, 0), u64(fh), u64(0n), new Uint8Array(64))
        r.guest.do(4, nodeid, body)
      },
    ],
    ['OPEN with O_TRUNC', nodeid => r.guest.release(nodeid, r.guest.open(nodeid, 2 | O_TRUNC))],
  ]
  for (const [why, act] of shorten) {
    writeFileSync(path, pattern(MIB))
    const nodeid = r.guest.lookup(1, 'f')
    const fh = r.guest.open(nodeid)
    t.is(r.setup(nodeid, 0), 0, why)
    r.vmm.onUnmap = mapped => {
      seen = fstatSync(mapped!.fd).size
    }
    act(nodeid, fh)
    t.is(seen, MIB, `${why}: unmapped when the file was still whole`)
    t.is(r.vmm.mappings.size, 0, why)
    t.is(statSync(path).size, 0, why)
    r.guest.release(nodeid, fh)
  }
})

test('trap 5: CREATE with O_TRUNC of a name that appeared meanwhile unmaps before, and tells the new size', t => {
  const r = daxRig(t)
  writeFileSync(join(r.folder, 'f'), pattern(MIB))
  const nodeid = r.guest.lookup(1, 'f')
  t.is(r.setup(nodeid, 0), 0)
  // The guest thinks that there is no "g".
  linkSync(join(r.folder, 'f'), join(r.folder, 'g'))
  let seen = -1
  r.vmm.onUnmap = () => {
    seen = statSync(join(r.folder, 'f')).size
  }
  const { body } = r.guest.do(35, 1, concat(u32s(2 | O_TRUNC | 0o100, 0o100644, 0, 0), text('g')))
  t.is(Number(body.getBigUint64(0, true)), nodeid)
  t.is(seen, MIB)
  t.is(r.vmm.mappings.size, 0)
  t.is(Number(body.getBigUint64(40 + 8, true)), 0)
})

for (const [what, mode] of [
  ['COLLAPSE_RANGE', 0x08],
  ['INSERT_RANGE', 0x20],
] as const)
  test(`trap 5: FALLOCATE with ${what}, which moves the data of a file, is refused while DAX is agreed on`, t => {
    const r = daxRig(t)
    writeFileSync(join(r.folder, 'f'), pattern(MIB))
    const nodeid = r.guest.lookup(1, 'f')
    const fh = r.guest.open(nodeid)
    t.is(r.setup(nodeid, 0), 0)
    const body = concat(u64(fh), u64(0n), u64(65536n), u32s(mode, 0))
    t.is(r.guest.request(43, nodeid, body)!.error, -EOPNOTSUPP)
    t.is(statSync(join(r.folder, 'f')).size, MIB)
    t.true(r.vmm.read(0, MIB).equals(pattern(MIB)))
  })

test('trap 6: what the VMM refuses is an error for that request and leaves nothing; a later one works', t => {
  const r = daxRig(t)
  writeFileSync(join(r.folder, 'f'), pattern(2 * RANGE))
  const nodeid = r.guest.lookup(1, 'f')
  t.is(r.setup(nodeid, 0), 0)
  r.vmm.refuse = 2
  t.is(r.setup(nodeid, RANGE, RANGE), EIO)
  t.deepEqual([...r.vmm.mappings.keys()], [0])
  t.is(r.window.counters.refused['front-end'], 1)
  t.is(r.setup(nodeid, RANGE, RANGE), 0)
})

test('no overlap: one of two ranges is taken by a third across both; the VMM never sees two in one place', t => {
  const r = daxRig(t)
  writeFileSync(join(r.folder, 'f'), pattern(4 * RANGE))
  const nodeid = r.guest.lookup(1, 'f')
  for (const at of [0, RANGE]) t.is(r.setup(nodeid, at, at), 0)
  t.is(r.setup(nodeid, MIB, 2 * RANGE), 0)
  t.deepEqual(r.vmm.journal.filter(line => line !== 'barrier').slice(2), [
    `unmap 0+${RANGE}`,
    `unmap ${RANGE}+${RANGE}`,
    `map ${MIB}+${RANGE}`,
  ])
})

test('the barrier: when SETUPMAPPING is answered the mapping is there, not only acknowledged', t => {
  const r = daxRig(t)
  writeFileSync(join(r.folder, 'f'), pattern(MIB))
  // The fake one carries a mapping out with the request behind it, as QEMU at the end of its transaction.
  t.is(r.setup(r.guest.lookup(1, 'f'), 0), 0)
  t.is(r.vmm.journal.at(-1), 'barrier')
  t.true(r.vmm.read(0, MIB).equals(pattern(MIB)))
})

test('too many: the mapping that QEMU would die of is refused', t => {
  const r = daxRig(t, { dax: { windowBytes: 1024 * MIB } })
  const path = join(r.folder, 'f')
  writeFileSync(path, '')
  truncateSync(path, 512 * RANGE)
  const nodeid = r.guest.lookup(1, 'f')
  let refused = 0
  for (let i = 0; i < 512; i++) if (r.setup(nodeid, i * RANGE, i * RANGE) !== 0) refused++
  t.is(refused, 512 - MAX_SHMEM_MAPPINGS)
  t.is(r.vmm.mappings.size, MAX_SHMEM_MAPPINGS)
})
