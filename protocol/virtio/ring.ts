/** The split virtqueue's layout. Source: virtio 1.3, section 2.7; include/uapi/linux/virtio_ring.h. */

/** Bytes of a descriptor: le64 addr, le32 len, le16 flags, le16 next. */
export const VRING_DESC_SIZE = 16
export const VRING_DESC_F_NEXT = 1
export const VRING_DESC_F_WRITE = 2
export const VRING_DESC_F_INDIRECT = 4

/** Driver: do not signal (ignored with EVENT_IDX). */
export const VRING_AVAIL_F_NO_INTERRUPT = 1
/** Device: do not kick (ignored with EVENT_IDX). */
export const VRING_USED_F_NO_NOTIFY = 1

/** Alignment of the three parts, in bytes (2.7). */
export const VRING_DESC_ALIGN = 16
export const VRING_AVAIL_ALIGN = 2
export const VRING_USED_ALIGN = 4

/** Largest ring (2.7). */
export const VRING_MAX_SIZE = 32768

/** Feature bits that matter to a ring. */
export const VIRTIO_RING_F_INDIRECT_DESC = 28
export const VIRTIO_RING_F_EVENT_IDX = 29
export const VIRTIO_F_VERSION_1 = 32
export const VIRTIO_F_ACCESS_PLATFORM = 33
export const VIRTIO_F_RING_PACKED = 34
export const VIRTIO_F_IN_ORDER = 35
export const VIRTIO_F_ORDER_PLATFORM = 36
export const VIRTIO_F_NOTIFICATION_DATA = 38
export const VIRTIO_F_RING_RESET = 40

export function descriptorTableBytes(size: number): number {
  return VRING_DESC_SIZE * size
}
/** flags, idx, ring[size] of u16; used_event after them with EVENT_IDX. */
export function availRingBytes(size: number, eventIdx: boolean): number {
  return 4 + 2 * size + (eventIdx ? 2 : 0)
}
/** flags, idx of u16; ring[size] of {u32 id, u32 len}; avail_event after them with EVENT_IDX. */
export function usedRingBytes(size: number, eventIdx: boolean): number {
  return 4 + 8 * size + (eventIdx ? 2 : 0)
}

/** Whether moving an index from `old` to `now` passed `event` (2.7.7.1, 2.7.10.1; all modulo 2^16). */
export function vringNeedEvent(event: number, now: number, old: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - old) & 0xffff)
}
