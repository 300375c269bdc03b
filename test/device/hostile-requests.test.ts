/** Malformed FUSE requests in well-formed chains: each has a defined answer. */
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { type FuseClient, text } from '../helpers/fuse-client.js'
import { rig } from '../helpers/rig.js'

const bytes = (...values: (number | string)[]): Uint8Array =>
  Uint8Array.from(
    values.flatMap(value => (typeof value === 'number' ? [value] : [...Buffer.from(value)])),
  )

const EINVAL = -22
const ENOENT = -2
const ENAMETOOLONG = -36
const ESTALE = -116
const EBADF = -9
const ENOSYS = -38

interface Hostile {
  readonly why: string
  readonly opcode: number
  readonly nodeid?: number | bigint
  readonly body: Uint8Array
  readonly error: number
}

const names: [why: string, name: Uint8Array, error: number][] = [
  ['without NUL', bytes('abc'), EINVAL],
  ['that is empty', bytes(0), ENOENT],
  ['.', bytes('.', 0), EINVAL],
  ['..', bytes('..', 0), EINVAL],
  ['with a slash', bytes('a/b', 0), EINVAL],
  ['that climbs out', bytes('../x', 0), EINVAL],
  ['that is absolute', bytes('/etc/passwd', 0), EINVAL],
  ['of 256 bytes', bytes('n'.repeat(256), 0), ENAMETOOLONG],
]
const OPCODES_WITH_A_NAME: [name: string, opcode: number, fixed: Uint8Array, after: Uint8Array][] =
  [
    ['LOOKUP', 1, bytes(), bytes()],
    ['UNLINK', 10, bytes(), bytes()],
    ['RMDIR', 11, bytes(), bytes()],
    ['MKNOD', 8, u32s(0o100644, 0, 0, 0), bytes()],
    ['MKDIR', 9, u32s(0o755, 0), bytes()],
    ['SYMLINK', 6, bytes(), text('target')],
    ['LINK', 13, u64(1n), bytes()],
    ['CREATE', 35, u32s(0o102, 0o100644, 0, 0), bytes()],
    ['RENAME', 12, u64(1n), text('new')],
    ['RENAME2', 45, concat(u64(1n), u32s(0, 0)), text('new')],
  ]

