/** The vhost-user session against a front end that does as it should, and against one that does not. */
import test from 'ava'
import { native } from '../../src/native/addon.js'
import {
  concat,
  GUEST_BASE,
  MEMORY_BYTES,
  region,
  u32s,
  u64,
  USER_BASE,
} from '../helpers/front-end.js'
import { FuseClient } from '../helpers/fuse-client.js'
import { type Rig, rig } from '../helpers/rig.js'

const GETATTR = concat(u32s(0, 0), u64(0n))

test('features: VERSION_1, INDIRECT_DESC, EVENT_IDX, LOG_ALL and protocol features are offered', t => {
  const r = rig(t, { start: false })
  t.is(r.front.get(1), (1n << 32n) | (1n << 28n) | (1n << 29n) | (1n << 30n) | (1n << 26n))
})

test('features: CONFIG is offered only with a tag, INBAND_NOTIFICATIONS never', t => {
  t.is(rig(t, { start: false }).front.get(15) & ((1n << 9n) | (1n << 14n)), 0n)
  t.is(rig(t, { start: false, tag: 'myfs' }).front.get(15) & ((1n << 9n) | (1n << 14n)), 1n << 9n)
})

test('GET_CONFIG repeats the size that was asked, byte by byte as user-mode Linux asks', t => {
  const r = rig(t, { start: false, tag: 'my tag' })
  r.front.negotiateProtocol()
  for (const size of [1, 2, 35, 36, 37, 40, 44, 200]) {
    r.front.send(24, concat(u32s(0, size, 0), new Uint8Array(size)))
    const reply = r.front.receive()!
    t.is(reply.flags, 5)
    t.is(reply.payload.byteLength, 12 + size)
    t.is(reply.payload.getUint32(4, true), size)
    const bytes = new Uint8Array(reply.payload.buffer, 12)
    const want = new Uint8Array(200)
    want.set(new TextEncoder().encode('my tag'))
    want[36] = 1
    t.deepEqual(bytes, want.subarray(0, size))
  }
})

test('GET_QUEUE_NUM and GET_MAX_MEM_SLOTS', t => {
  const r = rig(t, { start: false })
  r.front.negotiateProtocol()
  t.is(r.front.get(17), 65n)
  t.is(r.front.get(36), 509n)
})

test('SET_MEM_TABLE may be longer than its regions (user-mode Linux 6.1)', t => {
  const r = rig(t, { start: false })
  r.front.negotiateProtocol()
  const payload = concat(
    u32s(1, 0),
    region(GUEST_BASE, BigInt(MEMORY_BYTES), USER_BASE, 0n),
    new Uint8Array(32),
  )
  t.is(r.front.ask(5, payload, [r.front.memoryFd]), 0)
})

test('a message may arrive in pieces of any size', t => {
  const r = rig(t, { start: false })
  const { context, socket } = r.front
  for (let split = 1; split < 12; split++) {
    context.bytes.set(concat(u32s(1, 1, 0)), 0)
    context.raw.send(socket, 0, split, 0)
    r.pump()
    context.raw.send(socket, split, 12 - split, 0)
    const reply = r.front.receive()!
    t.is(reply.payload.byteLength, 8)
  }
})

test('several messages in one piece are all handled', t => {
  const r = rig(t, { start: false })
  const { context, socket } = r.front
  context.bytes.set(concat(u32s(1, 1, 0), u32s(15, 1, 0), u32s(1, 1, 0)), 0)
  context.raw.send(socket, 0, 36, 0)
  t.deepEqual(
    [r.front.receive()!.request, r.front.receive()!.request, r.front.receive()!.request],
    [1, 15, 1],
  )
})

// --- stops and starts -----------------------------------------------------------------------------

function works(r: Rig): FuseClient {
  const client = new FuseClient(r.front, r.front.rings[1]!)
  client.init()
  return client
}

test('GET_VRING_BASE stops a ring where it is; it goes on from there, with the same nodes', t => {
  const r = rig(t)
  const client = works(r)
  client.create(1, 'kept')
  const ring = r.front.rings[1]!
  const base = ring.stop()
  t.is(base, ring.availIndex)
  ring.start(base)
  t.is(client.do(3, 1, GETATTR).error, 0)
  t.is(r.fs.nodeCount, 2)
})

