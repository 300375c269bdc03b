import test from 'ava'
import fc from 'fast-check'
import {
  FORBIDDEN_ID,
  IdTranslationError,
  parseTranslate,
} from '../../src/filesystems/host/id-translation.js'

const LAST = 2 ** 32 - 2
const INVALID = 2 ** 32 - 1

test('without rules every id stays', t => {
  const ids = parseTranslate([], '--translate-uid')
  t.true(ids.identity)
  for (const id of [0, 1, 1000, 2 ** 31, LAST, INVALID]) {
    t.is(ids.toHost(id), id)
    t.is(ids.toGuest(id), id)
  }
})

test('the six types', t => {
  const cases: Readonly<
    Record<string, { toHost?: Record<number, number>; toGuest?: Record<number, number> }>
  > = {
    'guest:1000:5000:10': {
      toHost: { 999: 999, 1000: 5000, 1009: 5009, 1010: 1010, 5000: 5000 },
      toGuest: { 1000: 1000, 5000: 5000 },
    },
    'host:5000:1000:10': {
      toHost: { 1000: 1000, 5000: 5000 },
      toGuest: { 4999: 4999, 5000: 1000, 5009: 1009, 5010: 5010 },
    },
    'map:1000:5000:10': {
      toHost: { 999: 999, 1000: 5000, 1009: 5009, 1010: 1010 },
      toGuest: { 4999: 4999, 5000: 1000, 5009: 1009, 5010: 5010 },
    },
    'squash-guest:1000:5000:10': {
      toHost: { 999: 999, 1000: 5000, 1009: 5000, 1010: 1010 },
      toGuest: { 5000: 5000 },
    },
    'squash-host:5000:1000:10': {
      toHost: { 1000: 1000 },
      toGuest: { 4999: 4999, 5000: 1000, 5009: 1000, 5010: 5010 },
    },
    'forbid-guest:1000:10': {
      toHost: { 999: 999, 1000: FORBIDDEN_ID, 1009: FORBIDDEN_ID, 1010: 1010 },
      toGuest: { 1000: 1000 },
    },
  }
  for (const [rule, { toHost = {}, toGuest = {} }] of Object.entries(cases)) {
    const ids = parseTranslate([rule], '--translate-uid')
    t.false(ids.identity)
    for (const [id, wanted] of Object.entries(toHost)) t.is(ids.toHost(Number(id)), wanted, rule)
    for (const [id, wanted] of Object.entries(toGuest)) t.is(ids.toGuest(Number(id)), wanted, rule)
  }
})

test('documented: all users of the guest are one of the host, shown as another', t => {
  // The example of README.md of virtiofsd.
  const ids = parseTranslate(['squash-guest:0:1001:4294967295', 'host:1001:1000:1'], 'o')
  for (const id of [0, 1000, LAST]) t.is(ids.toHost(id), 1001)
  t.is(ids.toHost(INVALID), INVALID)
  t.is(ids.toGuest(1001), 1000)
  t.is(ids.toGuest(1000), 1000)
  t.is(ids.toGuest(0), 0)
})

test('what Incus passes: some ids mapped, all the others forbidden', t => {
  const ids = parseTranslate(
    ['map:0:1000000:65536', 'forbid-guest:65536:4294901759'],
    '--translate-uid',
  )
  t.is(ids.toHost(0), 1000000)
  t.is(ids.toHost(65535), 1065535)
  t.is(ids.toHost(65536), FORBIDDEN_ID)
  t.is(ids.toHost(LAST), FORBIDDEN_ID)
  t.is(ids.toGuest(1000001), 1)
  t.is(ids.toGuest(999999), 999999)
})

test('any mark separates, case does not matter, numbers may have a plus and zeros', t => {
  for (const rule of [
    'map:0:1000:1',
    'MAP:0:1000:1',
    'map/0/1000/1',
    'Map 0 1000 1',
    'map+0+1000+1',
    'map:+0:+01000:0001',
    'map\u{1f41f}0\u{1f41f}1000\u{1f41f}1',
  ])
    t.is(parseTranslate([rule], 'o').toHost(0), 1000, rule)
})

test('a range of no ids says nothing, and nothing overlaps it', t => {
  const ids = parseTranslate(['map:0:0:0', 'forbid-guest:5:0', 'map:0:10:10'], 'o')
  t.is(ids.toHost(5), 15)
})

