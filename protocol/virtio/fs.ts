/** The virtio-fs device. Source: virtio 1.3, section 5.11. */
export const VIRTIO_ID_FS = 26
/** Device feature: a notification queue (no driver has it yet). */
export const VIRTIO_FS_F_NOTIFICATION = 0
/** Bytes of the tag in config space: UTF-8, padded with NUL, no NUL when it fills them. */
export const VIRTIO_FS_TAG_BYTES = 36
/** tag[36], le32 num_request_queues. */
export const VIRTIO_FS_CONFIG_BYTES = 40
/** Queue 0 carries FORGET (and INTERRUPT), 1... the other requests. */
export const VIRTIO_FS_HIPRIO_QUEUE = 0
export const VIRTIO_FS_FIRST_REQUEST_QUEUE = 1

/** Config space of a device with this tag. Errors: RangeError for an empty or too long tag. */
export function encodeConfig(tag: string, requestQueues: number): Uint8Array {
  const config = new Uint8Array(VIRTIO_FS_CONFIG_BYTES)
  const text = new TextEncoder().encode(tag)
  if (text.length === 0 || text.length > VIRTIO_FS_TAG_BYTES)
    throw new RangeError(`the tag must have 1 to ${VIRTIO_FS_TAG_BYTES} bytes`)
  config.set(text)
  new DataView(config.buffer).setUint32(VIRTIO_FS_TAG_BYTES, requestQueues, true)
  return config
}