test('GET_VRING_BASE of a ring that never started answers its base', t => {
  const r = rig(t, { start: false })
  r.front.negotiateProtocol()
  r.front.ask(10, u32s(3, 77))
  r.front.send(11, u32s(3, 0))
  const reply = r.front.receive()!
  t.is(reply.payload.getUint32(0, true), 3)
  t.is(reply.payload.getUint32(4, true), 77)
})

test('SET_VRING_ENABLE 0 stops a ring, 1 starts it again (user-mode Linux)', t => {
  const r = rig(t)
  const client = works(r)
  const ring = r.front.rings[1]!
  r.front.ask(18, u32s(1, 0))
  ring.offer(
    ring.direct([
      [0x30_0000, 56, false],
      [0x30_1000, 120, true],
    ]),
  )
  r.pump()
  t.is(ring.takeUsed().length, 0)
  r.front.memory.set(concat(client.header(3, 1, 16, 5n), GETATTR), 0x30_0000)
  r.front.ask(18, u32s(1, 1))
  t.is(ring.waitUsed()!.written, 120)
})

test('a guest reboot: rings stop, come back from 0 with new memory and INIT', t => {
  const r = rig(t)
  for (let boot = 0; boot < 3; boot++) {
    const client = works(r)
    client.create(1, `boot-${boot}`)
    for (const ring of r.front.rings) ring.stop()
    r.front.setMemTable()
    for (const ring of r.front.rings) {
      ring.clear()
      ring.start()
    }
  }
  works(r)
  t.is(r.fs.nodeCount, 1)
})

test('SET_MEM_TABLE while rings run: they go on in the new mapping', t => {
  const r = rig(t)
  const client = works(r)
  t.is(r.front.setMemTable(), 0)
  t.is(client.do(3, 1, GETATTR).error, 0)
})

test('ADD_MEM_REG and REM_MEM_REG; a region that a running ring lies in stays', t => {
  const r = rig(t)
  const client = works(r)
  const fd = native.memfd('more', 65536)
  const more = concat(u64(0n), region(0x4000_0000n, 65536n, 0x6000_0000_0000n, 0n))
  t.is(r.front.ask(37, more, [fd]), 0)
  t.is(r.front.ask(37, more, [fd]), 1, 'twice is refused')
  t.is(r.front.ask(38, more), 0)
  t.is(r.front.ask(38, more), 1, 'it is gone')
  t.is(r.front.ask(38, concat(u64(0n), region(GUEST_BASE, BigInt(MEMORY_BYTES), USER_BASE, 0n))), 1)
  native.closeFd(fd)
  t.is(client.do(3, 1, GETATTR).error, 0)
})

test('RESET_DEVICE releases everything; the device can be started again', t => {
  const r = rig(t)
  const client = works(r)
  client.create(1, 'a')
  t.is(r.front.ask(34), 0)
  t.is(r.fs.nodeCount, 1)
  for (const ring of r.front.rings) {
    ring.clear()
    ring.start()
  }
  works(r)
})

test('a call descriptor may be a pipe or a socket, and may change while the ring runs', t => {
  const r = rig(t)
  const client = works(r)
  const pair = new Int32Array(2)
  native.socketPair(pair)
  r.front.ask(13, u64(1n), [pair[0]!])
  client.do(3, 1, GETATTR)
  t.is(native.eventRead(pair[1]!, 100), 1)
  r.front.ask(13, u64(1n), [r.front.rings[1]!.callFd])
  client.do(3, 1, GETATTR)
  native.closeFd(pair[0]!)
  native.closeFd(pair[1]!)
})

test('the front end goes: rings, nodes, memory and descriptors are released', t => {
  const r = rig(t)
  works(r).create(1, 'a')
  native.closeFd(native.dupFd(0))
  r.end()
  t.is(r.fs.nodeCount, 1)
  t.is(r.fs.handleCount, 0)
})

// --- a front end that does not follow the protocol --------------------------------------------------

interface Malformed {
  readonly why: string
  readonly request: number
  readonly payload?: Uint8Array
  readonly fds?: number
  readonly flags?: number
}

const address = (index: number, desc: bigint, used: bigint, avail: bigint): Uint8Array =>
  concat(u32s(index, 0), u64(desc), u64(used), u64(avail), u64(0n))