test('ranges may touch, in any order of the rules', t => {
  const rules = ['map:10:110:10', 'forbid-guest:30:5', 'squash-guest:20:7:10', 'guest:0:200:10']
  for (const order of [rules, rules.toReversed()]) {
    const ids = parseTranslate(order, 'o')
    t.deepEqual(
      [0, 9, 10, 19, 20, 29, 30, 34, 35].map(id => ids.toHost(id)),
      [200, 209, 110, 119, 7, 7, FORBIDDEN_ID, FORBIDDEN_ID, 35],
    )
  }
})

test('what is wrong is said', t => {
  const wrong: readonly (readonly [readonly string[], string])[] = [
    [[''], '--translate-uid "": no type followed by numbers, as in map:0:1000:1'],
    [['map'], '--translate-uid "map": no type followed by numbers, as in map:0:1000:1'],
    [
      ['nap:0:1:1'],
      '--translate-uid "nap:0:1:1": type "nap" is none of guest, host, squash-guest, squash-host, forbid-guest, map',
    ],
    [
      [':0:1:1'],
      '--translate-uid ":0:1:1": type "" is none of guest, host, squash-guest, squash-host, forbid-guest, map',
    ],
    [['map:0:1'], '--translate-uid "map:0:1": 2 numbers; wanted is map:GUEST:HOST:COUNT'],
    [
      ['forbid-guest:0:1:2'],
      '--translate-uid "forbid-guest:0:1:2": 3 numbers; wanted is forbid-guest:GUEST:COUNT',
    ],
    [['map:'], '--translate-uid "map:": "" is not a number from 0 to 4294967295'],
    [['map:0:1:1:'], '--translate-uid "map:0:1:1:": "" is not a number from 0 to 4294967295'],
    [['map:0:-1:1'], '--translate-uid "map:0:-1:1": "-1" is not a number from 0 to 4294967295'],
    [['map:0: 1:1'], '--translate-uid "map:0: 1:1": " 1" is not a number from 0 to 4294967295'],
    [['map:0:1e3:1'], '--translate-uid "map:0:1e3:1": "1e3" is not a number from 0 to 4294967295'],
    [
      ['map:0:0:4294967296'],
      '--translate-uid "map:0:0:4294967296": "4294967296" is not a number from 0 to 4294967295',
    ],
    [
      ['forbid-guest:1:4294967295'],
      '--translate-uid "forbid-guest:1:4294967295": ids 1 and 4294967294 more end past 4294967294',
    ],
    [
      ['guest:0:1:4294967295'],
      '--translate-uid "guest:0:1:4294967295": target ids from 1 end past 4294967294',
    ],
    [
      ['squash-guest:0:4294967295:1'],
      '--translate-uid "squash-guest:0:4294967295:1": target ids from 4294967295 end past 4294967294',
    ],
    [
      ['map:10:100:10', 'forbid-guest:19:1'],
      '--translate-uid "map:10:100:10" and "forbid-guest:19:1" both translate guest id 19',
    ],
    [
      ['forbid-guest:0:1', 'squash-host:109:1:5', 'map:10:100:10'],
      '--translate-uid "map:10:100:10" and "squash-host:109:1:5" both translate host id 109',
    ],
    // The same rule twice too.
    [
      ['guest:1:2:3', 'guest:1:2:3'],
      '--translate-uid "guest:1:2:3" and "guest:1:2:3" both translate guest id 1',
    ],
  ]
  for (const [rules, message] of wrong)
    t.throws(() => parseTranslate(rules, '--translate-uid'), {
      instanceOf: IdTranslationError,
      message,
    })
})

// --- against a naive implementation ----------------------------------------------------------------

interface Rule {
  type: string
  a: number
  b: number
  count: number
}

/** Small numbers overlap often, the others reach the ends of 32 bits. */
const id = fc.oneof(fc.nat(40), fc.integer({ min: LAST - 40, max: INVALID }))
const rule = fc.record<Rule>({
  type: fc.constantFrom('guest', 'host', 'squash-guest', 'squash-host', 'forbid-guest', 'map'),
  a: id,
  b: id,
  count: fc.oneof({ weight: 5, arbitrary: fc.nat(6) }, id),
})

function render({ type, a, b, count }: Rule): string {
  return type === 'forbid-guest' ? `${type}:${a}:${count}` : `${type}:${a}:${b}:${count}`
}

