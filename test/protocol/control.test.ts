/** Framing and messages of the control socket: round trips, and hostile bytes. */
import test from 'ava'
import fc from 'fast-check'
import { Packr } from 'msgpackr'
import {
  checkShape,
  ControlError,
  frame,
  type FrameReader,
  MAX_REPLY_BYTES,
  MAX_REQUEST_BYTES,
} from '../../protocol/control/frames.js'
import {
  type Change,
  ChangeKind,
  type ChangeKindName,
  type ControlReply,
} from '../../protocol/control/messages.js'
import {
  encodeEvents,
  encodeReply,
  encodeRequest,
  replyReader,
  requestReader,
} from '../../src/control/codec.js'
import { concat, u32s } from '../helpers/front-end.js'

const packr = new Packr({ useRecords: false })
const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values)
const framed = (value: unknown): Uint8Array => frame(packr.pack(value), MAX_REPLY_BYTES)

const path = fc.uint8Array({ minLength: 1, maxLength: 40 })
const changes: fc.Arbitrary<Change> = fc
  .record({
    kind: fc.constantFrom(...(Object.keys(ChangeKind) as ChangeKindName[])),
    isDirectory: fc.boolean(),
    byGuest: fc.boolean(),
    path,
    to: path,
    outside: fc.constantFrom('from', 'to', 'none'),
  })
  .map(({ kind, isDirectory, byGuest, path, to, outside }) =>
    kind === 'rename'
      ? {
          kind,
          isDirectory,
          byGuest,
          path: outside === 'from' ? undefined : path,
          to: outside === 'to' ? undefined : to,
        }
      : { kind, isDirectory, byGuest, path, to: undefined },
  )

/** Feeds `stream` in pieces of these lengths, over and over. */
function feedIn(reader: FrameReader, stream: Uint8Array, pieces: readonly number[]): void {
  for (let at = 0, i = 0; at < stream.length; i++) {
    const piece = pieces[i % pieces.length]!
    reader.feed(stream.slice(at, at + piece))
    at += piece
  }
}

test('changes come out as they went in, however the stream is cut', t => {
  fc.assert(
    fc.property(
      fc.array(changes, { minLength: 1, maxLength: 50 }),
      fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 5 }),
      (sent, pieces) => {
        const got: Change[] = []
        const reader = replyReader(reply => {
          if (reply.type === 'events') got.push(...reply.events)
        })
        const stream = concat(...[...encodeEvents(sent)].map(one => one.bytes))
        feedIn(reader, stream, pieces)
        const plain = (list: readonly Change[]) =>
          list.map(({ path, to, ...rest }) => [
            rest,
            path && Buffer.from(path).toString('hex'),
            to && Buffer.from(to).toString('hex'),
          ])
        t.deepEqual(plain(got), plain(sent))
        t.is(reader.unfinished, 0)
      },
    ),
    { numRuns: 200 },
  )
})

test('a frame of events stays small, and no event is left out', t => {
  const long: Change = {
    kind: 'rename',
    isDirectory: false,
    byGuest: true,
    path: new Uint8Array(4095).fill(0xff),
    to: new Uint8Array(4095).fill(0x80),
  }
  const frames = [...encodeEvents(Array.from({ length: 100 }, () => long))]
  t.is(
    frames.reduce((sum, { count }) => sum + count, 0),
    100,
  )
  t.true(frames.length > 1)
  t.true(frames.every(one => one.bytes.length < 65_536))
  t.deepEqual([...encodeEvents([])], [])
})

const REPLIES: readonly ControlReply[] = [
  { type: 'lost', changes: 17 },
  { type: 'lost', changes: null },
  { type: 'watching', directories: 3, unwatched: 1 },
  { type: 'error', message: 'no' },
  {
    type: 'status',
    version: '0.1.0',
    pid: 7,
    uptimeSeconds: 8,
    frontEnd: 'connected',
    listeners: 2,
    eventsFault: '',
    requests: { FUSE_READ: [5, 1] },
    counters: { nodes: 9 },
  },
]

