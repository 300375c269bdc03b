import test from 'ava'
import {
  BACK_END_RULES,
  backendMessageName,
  FRONT_END_RULES,
  messageName,
  ProtocolFeature,
  VhostUserBackendRequest,
  VhostUserRequest,
} from '../../protocol/vhost-user/messages.js'
import * as P from '../../protocol/vhost-user/payloads.js'
import { view } from './bytes.js'

// Sizes as QEMU's C structs have them (hw/virtio/vhost-user.c), on a 64-bit machine.
const sizes: ReadonlyArray<readonly [struct: { NAME: string; SIZE: number }, bytes: number]> = [
  [P.VhostUserHeader, 12],
  [P.VhostUserU64, 8],
  [P.vhost_vring_state, 8],
  [P.vhost_vring_addr, 40],
  [P.VhostUserMemoryRegion, 32],
  [P.VhostUserMemory, 8],
  [P.VhostUserMemRegMsg, 40],
  [P.VhostUserLog, 16],
  [P.vhost_iotlb_msg, 32],
  [P.VhostUserConfig, 12],
  [P.VhostUserVringArea, 24],
  [P.VhostUserInflight, 24],
  [P.QueueRegionSplit, 16],
  [P.DescStateSplit, 16],
  [P.VhostUserShared, 16],
  [P.VhostUserTransferDeviceState, 8],
  [P.VhostUserMMap, 40],
  [P.VhostUserShMemConfig, 2056],
]
for (const [struct, bytes] of sizes) {
  test(`${struct.NAME} has ${bytes} bytes`, t => {
    t.is(struct.SIZE, bytes)
  })
}

test('every message has a rule under its own number', t => {
  for (const [ids, rules] of [
    [VhostUserRequest, FRONT_END_RULES],
    [VhostUserBackendRequest, BACK_END_RULES],
  ] as const) {
    for (const [name, id] of Object.entries(ids)) {
      const rule = rules[id]
      t.is(`VHOST_USER_${rule?.name}`, name)
      t.is(rule?.id, id)
      t.true(rule !== undefined && rule.minBytes <= rule.maxBytes && rule.minFds <= rule.maxFds)
    }
    t.is(rules.filter(Boolean).length, Object.keys(ids).length)
    t.is(rules[0], undefined)
  }
})

test('message numbers are 1 to 45 and 1 to 10, without a gap', t => {
  const upTo = (last: number): number[] => Array.from({ length: last }, (_, i) => i + 1)
  t.deepEqual(Object.values(VhostUserRequest) as number[], upTo(45))
  t.deepEqual(Object.values(VhostUserBackendRequest) as number[], upTo(10))
})

test('protocol features are bits 0 to 23, SHMEM 22', t => {
  t.deepEqual(
    Object.values(ProtocolFeature) as number[],
    Array.from({ length: 24 }, (_, bit) => bit),
  )
  t.is(ProtocolFeature.VHOST_USER_PROTOCOL_F_SHMEM, 22)
})

test('these and no others have a reply of their own', t => {
  const own = FRONT_END_RULES.filter(rule => rule && rule.replyBytes >= 0).map(rule => rule!.name)
  t.deepEqual(own, [
    'GET_FEATURES',
    'SET_LOG_BASE',
    'GET_VRING_BASE',
    'GET_PROTOCOL_FEATURES',
    'GET_QUEUE_NUM',
    'IOTLB_MSG',
    'GET_CONFIG',
    'CREATE_CRYPTO_SESSION',
    'POSTCOPY_ADVISE',
    'POSTCOPY_END',
    'GET_INFLIGHT_FD',
    'GET_MAX_MEM_SLOTS',
    'GET_STATUS',
    'GET_SHARED_OBJECT',
    'SET_DEVICE_STATE_FD',
    'CHECK_DEVICE_STATE',
    'GET_SHMEM_CONFIG',
    'GET_VRING_BASE_SKIP_DRAIN',
  ])
})

const rows: ReadonlyArray<
  readonly [name: string, bytes: readonly [number, number], fds: readonly [number, number]]
> = [
  ['SET_MEM_TABLE', [8, 264], [0, 8]],
  ['SET_LOG_BASE', [8, 16], [0, 1]],
  ['SET_VRING_KICK', [8, 8], [0, 1]],
  ['SET_BACKEND_REQ_FD', [0, 0], [1, 1]],
  ['GET_CONFIG', [12, 268], [0, 0]],
  ['SET_INFLIGHT_FD', [20, 24], [1, 1]],
  ['ADD_MEM_REG', [40, 40], [1, 1]],
  ['REM_MEM_REG', [40, 40], [0, 1]],
  ['SET_DEVICE_STATE_FD', [8, 8], [1, 1]],
  ['GET_SHMEM_CONFIG', [0, 0], [0, 0]],
]
for (const [name, bytes, fds] of rows) {
  test(`${name} has ${bytes.join(' to ')} bytes and ${fds.join(' to ')} descriptors`, t => {
    const rule = FRONT_END_RULES.find(row => row?.name === name)
    t.deepEqual([rule?.minBytes, rule?.maxBytes], [...bytes])
    t.deepEqual([rule?.minFds, rule?.maxFds], [...fds])
  })
}

test('SHMEM_MAP comes with the file, SHMEM_UNMAP without', t => {
  const map = BACK_END_RULES[VhostUserBackendRequest.VHOST_USER_BACKEND_SHMEM_MAP]
  const unmap = BACK_END_RULES[VhostUserBackendRequest.VHOST_USER_BACKEND_SHMEM_UNMAP]
  t.deepEqual([map?.minFds, map?.maxFds, map?.minBytes], [1, 1, 40])
  t.deepEqual([unmap?.minFds, unmap?.maxFds, unmap?.minBytes], [0, 0, 40])
})

test('a mapping request is read byte for byte', t => {
  const data = view(`
    02 00000000000000 0010000000000000 0000200000000000 0000200000000000 0100000000000000`)
  const M = P.VhostUserMMap.f
  t.is(M.shmid.get(data, 0), 2)
  t.is(M.fd_offset.get(data, 0), 0x1000n)
  t.is(M.shm_offset.get(data, 0), 0x20_0000n)
  t.is(M.len.get(data, 0), 0x20_0000n)
  t.is(M.flags.get(data, 0), P.VHOST_USER_FLAG_MAP_RW)
})

test('messages have names, unknown ones their number', t => {
  t.is(messageName(5), 'SET_MEM_TABLE')
  t.is(messageName(0), 'message 0')
  t.is(messageName(99), 'message 99')
  t.is(backendMessageName(9), 'BACKEND_SHMEM_MAP')
  t.is(backendMessageName(11), 'back-end message 11')
})
