/**
 * Payloads of vhost-user messages, by QEMU's struct names.
 *
 * Source: docs/interop/vhost-user.rst, include/uapi/linux/vhost_types.h. The specification says native
 * byte order; every host we run on is little endian. All of this is control plane: addresses and
 * feature words are bigint, so that none is rounded.
 */
import { array } from '../layout.js'
import { bigU64, struct, u8, u16, u32 } from '../struct.js'

/** Starts every message; `size` is the bytes of the payload that follows. */
export const VhostUserHeader = struct(
  'VhostUserHeader',
  { request: u32, flags: u32, size: u32 },
  { packed: true },
)

/** A lone number: features, counts, acknowledgements. */
export const VhostUserU64 = struct('VhostUserU64', { u64: bigU64 })

/** A queue and a number about it: size, index, enabled or not. Source: vhost_types.h. */
export const vhost_vring_state = struct('vhost_vring_state', { index: u32, num: u32 })

/**
 * Where the parts of a ring are: user addresses of the front end (guest addresses with
 * GPA_ADDRESSES). `log_guest_addr` counts with VHOST_VRING_F_LOG. Source: vhost_types.h.
 */
export const vhost_vring_addr = struct('vhost_vring_addr', {
  index: u32,
  flags: u32,
  desc_user_addr: bigU64,
  used_user_addr: bigU64,
  avail_user_addr: bigU64,
  log_guest_addr: bigU64,
})
/** Bit number in `vhost_vring_addr.flags`: writes to the used ring are logged. */
export const VHOST_VRING_F_LOG = 0

/** One piece of guest memory; byte 0 of it is at `mmap_offset` of the descriptor that came along. */
export const VhostUserMemoryRegion = struct('VhostUserMemoryRegion', {
  guest_phys_addr: bigU64,
  memory_size: bigU64,
  userspace_addr: bigU64,
  mmap_offset: bigU64,
})

/** SET_MEM_TABLE: `nregions` VhostUserMemoryRegion follow. */
export const VhostUserMemory = struct('VhostUserMemory', { nregions: u32, padding: u32 })

/** ADD_MEM_REG, REM_MEM_REG: a single region behind 8 bytes of padding. */
export const VhostUserMemRegMsg = struct('VhostUserMemRegMsg', {
  padding: bigU64,
  ...VhostUserMemoryRegion.LAYOUT,
})

/** SET_LOG_BASE with LOG_SHMFD: bytes of the dirty bitmap and where it starts in its descriptor. */
export const VhostUserLog = struct('VhostUserLog', { mmap_size: bigU64, mmap_offset: bigU64 })
/** Bytes that one bit of the dirty bitmap stands for. */
export const VHOST_LOG_PAGE = 0x1000

/** IOTLB messages. The fields are 26 bytes, the C struct 32. Source: vhost_types.h. */
export const vhost_iotlb_msg = struct('vhost_iotlb_msg', {
  iova: bigU64,
  size: bigU64,
  uaddr: bigU64,
  perm: u8,
  type: u8,
  padding0: u16,
  padding1: u32,
})
/** `vhost_iotlb_msg.type`. */
export const IotlbType = {
  VHOST_IOTLB_MISS: 1,
  VHOST_IOTLB_UPDATE: 2,
  VHOST_IOTLB_INVALIDATE: 3,
  VHOST_IOTLB_ACCESS_FAIL: 4,
} as const

/** GET_CONFIG, SET_CONFIG: `size` bytes of config space follow, from `offset` on. */
export const VhostUserConfig = struct('VhostUserConfig', { offset: u32, size: u32, flags: u32 })
/** `VhostUserConfig.flags`: 0 the guest writes writable fields, 1 live migration. */
export const VHOST_SET_CONFIG_TYPE_MIGRATION = 1

/** BACKEND_VRING_HOST_NOTIFIER_MSG: a part of a descriptor; `u64` has the queue, as in SET_VRING_KICK. */
export const VhostUserVringArea = struct('VhostUserVringArea', {
  u64: bigU64,
  size: bigU64,
  offset: bigU64,
})