const HOSTILE: Hostile[] = [
  ...OPCODES_WITH_A_NAME.flatMap(([opcodeName, opcode, fixed, after]) =>
    names
      // Without NUL, what follows would end the name.
      .filter(([why]) => !(why === 'without NUL' && after.length > 0))
      .map(([why, name, error]) => ({
        why: `${opcodeName} of a name ${why}`,
        opcode,
        body: concat(fixed, name, after),
        error,
      })),
  ),
  { why: 'RENAME to ..', opcode: 12, body: concat(u64(1n), text('x'), text('..')), error: EINVAL },
  {
    why: 'RENAME2 with unknown flags',
    opcode: 45,
    body: concat(u64(1n), u32s(0x80, 0), text('x'), text('y')),
    error: EINVAL,
  },
  { why: 'RENAME with one name', opcode: 12, body: concat(u64(1n), text('x')), error: EINVAL },
  { why: 'LOOKUP with no body', opcode: 1, body: bytes(), error: EINVAL },
  {
    why: 'LOOKUP in a node that is not known',
    opcode: 1,
    nodeid: 99,
    body: text('x'),
    error: ESTALE,
  },
  { why: 'LOOKUP in node 0', opcode: 1, nodeid: 0, body: text('x'), error: ESTALE },
  {
    why: 'LOOKUP in node 2^64-1',
    opcode: 1,
    nodeid: 0xffff_ffff_ffff_ffffn,
    body: text('x'),
    error: ESTALE,
  },
  {
    why: 'LOOKUP in a node of another generation',
    opcode: 1,
    nodeid: 0x1_0000_0001n,
    body: text('x'),
    error: ESTALE,
  },
  { why: 'GETATTR cut short', opcode: 3, body: u32s(0), error: EINVAL },
  { why: 'READ cut short', opcode: 15, body: bytes(1, 2, 3), error: EINVAL },
  {
    why: 'READ of a handle that is not open',
    opcode: 15,
    body: concat(u64(7n), u64(0n), u32s(16, 0), u64(0n), u32s(0, 0)),
    error: EBADF,
  },
  {
    why: 'READ of handle 2^64-1',
    opcode: 15,
    body: concat(u64(0xffff_ffff_ffff_ffffn), u64(0n), u32s(16, 0), u64(0n), u32s(0, 0)),
    error: EBADF,
  },
  {
    why: 'READ of more than there is room for',
    opcode: 15,
    body: concat(u64(0n), u64(0n), u32s(0x7fff_ffff, 0), u64(0n), u32s(0, 0)),
    error: EINVAL,
  },
  {
    why: 'READ at 2^63',
    opcode: 15,
    body: concat(u64(0n), u64(1n << 63n), u32s(16, 0), u64(0n), u32s(0, 0)),
    error: EINVAL,
  },
  {
    why: 'WRITE of more than was sent',
    opcode: 16,
    body: concat(u64(0n), u64(0n), u32s(4096, 0), u64(0n), u32s(0, 0), bytes('x')),
    error: EINVAL,
  },
  {
    why: 'WRITE of a handle that is not open',
    opcode: 16,
    body: concat(u64(0n), u64(0n), u32s(1, 0), u64(0n), u32s(0, 0), bytes('x')),
    error: EBADF,
  },
  {
    why: 'WRITE at 2^63',
    opcode: 16,
    body: concat(u64(0n), u64(1n << 63n), u32s(1, 0), u64(0n), u32s(0, 0), bytes('x')),
    error: -27,
  },
  {
    why: 'RELEASE of a handle that is not open',
    opcode: 18,
    body: concat(u64(0n), u32s(0, 0), u64(0n)),
    error: EBADF,
  },
  {
    why: 'READDIR of a file handle number',
    opcode: 28,
    body: concat(u64(3n), u64(0n), u32s(4096, 0), u64(0n), u32s(0, 0)),
    error: EBADF,
  },
  {
    why: 'SETATTR with nanoseconds past a second',
    opcode: 4,
    body: concat(
      u32s(1 << 5, 0),
      u64(0n),
      u64(0n),
      u64(0n),
      u64(0n),
      u64(0n),
      u64(0n),
      u32s(0, 2_000_000_000, 0, 0, 0, 0, 0, 0),
    ),
    error: EINVAL,
  },
  {
    why: 'FALLOCATE of nothing',
    opcode: 43,
    body: concat(u64(0n), u64(0n), u64(0n), u32s(0, 0)),
    error: EINVAL,
  },
  {
    why: 'FALLOCATE past 2^63',
    opcode: 43,
    body: concat(u64(0n), u64(1n), u64((1n << 63n) - 1n), u32s(0, 0)),
    error: -27,
  },
  { why: 'SYMLINK to nothing', opcode: 6, body: concat(text('s'), bytes(0)), error: ENOENT },
  {
    why: 'SYMLINK to 4096 bytes',
    opcode: 6,
    body: concat(text('s'), text('t'.repeat(4096))),
    error: ENAMETOOLONG,
  },
  {
    why: 'IOCTL that names guest addresses',
    opcode: 39,
    body: concat(u64(0n), u32s(2, 0x1234), u64(0n), u32s(0, 0)),
    error: -25,
  },
  {
    why: 'IOCTL with more input than was sent',
    opcode: 39,
    body: concat(u64(0n), u32s(0, 0x1234), u64(0n), u32s(100, 0)),
    error: EINVAL,
  },
  { why: 'GETXATTR without a name', opcode: 22, body: concat(u32s(100, 0), bytes(0)), error: -34 },
  {
    why: 'SETXATTR with a value longer than sent',
    opcode: 21,
    body: concat(u32s(100, 0, 0, 0), text('user.x'), bytes('y')),
    error: EINVAL,
  },
  { why: 'ACCESS with unknown bits', opcode: 34, body: u32s(0xff, 0), error: EINVAL },
  { why: 'OPEN of a directory', opcode: 14, body: u32s(0, 0), error: -21 },
  { why: 'STATX cut short', opcode: 52, body: u32s(0, 0), error: EINVAL },
  {
    why: 'LINK of a node that is not known',
    opcode: 13,
    body: concat(u64(12345n), text('l')),
    error: ESTALE,
  },
  {
    why: 'INIT of major 6',
    opcode: 26,
    body: concat(u32s(6, 0, 0, 0), new Uint8Array(48)),
    error: -71,
  },
  {
    why: 'INIT of minor 26',
    opcode: 26,
    body: concat(u32s(7, 26, 0, 0), new Uint8Array(48)),
    error: -71,
  },
  ...[0, 7, 19, 41 + 21, 63, 64, 4096, 0x7fff_ffff, 0xffff_ffff].map(opcode => ({
    why: `opcode ${opcode}, which is none`,
    opcode,
    body: bytes('whatever', 0),
    error: ENOSYS,
  })),
  ...[37, 40, 48, 49].map(opcode => ({
    why: `opcode ${opcode}, which is not served`,
    opcode,
    body: new Uint8Array(64),
    error: ENOSYS,
  })),
]

