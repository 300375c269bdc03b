/**
 * Messages of the vhost-user protocol: numbers, sizes, descriptors, replies, the feature that gates each.
 *
 * Source: docs/interop/vhost-user.rst of QEMU (11.1; bit 23 and message 45 are newer). Payload structs
 * are in payloads.ts. `slave` is the old word for back end: the numbers are the same.
 */
import {
  VhostUserConfig,
  VhostUserInflight,
  VhostUserLog,
  VhostUserMemory,
  VhostUserMemoryRegion,
  VhostUserMemRegMsg,
  VhostUserMMap,
  VhostUserShared,
  VhostUserShMemConfig,
  VhostUserTransferDeviceState,
  VhostUserU64,
  VhostUserVringArea,
  vhost_iotlb_msg,
  vhost_vring_addr,
  vhost_vring_state,
} from './payloads.js'

/** Feature bit of GET_FEATURES that says: protocol features can be negotiated. */
export const VHOST_USER_F_PROTOCOL_FEATURES = 30
/** Feature bit: the device can log the pages it writes (include/uapi/linux/vhost_types.h). */
export const VHOST_F_LOG_ALL = 26

/** Bit numbers of GET_PROTOCOL_FEATURES. */
export const ProtocolFeature = {
  VHOST_USER_PROTOCOL_F_MQ: 0,
  VHOST_USER_PROTOCOL_F_LOG_SHMFD: 1,
  VHOST_USER_PROTOCOL_F_RARP: 2,
  VHOST_USER_PROTOCOL_F_REPLY_ACK: 3,
  VHOST_USER_PROTOCOL_F_MTU: 4,
  VHOST_USER_PROTOCOL_F_BACKEND_REQ: 5,
  VHOST_USER_PROTOCOL_F_CROSS_ENDIAN: 6,
  VHOST_USER_PROTOCOL_F_CRYPTO_SESSION: 7,
  VHOST_USER_PROTOCOL_F_PAGEFAULT: 8,
  VHOST_USER_PROTOCOL_F_CONFIG: 9,
  VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD: 10,
  VHOST_USER_PROTOCOL_F_HOST_NOTIFIER: 11,
  VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD: 12,
  VHOST_USER_PROTOCOL_F_RESET_DEVICE: 13,
  /** Kicks and calls as messages. User-mode Linux takes it when offered; we never offer it. */
  VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS: 14,
  VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS: 15,
  VHOST_USER_PROTOCOL_F_STATUS: 16,
  VHOST_USER_PROTOCOL_F_XEN_MMAP: 17,
  VHOST_USER_PROTOCOL_F_SHARED_OBJECT: 18,
  VHOST_USER_PROTOCOL_F_DEVICE_STATE: 19,
  VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT: 20,
  VHOST_USER_PROTOCOL_F_GPA_ADDRESSES: 21,
  VHOST_USER_PROTOCOL_F_SHMEM: 22,
  VHOST_USER_PROTOCOL_F_GET_VRING_BASE_SKIP_DRAIN: 23,
} as const
/** A bit number of ProtocolFeature. */
export type ProtocolFeature = (typeof ProtocolFeature)[keyof typeof ProtocolFeature]

const F = ProtocolFeature

/** Header flags: the version is in the low two bits and is 1. */
export const VHOST_USER_VERSION = 1
export const VHOST_USER_VERSION_MASK = 3
/** Header flags: this is a reply. QEMU wants exactly VERSION | REPLY (5) in one. */
export const VHOST_USER_REPLY_MASK = 1 << 2
/** Header flags: the sender waits for a u64 of 0 (done) or not 0 (failed); needs REPLY_ACK. */
export const VHOST_USER_NEED_REPLY_MASK = 1 << 3

/** u64 of SET_VRING_KICK, CALL and ERR: the queue, and "no descriptor comes with this". */
export const VHOST_USER_VRING_IDX_MASK = 0xff
export const VHOST_USER_VRING_NOFD_MASK = 1 << 8

/** Most descriptors with one message: the regions of SET_MEM_TABLE. */
export const VHOST_USER_MAX_FDS = 8

