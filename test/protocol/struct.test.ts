import test from 'ava'
import fc from 'fast-check'
import { fuse_read_in, fuse_setattr_in } from '../../protocol/fuse/structs.js'
import {
  bigU64,
  copyU64,
  type Field,
  i32,
  i64,
  isSafeU64,
  struct,
  u8,
  u16,
  u32,
  u64,
} from '../../protocol/struct.js'
import { STRUCTS } from '../../scripts/make-abi.js'
import { hex, view } from './bytes.js'

type AnyField = Field<number> | Field<bigint>

// Written by hand from the header: 128 KiB of handle 3 at 4096, O_LARGEFILE.
const READ = view(`
  0300000000000000 0010000000000000 00000200 00000000
  0000000000000000 00800000 00000000`)
const decodes = test.macro({
  title: (_given, field: string) => `fuse_read_in.${field} is where the header has it`,
  exec(t, field: keyof typeof fuse_read_in.f, want: number) {
    t.is(fuse_read_in.f[field].get(READ, 0), want)
  },
})
test(decodes, 'fh', 3)
test(decodes, 'offset', 4096)
test(decodes, 'size', 131_072)
test(decodes, 'read_flags', 0)
test(decodes, 'lock_owner', 0)
test(decodes, 'flags', 0o100000)

test('a field never touches its neighbours', t => {
  fc.assert(
    fc.property(
      fc.constantFrom(...STRUCTS),
      fc.nat(),
      fc.nat(2 ** 32 - 1),
      fc.nat(9),
      fc.boolean(),
      (declared, pick, value, base, ones) => {
        const fields = Object.values(declared.f) as AnyField[]
        const field = fields[pick % fields.length]!
        const bytes = new Uint8Array(declared.SIZE + base + 8).fill(ones ? 0xff : 0)
        const data = new DataView(bytes.buffer)
        const wide = typeof field.get(data, base) === 'bigint'
        field.set(data, base, (wide ? BigInt(value) : value) as never)
        const from = base + field.offset
        for (const [at, byte] of bytes.entries())
          if (at < from || at >= from + field.bytes) t.is(byte, ones ? 0xff : 0)
      },
    ),
  )
})

test('fields follow each other without a gap or an overlap', t => {
  for (const { NAME, SIZE, f } of STRUCTS) {
    let end = 0
    for (const [name, field] of Object.entries(f) as [string, AnyField][]) {
      t.is(field.offset, end, `${NAME}.${name}`)
      end += field.bytes
    }
    t.is(end, SIZE, NAME)
  }
})

const scalars = [
  ['u8', u8, fc.nat(0xff)],
  ['u16', u16, fc.nat(0xffff)],
  ['u32', u32, fc.nat(0xffff_ffff)],
  ['i32', i32, fc.integer()],
  ['u64', u64, fc.nat(Number.MAX_SAFE_INTEGER)],
  ['i64', i64, fc.maxSafeInteger()],
] as const
for (const [name, scalar, values] of scalars) {
  test(`a ${name} comes back as it was written, little endian`, t => {
    fc.assert(
      fc.property(values, value => {
        const data = new DataView(new ArrayBuffer(8))
        scalar.set(data, 0, value)
        t.is(scalar.get(data, 0), value)
        const low = data.getUint8(0)
        t.is(low, Number(BigInt.asUintN(8, BigInt(value))))
      }),
    )
  })
}

test('a u64 past 2^53 is seen to be unsafe, whatever it was rounded to', t => {
  fc.assert(
    fc.property(fc.bigInt({ min: 2n ** 53n, max: 2n ** 64n - 1n }), value => {
      const data = new DataView(new ArrayBuffer(8))
      bigU64.set(data, 0, value)
      t.is(bigU64.get(data, 0), value)
      t.false(isSafeU64(u64.get(data, 0)))
    }),
  )
})

test('copyU64 moves all 64 bits', t => {
  const from = view('0011223344556677')
  const to = new DataView(new ArrayBuffer(16))
  copyU64(from, 0, to, 4)
  t.is(hex(new Uint8Array(to.buffer)), '00000000001122334455667700000000')
})

test('seconds before 1970 are negative', t => {
  const data = new DataView(new ArrayBuffer(fuse_setattr_in.SIZE))
  data.setBigInt64(fuse_setattr_in.f.mtime.offset, -1n, true)
  t.is(fuse_setattr_in.f.mtime.get(data, 0), -1)
})

test('a layout that C would pad is refused unless it is packed', t => {
  const layout = { a: u8, b: u32 }
  t.throws(() => struct('x', layout), { message: /x\.b: offset 1/ })
  t.is(struct('x', layout, { packed: true }).SIZE, 5)
})

test('a field that looks like a number is refused, since objects would move it to the front', t => {
  t.throws(() => struct('x', { a: u8, 1: u8 }), { message: /starts with a letter/ })
})