for (const { why, opcode, nodeid, body, error } of HOSTILE)
  test(`request: ${why}`, t => {
    const r = rig(t, { host: { xattr: true } })
    const client = r.client()
    const reply = client.request(opcode, nodeid ?? 1, body)
    t.truthy(reply, 'it is answered')
    t.is(reply!.error, error)
    t.is(reply!.written, 16)
    t.is(client.lookup(1, 'nothing'), ENOENT, 'the next request is served')
  })

const LENGTHS: [why: string, length: number, error: number][] = [
  ['0', 0, EINVAL],
  ['less than the header', 39, EINVAL],
  ['only the header', 40, EINVAL],
  ['more than was sent', 4096, EINVAL],
  ['4 GiB', 0xffff_ffff, EINVAL],
]
for (const [why, length, error] of LENGTHS)
  test(`request: the header says its length is ${why}`, t => {
    const r = rig(t)
    const client = r.client()
    const raw = concat(u32s(length, 1), u64(9n), u64(1n), u32s(0, 0, 0, 0), text('x'))
    t.is(client.request(1, 1, undefined, { raw })!.error, error)
  })

test('request: nothing is served before INIT', t => {
  const r = rig(t)
  const client = r.client()
  client.destroy()
  t.is(client.request(3, 1, concat(u32s(0, 0), u64(0n)))!.error, -5)
})

test('request: a BATCH_FORGET count that is not there does nothing', t => {
  const r = rig(t)
  const client = r.client()
  writeFileSync(join(r.folder, 'x'), '')
  client.lookup(1, 'x')
  t.is(client.request(42, 0, concat(u32s(0xffff_ffff, 0), u64(2n), u64(1n))), undefined)
  t.is(r.fs.nodeCount, 2)
})

test('request: FIFOs and devices are never opened on the host', t => {
  const r = rig(t)
  const client = r.client()
  const { body } = client.do(8, 1, concat(u32s(0o010644, 0, 0, 0), text('fifo')))
  const nodeid = Number(body.getBigUint64(0, true))
  t.is(client.request(14, nodeid, u32s(0, 0))!.error, -6)
  t.is(client.request(14, nodeid, u32s(1, 0))!.error, -6)
})

test('request: links of the share lead nowhere by themselves', t => {
  const r = rig(t)
  const client: FuseClient = r.client()
  symlinkSync('/etc', join(r.folder, 'out'))
  mkdirSync(join(r.folder, 'in'))
  const link = client.lookup(1, 'out')
  t.is(client.request(1, link, text('passwd'))!.error, -20)
  t.is(client.request(14, link, u32s(0, 0))!.error, -6)
  t.is(client.request(27, link, u32s(0, 0))!.error, -20)
  t.is(new TextDecoder().decode(client.do(5, link).bytes), '/etc')
  t.is(client.request(35, link, concat(u32s(0o102, 0o100644, 0, 0), text('made')))!.error, -20)
  t.false(existsSync('/etc/made'))
})

test('request: a directory replaced by a link to outside is not followed', t => {
  const r = rig(t)
  const client = r.client()
  mkdirSync(join(r.folder, 'd'))
  const dir = client.lookup(1, 'd')
  mkdirSync(join(r.folder, 'moved'))
  const fs = process.getBuiltinModule('node:fs')
  fs.rmdirSync(join(r.folder, 'd'))
  symlinkSync('/etc', join(r.folder, 'd'))
  t.is(client.request(1, dir, text('passwd'))!.error, ESTALE)
})
