/** How a device thread's arena is divided. Offsets and sizes in bytes; all parts are 64-byte aligned. */
import { SCRATCH_BYTES } from '../vfs/request.js'

/** The longest request that is not WRITE: a SETXATTR value of 64 KiB, its names and headers; more is E2BIG. */
export const REQUEST_BYTES = 128 * 1024
/** What is copied of every request at first: any struct with two names of 255 bytes; for WRITE never more. */
export const HEAD_BYTES = 4096
/** The longest reply body that is built in the arena (READDIR, xattrs, READLINK, IOCTL); READ bypasses it. */
export const REPLY_BYTES = 256 * 1024
/** Indirect tables: 16 bytes an entry, so up to 32768 entries. */
export const TABLE_BYTES = 512 * 1024
/** vhost-user messages. */
export const MESSAGE_BYTES = 8192
/** Requests on the back-end channel, and what the DAX window needs. */
export const CHANNEL_BYTES = 1024
export const DAX_BYTES = 256

export const REQUEST_AT = 0
export const REPLY_AT = REQUEST_AT + REQUEST_BYTES
/** Headers of replies that come later, built while another request may be under way. */
export const LATE_REPLY_AT = REPLY_AT + REPLY_BYTES
export const LATE_REPLY_BYTES = 4096
export const TABLE_AT = LATE_REPLY_AT + LATE_REPLY_BYTES
export const MESSAGE_AT = TABLE_AT + TABLE_BYTES
export const CHANNEL_AT = MESSAGE_AT + MESSAGE_BYTES
export const DAX_AT = CHANNEL_AT + CHANNEL_BYTES
export const SCRATCH_AT = DAX_AT + DAX_BYTES
export const ARENA_BYTES = Math.ceil((SCRATCH_AT + SCRATCH_BYTES) / 4096) * 4096
