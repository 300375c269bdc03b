/**
 * Directory entries of READDIR and, behind a fuse_entry_out, of READDIRPLUS.
 * Source: include/uapi/linux/fuse.h `struct fuse_dirent`, `struct fuse_direntplus` (7.21): ino, off,
 * namelen, type, name; each entry padded to 8 bytes. ino and off are 64 opaque bits: cookies of some
 * file systems use them all, so they are carried as two words and never as one number.
 */
import { fuse_dirent, fuse_entry_out } from './structs.js'

/** Where the name starts in an entry of READDIR, in bytes. */
export const FUSE_NAME_OFFSET = fuse_dirent.SIZE
/** Where the name starts in an entry of READDIRPLUS, in bytes. */
export const FUSE_NAME_OFFSET_DIRENTPLUS = fuse_entry_out.SIZE + fuse_dirent.SIZE

/** Bytes that an entry of READDIR with a name of `nameBytes` takes, padding included. */
export function direntBytes(nameBytes: number): number {
  return (FUSE_NAME_OFFSET + nameBytes + 7) & ~7
}

/** Bytes that an entry of READDIRPLUS takes: a fuse_entry_out, then what `writeDirent` writes. */
export function direntPlusBytes(nameBytes: number): number {
  return fuse_entry_out.SIZE + direntBytes(nameBytes)
}

/**
 * Writes one entry at byte `at` of `view` and of `bytes`, which see the same memory; returns its bytes,
 * `direntBytes(nameBytes)`, for which the caller has made sure there is room. The name is
 * `name[nameAt, nameAt + nameBytes)`, `type` is DT_*, `off` the cookie of the entry after this one.
 * Padding is zeroed. For READDIRPLUS `at` is behind the fuse_entry_out.
 */
export function writeDirent(
  view: DataView,
  bytes: Uint8Array,
  at: number,
  inoLow: number,
  inoHigh: number,
  offLow: number,
  offHigh: number,
  type: number,
  name: Uint8Array,
  nameAt: number,
  nameBytes: number,
): number {
  view.setUint32(at, inoLow, true)
  view.setUint32(at + 4, inoHigh, true)
  view.setUint32(at + 8, offLow, true)
  view.setUint32(at + 12, offHigh, true)
  view.setUint32(at + 16, nameBytes, true)
  view.setUint32(at + 20, type, true)
  const nameTo = at + FUSE_NAME_OFFSET
  for (let i = 0; i < nameBytes; i++) bytes[nameTo + i] = name[nameAt + i]!
  const total = direntBytes(nameBytes)
  for (let i = nameTo + nameBytes; i < at + total; i++) bytes[i] = 0
  return total
}

/** One entry as `readDirent` found it. */
export interface Dirent {
  readonly ino: bigint
  readonly off: bigint
  readonly type: number
  /** A copy. */
  readonly name: Uint8Array
  /** Bytes of the entry with its padding. */
  readonly bytes: number
}

/**
 * Reads the entry at `at` of a reply that ends at `limit`; undefined when it is not all there, padding
 * included. Allocates: for tests and traces.
 */
export function readDirent(view: DataView, at: number, limit: number): Dirent | undefined {
  if (limit - at < FUSE_NAME_OFFSET) return undefined
  const nameBytes = view.getUint32(at + 16, true)
  if (nameBytes > limit - at - FUSE_NAME_OFFSET) return undefined
  const bytes = direntBytes(nameBytes)
  if (bytes > limit - at) return undefined
  return {
    ino: view.getBigUint64(at, true),
    off: view.getBigUint64(at + 8, true),
    type: view.getUint32(at + 20, true),
    name: new Uint8Array(view.buffer, view.byteOffset + at + FUSE_NAME_OFFSET, nameBytes).slice(),
    bytes,
  }
}

/** As `readDirent`, for an entry of READDIRPLUS; its fuse_entry_out is at `at`, `bytes` counts it. */
export function readDirentPlus(view: DataView, at: number, limit: number): Dirent | undefined {
  const dirent = readDirent(view, at + fuse_entry_out.SIZE, limit)
  return dirent && { ...dirent, bytes: dirent.bytes + fuse_entry_out.SIZE }
}