/** GET_INFLIGHT_FD, SET_INFLIGHT_FD. The fields are 20 bytes, the C struct that QEMU sends 24. */
export const VhostUserInflight = struct('VhostUserInflight', {
  mmap_size: bigU64,
  mmap_offset: bigU64,
  num_queues: u16,
  queue_size: u16,
  padding: u32,
})

/** In the in-flight area, for each split ring: its state, then a DescStateSplit per descriptor. */
export const QueueRegionSplit = struct('QueueRegionSplit', {
  features: bigU64,
  /** 1; 0 in an area that nobody set up yet. */
  version: u16,
  desc_num: u16,
  last_batch_head: u16,
  used_idx: u16,
})

/** State of one head descriptor in the in-flight area. */
export const DescStateSplit = struct('DescStateSplit', {
  inflight: u8,
  padding0: u8,
  padding1: u16,
  padding2: u16,
  next: u16,
  counter: bigU64,
})

/** Messages about shared objects: a uuid of 16 bytes, read here as four words. */
export const VhostUserShared = struct('VhostUserShared', {
  uuid0: u32,
  uuid1: u32,
  uuid2: u32,
  uuid3: u32,
})

/** SET_DEVICE_STATE_FD. */
export const VhostUserTransferDeviceState = struct('VhostUserTransferDeviceState', {
  direction: u32,
  phase: u32,
})
/** `direction`: the back end writes its state (source of a migration) or reads it (target). */
export const VHOST_TRANSFER_STATE_DIRECTION_SAVE = 0
export const VHOST_TRANSFER_STATE_DIRECTION_LOAD = 1
/** `phase`: guest and device are stopped; the one there is. */
export const VHOST_TRANSFER_STATE_PHASE_STOPPED = 0

/** BACKEND_SHMEM_MAP (with the file's descriptor) and BACKEND_SHMEM_UNMAP. Offsets and len in bytes. */
export const VhostUserMMap = struct('VhostUserMMap', {
  shmid: u8,
  padding0: u8,
  padding1: u16,
  padding2: u32,
  fd_offset: bigU64,
  shm_offset: bigU64,
  len: bigU64,
  flags: bigU64,
})
/** `VhostUserMMap.flags`: writable; read-only without it. */
export const VHOST_USER_FLAG_MAP_RW = 1n

/**
 * Back-end messages of older front ends with a DAX window (QEMU as Kata Containers patches it): a file's pieces
 * into the window, and out of it. The specification later gave 6 and 7 to other messages.
 * Source: virtio-fs' QEMU tree, hw/virtio/vhost-user-fs.c; crate vhost 0.10, VhostUserFSBackendMsg.
 */
export const VhostUserFsRequest = {
  VHOST_USER_BACKEND_FS_MAP: 6,
  VHOST_USER_BACKEND_FS_UNMAP: 7,
} as const
/** Pieces of one such message; `len` 0: none. */
export const VHOST_USER_FS_ENTRIES = 8
export const VhostUserFsBackendMsg = struct('VhostUserFsBackendMsg', {
  fd_offset0: bigU64,
  ...array('fd_offset', bigU64, VHOST_USER_FS_ENTRIES),
  c_offset0: bigU64,
  ...array('c_offset', bigU64, VHOST_USER_FS_ENTRIES),
  len0: bigU64,
  ...array('len', bigU64, VHOST_USER_FS_ENTRIES),
  flags0: bigU64,
  ...array('flags', bigU64, VHOST_USER_FS_ENTRIES),
})
export const VHOST_USER_FS_FLAG_MAP_R = 1n
export const VHOST_USER_FS_FLAG_MAP_W = 2n

/** Shared memory regions a device can have: memory_sizes of VhostUserShMemConfig. */
export const VIRTIO_MAX_SHMEM_REGIONS = 256
/** Reply of GET_SHMEM_CONFIG; `memory_sizes<shmid>` in bytes, 0 for none, `nregions` of them not 0. */
export const VhostUserShMemConfig = struct('VhostUserShMemConfig', {
  nregions: u32,
  padding: u32,
  memory_sizes0: bigU64,
  ...array('memory_sizes', bigU64, VIRTIO_MAX_SHMEM_REGIONS),
})
