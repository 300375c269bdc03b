/** The DAX window over the host and the in-memory back end, against a VMM that checks every rule. */
import {
  appendFileSync,
  chmodSync,
  ftruncateSync,
  openSync,
  closeSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { DaxRig, daxRig, type DaxRigOptions, MIB, pattern, RANGE } from './rig.js'

const EINVAL = 22
const EIO = 5
const ESTALE = 116
const ENOSYS = 38

const DATA_AT = 0x40_0000

/** A file with `pattern`, made by the guest: nodeid. */
function makeFile(
  r: DaxRig,
  name: string,
  bytes: number,
  salt = 0,
): { nodeid: number; fh: bigint } {
  const made = r.guest.create(1, name)
  const data = pattern(bytes, salt)
  const { front, guest: client } = r
  // Not by `client.write`: a megabyte is too much for it.
  for (let at = 0; at < bytes; at += 65536) {
    const piece = data.subarray(at, at + 65536)
    const body = concat(u64(made.fh), u64(BigInt(at)), u32s(piece.length, 0), u64(0n), u32s(0, 0))
    const head = concat(client.header(16, made.nodeid, body.length + piece.length, 7n), body)
    front.memory.set(head, DATA_AT)
    front.memory.set(piece, DATA_AT + head.length)
    const buffers: [number, number, boolean][] = [
      [DATA_AT, head.length + piece.length, false],
      [DATA_AT + 0x2_0000, 24, true],
    ]
    client.ring.offer(client.ring.direct(buffers))
    if (client.ring.waitUsed()?.written !== 24) throw new Error('WRITE failed')
  }
  return made
}

for (const backEnd of ['host', 'memory'] as const) {
  const both = (
    title: string,
    body: (t: ExecutionContext, r: DaxRig) => void,
    options: DaxRigOptions = {},
  ): void => test(`${backEnd}: ${title}`, t => body(t, daxRig(t, { ...options, backEnd })))

  both('INIT agrees on DAX with pages as alignment', (t, r) => {
    t.is(r.initReply.body.getUint32(12, true) & (1 << 26), 1 << 26)
    t.is(r.initReply.body.getUint16(30, true), 12)
    t.is(r.initReply.body.getUint32(32, true) & 2, 2)
  })

  both('a mapping shows the file, and stores reach it', (t, r) => {
    const { nodeid, fh } = makeFile(r, 'f', 3 * MIB)
    t.is(r.setup(nodeid, 0), 0)
    t.is(r.setup(nodeid, 4 * MIB, RANGE), 0)
    t.true(r.vmm.read(0, RANGE).equals(pattern(3 * MIB).subarray(0, RANGE)))
    t.true(r.vmm.read(4 * MIB, MIB).equals(pattern(3 * MIB).subarray(RANGE)))
    r.vmm.write(4 * MIB + 5000, Buffer.from('from the guest'))
    t.is(Buffer.from(r.guest.read(nodeid, fh, RANGE + 5000, 14)).toString(), 'from the guest')
    r.guest.write(nodeid, fh, 77, Buffer.from('by FUSE_WRITE'))
    t.is(r.vmm.read(77, 13).toString(), 'by FUSE_WRITE')
    t.is(r.window.counters.maps, 2)
  })

  both('each mapping is followed by a barrier, and only then answered', (t, r) => {
    const { nodeid } = makeFile(r, 'f', MIB)
    r.setup(nodeid, RANGE)
    r.remove([RANGE, RANGE])
    t.deepEqual(r.vmm.journal, [
      `map ${RANGE}+${MIB}`,
      'barrier',
      `unmap ${RANGE}+${MIB}`,
      'barrier',
    ])
  })

  both(
    'memory regions of mappings are taken while a mapping is waited for; guest buffers may lie in them',
    (t, r) => {
      const { nodeid, fh } = makeFile(r, 'f', RANGE)
      t.is(r.setup(nodeid, 0), 0)
      t.is(r.setup(nodeid, RANGE, 0), 0)
      r.remove([RANGE, RANGE])
      t.is(r.window.table.ranges.size, 1)
      // A WRITE whose data lies in the window.
      const { ring, front } = { ring: r.guest.ring, front: r.front }
      const other = r.guest.create(1, 'copy')
      const body = concat(u64(other.fh), u64(0n), u32s(4096, 0), u64(0n), u32s(0, 0))
      const header = r.guest.header(16, other.nodeid, body.length + 4096, 99n)
      front.memory.set(concat(header, body), 0x30_0000)
      ring.descriptor(100, 0x1000_0000n + 0x30_0000n, 40 + 40, 1, 101)
      ring.descriptor(101, 0x1_0000_0000n + 8192n, 4096, 1, 102)
      ring.descriptor(102, 0x1000_0000n + 0x31_0000n, 4096, 2, 0)
      ring.offer(100)
      t.is(ring.waitUsed()?.written, 24)
      t.deepEqual(
        Buffer.from(r.guest.read(other.nodeid, other.fh, 0, 4096)),
        pattern(RANGE).subarray(8192, 12288),
      )
      t.is(r.guest.read(nodeid, fh, 0, 4096).length, 4096)
    },
    { regions: true },
  )

  both('the upgrade to writing finds it writable: nothing is mapped anew', (t, r) => {
    const { nodeid } = makeFile(r, 'f', MIB)
    t.is(r.setup(nodeid, 0, 0, RANGE, 2), 0)
    t.is(r.setup(nodeid, 0, 0, RANGE, 3), 0)
    t.is(r.window.counters.hits, 1)
    t.is(r.vmm.journal.filter(line => line.startsWith('map')).length, 1)
  })

  both('another file in the same place: the former is unmapped first', (t, r) => {
    const one = makeFile(r, 'one', MIB)
    const two = makeFile(r, 'two', RANGE, 5)
    t.is(r.setup(one.nodeid, 0), 0)
    t.is(r.setup(two.nodeid, 0), 0)
    t.true(r.vmm.read(0, RANGE).equals(pattern(RANGE, 5)))
    t.is(r.window.counters.replaced, 1)
    // Across two others, as no guest of Linux asks.
    t.is(r.setup(one.nodeid, RANGE), 0)
    t.is(r.setup(two.nodeid, MIB), 0)
    t.deepEqual([...r.vmm.mappings.keys()], [MIB])
  })

  both('REMOVEMAPPING of many, of parts, of what is not there', (t, r) => {
    const { nodeid } = makeFile(r, 'f', RANGE)
    for (let i = 0; i < 8; i++) t.is(r.setup(nodeid, i * RANGE), 0)
    t.is(r.remove(...Array.from({ length: 4 }, (_, i): [number, number] => [i * RANGE, RANGE])), 0)
    t.is(r.vmm.mappings.size, 4)
    t.is(r.remove([5 * RANGE + 4096, 4096], [60 * MIB, RANGE]), 0)
    t.deepEqual(
      [...r.vmm.mappings.keys()].sort((a, b) => a - b),
      [4, 6, 7].map(i => i * RANGE),
    )
    t.is(r.remove([0, 2 ** 40]), 0)
    t.is(r.vmm.mappings.size, 0)
  })

  for (const [title, args, errno] of [
    ['not on a page of the window', [100, 0, RANGE], EINVAL],
    ['not on a page of the file', [0, 100, RANGE], EINVAL],
    ['of no bytes', [0, 0, 0], EINVAL],
    ['of half a page', [0, 0, 2048], EINVAL],
    ['past the window', [63 * MIB, 0, RANGE], EINVAL],
    ['far past the window', [2 ** 52, 0, RANGE], EINVAL],
    ['past every number', [0, 2 ** 53 - RANGE, RANGE], EINVAL],
    ['past the end of the file', [0, RANGE, RANGE], EIO],
  ] as const)
    both(`SETUPMAPPING ${title} is refused`, (t, r) => {
      const { nodeid } = makeFile(r, 'f', MIB)
      t.is(r.setup(nodeid, args[0], args[1], args[2]), errno)
      t.deepEqual(r.vmm.journal, [])
    })

  both('SETUPMAPPING of a node nobody knows, of a directory, of an empty file', (t, r) => {
    t.is(r.setup(12345, 0), ESTALE)
    t.is(r.setup(1, 0), EIO)
    t.is(r.setup(r.guest.create(1, 'empty').nodeid, 0), EIO)
    t.deepEqual(r.vmm.journal, [])
  })

  both('a REMOVEMAPPING that counts more than it brings is refused', (t, r) => {
    t.is(Math.abs(r.guest.request(49, 1, concat(u32s(1000), u64(0n), u64(4096n)))!.error), EINVAL)
    t.is(Math.abs(r.guest.request(49, 1, u32s(0xffff_ffff))!.error), EINVAL)
  })

  both(
    'without an agreement both opcodes are unknown, and no file says DAX',
    (t, r) => {
      const { nodeid } = makeFile(r, 'f', MIB)
      t.is(r.setup(nodeid, 0), ENOSYS)
      t.is(r.remove([0, RANGE]), ENOSYS)
      t.false(r.look('f').dax)
    },
    { noDax: true },
  )

  // --- sizes --------------------------------------------------------------------------------------

  both('truncation: what is past the new end is unmapped before, the rest stays', (t, r) => {
    const { nodeid } = makeFile(r, 'f', 3 * MIB)
    r.setup(nodeid, 0)
    r.setup(nodeid, RANGE, RANGE)
    t.is(r.truncate(nodeid, MIB + 100), 0)
    t.deepEqual(
      [...r.vmm.mappings.values()].map(mapped => mapped.bytes),
      [MIB + 4096],
    )
    const want = pattern(MIB + 4096)
    want.fill(0, MIB + 100)
    t.true(r.vmm.read(0, MIB + 4096).equals(want))
    t.is(r.window.counters.shrunk, 1)
    // And longer again: zeros, in both ranges, which the guest still has.
    t.is(r.truncate(nodeid, 3 * MIB), 0)
    t.true(
      r.vmm
        .read(0, 3 * MIB)
        .subarray(MIB + 4096)
        .equals(Buffer.alloc(2 * MIB - 4096)),
    )
    r.vmm.write(2 * MIB + 9, Buffer.from('there'))
    t.is(r.vmm.read(2 * MIB + 9, 5).toString(), 'there')
  })

  both('truncation to nothing, by SETATTR and by O_TRUNC', (t, r) => {
    const { nodeid } = makeFile(r, 'f', MIB)
    for (const empty of [
      () => t.is(r.truncate(nodeid, 0), 0),
      () => t.true(r.guest.open(nodeid, 0o1002) >= 0n),
    ]) {
      const fh = r.guest.open(nodeid, 2)
      r.guest.write(nodeid, fh, 0, pattern(8192))
      t.is(r.setup(nodeid, 0), 0)
      t.true(r.vmm.mappings.size >= 1)
      empty()
      t.is(r.vmm.mappings.size, 0)
      t.is(r.getattr(nodeid).size, 0)
      r.guest.write(nodeid, fh, 0, pattern(4096, 3))
      t.true(r.vmm.read(0, 4096).equals(pattern(4096, 3)))
      r.guest.release(nodeid, fh)
    }
  })

  both('writes that make a mapped file longer are in the window when they are answered', (t, r) => {
    const { nodeid, fh } = makeFile(r, 'f', 8192)
    t.is(r.setup(nodeid, 0), 0)
    t.is(r.setup(nodeid, RANGE, RANGE - 4096, RANGE), EIO)
    const model = Buffer.concat([pattern(8192), Buffer.alloc(RANGE)])
    let size = 8192
    for (let i = 0; size < 400_000; i++) {
      const piece = pattern(1 + ((i * 3571) % 9000), i)
      piece.fill(0xa5, piece.length & ~3)
      r.guest.write(nodeid, fh, size, piece)
      piece.copy(model, size)
      size += piece.length
      t.true(r.vmm.read(0, size).equals(model.subarray(0, size)))
      t.is(r.getattr(nodeid).size, size)
    }
    t.true(r.window.counters.grown > 3)
    t.true(r.vmm.mappings.size < 20, `${r.vmm.mappings.size} pieces`)
  })

  both('FALLOCATE and COPY_FILE_RANGE make a mapped file longer', (t, r) => {
    const { nodeid, fh } = makeFile(r, 'f', 4096)
    t.is(r.setup(nodeid, 0), 0)
    r.guest.do(43, nodeid, concat(u64(fh), u64(0n), u64(10_000n), u32s(0, 0)))
    r.vmm.write(9000, Buffer.from('allocated'))
    t.is(Buffer.from(r.guest.read(nodeid, fh, 9000, 9)).toString(), 'allocated')
    const source = makeFile(r, 'source', 50_000, 7)
    r.guest.do(
      47,
      source.nodeid,
      concat(
        u64(source.fh),
        u64(0n),
        u64(BigInt(nodeid)),
        u64(fh),
        u64(10_000n),
        u64(50_000n),
        u64(0n),
      ),
    )
    t.true(r.vmm.read(10_000, 50_000).equals(pattern(50_000, 7)))
  })

  both(
    'a request that looks at a file while another makes it longer leaves what was mapped for that',
    (t, r) => {
      const { nodeid, fh } = makeFile(r, 'f', 4096)
      t.is(r.setup(nodeid, 0), 0)
      // As with a FALLOCATE that the pool has not done yet.
      t.is(r.window.beforeGrowth(nodeid, 65536), 0)
      t.is(r.getattr(nodeid).size, 4096)
      t.is(
        [...r.vmm.mappings.values()].reduce((sum, one) => sum + one.bytes, 0),
        65536,
      )
      r.guest.write(nodeid, fh, 4096, pattern(61440, 2))
      t.true(r.vmm.read(4096, 61440).equals(pattern(61440, 2)))
      t.is(r.window.counters.shrunkByOthers, 0)
      t.is(r.window.counters.unmaps, 0)
    },
  )

  both('what the window refuses to show is not written', (t, r) => {
    const { nodeid, fh } = makeFile(r, 'f', 4096)
    t.is(r.setup(nodeid, 0), 0)
    r.vmm.refuse = 3
    const body = concat(
      u64(fh),
      u64(4096n),
      u32s(4, 0),
      u64(0n),
      u32s(0, 0),
      new Uint8Array([1, 2, 3, 4]),
    )
    t.is(Math.abs(r.guest.request(16, nodeid, body)!.error), EIO)
    t.is(r.getattr(nodeid).size, 4096)
    r.vmm.refuse = 0
    t.is(r.guest.write(nodeid, fh, 4096, new Uint8Array(4)), 4)
  })

  // --- ends ---------------------------------------------------------------------------------------

  both('FORGET unmaps a node that is known no more, and only then', (t, r) => {
    const { nodeid, fh } = makeFile(r, 'f', MIB)
    r.guest.release(nodeid, fh)
    r.setup(nodeid, 0)
    r.guest.lookup(1, 'f')
    r.guest.forget(nodeid, 1)
    t.is(r.vmm.mappings.size, 1)
    r.guest.forget(nodeid, 1)
    t.is(r.vmm.mappings.size, 0)
  })

  both('DESTROY unmaps everything, and so does the next INIT', (t, r) => {
    for (const end of [() => r.guest.destroy(), () => undefined]) {
      const { nodeid } = makeFile(r, `f${r.window.counters.maps}`, MIB)
      r.setup(nodeid, 0)
      r.setup(nodeid, RANGE)
      end()
      r.mount()
      t.is(r.vmm.mappings.size, 0)
    }
    t.is(r.window.counters.unmaps, 4)
  })

  both('after a reset nothing is unmapped: the front end has dropped it', (t, r) => {
    const { nodeid } = makeFile(r, 'f', MIB)
    r.setup(nodeid, 0)
    r.vmm.dropAll()
    r.vmm.journal.length = 0
    t.is(r.front.ask(34), 0)
    t.deepEqual(r.vmm.journal, [])
    t.is(r.window.table.ranges.size, 0)
    for (const ring of r.front.rings) {
      ring.clear()
      ring.start()
    }
    r.mount()
    const { nodeid: again } = makeFile(r, 'g', MIB)
    t.is(r.setup(again, 0), 0)
  })

  both('after unlink and rename a mapping shows the file it had', (t, r) => {
    const { nodeid } = makeFile(r, 'f', MIB)
    makeFile(r, 'g', MIB, 9)
    r.setup(nodeid, 0)
    r.guest.do(12, 1, concat(u64(1n), new TextEncoder().encode('g\0f\0')))
    t.true(r.vmm.read(0, MIB).equals(pattern(MIB)))
    const next = r.guest.lookup(1, 'f')
    t.is(r.setup(next, RANGE), 0)
    t.true(r.vmm.read(RANGE, MIB).equals(pattern(MIB, 9)))
    r.guest.do(10, 1, new TextEncoder().encode('f\0'))
    t.true(r.vmm.read(RANGE, MIB).equals(pattern(MIB, 9)))
  })

  // --- front ends that do not as they should -------------------------------------------------------

  both('a refused mapping is EIO, and the next one works', (t, r) => {
    const { nodeid } = makeFile(r, 'f', MIB)
    r.vmm.refuse = 2
    t.is(r.setup(nodeid, 0), EIO)
    t.is(r.window.counters.refused['front-end'], 1)
    t.is(r.window.table.ranges.size, 0)
    t.is(r.setup(nodeid, 0), 0)
  })

  for (const [title, bytes] of [
    ['a reply to another request', concat(u32s(11, 5, 8), u64(0n))],
    ['a reply without the reply flag', concat(u32s(9, 1, 8), u64(0n))],
    ['a reply with a flag too many', concat(u32s(9, 13, 8), u64(0n))],
    ['a reply of another size', concat(u32s(9, 5, 16), u64(0n))],
  ] as const)
    both(`${title} ends DAX, not the session`, (t, r) => {
      const { nodeid } = makeFile(r, 'f', MIB)
      r.vmm.instead = bytes
      t.is(r.setup(nodeid, 0), EIO)
      t.regex(r.log.join(), /no DAX mappings any more/)
      t.is(r.setup(nodeid, 0), EIO)
      t.is(r.getattr(nodeid).size, MIB)
      r.mount()
      t.false(r.look('f').dax)
      t.is(r.setup(r.guest.lookup(1, 'f'), 0), ENOSYS)
    })

  both('a channel that is closed ends DAX, not the session', (t, r) => {
    const { nodeid } = makeFile(r, 'f', MIB)
    r.setup(nodeid, 0)
    r.vmm.hangUp()
    t.is(r.setup(nodeid, RANGE), EIO)
    t.is(r.getattr(nodeid).size, MIB)
  })

  both(
    'a front end that does not answer is given up after a while',
    (t, r) => {
      const { nodeid } = makeFile(r, 'f', MIB)
      r.vmm.silent = true
      const start = performance.now()
      t.is(r.setup(nodeid, 0), EIO)
      t.true(performance.now() - start < 30_000)
      t.regex(r.log.join(), /does not answer/)
      t.is(r.getattr(nodeid).size, MIB)
    },
    { limitMs: 100 },
  )

  both(
    'the guest is stopped while a mapping is waited for: the request fails, the stop is answered',
    (t, r) => {
      const { nodeid } = makeFile(r, 'f', MIB)
      r.vmm.onMap = () => {
        r.vmm.silent = true
        r.front.send(11, u32s(0, 0))
      }
      t.is(r.setup(nodeid, 0), EIO)
      const reply = r.front.receive()!
      t.is(reply.request, 11)
      // The answers that nobody waited for come late; they are told from the next ones.
      r.vmm.silent = false
      r.vmm.onMap = () => undefined
      r.vmm.serve()
      t.is(r.setup(nodeid, RANGE), 0)
      t.is(r.setup(nodeid, 0), 0)
      t.true(r.vmm.read(0, MIB).equals(pattern(MIB)))
    },
  )
}

// --- policies, on the host ------------------------------------------------------------------------

const policies: [title: string, options: DaxRigOptions, bytes: number, dax: boolean][] = [
  ['never: none', { dax: { policy: 'never' } }, MIB, false],
  ['sealed: none of a host directory', { dax: { policy: 'sealed' } }, MIB, false],
  ['sealed: every file in memory', { backEnd: 'memory' }, 100_001, true],
  ['exclusive: a file of whole pages', {}, MIB, true],
  ['exclusive: no file with an odd end', {}, MIB + 1, false],
  ['exclusive: no small file', { dax: { minFileBytes: 65536 } }, 32768, false],
  ['always: a file with an odd end', { dax: { policy: 'always' } }, MIB + 1, true],
  ['read-only shares: none', { host: { readOnly: true } }, MIB, false],
]
for (const [title, options, bytes, dax] of policies)
  test(`policy ${title}`, t => {
    const r = daxRig(t, options)
    if (options.backEnd === 'memory') makeFile(r, 'f', bytes)
    else writeFileSync(join(r.folder, 'f'), pattern(bytes))
    t.is(r.look('f').dax, dax)
  })

test('exclusive: a file with an odd end is refused, never shown with zeros', t => {
  const r = daxRig(t)
  writeFileSync(join(r.folder, 'f'), pattern(12345))
  const nodeid = r.guest.lookup(1, 'f')
  t.is(r.setup(nodeid, 0), EIO)
  t.is(r.window.counters.refused.size, 1)
  t.deepEqual(r.vmm.journal, [])
  t.is(statSync(join(r.folder, 'f')).size, 12345)
})

test('exclusive: a file that was DAX and got an odd end stays right, in ranges that come later too', t => {
  const r = daxRig(t)
  writeFileSync(join(r.folder, 'f'), pattern(MIB))
  const nodeid = r.guest.lookup(1, 'f')
  const fh = r.guest.open(nodeid)
  r.guest.write(nodeid, fh, MIB, pattern(100, 3))
  t.false(r.getattr(nodeid).dax)
  t.is(r.setup(nodeid, 0), 0)
  t.true(r.vmm.read(MIB, 100).equals(pattern(100, 3)))
  t.is(statSync(join(r.folder, 'f')).size, MIB + 100)
})

test('always: a file with an odd end is mapped whole, and is as long as before, with its time', t => {
  const r = daxRig(t, { dax: { policy: 'always' } })
  const path = join(r.folder, 'f')
  writeFileSync(path, pattern(12345))
  utimesSync(path, 1000, 2000)
  const nodeid = r.guest.lookup(1, 'f')
  r.vmm.onMap = fd => t.is(readFileSync(`/proc/self/fd/${fd}`).length, 16384)
  t.is(r.setup(nodeid, 0), 0)
  t.true(r.vmm.read(0, 12345).equals(pattern(12345)))
  t.is(statSync(path).size, 12345)
  t.is(statSync(path).mtimeMs, 2_000_000)
  t.is(r.window.counters.padded, 1)
})

test('a file the daemon cannot open for writing is not said to be DAX', t => {
  const r = daxRig(t)
  const path = join(r.folder, 'f')
  writeFileSync(path, pattern(MIB))
  chmodSync(path, 0o444)
  t.is(r.look('f').dax, process.getuid?.() === 0)
})

// --- others who change a file ---------------------------------------------------------------------

test('a file that a process of the host cuts is unmapped there as soon as it is seen', t => {
  const r = daxRig(t)
  const path = join(r.folder, 'f')
  writeFileSync(path, pattern(3 * MIB))
  const nodeid = r.guest.lookup(1, 'f')
  r.setup(nodeid, 0)
  r.setup(nodeid, RANGE, RANGE)
  truncateSync(path, MIB)
  t.throws(() => r.vmm.read(0, RANGE), { message: /SIGBUS/ })
  r.pump()
  r.pump()
  t.notThrows(() => r.vmm.read(0, 4 * MIB))
  t.true(r.window.counters.shrunkByOthers > 0)
  t.is(r.getattr(nodeid).size, MIB)
  // What is left is there again when the guest hears of the size.
  t.true(r.vmm.read(0, MIB).equals(pattern(MIB)))
})

test('a file that a process of the host makes longer is in the window before the guest hears of it', t => {
  const r = daxRig(t)
  const path = join(r.folder, 'f')
  writeFileSync(path, pattern(MIB))
  const nodeid = r.guest.lookup(1, 'f')
  r.setup(nodeid, 0)
  appendFileSync(path, pattern(10_000, 3))
  t.is(r.getattr(nodeid).size, MIB + 10_000)
  t.true(r.vmm.read(MIB, 10_000).equals(pattern(10_000, 3)))
  t.is(statSync(path).size, MIB + 10_000)
  // When that cannot be, the file ends where the window does.
  appendFileSync(path, pattern(65536, 4))
  r.vmm.refuse = 2
  const { size } = r.getattr(nodeid)
  t.is(size, Math.ceil((MIB + 10_000) / 4096) * 4096)
  t.is(r.getattr(nodeid).size, MIB + 75_536)
})

test('a file that is replaced by another under its name keeps its own mapping', t => {
  const r = daxRig(t)
  const path = join(r.folder, 'f')
  writeFileSync(path, pattern(MIB))
  const nodeid = r.guest.lookup(1, 'f')
  r.setup(nodeid, 0)
  writeFileSync(`${path}.new`, pattern(MIB, 1))
  renameSync(`${path}.new`, path)
  t.true(r.vmm.read(0, MIB).equals(pattern(MIB)))
  const next = r.guest.lookup(1, 'f')
  t.not(next, nodeid)
  t.is(r.setup(next, RANGE), 0)
  t.true(r.vmm.read(RANGE, MIB).equals(pattern(MIB, 1)))
  unlinkSync(path)
})

test('a file that is emptied between question and mapping is never mapped empty', t => {
  const r = daxRig(t)
  const path = join(r.folder, 'f')
  writeFileSync(path, pattern(MIB))
  const nodeid = r.guest.lookup(1, 'f')
  const fd = openSync(path, 'r+')
  ftruncateSync(fd, 0)
  closeSync(fd)
  t.is(r.setup(nodeid, 0), EIO)
  t.is(statSync(path).size, 0)
})

test('a guest that maps more than QEMU can hold gets errors, and may go on when it has given some back', t => {
  const r = daxRig(t, { dax: { windowBytes: 2048 * MIB } })
  const path = join(r.folder, 'f')
  writeFileSync(path, '')
  truncateSync(path, 1200 * MIB)
  const nodeid = r.guest.lookup(1, 'f')
  for (let i = 0; i < 480; i++) t.is(r.setup(nodeid, i * RANGE, i * RANGE), 0)
  for (let i = 480; i < 520; i++) t.is(r.setup(nodeid, i * RANGE, i * RANGE), EIO)
  t.is(r.window.counters.refused.full, 40)
  r.remove([0, RANGE], [RANGE, RANGE])
  t.is(r.setup(nodeid, 600 * RANGE, 0), 0)
  t.is(r.setup(nodeid, 601 * RANGE, 0), 0)
  t.is(r.setup(nodeid, 602 * RANGE, 0), EIO)
})

// --- the wire -------------------------------------------------------------------------------------

test('GET_SHMEM_CONFIG says one region of the size of the window', t => {
  const r = daxRig(t)
  r.front.send(44)
  const { payload, flags } = r.front.receive()!
  t.is(flags, 5)
  t.is(payload.byteLength, 8 + 256 * 8)
  t.is(payload.getUint32(0, true), 1)
  t.is(payload.getBigUint64(8, true), BigInt(64 * MIB))
  for (let i = 1; i < 256; i++) t.is(payload.getBigUint64(8 + 8 * i, true), 0n)
})

test('the FS_MAP and FS_UNMAP of older front ends do the same', t => {
  const r = daxRig(t, { legacy: true })
  const { nodeid, fh } = makeFile(r, 'f', MIB)
  t.is(r.setup(nodeid, 0), 0)
  t.true(r.vmm.read(0, MIB).equals(pattern(MIB)))
  r.guest.write(nodeid, fh, MIB, pattern(5000, 1))
  t.true(r.vmm.read(MIB, 5000).equals(pattern(5000, 1)))
  t.is(r.truncate(nodeid, 4096), 0)
  t.is(r.remove([0, RANGE]), 0)
  t.is(r.vmm.mappings.size, 0)
  t.false(r.vmm.journal.includes('barrier'))
})

test('without a window no SHMEM is offered', t => {
  const r = new DaxRig({ dax: { policy: 'never' } })
  t.teardown(() => r.close())
  t.is(r.initReply.body.getUint32(12, true) & (1 << 26), 0)
})