/** Refused with an error reply where one is asked for, and by closing the connection where none is. */
const REFUSED: Malformed[] = [
  { why: 'GET_FEATURES with a payload', request: 1, payload: u64(0n) },
  { why: 'SET_FEATURES without a payload', request: 2 },
  { why: 'SET_FEATURES of bits that were not offered', request: 2, payload: u64(1n << 34n) },
  {
    why: 'SET_PROTOCOL_FEATURES of bits that were not offered',
    request: 16,
    payload: u64(1n << 14n),
  },
  { why: 'SET_OWNER twice', request: 3 },
  { why: 'a message that is none', request: 77 },
  { why: 'message 0', request: 0 },
  { why: 'a message for another kind of device', request: 19, payload: u64(0n) },
  { why: 'POSTCOPY_ADVISE, which was not negotiated', request: 28 },
  { why: 'GET_CONFIG without the feature', request: 24, payload: u32s(0, 0, 0) },
  {
    why: 'SET_MEM_TABLE without descriptors',
    request: 5,
    payload: concat(u32s(1, 0), region(GUEST_BASE, 4096n, USER_BASE, 0n)),
  },
  {
    why: 'SET_MEM_TABLE with a surplus descriptor',
    request: 5,
    payload: concat(u32s(1, 0), region(GUEST_BASE, 4096n, USER_BASE, 0n)),
    fds: 2,
  },
  {
    why: 'SET_MEM_TABLE of 9 regions',
    request: 5,
    payload: concat(u32s(9, 0), new Uint8Array(288)),
    fds: 8,
  },
  {
    why: 'SET_MEM_TABLE of more regions than its size',
    request: 5,
    payload: concat(u32s(3, 0), region(GUEST_BASE, 4096n, USER_BASE, 0n)),
    fds: 3,
  },
  {
    why: 'SET_MEM_TABLE of 2^32-1 regions',
    request: 5,
    payload: concat(u32s(0xffff_ffff, 0), region(GUEST_BASE, 4096n, USER_BASE, 0n)),
    fds: 1,
  },
  {
    why: 'a region of 32 TiB over a small file',
    request: 5,
    payload: concat(u32s(1, 0), region(0n, 1n << 45n, USER_BASE, 0n)),
    fds: 1,
  },
  {
    why: 'a region that wraps',
    request: 5,
    payload: concat(u32s(1, 0), region(0xffff_ffff_ffff_f000n, 0x2000n, USER_BASE, 0n)),
    fds: 1,
  },
  {
    why: 'a region whose user address wraps',
    request: 5,
    payload: concat(u32s(1, 0), region(0n, 0x2000n, 0xffff_ffff_ffff_f000n, 0n)),
    fds: 1,
  },
  {
    why: 'an empty region',
    request: 5,
    payload: concat(u32s(1, 0), region(0n, 0n, USER_BASE, 0n)),
    fds: 1,
  },
  {
    why: 'regions that overlap',
    request: 5,
    payload: concat(
      u32s(2, 0),
      region(0n, 8192n, USER_BASE, 0n),
      region(4096n, 8192n, USER_BASE + 65536n, 0n),
    ),
    fds: 2,
  },
  { why: 'a ring of 0 entries', request: 8, payload: u32s(0, 0) },
  { why: 'a ring of 100 entries', request: 8, payload: u32s(0, 100) },
  { why: 'a ring of 65536 entries', request: 8, payload: u32s(0, 65536) },
  { why: 'ring 65', request: 8, payload: u32s(65, 128) },
  { why: 'ring 2^32-1', request: 8, payload: u32s(0xffff_ffff, 128) },
  { why: 'GET_VRING_BASE of ring 65', request: 11, payload: u32s(65, 0) },
  { why: 'SET_VRING_KICK of ring 200', request: 12, payload: u64(200n), fds: 1 },
  { why: 'SET_VRING_ENABLE 2', request: 18, payload: u32s(0, 2) },
  {
    why: 'a ring that is not aligned',
    request: 9,
    payload: address(0, USER_BASE + 1n, USER_BASE + 0x8000n, USER_BASE + 0x4000n),
  },
  {
    why: 'an avail ring at an odd address',
    request: 9,
    payload: address(0, USER_BASE, USER_BASE + 0x8000n, USER_BASE + 0x4001n),
  },
  { why: 'SET_VRING_KICK without its descriptor', request: 12, payload: u64(0n) },
  { why: 'SET_VRING_KICK with two descriptors', request: 12, payload: u64(0n), fds: 2 },
  {
    why: 'SET_VRING_CALL with a descriptor though it says none',
    request: 13,
    payload: u64(0x100n),
    fds: 1,
  },
  { why: 'SET_OWNER with a descriptor', request: 3, fds: 1 },
  { why: 'SET_BACKEND_REQ_FD without a descriptor', request: 21 },
  {
    why: 'ADD_MEM_REG without a descriptor',
    request: 37,
    payload: concat(u64(0n), region(0n, 4096n, USER_BASE, 0n)),
  },
  {
    why: 'REM_MEM_REG of a region that is not there',
    request: 38,
    payload: concat(u64(0n), region(0n, 4096n, USER_BASE, 0n)),
  },
  { why: 'SET_VRING_NUM cut short', request: 8, payload: u32s(0) },
  { why: 'SET_VRING_ADDR with surplus bytes', request: 9, payload: new Uint8Array(48) },
]

