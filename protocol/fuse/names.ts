/**
 * Names in requests: bytes that end with NUL, of no known encoding. Nothing here makes a string, except
 * `printableName` for logs. Source: fs/namei.c and include/uapi/linux/limits.h of Linux.
 */
import { Errno } from '../errno.js'

/** Longest name of one directory entry, in bytes, without the NUL. */
export const NAME_MAX = 255
const DOT = 0x2e
const SLASH = 0x2f

/**
 * Offset of the first NUL in `bytes[at, limit)`, or -1. A loop, since names are short and `indexOf` has
 * no end: it would search the data behind the name.
 */
export function findNul(bytes: Uint8Array, at: number, limit: number): number {
  for (let i = at; i < limit; i++) if (bytes[i] === 0) return i
  return -1
}

/** Whether the bytes are `.` or `..`. */
export function isDotName(bytes: Uint8Array, at: number, length: number): boolean {
  if (bytes[at] !== DOT) return false
  return length === 1 || (length === 2 && bytes[at + 1] === DOT)
}

/**
 * Checks that the bytes can be one entry of a directory: 0, or, in this order, -ENOENT empty,
 * -ENAMETOOLONG over NAME_MAX, -EINVAL for `.`, `..` or a slash within. A Linux guest resolves all
 * of these by itself and never sends them.
 */
export function checkComponent(bytes: Uint8Array, at: number, length: number): number {
  if (length === 0) return -Errno.ENOENT
  if (length > NAME_MAX) return -Errno.ENAMETOOLONG
  if (isDotName(bytes, at, length)) return -Errno.EINVAL
  for (let i = at; i < at + length; i++) if (bytes[i] === SLASH) return -Errno.EINVAL
  return 0
}

/**
 * A name for a log line: printable ASCII as it is, everything else (and `"` and backslash) as `\xNN`;
 * `...` after `most` bytes. Bytes past the end of the array read as NUL.
 */
export function printableName(bytes: Uint8Array, at: number, length: number, most = 80): string {
  let text = ''
  const end = at + Math.min(length, most)
  for (let i = at; i < end; i++) {
    const byte = bytes[i] ?? 0
    const plain = byte >= 0x20 && byte < 0x7f && byte !== 0x22 && byte !== 0x5c
    text += plain ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, '0')}`
  }
  return length > most ? `${text}...` : text
}
