/** The virtio-fs device. Source: virtio 1.3, section 5.11; include/uapi/linux/virtio_fs.h. */
import { array } from '../layout.js'
import { struct, u8, u32 } from '../struct.js'

/** Device id (5.11.1). */
export const VIRTIO_ID_FS = 26
/** Feature bit: there is a notification queue, and `notify_buf_size` (5.11.3). No driver has it yet. */
export const VIRTIO_FS_F_NOTIFICATION = 0
/** Bytes of the tag: UTF-8, padded with NUL, without NUL when it fills them (5.11.4). */
export const VIRTIO_FS_TAG_BYTES = 36
/** Id of the shared memory region that is the DAX window (5.11.6.4). */
export const VIRTIO_FS_SHMCAP_ID_CACHE = 0

/** Config space (5.11.4): `tag0` to `tag35`, then the number of request queues. */
export const virtio_fs_config = struct('virtio_fs_config', {
  ...array('tag', u8, VIRTIO_FS_TAG_BYTES),
  num_request_queues: u32,
})
/** Bytes of config space without the notification queue. */
export const VIRTIO_FS_CONFIG_BYTES = virtio_fs_config.SIZE
/** Where `notify_buf_size` (le32, bytes) is with VIRTIO_FS_F_NOTIFICATION. */
export const VIRTIO_FS_NOTIFY_BUF_SIZE_OFFSET = VIRTIO_FS_CONFIG_BYTES

/** Queue numbers (5.11.2): FORGET (and INTERRUPT) on 0, the other requests from 1 on. */
export const VIRTIO_FS_HIPRIO_QUEUE = 0
export const VIRTIO_FS_FIRST_REQUEST_QUEUE = 1
/**
 * With VIRTIO_FS_F_NOTIFICATION alone: number 1 is the notification queue and requests start at 2. The
 * table in 5.11.2 gives these numbers for all; every driver and device there is closes the gap.
 */
export const VIRTIO_FS_NOTIFICATION_QUEUE = 1

/**
 * Config space of a device with this tag. Errors: RangeError for a tag that is empty, longer than
 * VIRTIO_FS_TAG_BYTES in UTF-8, or has a NUL within.
 */
export function encodeConfig(tag: string, requestQueues: number): Uint8Array {
  const config = new Uint8Array(VIRTIO_FS_CONFIG_BYTES)
  const text = new TextEncoder().encode(tag)
  if (text.length === 0 || text.length > VIRTIO_FS_TAG_BYTES)
    throw new RangeError(`the tag must have 1 to ${VIRTIO_FS_TAG_BYTES} bytes`)
  if (text.includes(0)) throw new RangeError('the tag must not contain a NUL')
  config.set(text)
  virtio_fs_config.f.num_request_queues.set(new DataView(config.buffer), 0, requestQueues)
  return config
}