/** Messages with a reply of their own have no error form. */
const HAVE_A_REPLY = new Set([1, 11, 15, 17, 24, 28, 36])

for (const acknowledged of [true, false])
  for (const { why, request, payload, fds = 0 } of REFUSED)
    test(`refused ${acknowledged ? 'by reply' : 'by closing'}: ${why}`, t => {
      const r = rig(t, { start: false })
      r.front.negotiateProtocol()
      r.front.ask(3)
      const memory = Array.from({ length: fds }, () => r.front.memoryFd)
      r.front.send(request, payload, memory, acknowledged ? 9 : 1)
      const reply = r.front.receive()
      if (acknowledged && !HAVE_A_REPLY.has(request)) {
        t.is(reply!.payload.getBigUint64(0, true), 1n)
        t.true(r.front.get(1) > 0n, 'the session goes on')
      } else {
        t.is(reply, undefined)
        t.true(r.session.violation.length > 0)
      }
    })

test('rings outside guest memory are refused when they are to run', t => {
  const r = rig(t, { start: false })
  r.front.negotiateProtocol()
  r.front.setMemTable()
  r.front.ask(8, u32s(1, 128))
  r.front.ask(9, address(1, 0x1000n, 0x2000n, 0x3000n))
  const kick = native.eventFd()
  r.front.ask(12, u64(1n), [kick])
  t.is(r.front.ask(18, u32s(1, 1)), 1)
  native.closeFd(kick)
})

test('a ring that crosses the end of its region is refused', t => {
  const r = rig(t, { start: false })
  r.front.negotiateProtocol()
  r.front.setMemTable()
  r.front.ask(8, u32s(1, 128))
  const end = USER_BASE + BigInt(MEMORY_BYTES)
  r.front.ask(9, address(1, end - 1024n, USER_BASE + 0x8000n, USER_BASE + 0x4000n))
  const kick = native.eventFd()
  r.front.ask(12, u64(1n), [kick])
  t.is(r.front.ask(18, u32s(1, 1)), 1)
  native.closeFd(kick)
})

for (const [why, header] of [
  ['version 0', u32s(1, 0, 0)],
  ['version 2', u32s(1, 2, 0)],
  ['a reply nobody asked for', u32s(1, 5, 0)],
  ['a payload of 4 GiB', u32s(2, 1, 0xffff_ffff)],
  ['a payload of 5000 bytes', u32s(2, 1, 5000)],
] as const)
  test(`the connection is closed on a header with ${why}`, t => {
    const r = rig(t, { start: false })
    r.front.context.bytes.set(header, 0)
    r.front.context.raw.send(r.front.socket, 0, 12, 0)
    t.is(r.front.receive(), undefined)
  })

test('SET_VRING_KICK before NUM and ADDR does not start a ring', t => {
  const r = rig(t, { start: false })
  r.front.negotiateProtocol()
  r.front.setMemTable()
  const kick = native.eventFd()
  t.is(r.front.ask(12, u64(1n), [kick]), 0)
  t.is(r.front.ask(18, u32s(1, 1)), 0)
  t.false(r.device.queues[1]!.up)
  native.closeFd(kick)
})
