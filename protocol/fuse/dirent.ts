/**
 * Directory entries of READDIR (and, after a fuse_entry_out, of READDIRPLUS).
 * Source: include/uapi/linux/fuse.h, struct fuse_dirent: ino, off, namelen, type, name, padded to 8.
 */
export const FUSE_NAME_OFFSET = 24

/** Bytes an entry with a name of `nameBytes` takes. */
export function direntBytes(nameBytes: number): number {
  return (FUSE_NAME_OFFSET + nameBytes + 7) & ~7
}

/**
 * Writes one entry at `at`; returns its bytes. ino and off are two words each: they are opaque. The
 * name is `name[nameAt, nameAt + nameBytes)`. Padding is zeroed.
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

export interface Dirent {
  readonly ino: bigint
  readonly off: bigint
  readonly type: number
  readonly name: Uint8Array
  /** Bytes of the entry with its padding. */
  readonly bytes: number
}

/** Reads the entry at `at` of a reply that ends at `limit`; undefined when it is not all there. For tests and traces. */
export function readDirent(view: DataView, at: number, limit: number): Dirent | undefined {
  if (at + FUSE_NAME_OFFSET > limit) return undefined
  const nameBytes = view.getUint32(at + 16, true)
  const bytes = direntBytes(nameBytes)
  if (at + FUSE_NAME_OFFSET + nameBytes > limit) return undefined
  return {
    ino: view.getBigUint64(at, true),
    off: view.getBigUint64(at + 8, true),
    type: view.getUint32(at + 20, true),
    name: new Uint8Array(view.buffer, view.byteOffset + at + FUSE_NAME_OFFSET, nameBytes).slice(),
    bytes,
  }
}
