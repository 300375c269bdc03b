/** Streams that no honest source sends. None may crash, hang, leak, or reach anything outside the share. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { FrameReader, FrameWriter, MAGIC, type Record } from '../../src/migration/frames.js'
import { StateLoader } from '../../src/migration/load.js'
import { MAX_STATE_BYTES } from '../../src/migration/limits.js'
import { DEFAULT_MIGRATION_OPTIONS, type Migratable } from '../../src/vfs/migration.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { FuseClient } from '../helpers/fuse-client.js'
import { loadState, saveState, startRings, stopRings } from '../helpers/migrate.js'
import { type Rig, rig } from '../helpers/rig.js'

const root = process.geteuid!() === 0
const GETATTR = concat(u32s(0, 0), u64(0n))
const FILE = 0o100000 / 0o10000
const DIR = 0o040000 / 0o10000
const HEAD: Record = [0, 1, 1, 38, 0, 0, 131072, 256, 0, '', 5, 5]

/** A stream of the records given, well-formed but for them. */
function stream(...records: Record[]): Buffer {
  const writer = new FrameWriter()
  return Buffer.concat([writer.start(), ...records.map(record => writer.record(record))])
}
const end = (nodes: number, handles = 0): Record => [3, nodes, handles]

function destination(
  t: ExecutionContext,
  options: Partial<typeof DEFAULT_MIGRATION_OPTIONS> = {},
): Rig {
  const r = rig(t, { host: { migration: { ...DEFAULT_MIGRATION_OPTIONS, ...options } } })
  stopRings(r)
  writeFileSync(join(r.folder, 'file'), 'content')
  mkdirSync(join(r.folder, 'dir'))
  return r
}

/** After a state was refused the daemon is as if there had been none, and serves a new guest. */
function unharmed(t: ExecutionContext, r: Rig): void {
  t.is(r.fs.nodeCount, 1)
  t.is(r.fs.handleCount, 0)
  for (const ring of r.front.rings) ring.clear()
  startRings(r, [0, 0])
  const client = new FuseClient(r.front, r.front.rings[1]!)
  t.is(client.request(3, 1, GETATTR)!.error, -5, 'not before INIT')
  client.init()
  t.is(client.do(3, 1, GETATTR).error, 0)
}

const node = (id: number, ...rest: Record): Record => [1, id, ...rest]
const named = (id: number, name: string, parent = 1, type = FILE, lookups = 1): Record =>
  node(id, lookups, type, parent, name, '', '', 0)

test('a well-formed stream of ours is taken', t => {
  const r = destination(t)
  t.true(
    loadState(
      r,
      stream(
        HEAD,
        named(2, 'file'),
        named(3, 'dir', 1, DIR),
        [2, 0, 2, 0, 2],
        [2, 1, 3, 1, 0],
        end(2, 2),
      ),
    ),
  )
  t.is(r.fs.nodeCount, 3)
  t.is(r.fs.handleCount, 2)
})

