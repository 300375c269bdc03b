import { readdirSync, readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { Errno, errnoName } from '../../protocol/errno.js'
import { OPCODE_LIMIT, OPCODE_SHAPE, Opcode, opcodeName } from '../../protocol/fuse/opcodes.js'
import { encodeConfig } from '../../protocol/virtio/fs.js'
import { hex } from './bytes.js'

test('every opcode below the limit has a shape by its name, and nothing else has', t => {
  const named = Object.entries(Opcode).filter(([, number]) => number < OPCODE_LIMIT)
  t.is(OPCODE_SHAPE.length, OPCODE_LIMIT)
  for (const [name, number] of named) t.is(OPCODE_SHAPE[number]?.name, name.slice(5))
  t.is(OPCODE_SHAPE.filter(Boolean).length, named.length)
})

test('only what the header marks as such goes without reply', t => {
  const silent = OPCODE_SHAPE.filter(shape => shape && !shape.reply).map(shape => shape!.name)
  t.deepEqual(silent, ['FORGET', 'INTERRUPT', 'NOTIFY_REPLY', 'BATCH_FORGET'])
})

const shapes: ReadonlyArray<readonly [name: string, bytes: number, names: number, out: number]> = [
  ['LOOKUP', 0, 1, 128],
  ['GETATTR', 16, 0, 104],
  ['SETATTR', 88, 0, 104],
  ['MKNOD', 16, 1, 128],
  ['READ', 40, 0, 0],
  ['WRITE', 40, 0, 8],
  ['STATFS', 0, 0, 80],
  ['SETXATTR', 8, 1, 0],
  ['INIT', 16, 0, 64],
  ['CREATE', 16, 1, 144],
  ['GETLK', 48, 0, 24],
  ['RENAME2', 16, 2, 0],
  ['REMOVEMAPPING', 4, 0, 0],
  ['STATX', 24, 0, 288],
  ['COPY_FILE_RANGE', 56, 0, 8],
  ['COPY_FILE_RANGE_64', 56, 0, 8],
]
for (const [name, bytes, names, out] of shapes) {
  test(`${name} has ${bytes} bytes in, ${names} names, ${out} bytes out`, t => {
    const shape = OPCODE_SHAPE.find(row => row?.name === name)
    t.deepEqual([shape?.inBytes, shape?.names, shape?.outBytes], [bytes, names, out])
  })
}

test('opcodes have names, unknown ones their number', t => {
  t.is(opcodeName(1), 'LOOKUP')
  t.is(opcodeName(4096), 'CUSE_INIT')
  t.is(opcodeName(7), 'opcode 7')
})

test('error numbers are those of Node on this machine', t => {
  for (const [name, number] of Object.entries(constants.errno))
    if (name in Errno) t.is(Errno[name as keyof typeof Errno] as number, number, name)
})

test('error numbers have one name each, of either sign', t => {
  t.is(errnoName(-2), 'ENOENT')
  t.is(errnoName(95), 'EOPNOTSUPP')
  t.is(errnoName(41), 'E?41')
})

test('config space is the tag padded with NUL, then the number of request queues', t => {
  t.is(hex(encodeConfig('myfs', 258)), `6d796673${'00'.repeat(32)}02010000`)
  t.is(hex(encodeConfig('\u00e9'.repeat(18), 1)), `${'c3a9'.repeat(18)}01000000`)
  for (const tag of ['', 'x'.repeat(37), '\u00e9'.repeat(19), 'a\0b'])
    t.throws(() => encodeConfig(tag, 1), { instanceOf: RangeError })
})

test('protocol/ imports nothing but itself', t => {
  const root = join(import.meta.dirname, '../../protocol')
  const files = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter(name =>
    name.endsWith('.js'),
  )
  t.true(files.length > 15)
  for (const file of files) {
    const text = readFileSync(join(root, file), 'utf8')
    for (const [, path] of text.matchAll(/from '([^']+)'/g)) t.regex(path!, /^\.\.?\//, file)
    t.notRegex(text, /\b(Buffer|process|console)\./, file)
  }
})