/** Messages of the front end. */
export const VhostUserRequest = {
  VHOST_USER_GET_FEATURES: 1,
  VHOST_USER_SET_FEATURES: 2,
  VHOST_USER_SET_OWNER: 3,
  VHOST_USER_RESET_OWNER: 4,
  VHOST_USER_SET_MEM_TABLE: 5,
  VHOST_USER_SET_LOG_BASE: 6,
  VHOST_USER_SET_LOG_FD: 7,
  VHOST_USER_SET_VRING_NUM: 8,
  VHOST_USER_SET_VRING_ADDR: 9,
  VHOST_USER_SET_VRING_BASE: 10,
  VHOST_USER_GET_VRING_BASE: 11,
  VHOST_USER_SET_VRING_KICK: 12,
  VHOST_USER_SET_VRING_CALL: 13,
  VHOST_USER_SET_VRING_ERR: 14,
  VHOST_USER_GET_PROTOCOL_FEATURES: 15,
  VHOST_USER_SET_PROTOCOL_FEATURES: 16,
  VHOST_USER_GET_QUEUE_NUM: 17,
  VHOST_USER_SET_VRING_ENABLE: 18,
  VHOST_USER_SEND_RARP: 19,
  VHOST_USER_NET_SET_MTU: 20,
  VHOST_USER_SET_BACKEND_REQ_FD: 21,
  VHOST_USER_IOTLB_MSG: 22,
  VHOST_USER_SET_VRING_ENDIAN: 23,
  VHOST_USER_GET_CONFIG: 24,
  VHOST_USER_SET_CONFIG: 25,
  VHOST_USER_CREATE_CRYPTO_SESSION: 26,
  VHOST_USER_CLOSE_CRYPTO_SESSION: 27,
  VHOST_USER_POSTCOPY_ADVISE: 28,
  VHOST_USER_POSTCOPY_LISTEN: 29,
  VHOST_USER_POSTCOPY_END: 30,
  VHOST_USER_GET_INFLIGHT_FD: 31,
  VHOST_USER_SET_INFLIGHT_FD: 32,
  VHOST_USER_GPU_SET_SOCKET: 33,
  VHOST_USER_RESET_DEVICE: 34,
  VHOST_USER_VRING_KICK: 35,
  VHOST_USER_GET_MAX_MEM_SLOTS: 36,
  VHOST_USER_ADD_MEM_REG: 37,
  VHOST_USER_REM_MEM_REG: 38,
  VHOST_USER_SET_STATUS: 39,
  VHOST_USER_GET_STATUS: 40,
  VHOST_USER_GET_SHARED_OBJECT: 41,
  VHOST_USER_SET_DEVICE_STATE_FD: 42,
  VHOST_USER_CHECK_DEVICE_STATE: 43,
  VHOST_USER_GET_SHMEM_CONFIG: 44,
  VHOST_USER_GET_VRING_BASE_SKIP_DRAIN: 45,
} as const
/** A message number of the front end. */
export type VhostUserRequest = (typeof VhostUserRequest)[keyof typeof VhostUserRequest]

/** Messages of the back end, on the socket that SET_BACKEND_REQ_FD brought. */
export const VhostUserBackendRequest = {
  VHOST_USER_BACKEND_IOTLB_MSG: 1,
  VHOST_USER_BACKEND_CONFIG_CHANGE_MSG: 2,
  VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG: 3,
  VHOST_USER_BACKEND_VRING_CALL: 4,
  VHOST_USER_BACKEND_VRING_ERR: 5,
  VHOST_USER_BACKEND_SHARED_OBJECT_ADD: 6,
  /** For an unknown uuid it does nothing: a barrier behind earlier messages. */
  VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE: 7,
  VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP: 8,
  VHOST_USER_BACKEND_SHMEM_MAP: 9,
  VHOST_USER_BACKEND_SHMEM_UNMAP: 10,
} as const
/** A message number of the back end. */
export type VhostUserBackendRequest =
  (typeof VhostUserBackendRequest)[keyof typeof VhostUserBackendRequest]