const TWO32 = 0x1_0000_0000
const BROKEN: readonly (readonly [string, readonly Record[]])[] = [
  ['no head', [named(2, 'file'), end(1)]],
  ['two heads', [HEAD, HEAD, end(0)]],
  ['no end', [HEAD, named(2, 'file')]],
  ['something after the end', [HEAD, end(0), end(0)]],
  ['nodes after open files', [HEAD, [2, 0, 1, 1, 0], named(2, 'file'), end(1, 1)]],
  ['a wrong count of nodes', [HEAD, named(2, 'file'), end(2)]],
  ['a wrong count of open files', [HEAD, end(0, 1)]],
  ['another version', [[0, 2, ...HEAD.slice(2)], end(0)]],
  ['a version that is no number', [[0, 'x', ...HEAD.slice(2)], end(0)]],
  ['an unknown kind', [HEAD, [4, 1], end(0)]],
  ['a kind that is no number', [HEAD, ['', 1], end(0)]],
  ['a head that is too short', [HEAD.slice(0, 11), end(0)]],
  ['an ancient FUSE', [[0, 1, 1, 26, ...HEAD.slice(4)], end(0)]],
  ['flags that nobody offers', [[0, 1, 1, 38, 0xffff_ffff, ...HEAD.slice(5)], end(0)]],
  ['requests of more pages than we take', [[...HEAD.slice(0, 7), 257, ...HEAD.slice(8)], end(0)]],
  ['the root as a node', [HEAD, named(1, 'file'), end(1)]],
  ['node 0', [HEAD, named(0, 'file'), end(1)]],
  ['a slot beyond all reason', [HEAD, named(16_777_216, 'file'), end(1)]],
  ['a generation beyond 20 bits', [HEAD, named(2 + 0x10_0000 * TWO32, 'file'), end(1)]],
  ['a nodeid that is not whole', [HEAD, named(2.5, 'file'), end(1)]],
  ['a negative nodeid', [HEAD, named(-2, 'file'), end(1)]],
  ['a nodeid past 2^53', [HEAD, named(2 ** 60, 'file'), end(1)]],
  ['NaN lookups', [HEAD, named(2, 'file', 1, FILE, Number.NaN), end(1)]],
  ['infinite lookups', [HEAD, named(2, 'file', 1, FILE, Number.POSITIVE_INFINITY), end(1)]],
  ['a node twice', [HEAD, named(2, 'file'), named(2, 'file'), end(2)]],
  ['a slot twice', [HEAD, named(2, 'file'), named(2 + TWO32, 'file'), end(2)]],
  ['a node in itself', [HEAD, named(2, 'dir', 2, DIR), end(1)]],
  ['nodes in each other', [HEAD, named(2, 'dir', 3, DIR), named(3, 'dir', 2, DIR), end(2)]],
  ['a parent that comes later', [HEAD, named(3, 'file', 2), named(2, 'dir', 1, DIR), end(2)]],
  ['a parent that is a file', [HEAD, named(2, 'file'), named(3, 'file', 2), end(2)]],
  [
    'a parent of another generation',
    [HEAD, named(2, 'dir', 1, DIR), named(3, 'f', 2 + TWO32), end(2)],
  ],
  ['an empty name', [HEAD, named(2, ''), end(1)]],
  ['the name .', [HEAD, named(2, '.', 1, DIR), end(1)]],
  ['the name ..', [HEAD, named(2, '..', 1, DIR), end(1)]],
  ['a name with a slash', [HEAD, named(2, 'dir/x'), end(1)]],
  ['an absolute name', [HEAD, named(2, '/etc/passwd'), end(1)]],
  ['a name with NUL', [HEAD, named(2, 'file\0x'), end(1)]],
  ['a name of 256 bytes', [HEAD, named(2, 'n'.repeat(256)), end(1)]],
  ['a name that is a number', [HEAD, node(2, 1, FILE, 1, 7, '', '', 0), end(1)]],
  ['a name without a parent', [HEAD, named(2, 'file', 0), end(1)]],
  ...[
    '../x',
    '/etc/passwd',
    'dir/../../x',
    'dir//x',
    './file',
    'file/',
    'dir/\0',
    'x/'.repeat(2000),
  ].map(
    path =>
      [
        `the path ${JSON.stringify(path).slice(0, 20)}`,
        [HEAD, node(2, 1, FILE, 0, '', path, '', 0), end(1)],
      ] as const,
  ),
  ['no type', [HEAD, named(2, 'file', 1, 0), end(1)]],
  ['a type that there is not', [HEAD, named(2, 'file', 1, 3), end(1)]],
  ['another type than the file has', [HEAD, named(2, 'file', 1, DIR), end(1)]],
  [
    'a handle shorter than its length says',
    [HEAD, node(2, 1, FILE, 1, 'file', '', '\x40\0\0\0\x01\0\0\0', 1), end(1)],
  ],
  ['a handle of three bytes', [HEAD, node(2, 1, FILE, 1, 'file', '', 'abc', 1), end(1)]],
  ['a root handle that is none', [[...HEAD.slice(0, 9), 'abc', 5, 5], end(0)]],
  ['an open file of no node', [HEAD, [2, 0, 9, 0, 2], end(0, 1)]],
  ['an fh twice', [HEAD, named(2, 'file'), [2, 0, 2, 0, 2], [2, 0, 2, 0, 2], end(1, 2)]],
  ['an fh beyond all reason', [HEAD, named(2, 'file'), [2, 2_097_152, 2, 0, 2], end(1, 1)]],
  ['a directory opened as a file', [HEAD, [2, 0, 1, 0, 2], end(0, 1)]],
  ['a file opened as a directory', [HEAD, named(2, 'file'), [2, 0, 2, 1, 0], end(1, 1)]],
  ['flags of open that are none', [HEAD, named(2, 'file'), [2, 0, 2, 0, -1], end(1, 1)]],
]

