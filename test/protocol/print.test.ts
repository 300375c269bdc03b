import test from 'ava'
import fc from 'fast-check'
import { flagNames, FOPEN, InitFlag } from '../../protocol/fuse/flags.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import { printReply, printRequest } from '../../protocol/fuse/print.js'
import { join, latin1, reply, request, words, zeroes } from './bytes.js'

const bytes = (...parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(join(...parts).buffer)
const rx = (data: DataView): string => printRequest(data, 0, data.byteLength)
const tx = (data: DataView, opcode: number): string => printReply(data, 0, data.byteLength, opcode)

/** fuse_attr by hand. */
const attr = words(
  [8, 5],
  [8, 12],
  [8, 8],
  ...([1, 2, 3].map(sec => [8, sec]) as [8, number][]),
  ...([0, 0, 0, 0o100644, 1, 0, 0, 0, 4096, 2].map(word => [4, word]) as [4, number][]),
)
const entry = bytes(words([8, 5], [8, 0], [8, 1], [8, 0], [4, 0], [4, 500_000_000]), attr)
const ENTRY_TEXT = 'n5 gen0 tv1.0s attr{tv0.5s ino5 mode0100644 nlink1 uid0 gid0 size12 DAX}'

const requests: ReadonlyArray<readonly [line: string, data: DataView]> = [
  ['rx 12: LOOKUP n1 uid0 pid42 "file"', request(1, latin1('file\0'))],
  ['rx 12: LOOKUP n1 uid0 pid42 "a\\x0ab\\x1b[2J"', request(1, latin1('a\nb\x1b[2J\0'))],
  ['rx 12: LOOKUP n1 uid0 pid42 "file" no NUL', request(1, latin1('file'))],
  ['rx 12: FORGET n1 uid0 pid42 nlookup=3', request(2, words([8, 3]))],
  ['rx 12: GETATTR n1 uid0 pid42 getattr_flags=FH fh=9', request(3, words([4, 1], [4, 0], [8, 9]))],
  [
    'rx 12: SETATTR n1 uid0 pid42 valid=MODE|SIZE size=4096 mode=0644',
    request(
      4,
      words(
        [4, 9],
        [4, 0],
        [8, 7],
        [8, 4096],
        [8, 1],
        [8, 1],
        [8, 1],
        [8, 1],
        [4, 1],
        [4, 1],
        [4, 1],
        [4, 0o644],
        [4, 0],
        [4, 1],
        [4, 1],
        [4, 0],
      ),
    ),
  ],
  ['rx 12: SYMLINK n1 uid0 pid42 "link" "../to"', request(6, latin1('link\0../to\0'))],
  [
    'rx 12: RENAME2 n1 uid0 pid42 newdir=2 flags=EXCHANGE|0x80 "a" "b"',
    request(45, bytes(words([8, 2], [4, 0x82], [4, 0]), latin1('a\0b\0'))),
  ],
  [
    'rx 12: WRITE n1 uid0 pid42 fh=3 offset=0 size=4 write_flags=CACHE lock_owner=0x0 flags=SYNC|WRONLY|LARGEFILE +4B',
    request(
      16,
      bytes(words([8, 3], [8, 0], [4, 4], [4, 1], [8, 0], [4, 0o4110001], [4, 0]), zeroes(4)),
    ),
  ],
  [
    'rx 12: INIT n1 uid0 pid42 major=7 minor=31 max_readahead=131072 flags=ASYNC_READ|POSIX_LOCKS',
    request(26, words([4, 7], [4, 31], [4, 131_072], [4, 3])),
  ],
  [
    'rx 12: INIT n1 uid0 pid42 major=7 minor=45 max_readahead=0 flags=INIT_EXT flags2=HAS_INODE_DAX|0x80000000',
    request(26, bytes(words([4, 7], [4, 45], [4, 0], [4, 1 << 30], [4, 0x8000_0002]), zeroes(44))),
  ],
  [
    'rx 12: SETXATTR n1 uid0 pid42 size=2 flags=CREATE "user.x" +2B',
    request(21, bytes(words([4, 2], [4, 1]), latin1('user.x\0vv'))),
  ],
  [
    'rx 12: SETXATTR n1 uid0 pid42 size=2 flags=0 setxattr_flags=ACL_KILL_SGID "user.x" +2B',
    request(21, bytes(words([4, 2], [4, 0], [4, 1], [4, 0]), latin1('user.x\0vv'))),
  ],
  [
    'rx 12: SETUPMAPPING n1 uid0 pid42 fh=0xffffffffffffffff foffset=0 len=2097152 flags=WRITE|READ|0x100000000 moffset=0',
    request(48, words([8, 2n ** 64n - 1n], [8, 0], [8, 2 ** 21], [8, 0x1_0000_0003n], [8, 0])),
  ],
  [
    'rx 18446744073709551615: DESTROY n18446744073709551615 uid0 pid42 resend',
    request(38, zeroes(0), { unique: 2n ** 64n - 1n, nodeid: 2n ** 64n - 1n }),
  ],
  ['rx 12: READ n1 uid0 pid42 fh=3 short by 32', request(15, words([8, 3]))],
  ['rx 12: opcode 77 n1 uid0 pid42 +3B', request(77, zeroes(3))],
  ['rx 12: LOOKUP n1 uid0 pid42 len=3', request(1, latin1('x\0'), { len: 3 })],
  ['rx 12: CUSE_INIT n1 uid0 pid42', request(4096, zeroes(0))],
  ['rx ?: short request of 39B', join(zeroes(39))],
]
for (const [line, data] of requests) {
  test(`request: ${line}`, t => {
    t.is(rx(data), line)
  })
}

const dirent = bytes(words([8, 1], [8, 1], [4, 1], [4, 4]), latin1('a'), zeroes(7))
const replies: ReadonlyArray<readonly [line: string, opcode: number, data: DataView]> = [
  ['tx 12: -2 ENOENT', Opcode.FUSE_LOOKUP, reply(-2)],
  ['tx 12: -999 E?999', Opcode.FUSE_LOOKUP, reply(-999)],
  ['tx 12: OK', Opcode.FUSE_UNLINK, reply(0)],
  [`tx 12: OK ${ENTRY_TEXT}`, Opcode.FUSE_LOOKUP, reply(0, entry)],
  [
    `tx 12: OK ${ENTRY_TEXT} fh=8 open_flags=KEEP_CACHE|NOFLUSH backing_id=-1`,
    Opcode.FUSE_CREATE,
    reply(0, bytes(entry, words([8, 8], [4, 0x22], [4, -1]))),
  ],
  [
    'tx 12: OK attr{tv1.9s ino5 mode0100644 nlink1 uid0 gid0 size12 DAX}',
    Opcode.FUSE_GETATTR,
    reply(0, bytes(words([8, 1], [4, 999_999_999], [4, 0]), attr)),
  ],
  ['tx 12: OK +4096B', Opcode.FUSE_READ, reply(0, zeroes(0), { len: 16 + 4096 })],
  ['tx 12: OK "../to"', Opcode.FUSE_READLINK, reply(0, latin1('../to'))],
  ['tx 12: OK size=4', Opcode.FUSE_WRITE, reply(0, words([4, 4], [4, 0]))],
  ['tx 12: OK +8B', Opcode.FUSE_GETXATTR, reply(0, zeroes(8))],
  ['tx 12: OK +64B 2 entries', Opcode.FUSE_READDIR, reply(0, bytes(dirent, dirent))],
  ['tx 12: OK +0B 0 entries', Opcode.FUSE_READDIR, reply(0)],
  [
    'tx 12: OK bytes_copied=4294967296',
    Opcode.FUSE_COPY_FILE_RANGE_64,
    reply(0, words([8, 2 ** 32])),
  ],
  ['tx notify: INC_EPOCH', 0, reply(8, zeroes(0), { unique: 0n })],
  ['tx ?: short reply of 15B', 1, join(zeroes(15))],
]
for (const [line, opcode, data] of replies) {
  test(`reply to ${opcode}: ${line}`, t => {
    t.is(tx(data, opcode), line)
  })
}

test('a data part that stayed in guest memory is counted by len', t => {
  const data = request(16, words([8, 3], [8, 0], [4, 4096], [4, 0], [8, 0], [4, 0], [4, 0]), {
    len: 40 + 40 + 4096,
  })
  t.regex(rx(data), / \+4096B$/)
})

test('no bytes make the printer throw, or print what is not printable ASCII on one line', t => {
  const opcodes = fc.oneof(fc.constantFrom(...Object.values(Opcode)), fc.nat(70))
  const body = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.uint8Array({ max: 2, maxLength: 300 }),
  )
  const length = fc.oneof(fc.nat(400), fc.constantFrom(0, 16, 40, 0xffff_ffff, 0x8000_0000))
  fc.assert(
    fc.property(opcodes, body, length, fc.nat(400), fc.nat(9), (opcode, bytes, len, limit, at) => {
      const rxData = join(zeroes(at), new Uint8Array(request(opcode, bytes, { len }).buffer))
      const txData = join(zeroes(at), new Uint8Array(reply(0, bytes, { len }).buffer))
      const noise = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      for (const line of [
        printRequest(rxData, at, limit),
        printReply(txData, at, limit, opcode),
        printRequest(noise, at, limit),
        printReply(noise, at, limit, opcode),
      ]) {
        t.regex(line, /^(rx|tx) [\x20-\x7e]+$/)
        t.true(line.length < 4000)
      }
    }),
    { numRuns: 3000 },
  )
})

test('flags are named once, unknown bits are in hex, and nothing is 0', t => {
  t.is(flagNames(FOPEN, 0, 'FOPEN_'), '0')
  t.is(flagNames(FOPEN, 0x81, 'FOPEN_'), 'DIRECT_IO|PASSTHROUGH')
  t.is(flagNames(FOPEN, -1, 'FOPEN_').split('|').at(-1), '0xffffff00')
  t.is(flagNames(InitFlag, 0x8000_0000), 'FUSE_INIT_RESERVED')
  t.is(flagNames(InitFlag, 0x8000_0000 | 0), 'FUSE_INIT_RESERVED')
})