/** What a reader may rely on before it looks into a message. */
export interface MessageRule {
  readonly id: number
  /** Without `VHOST_USER_`, for logs. */
  readonly name: string
  /** Bytes of the payload, both ends included. */
  readonly minBytes: number
  readonly maxBytes: number
  /** Descriptors in the ancillary data, both ends included. */
  readonly minFds: number
  readonly maxFds: number
  /**
   * Bytes of the reply that this message always has (a minimum when it varies: `echo` of GET_CONFIG);
   * -1 when it has none, so that only need_reply makes it answered, with a u64.
   */
  readonly replyBytes: number
  /** The protocol feature without which it must not come; -1 for none. */
  readonly gate: number
}

interface RuleOptions {
  readonly bytes?: number | readonly [min: number, max: number]
  readonly fds?: number | readonly [min: number, max: number]
  readonly reply?: number
  readonly gate?: ProtocolFeature
}

type Ids = Readonly<Record<string, number>>

function rules<const T extends Ids>(
  ids: T,
  prefix: string,
  table: Readonly<Record<keyof T & string, RuleOptions>>,
): readonly (MessageRule | undefined)[] {
  const found: (MessageRule | undefined)[] = []
  for (const [key, id] of Object.entries(ids)) {
    const { bytes = 0, fds = 0, reply = -1, gate = -1 } = table[key] as RuleOptions
    const [minBytes, maxBytes] = typeof bytes === 'number' ? [bytes, bytes] : bytes
    const [minFds, maxFds] = typeof fds === 'number' ? [fds, fds] : fds
    const name = key.slice(prefix.length)
    found[id] = Object.freeze({
      id,
      name,
      minBytes,
      maxBytes,
      minFds,
      maxFds,
      replyBytes: reply,
      gate,
    })
  }
  return Object.freeze(Array.from(found))
}

const U64 = VhostUserU64.SIZE
const STATE = vhost_vring_state.SIZE
/** Fields only, as the specification draws it, up to the C struct with its tail padding. */
const IOTLB = [26, vhost_iotlb_msg.SIZE] as const
const INFLIGHT = [20, VhostUserInflight.SIZE] as const
/** Most bytes of config space (QEMU: VHOST_USER_MAX_CONFIG_SIZE). */
export const VHOST_USER_MAX_CONFIG_SIZE = 256
const CONFIG = [VhostUserConfig.SIZE, VhostUserConfig.SIZE + VHOST_USER_MAX_CONFIG_SIZE] as const
/** Most regions of SET_MEM_TABLE, and of a session without CONFIGURE_MEM_SLOTS. */
export const VHOST_MEMORY_BASELINE_NREGIONS = 8
/** A session description; its layout is of no use to a file system. */
const CRYPTO = [8, 4096] as const
const FD_OR_NONE = [0, 1] as const