for (const [what, records] of BROKEN)
  test(`refused: ${what}`, t => {
    const r = destination(t)
    t.false(loadState(r, stream(...records)), 'taken')
    t.regex(r.log.join('\n'), /did not get across/)
    unharmed(t, r)
  })

test('refused: cut anywhere, at every length', t => {
  const r = destination(t)
  const whole = stream(HEAD, named(2, 'file'), named(3, 'dir', 1, DIR), [2, 0, 2, 0, 2], end(2, 1))
  for (let length = 0; length < whole.length; length++)
    t.false(loadState(r, whole.subarray(0, length), 7), `${length} of ${whole.length}`)
  unharmed(t, r)
})

test('refused: any byte changed', t => {
  const r = destination(t)
  const whole = stream(HEAD, named(2, 'file'), [2, 0, 2, 0, 2], end(1, 1))
  for (let at = 0; at < whole.length; at++) {
    const broken = Buffer.from(whole)
    broken[at]! ^= 1 << (at % 8)
    t.false(loadState(r, broken), `byte ${at}`)
  }
  unharmed(t, r)
})

test('opening flags that act once do not act again: O_TRUNC, O_CREAT, O_EXCL', t => {
  const r = destination(t)
  t.true(loadState(r, stream(HEAD, named(2, 'file'), [2, 0, 2, 0, 0o1302], end(1, 1))))
  startRings(r, [0, 0])
  const client = new FuseClient(r.front, r.front.rings[1]!)
  t.is(Buffer.from(client.read(2, 0n, 0, 100)).toString(), 'content')
})

test('symbolic links in a path are not followed, nor ones that took a directory’s place', t => {
  const outside = mkdtempSync(join(tmpdir(), 'virtiofsd-outside-'))
  t.teardown(() => rmSync(outside, { recursive: true }))
  writeFileSync(join(outside, 'secret'), 'secret')
  for (const records of [
    [node(2, 1, FILE, 0, '', 'escape/secret', '', 0)],
    [named(2, 'escape', 1, DIR), named(3, 'secret', 2)],
    [node(2, 1, DIR, 0, '', 'escape', '', 0)],
  ]) {
    const r = destination(t)
    symlinkSync(outside, join(r.folder, 'escape'))
    t.false(loadState(r, stream(HEAD, ...records, end(records.length))))
    unharmed(t, r)
  }
})

const rootTest = root ? test : test.skip
rootTest(
  'file-handles: a handle of a file outside the share is not opened, under either policy',
  t => {
    for (const onError of ['abort', 'guest-error'] as const) {
      const other = rig(t)
      // The handle is honest, its owner another directory on the same file system.
      const client = other.client()
      writeFileSync(join(other.folder, 'secret'), 'secret')
      const secret = client.lookup(1, 'secret')
      const handle = handleOf(other, 'secret')
      t.true(secret > 1 && handle.length > 8)
      const r = destination(t, { mode: 'file-handles', onError })
      const head: Record = [...HEAD.slice(0, 8), 1, '', 5, 5]
      const taken = loadState(r, stream(head, node(2, 1, FILE, 0, '', '', handle, 1), end(1)))
      t.is(taken, onError === 'guest-error')
      t.regex(r.log.join('\n'), /does not lie in the shared directory/)
      if (!taken) continue
      startRings(r, [0, 0])
      const guest = new FuseClient(r.front, r.front.rings[1]!)
      t.is(guest.request(14, 2, u32s(0, 0))!.error, -116)
    }
  },
)

