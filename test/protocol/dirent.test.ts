import test from 'ava'
import fc from 'fast-check'
import {
  direntBytes,
  direntPlusBytes,
  readDirent,
  readDirentPlus,
  writeDirent,
} from '../../protocol/fuse/dirent.js'
import { hex, join, latin1, view, words, zeroes } from './bytes.js'

const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })
const low = (value: bigint): number => Number(value & 0xffff_ffffn)
const high = (value: bigint): number => Number(value >> 32n)

/** The entry as the header describes it, built another way. */
function expected(ino: bigint, off: bigint, type: number, name: Uint8Array): Uint8Array {
  const padding = zeroes((8 - (name.length % 8)) % 8)
  return new Uint8Array(
    join(words([8, ino], [8, off], [4, name.length], [4, type]), name, padding).buffer,
  )
}

test('an entry is ino, off, namelen, type, name and zeroes up to 8 bytes', t => {
  const bytes = new Uint8Array(40).fill(0xee)
  const name = latin1('..abc')
  const used = writeDirent(
    new DataView(bytes.buffer),
    bytes,
    0,
    7,
    0,
    0xffffffff,
    0x7fffffff,
    8,
    name,
    2,
    3,
  )
  t.is(used, 32)
  t.is(
    hex(bytes),
    `0700000000000000ffffffffffffff7f0300000008000000${'6162630000000000'}${'ee'.repeat(8)}`,
  )
})

test('ino and off keep all 64 bits, padding is zero, and nothing beyond is touched', t => {
  fc.assert(
    fc.property(
      u64,
      u64,
      fc.nat(15),
      fc.uint8Array({ minLength: 1, maxLength: 255 }),
      fc.nat(4),
      (ino, off, type, name, slot) => {
        const at = slot * 8
        const bytes = new Uint8Array(at + 24 + 264 + 8).fill(0xee)
        const data = new DataView(bytes.buffer)
        const used = writeDirent(
          data,
          bytes,
          at,
          low(ino),
          high(ino),
          low(off),
          high(off),
          type,
          name,
          0,
          name.length,
        )
        t.is(used, direntBytes(name.length))
        t.is(used % 8, 0)
        t.is(hex(bytes.subarray(at, at + used)), hex(expected(ino, off, type, name)))
        t.true(bytes.subarray(0, at).every(byte => byte === 0xee))
        t.true(bytes.subarray(at + used).every(byte => byte === 0xee))
        t.deepEqual(readDirent(data, at, at + used), { ino, off, type, name, bytes: used })
      },
    ),
  )
})

for (const [length, bytes] of [
  [0, 24],
  [1, 32],
  [8, 32],
  [9, 40],
  [255, 280],
] as const) {
  test(`a name of ${length} bytes takes ${bytes} bytes, and 128 more in READDIRPLUS`, t => {
    t.is(direntBytes(length), bytes)
    t.is(direntPlusBytes(length), bytes + 128)
  })
}

test('an entry that is cut off anywhere is not read', t => {
  const entry = expected(1n, 2n, 4, latin1('name'))
  const data = new DataView(entry.buffer)
  for (let limit = 0; limit < entry.length; limit++) t.is(readDirent(data, 0, limit), undefined)
  t.not(readDirent(data, 0, entry.length), undefined)
})

test('a name length of 2^32-1 is not believed', t => {
  const data = view(`${'00'.repeat(16)}ffffffff00000000${'00'.repeat(64)}`)
  t.is(readDirent(data, 0, data.byteLength), undefined)
})

test('an entry of READDIRPLUS is read from behind its fuse_entry_out', t => {
  const data = join(zeroes(128), expected(9n, 1n, 8, latin1('plus')))
  const entry = readDirentPlus(data, 0, data.byteLength)
  t.is(entry?.ino, 9n)
  t.is(entry?.bytes, 160)
  t.deepEqual(entry?.name, latin1('plus'))
})

test('random bytes never make the reader leave them', t => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), bytes => {
      const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      let at = 0
      for (;;) {
        const entry = readDirent(data, at, bytes.length)
        if (!entry) break
        t.true(entry.bytes >= 24)
        at += entry.bytes
      }
      t.true(at <= bytes.length)
    }),
  )
})
