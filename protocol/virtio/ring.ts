/** The split virtqueue's layout. Source: virtio 1.3, section 2.7; include/uapi/linux/virtio_ring.h. */
import { struct, u16, u32, u64 } from '../struct.js'

/** A descriptor (2.7.5): `len` bytes at guest address `addr`. */
export const vring_desc = struct('vring_desc', { addr: u64, len: u32, flags: u16, next: u16 })
/** An element of the used ring (2.7.8): head of a chain, and bytes written to its writable part. */
export const vring_used_elem = struct('vring_used_elem', { id: u32, len: u32 })

/** Bytes of a descriptor. */
export const VRING_DESC_SIZE = vring_desc.SIZE
/** `vring_desc.flags`: `next` goes on; the device writes; the buffer is a table of descriptors. */
export const VRING_DESC_F_NEXT = 1
export const VRING_DESC_F_WRITE = 2
export const VRING_DESC_F_INDIRECT = 4

/** The driver's flags: do not signal (2.7.7; ignored with EVENT_IDX). */
export const VRING_AVAIL_F_NO_INTERRUPT = 1
/** The device's flags: do not kick (2.7.10; ignored with EVENT_IDX). */
export const VRING_USED_F_NO_NOTIFY = 1

/** Alignment of the three parts, in bytes (2.7); the header calls them VRING_..._ALIGN_SIZE. */
export const VRING_DESC_ALIGN = 16
export const VRING_AVAIL_ALIGN = 2
export const VRING_USED_ALIGN = 4

/** Largest ring, in descriptors; every size is a power of two (2.7). */
export const VRING_MAX_SIZE = 32768

/** Feature bits that matter to a ring, as bit numbers (section 6). */
export const VIRTIO_RING_F_INDIRECT_DESC = 28
export const VIRTIO_RING_F_EVENT_IDX = 29
export const VIRTIO_F_VERSION_1 = 32
/** Once VIRTIO_F_IOMMU_PLATFORM: addresses go through an IOMMU. */
export const VIRTIO_F_ACCESS_PLATFORM = 33
export const VIRTIO_F_RING_PACKED = 34
export const VIRTIO_F_IN_ORDER = 35
export const VIRTIO_F_ORDER_PLATFORM = 36
export const VIRTIO_F_SR_IOV = 37
export const VIRTIO_F_NOTIFICATION_DATA = 38
export const VIRTIO_F_NOTIF_CONFIG_DATA = 39
export const VIRTIO_F_RING_RESET = 40
export const VIRTIO_F_ADMIN_VQ = 41

/** Bytes of the descriptor table of a ring of `size` (2.7.5). */
export function descriptorTableBytes(size: number): number {
  return VRING_DESC_SIZE * size
}

/** Bytes of the available ring: flags, idx, ring[size] of u16; used_event behind them with EVENT_IDX (2.7.6). */
export function availRingBytes(size: number, eventIdx: boolean): number {
  return usedEventOffset(size) + (eventIdx ? 2 : 0)
}

/** Bytes of the used ring: flags, idx of u16, ring[size]; avail_event behind them with EVENT_IDX (2.7.8). */
export function usedRingBytes(size: number, eventIdx: boolean): number {
  return availEventOffset(size) + (eventIdx ? 2 : 0)
}

/** Where the driver says which used index it wants a signal for: bytes from the start of the available ring. */
export function usedEventOffset(size: number): number {
  return 4 + 2 * size
}

/** Where the device says which available index it wants a kick for: bytes from the start of the used ring. */
export function availEventOffset(size: number): number {
  return 4 + vring_used_elem.SIZE * size
}

/**
 * Whether moving an index from `old` to `now` passed `event`, all modulo 2^16 (2.7.7.2, 2.7.10.1). No
 * move at all passes nothing.
 */
export function vringNeedEvent(event: number, now: number, old: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - old) & 0xffff)
}