function handleOf({ context, folder }: Rig, name: string): string {
  const at = 70_000
  context.bytes.set(Buffer.from(`${join(folder, name)}\0`), at)
  if (context.nameToHandle(-100, at, at + 4096) < 0) return ''
  const length = 8 + context.view.getUint32(at + 4096, true)
  return Buffer.from(context.bytes.slice(at + 4096, at + 4096 + length)).toString('latin1')
}

// --- properties -------------------------------------------------------------------------------------

/** A back end that takes everything. */
const lenient: Migratable = {
  obstacle: '',
  saveTree: () => ({ mode: 'find-paths', rootHandle: '', nodeGeneration: 0, handleGeneration: 0 }),
  saveNodes: () => [],
  saveHandles: () => [],
  restoreTree: () => '',
  restoreNode: () => '',
  restoreHandle: () => '',
  restored: () => '',
  losses: '',
}

/** A body with the frame around it that the reader wants. */
function framed(bodies: readonly Uint8Array[]): Buffer {
  let crc = crc32(MAGIC)
  const parts: Buffer[] = [MAGIC]
  for (const body of bodies) {
    const head = Buffer.alloc(8)
    head.writeUInt32LE(body.length, 0)
    crc = crc32(body, crc32(head.subarray(0, 4), crc))
    head.writeUInt32LE(crc, 4)
    parts.push(head, Buffer.from(body))
  }
  return Buffer.concat(parts)
}

const field = fc.oneof(
  fc.integer({ min: 0, max: 10 }),
  fc.nat(),
  fc.double(),
  fc.constantFrom(2 ** 53, -1, 0xffff_ffff, 1 + TWO32),
  fc.string({ maxLength: 20 }).map(text => Buffer.from(text).toString('latin1')),
  fc.constantFrom('', '..', '/', 'file', 'dir', 'a/b', '\0'),
)

test('property: what is written is read back, however it is cut', t => {
  fc.assert(
    fc.property(
      fc.array(
        fc.array(
          field.filter(value => typeof value === 'string' || value >= 0),
          { minLength: 1, maxLength: 15 },
        ),
      ),
      fc.integer({ min: 1, max: 100 }),
      (records, cut) => {
        const read: Record[] = []
        const reader = new FrameReader(record => read.push(record))
        const whole = stream(...records)
        for (let at = 0; at < whole.length; at += cut) reader.feed(whole.subarray(at, at + cut))
        t.deepEqual(
          read.map(record => record.map(value => (value === 0 ? 0 : value))),
          records.map(record => record.map(value => (value === 0 ? 0 : value))),
        )
        t.false(reader.unfinished)
      },
    ),
    { numRuns: 300 },
  )
})

/** Feeds a loader: how it ended, which must be by its own error or well. */
function feed(bytes: Uint8Array): string {
  const loader = new StateLoader(() => '', lenient)
  try {
    loader.feed(bytes)
    loader.end()
    return ''
  } catch (cause) {
    if ((cause as Error).constructor.name !== 'MigrationError') throw cause
    return (cause as Error).message
  }
}

test('property: any bytes at all end in a clear refusal', t => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 500 }), bytes => {
      t.not(feed(bytes), '')
      t.not(feed(concat(MAGIC, bytes)), '')
    }),
    { numRuns: 500 },
  )
})

test('property: any msgpack in good frames ends in a clear refusal', t => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ minLength: 1, maxLength: 60 }), { maxLength: 5 }),
      bodies => {
        t.not(feed(framed(bodies)), '')
        // Short arrays, so that more of it gets to the fields.
        t.not(
          feed(framed(bodies.map(body => concat(Uint8Array.of(0x90 + (body[0]! % 16)), body)))),
          '',
        )
      },
    ),
    { numRuns: 1000 },
  )
})