test('every other reply comes out as it went in', t => {
  for (const reply of REPLIES) {
    if (reply.type === 'events') continue
    const got: ControlReply[] = []
    replyReader(one => got.push(one)).feed(encodeReply(reply))
    t.deepEqual(got, [reply])
  }
})

test('requests come out as they went in', t => {
  for (const type of ['status', 'events'] as const) {
    const got: unknown[] = []
    requestReader(one => got.push(one)).feed(concat(encodeRequest(type), encodeRequest(type)))
    t.deepEqual(got, [
      { version: 1, type },
      { version: 1, type },
    ])
  }
})

/** Title, stream, and what the error says. */
const HOSTILE: readonly (readonly [string, Uint8Array, RegExp])[] = [
  ['an empty frame', u32s(0), /0 bytes/],
  ['a frame of 4 GiB', u32s(0xffff_ffff), /4294967295 bytes/],
  ['a frame past the limit', u32s(MAX_REQUEST_BYTES + 1), /4097 bytes/],
  ['no map', framed([1, 2]), /no map/],
  ['a number', framed(5), /no map/],
  ['nil', framed(null), /no map/],
  ['no version', framed({ type: 'status' }), /without a version/],
  ['another version', framed({ type: 'status', version: 2 }), /version 2.*speaks 1/],
  ['no type', framed({ version: 1 }), /unknown type/],
  ['an unknown type', framed({ version: 1, type: 'constructor' }), /unknown type/],
  ['a reply', framed({ version: 1, type: 'lost', changes: 1 }), /unknown type/],
  ['bytes after the value', concat(u32s(2), bytes(0x80, 0xc0)), /longer than its value/],
  ['an extension', concat(u32s(3), bytes(0xd4, 0x01, 0x00)), /type 212/],
  ['a record of msgpackr', concat(u32s(3), bytes(0xd4, 0x72, 0x40)), /type 212/],
  ['the unused type', concat(u32s(1), bytes(0xc1)), /type 193/],
  ['an array of 4 billion', concat(u32s(5), bytes(0xdd, 255, 255, 255, 255)), /cut off/],
  ['a map of 4 billion', concat(u32s(5), bytes(0xdf, 255, 255, 255, 255)), /cut off/],
  ['a string of 4 GiB', concat(u32s(5), bytes(0xdb, 255, 255, 255, 255)), /cut off/],
  ['a length that is cut off', concat(u32s(2), bytes(0xdb, 1)), /cut off/],
  ['nesting', concat(u32s(200), new Uint8Array(200).fill(0x91)), /too deep/],
]
for (const [title, stream, says] of HOSTILE)
  test(`a request is refused: ${title}`, t => {
    const reader = requestReader(() => t.fail())
    const fault = t.throws(() => reader.feed(stream), { instanceOf: ControlError })
    t.regex(fault.message, says)
  })

test('whatever the bytes, the decoder sees only whole values, and nothing but ControlError comes out', t => {
  const some = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.anything({ maxDepth: 6 }).map(value => {
      try {
        return Uint8Array.from(new Packr({ useRecords: false, moreTypes: true }).pack(value))
      } catch {
        return new Uint8Array(1)
      }
    }),
  )
  fc.assert(
    fc.property(some, body => {
      if (body.length === 0) return
      const stream = concat(u32s(body.length), body)
      for (const reader of [requestReader(() => undefined), replyReader(() => undefined)])
        try {
          reader.feed(stream)
        } catch (cause) {
          if (!(cause instanceof ControlError)) throw cause
        }
    }),
    { numRuns: 2000 },
  )
  t.pass()
})

test('a well-formed value passes whatever its form', t => {
  const values = [
    null,
    true,
    -1,
    2 ** 40,
    -(2 ** 40),
    1.5,
    'x'.repeat(300),
    Buffer.alloc(70_000),
    Array.from({ length: 70_000 }, () => 1),
    Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`k${i}`, i])),
  ]
  for (const value of values) t.notThrows(() => checkShape(packr.pack(value)))
})

test('a message that is too long is not sent', t => {
  t.throws(() => frame(new Uint8Array(11), 10), { instanceOf: ControlError })
})