/** Rules of the front end's messages, indexed by id; undefined where no message is. */
export const FRONT_END_RULES = rules(VhostUserRequest, 'VHOST_USER_', {
  VHOST_USER_GET_FEATURES: { reply: U64 },
  VHOST_USER_SET_FEATURES: { bytes: U64 },
  VHOST_USER_SET_OWNER: {},
  VHOST_USER_RESET_OWNER: {},
  // User-mode Linux 6.1 sends room for more regions than it counts: the size is a minimum.
  VHOST_USER_SET_MEM_TABLE: {
    bytes: [
      VhostUserMemory.SIZE,
      VhostUserMemory.SIZE + VHOST_MEMORY_BASELINE_NREGIONS * VhostUserMemoryRegion.SIZE,
    ],
    fds: [0, VHOST_USER_MAX_FDS],
  },
  // A u64 without LOG_SHMFD; with it a VhostUserLog, a descriptor, and always a reply.
  VHOST_USER_SET_LOG_BASE: { bytes: [U64, VhostUserLog.SIZE], fds: FD_OR_NONE, reply: U64 },
  VHOST_USER_SET_LOG_FD: { bytes: [0, U64], fds: FD_OR_NONE },
  VHOST_USER_SET_VRING_NUM: { bytes: STATE },
  VHOST_USER_SET_VRING_ADDR: { bytes: vhost_vring_addr.SIZE },
  VHOST_USER_SET_VRING_BASE: { bytes: STATE },
  VHOST_USER_GET_VRING_BASE: { bytes: STATE, reply: STATE },
  VHOST_USER_SET_VRING_KICK: { bytes: U64, fds: FD_OR_NONE },
  VHOST_USER_SET_VRING_CALL: { bytes: U64, fds: FD_OR_NONE },
  VHOST_USER_SET_VRING_ERR: { bytes: U64, fds: FD_OR_NONE },
  // Gated by VHOST_USER_F_PROTOCOL_FEATURES, as is SET_VRING_ENABLE: a feature, not a protocol feature.
  VHOST_USER_GET_PROTOCOL_FEATURES: { reply: U64 },
  VHOST_USER_SET_PROTOCOL_FEATURES: { bytes: U64 },
  VHOST_USER_GET_QUEUE_NUM: { reply: U64, gate: F.VHOST_USER_PROTOCOL_F_MQ },
  VHOST_USER_SET_VRING_ENABLE: { bytes: STATE },
  VHOST_USER_SEND_RARP: { bytes: U64, gate: F.VHOST_USER_PROTOCOL_F_RARP },
  VHOST_USER_NET_SET_MTU: { bytes: U64, gate: F.VHOST_USER_PROTOCOL_F_MTU },
  VHOST_USER_SET_BACKEND_REQ_FD: { fds: 1, gate: F.VHOST_USER_PROTOCOL_F_BACKEND_REQ },
  VHOST_USER_IOTLB_MSG: { bytes: IOTLB, reply: U64 },
  VHOST_USER_SET_VRING_ENDIAN: { bytes: STATE, gate: F.VHOST_USER_PROTOCOL_F_CROSS_ENDIAN },
  // The reply has the size of the request; an empty one means an error.
  VHOST_USER_GET_CONFIG: {
    bytes: CONFIG,
    reply: VhostUserConfig.SIZE,
    gate: F.VHOST_USER_PROTOCOL_F_CONFIG,
  },
  VHOST_USER_SET_CONFIG: { bytes: CONFIG, gate: F.VHOST_USER_PROTOCOL_F_CONFIG },
  VHOST_USER_CREATE_CRYPTO_SESSION: {
    bytes: CRYPTO,
    reply: U64,
    gate: F.VHOST_USER_PROTOCOL_F_CRYPTO_SESSION,
  },
  VHOST_USER_CLOSE_CRYPTO_SESSION: { bytes: U64, gate: F.VHOST_USER_PROTOCOL_F_CRYPTO_SESSION },
  // Replies with a userfaultfd and no payload.
  VHOST_USER_POSTCOPY_ADVISE: { reply: 0, gate: F.VHOST_USER_PROTOCOL_F_PAGEFAULT },
  VHOST_USER_POSTCOPY_LISTEN: { gate: F.VHOST_USER_PROTOCOL_F_PAGEFAULT },
  VHOST_USER_POSTCOPY_END: { reply: U64, gate: F.VHOST_USER_PROTOCOL_F_PAGEFAULT },
  // Replies with the description and a descriptor.
  VHOST_USER_GET_INFLIGHT_FD: {
    bytes: INFLIGHT,
    reply: INFLIGHT[0],
    gate: F.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
  },
  VHOST_USER_SET_INFLIGHT_FD: {
    bytes: INFLIGHT,
    fds: 1,
    gate: F.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
  },
  VHOST_USER_GPU_SET_SOCKET: { fds: 1 },
  VHOST_USER_RESET_DEVICE: { gate: F.VHOST_USER_PROTOCOL_F_RESET_DEVICE },
  VHOST_USER_VRING_KICK: { bytes: STATE, gate: F.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS },
  VHOST_USER_GET_MAX_MEM_SLOTS: {
    reply: U64,
    gate: F.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  },
  VHOST_USER_ADD_MEM_REG: {
    bytes: VhostUserMemRegMsg.SIZE,
    fds: 1,
    gate: F.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  },
  // A descriptor is wrong but known to come; it is closed unused.
  VHOST_USER_REM_MEM_REG: {
    bytes: VhostUserMemRegMsg.SIZE,
    fds: FD_OR_NONE,
    gate: F.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  },
  VHOST_USER_SET_STATUS: { bytes: U64, gate: F.VHOST_USER_PROTOCOL_F_STATUS },
  VHOST_USER_GET_STATUS: { reply: U64, gate: F.VHOST_USER_PROTOCOL_F_STATUS },
  // Replies with a dma-buf descriptor, or none.
  VHOST_USER_GET_SHARED_OBJECT: {
    bytes: VhostUserShared.SIZE,
    reply: 0,
    gate: F.VHOST_USER_PROTOCOL_F_SHARED_OBJECT,
  },
  // Reply: bits 0-7 not 0 is an error, VHOST_USER_VRING_NOFD_MASK says that no descriptor comes back.
  VHOST_USER_SET_DEVICE_STATE_FD: {
    bytes: VhostUserTransferDeviceState.SIZE,
    fds: 1,
    reply: U64,
    gate: F.VHOST_USER_PROTOCOL_F_DEVICE_STATE,
  },
  VHOST_USER_CHECK_DEVICE_STATE: { reply: U64, gate: F.VHOST_USER_PROTOCOL_F_DEVICE_STATE },
  VHOST_USER_GET_SHMEM_CONFIG: {
    reply: VhostUserShMemConfig.SIZE,
    gate: F.VHOST_USER_PROTOCOL_F_SHMEM,
  },
  VHOST_USER_GET_VRING_BASE_SKIP_DRAIN: {
    bytes: STATE,
    reply: STATE,
    gate: F.VHOST_USER_PROTOCOL_F_GET_VRING_BASE_SKIP_DRAIN,
  },
})