/** Few bytes that claim much. */
const BOMBS: readonly (readonly [string, readonly number[]])[] = [
  ['an array of 2^32 - 1', [0xdd, 0xff, 0xff, 0xff, 0xff]],
  ['arrays in arrays', new Array<number>(8000).fill(0x91)],
  ['an array of 2^25 in a short one', [0x91, 0xdd, 0x02, 0, 0, 0]],
  ['a string of 4 GiB', [0x91, 0xdb, 0xff, 0xff, 0xff, 0xff]],
  ['bytes of 4 GiB', [0x91, 0xc6, 0xff, 0xff, 0xff, 0xff]],
  ['bytes of 64 KiB that are not there', [0x91, 0xc5, 0xff, 0xff]],
  ['a map', [0x91, 0x81, 0xa1, 0x61, 1]],
  ['a map of 2^32 - 1', [0xdf, 0xff, 0xff, 0xff, 0xff]],
  ['__proto__', [0x91, 0x81, 0xa9, ...Buffer.from('__proto__'), 1]],
  ['an extension of msgpackr: a record', [0x91, 0xd4, 0x72, 0x40, 0x91, 0xa1, 0x61]],
  ['an extension of msgpackr: a regular expression', [0x91, 0xc7, 4, 0x78, 0x92, 0xa1, 0x61, 0xa0]],
  ['an extension of msgpackr: a structured clone', [0x91, 0xd6, 0x70, 0, 0, 0, 0]],
  ['a 64-bit integer', [0x91, 0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]],
  ['true', [0x91, 0xc3]],
  ['nothing', [0x91, 0xc0]],
  ['bytes after the array', [0x91, 1, 1]],
  ['an empty array', [0x90]],
]
for (const [what, body] of BOMBS)
  test(`refused before it is decoded: ${what}`, t => {
    const before = process.memoryUsage().rss
    t.regex(feed(framed([Uint8Array.from(body)])), /record/)
    t.true(process.memoryUsage().rss - before < 64 * 1024 * 1024)
  })

test('property: any records in order are taken or refused, and nothing is left', t => {
  const r = destination(t, { onError: 'guest-error' })
  const id = fc.integer({ min: 2, max: 6 })
  const nodes = fc.uniqueArray(
    fc.record({
      id,
      type: fc.constantFrom(FILE, DIR, 0o12),
      parent: fc.integer({ min: 0, max: 3 }),
      name: fc.constantFrom('file', 'dir', 'inner', 'none'),
      path: fc.constantFrom('', 'file', 'dir', 'dir/inner', 'none'),
      lookups: fc.nat(3),
    }),
    { maxLength: 6, selector: one => one.id },
  )
  const handles = fc.uniqueArray(
    fc.record({
      fh: fc.nat(5),
      id: fc.integer({ min: 1, max: 3 }),
      directory: fc.nat(1),
      flags: fc.nat(3),
    }),
    { maxLength: 5, selector: one => one.fh },
  )
  writeFileSync(join(r.folder, 'dir/inner'), '')
  let taken = 0
  fc.assert(
    fc.property(nodes, handles, (someNodes, someHandles) => {
      const state = stream(
        HEAD,
        ...someNodes.map(n =>
          node(n.id, n.lookups, n.type, n.parent, n.parent === 0 ? '' : n.name, n.path, '', 0),
        ),
        ...someHandles.map(h => [2, h.fh, h.id, h.directory, h.flags]),
        end(someNodes.length, someHandles.length),
      )
      if (loadState(r, state)) {
        taken++
        t.is(r.fs.handleCount, someHandles.length)
        // And it can be given on.
        t.true(loadState(r, saveState(r)!))
        t.is(r.fs.handleCount, someHandles.length)
      } else t.is(r.fs.nodeCount, 1)
    }),
    { numRuns: 300 },
  )
  t.true(taken > 20, `only ${taken} were taken`)
  t.true(loadState(r, stream(HEAD, end(0))))
  t.is(r.fs.nodeCount, 1)
  t.is(r.fs.handleCount, 0)
})

test('a state without end is given up at the limit', t => {
  let records = 0
  const reader = new FrameReader(() => void records++)
  const chunk = Buffer.alloc(1024 * 1024)
  const writer = new FrameWriter()
  reader.feed(writer.start())
  t.throws(() => {
    for (let fed = 0; fed <= MAX_STATE_BYTES; fed += chunk.length) reader.feed(chunk)
  })
  t.is(records, 0)
})
