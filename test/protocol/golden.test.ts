/**
 * Bytes that a real guest kernel sent (test/golden/guest.json, made by scripts/make-golden.ts), read
 * by the declarations of protocol/.
 */
import { readFileSync } from 'node:fs'
import test from 'ava'
import { OPCODE_SHAPE, Opcode } from '../../protocol/fuse/opcodes.js'
import { printReply, printRequest } from '../../protocol/fuse/print.js'
import * as S from '../../protocol/fuse/structs.js'
import { FRONT_END_RULES, VhostUserRequest } from '../../protocol/vhost-user/messages.js'
import { VhostUserHeader, VhostUserMemoryRegion } from '../../protocol/vhost-user/payloads.js'
import type { Golden, GoldenRequest } from '../../scripts/make-golden.js'
import { packageFile } from '../../src/native/addon.js'

const golden = JSON.parse(
  readFileSync(packageFile('test', 'golden', 'guest.json'), 'utf8'),
) as Golden

const IN = S.fuse_in_header.SIZE
const OUT = S.fuse_out_header.SIZE

function viewOf(hex: string): DataView {
  const bytes = new Uint8Array(Buffer.from(hex, 'hex'))
  return new DataView(bytes.buffer)
}

function opcodeOf(one: GoldenRequest): number {
  return Opcode[`FUSE_${one.opcode}` as keyof typeof Opcode]
}

function find(opcode: string): { request: DataView; reply: DataView } {
  const one = golden.requests.find(other => other.opcode === opcode)!
  return { request: viewOf(one.request), reply: viewOf(one.reply ?? '') }
}

function text(view: DataView, at: number): string {
  return Buffer.from(view.buffer, at).toString('latin1')
}

test('the recording has what a guest does in ordinary use', t => {
  t.regex(golden.guest, /^Linux \d/)
  t.true(golden.requests.length >= 30)
})

for (const one of golden.requests)
  test(`${one.opcode}: header, struct, names and reply have the declared shape`, t => {
    const request = viewOf(one.request)
    const opcode = opcodeOf(one)
    t.is(S.fuse_in_header.f.len.get(request, 0), one.requestBytes)
    t.is(S.fuse_in_header.f.opcode.get(request, 0), opcode)
    const shape = OPCODE_SHAPE[opcode]!
    let at = IN
    if (shape.in !== undefined) {
      const have = Math.min(shape.in.SIZE, one.requestBytes - IN)
      t.true(have >= shape.inBytes, `${have} bytes of ${shape.in.NAME}`)
      // Field by field into zeroes: nothing is lost, moved or cut.
      const again = new DataView(new ArrayBuffer(shape.in.SIZE))
      for (const field of Object.values(shape.in.f)) {
        if (field.offset + field.bytes > have) continue
        field.set(again, 0, field.get(request, IN) as never)
      }
      t.deepEqual(new Uint8Array(again.buffer, 0, have), new Uint8Array(request.buffer, IN, have))
      at += have
    }
    for (let i = 0; i < shape.names; i++) {
      const nul = new Uint8Array(request.buffer).indexOf(0, at)
      t.true(nul > at, 'a name that ends')
      at = nul + 1
    }
    if (!shape.data) t.is(at, one.requestBytes, 'nothing is left over')
    const line = printRequest(request, 0, request.byteLength)
    t.true(line.includes(one.opcode) && !line.includes('no NUL'), line)
  })

for (const one of golden.requests.filter(other => other.reply !== undefined))
  test(`${one.opcode}: the reply has the declared shape`, t => {
    const reply = viewOf(one.reply!)
    const shape = OPCODE_SHAPE[opcodeOf(one)]!
    t.is(S.fuse_out_header.f.len.get(reply, 0), one.replyBytes!)
    const error = S.fuse_out_header.f.error.get(reply, 0)
    t.true(error <= 0 && error > -4096)
    if (error < 0) t.is(one.replyBytes!, OUT)
    else if (!shape.payload) t.is(one.replyBytes!, OUT + shape.outBytes)
    t.is(reply.getBigUint64(8, true), viewOf(one.request).getBigUint64(8, true))
    t.regex(printReply(reply, 0, reply.byteLength, opcodeOf(one)), error < 0 ? /-\d+ E/ : /OK/)
  })

test('INIT: Linux 6.1 speaks 7.36 or newer and names its flags', t => {
  const { request, reply } = find('INIT')
  const I = S.fuse_init_in.f
  t.is(I.major.get(request, IN), 7)
  t.true(I.minor.get(request, IN) >= 36)
  t.is(I.max_readahead.get(request, IN), 131072)
  t.is(S.fuse_init_out.f.major.get(reply, OUT), 7)
})

test('what the shell wrote stands in the requests', t => {
  const { request: write } = find('WRITE')
  t.is(S.fuse_write_in.f.offset.get(write, IN), 0)
  t.is(S.fuse_write_in.f.size.get(write, IN), 12)
  t.is(text(write, IN + S.fuse_write_in.SIZE), 'hello, host\n')
  const { request: mkdir } = find('MKDIR')
  t.is(text(mkdir, IN + S.fuse_mkdir_in.SIZE), 'dir\0')
  // FUSE_DONT_MASK: the mode comes whole, with the umask beside it.
  t.is(S.fuse_mkdir_in.f.mode.get(mkdir, IN) & 0o777, 0o777)
  t.is(S.fuse_mkdir_in.f.umask.get(mkdir, IN), 0o22)
  t.is(text(find('SYMLINK').request, IN), 'soft\0file\0')
  t.is(text(find('READLINK').reply, OUT), 'file')
  const { request: setxattr } = find('SETXATTR')
  t.is(S.fuse_setxattr_in.f.size.get(setxattr, IN), 5)
  t.true(text(setxattr, IN).endsWith('user.key\0value'))
  const { request: fallocate } = find('FALLOCATE')
  t.is(S.fuse_fallocate_in.f.length.get(fallocate, IN), 8192)
  const { request: setattr } = find('SETATTR')
  t.not(S.fuse_setattr_in.f.valid.get(setattr, IN), 0)
})

test('vhost-user messages of the guest keep the sizes and descriptors of the specification', t => {
  const names = new Map<number, string>(
    Object.entries(VhostUserRequest).map(([name, id]) => [id, name]),
  )
  const seen = new Set<string>()
  for (const hex of golden.frontEnd) {
    const message = viewOf(hex)
    const id = VhostUserHeader.f.request.get(message, 0)
    const name = names.get(id)
    t.truthy(name, `message ${id}`)
    t.truthy(FRONT_END_RULES[id], name)
    t.is(VhostUserHeader.f.flags.get(message, 0) & 3, 1)
    t.is(VhostUserHeader.SIZE + VhostUserHeader.f.size.get(message, 0), message.byteLength)
    seen.add(name!)
  }
  for (const name of ['GET_FEATURES', 'SET_FEATURES', 'SET_MEM_TABLE', 'SET_VRING_KICK'])
    t.true(
      [...seen].some(one => one.endsWith(name)),
      name,
    )
})

test('SET_MEM_TABLE of user-mode Linux has room for two regions and names one', t => {
  const message = golden.frontEnd
    .map(viewOf)
    .find(
      one => VhostUserHeader.f.request.get(one, 0) === VhostUserRequest.VHOST_USER_SET_MEM_TABLE,
    )!
  const at = VhostUserHeader.SIZE
  t.is(VhostUserHeader.f.size.get(message, 0), 72)
  t.is(message.getUint32(at, true), 1)
  t.true(VhostUserMemoryRegion.f.memory_size.get(message, at + 8) > 0n)
})