/** Rules of the back end's messages, indexed by id; all but LOOKUP are answered only on need_reply. */
export const BACK_END_RULES = rules(VhostUserBackendRequest, 'VHOST_USER_', {
  VHOST_USER_BACKEND_IOTLB_MSG: { bytes: IOTLB },
  VHOST_USER_BACKEND_CONFIG_CHANGE_MSG: { gate: F.VHOST_USER_PROTOCOL_F_CONFIG },
  VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG: {
    bytes: VhostUserVringArea.SIZE,
    fds: FD_OR_NONE,
    gate: F.VHOST_USER_PROTOCOL_F_HOST_NOTIFIER,
  },
  VHOST_USER_BACKEND_VRING_CALL: {
    bytes: STATE,
    gate: F.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS,
  },
  VHOST_USER_BACKEND_VRING_ERR: {
    bytes: STATE,
    gate: F.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS,
  },
  VHOST_USER_BACKEND_SHARED_OBJECT_ADD: {
    bytes: VhostUserShared.SIZE,
    gate: F.VHOST_USER_PROTOCOL_F_SHARED_OBJECT,
  },
  VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE: {
    bytes: VhostUserShared.SIZE,
    gate: F.VHOST_USER_PROTOCOL_F_SHARED_OBJECT,
  },
  VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP: {
    bytes: VhostUserShared.SIZE,
    reply: U64,
    gate: F.VHOST_USER_PROTOCOL_F_SHARED_OBJECT,
  },
  VHOST_USER_BACKEND_SHMEM_MAP: {
    bytes: VhostUserMMap.SIZE,
    fds: 1,
    gate: F.VHOST_USER_PROTOCOL_F_SHMEM,
  },
  VHOST_USER_BACKEND_SHMEM_UNMAP: {
    bytes: VhostUserMMap.SIZE,
    gate: F.VHOST_USER_PROTOCOL_F_SHMEM,
  },
})

/** `SET_MEM_TABLE`, or `message 99` for a number that the protocol does not have. For logs. */
export function messageName(id: number): string {
  return FRONT_END_RULES[id]?.name ?? `message ${id}`
}

/** `BACKEND_SHMEM_MAP`, or `back-end message 99`. For logs. */
export function backendMessageName(id: number): string {
  return BACK_END_RULES[id]?.name ?? `back-end message ${id}`
}