/** Where every id of [from, from + count) goes, one direction of one rule. */
interface Naive {
  from: number
  count: number
  to: (id: number) => number
}

function naive(rules: readonly Rule[]): { guest: Naive[]; host: Naive[] } {
  const guest: Naive[] = []
  const host: Naive[] = []
  for (const { type, a, b, count } of rules) {
    if (type === 'guest' || type === 'map') guest.push({ from: a, count, to: id => id - a + b })
    if (type === 'host') host.push({ from: a, count, to: id => id - a + b })
    if (type === 'map') host.push({ from: b, count, to: id => id - b + a })
    if (type === 'squash-guest') guest.push({ from: a, count, to: () => b })
    if (type === 'squash-host') host.push({ from: a, count, to: () => b })
    if (type === 'forbid-guest') guest.push({ from: a, count, to: () => FORBIDDEN_ID })
  }
  return { guest, host }
}

function lookUp(ranges: readonly Naive[], id: number): number {
  const range = ranges.find(({ from, count }) => id >= from && id < from + count)
  return range === undefined ? id : range.to(id)
}

function valid(ranges: readonly Naive[]): boolean {
  const used = ranges.filter(({ count }) => count > 0)
  const fits = used.every(
    ({ from, count, to }) =>
      from + count <= INVALID && to(from) < INVALID && to(from + count - 1) < INVALID,
  )
  const apart = used.every((x, i) =>
    used.every((y, j) => i === j || x.from + x.count <= y.from || y.from + y.count <= x.from),
  )
  return fits && apart
}

test('translations do what a naive reading of their rules does, whatever the order', t => {
  let accepted = 0
  fc.assert(
    fc.property(fc.array(rule, { maxLength: 5 }), fc.array(id), fc.nat(), (rules, ids, turn) => {
      const texts = rules.map(render)
      const { guest, host } = naive(rules)
      if (!valid(guest) || !valid(host)) {
        t.throws(() => parseTranslate(texts, 'o'), { instanceOf: IdTranslationError })
        return
      }
      accepted++
      const at = texts.length === 0 ? 0 : turn % texts.length
      for (const order of [texts, [...texts.slice(at), ...texts.slice(0, at)]]) {
        const translation = parseTranslate(order, 'o')
        const edges = [...guest, ...host].flatMap(({ from, count }) => [from, from + count - 1])
        for (const each of [...ids, ...edges, ...edges.map(edge => edge + 1)]) {
          if (each < 0 || each > INVALID) continue
          t.is(translation.toHost(each), lookUp(guest, each))
          t.is(translation.toGuest(each), lookUp(host, each))
        }
      }
    }),
    { numRuns: 3000 },
  )
  t.true(accepted > 500, `${accepted} rule sets were accepted`)
})

test('map: what goes to the host comes back', t => {
  const shape = fc
    .record({ guest: fc.nat(LAST), host: fc.nat(LAST), count: fc.nat(LAST) })
    .filter(({ guest, host, count }) => count > 0 && Math.max(guest, host) + count <= INVALID)
  fc.assert(
    fc.property(
      shape,
      fc.double({ min: 0, max: 1, noNaN: true }),
      ({ guest, host, count }, part) => {
        const ids = parseTranslate([`map:${guest}:${host}:${count}`], 'o')
        for (const offset of [0, Math.floor(part * (count - 1)), count - 1]) {
          t.is(ids.toHost(guest + offset), host + offset)
          t.is(ids.toGuest(host + offset), guest + offset)
          t.is(ids.toGuest(ids.toHost(guest + offset)), guest + offset)
        }
      },
    ),
  )
})

test('any text either parses or throws IdTranslationError', t => {
  const piece = fc.constantFrom(
    ':',
    '/',
    '-',
    '+',
    ' ',
    '0',
    '7',
    '4294967295',
    'map',
    'guest',
    'squash-host',
    'é',
  )
  const text = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.array(piece, { maxLength: 8 }).map(pieces => pieces.join('')),
  )
  fc.assert(
    fc.property(fc.array(text, { maxLength: 3 }), texts => {
      try {
        parseTranslate(texts, 'o')
      } catch (error) {
        t.true(error instanceof IdTranslationError, String(error))
      }
    }),
    { numRuns: 5000 },
  )
  t.pass()
})
