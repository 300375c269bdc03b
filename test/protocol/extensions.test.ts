import test from 'ava'
import fc from 'fast-check'
import { Errno } from '../../protocol/errno.js'
import { newExtensions, readExtensions } from '../../protocol/fuse/extensions.js'
import { join, latin1, words, zeroes } from './bytes.js'

const pad = (bytes: Uint8Array): Uint8Array =>
  new Uint8Array(join(bytes, zeroes((8 - (bytes.length % 8)) % 8)).buffer)
const piece = (...parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(join(...parts).buffer)

/** fuse_secctx_header and one fuse_secctx, padded as Linux does it. `size` counts the padding. */
function security(name: string, value: string): Uint8Array {
  const context = piece(words([4, value.length], [4, 0]), latin1(`${name}\0${value}`))
  const padded = pad(context)
  return piece(words([4, 8 + padded.length], [4, 1]), padded)
}

/** fuse_ext_header of type 32 and fuse_supp_groups. */
function groups(...ids: readonly number[]): Uint8Array {
  const body = pad(words([4, ids.length], ...ids.map(id => [4, id] as const)))
  return piece(words([4, 8 + body.length], [4, 32]), body)
}

function read(area: Uint8Array, at = 0) {
  const found = newExtensions()
  const data = join(zeroes(at), area)
  const bytes = new Uint8Array(data.buffer)
  const answer = readExtensions(data, bytes, at, bytes.length, found)
  const text = (from: number, length: number): string =>
    Buffer.from(bytes.subarray(from, from + length)).toString('latin1')
  return {
    answer,
    found,
    name: text(found.secctxNameAt, found.secctxNameBytes),
    value: text(found.secctxValueAt, found.secctxValueBytes),
    groups: Array.from({ length: Math.max(0, found.groupCount) }, (_, i) =>
      data.getUint32(found.groupsAt + 4 * i, true),
    ),
  }
}

test('a security context and groups are found in either order and at any offset', t => {
  const context = security('security.selinux', 'system_u:object_r:tmp_t:s0')
  const list = groups(100, 0xffff_fffe)
  for (const area of [piece(context, list), piece(list, context)]) {
    const { answer, name, value, groups: ids } = read(area, 51)
    t.is(answer, 0)
    t.is(name, 'security.selinux')
    t.is(value, 'system_u:object_r:tmp_t:s0')
    t.deepEqual(ids, [100, 0xffff_fffe])
  }
})

test('an empty area has nothing, whatever the last request had', t => {
  const found = newExtensions()
  const area = piece(security('a', 'b'), groups(1))
  const data = new DataView(area.buffer)
  t.is(readExtensions(data, area, 0, area.length, found), 0)
  t.is(found.groupCount, 1)
  t.is(readExtensions(data, area, 0, 0, found), 0)
  t.is(found.groupCount, -1)
  t.is(found.secctxNameBytes, 0)
  t.is(found.secctxValueBytes, 0)
})

test('no contexts (Linux sends the bare header then) and no groups are fine', t => {
  const { answer, found } = read(piece(words([4, 8], [4, 0]), groups()))
  t.is(answer, 0)
  t.is(found.secctxNameBytes, 0)
  t.is(found.groupCount, 0)
})

test('an extension we do not know is skipped with its padding', t => {
  const unknown = pad(piece(words([4, 11], [4, 77]), latin1('xyz')))
  const { answer, groups: ids } = read(piece(unknown, groups(5)))
  t.is(answer, 0)
  t.deepEqual(ids, [5])
})

test('padding may be left out at the end of the area', t => {
  const { answer, value } = read(piece(words([4, 20], [4, 1], [4, 2], [4, 0]), latin1('n\0vv')))
  t.is(answer, 0)
  t.is(value, 'vv')
})

const hostile: ReadonlyArray<readonly [why: string, area: Uint8Array]> = [
  ['an extension of size 0, which would never end', words([4, 0], [4, 32], [8, 0])],
  ['an extension shorter than its header', words([4, 7], [4, 32])],
  ['an extension longer than the area', words([4, 17], [4, 77], [8, 0])],
  ['an extension of 4 GiB', words([4, 0xffff_ffff], [4, 77])],
  ['a rest too short for a header', words([4, 8], [4, 77], [4, 0])],
  ['groups without their count', words([4, 8], [4, 32])],
  ['one group more than there is room for', words([4, 16], [4, 32], [4, 2], [4, 0])],
  ['2^30+1 groups, whose bytes wrap to 4', words([4, 16], [4, 32], [4, 0x4000_0001], [4, 0])],
  ['groups twice', piece(groups(1), groups(2))],
  ['a context without its header', words([4, 12], [4, 1], [4, 0])],
  ['a context name without NUL', piece(words([4, 24], [4, 1], [4, 0], [4, 0]), latin1('abcdefgh'))],
  ['an empty context name', piece(words([4, 24], [4, 1], [4, 0], [4, 0]), zeroes(8))],
  ['a value one byte too long', piece(words([4, 20], [4, 1], [4, 3], [4, 0]), latin1('n\0vv'))],
  [
    'a value of 4 GiB',
    piece(words([4, 24], [4, 1], [4, 0xffff_ffff], [4, 0]), latin1('n\0vvvvvv')),
  ],
  ['contexts twice', piece(security('a', 'b'), security('a', 'b'))],
]
for (const [why, area] of hostile) {
  test(`${why} is answered EINVAL`, t => {
    t.is(read(area).answer, -Errno.EINVAL)
  })
}

test('whatever is found in random bytes lies within them', t => {
  const small = fc.constantFrom(0, 1, 2, 8, 12, 16, 20, 24, 31, 32, 33, 0xffff_ffff)
  const area = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.array(small, { maxLength: 40 }).map(list => words(...list.map(word => [4, word] as const))),
  )
  fc.assert(
    fc.property(area, fc.nat(20), fc.nat(20), (bytes, at, cut) => {
      const end = Math.max(0, bytes.length - cut)
      const found = newExtensions()
      const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const answer = readExtensions(data, bytes, at, end, found)
      t.true(answer === 0 || answer === -Errno.EINVAL)
      if (answer < 0) return
      if (found.groupCount > 0) {
        t.true(found.groupsAt >= at && found.groupsAt + 4 * found.groupCount <= end)
      }
      if (found.secctxNameBytes > 0) {
        t.true(found.secctxNameAt >= at)
        t.true(found.secctxNameAt + found.secctxNameBytes < found.secctxValueAt)
        t.true(found.secctxValueAt + found.secctxValueBytes <= end)
      }
    }),
    { numRuns: 2000 },
  )
})
