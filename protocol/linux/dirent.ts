/** Entries of getdents64(2). Source: man getdents64, include/linux/dirent.h `struct linux_dirent64`. */
import { struct, u8, u16, u64 } from '../struct.js'

/**
 * One entry; the name follows at LINUX_DIRENT64_NAME_OFFSET and ends with NUL, the next entry is
 * `d_reclen` bytes from the start. `d_off` is a cookie of 64 opaque bits: copy its two words, do not
 * read it as a number.
 */
export const linux_dirent64 = struct(
  'linux_dirent64',
  { d_ino: u64, d_off: u64, d_reclen: u16, d_type: u8 },
  { packed: true },
)

/** Where `d_name` starts; the C struct itself is padded to 24 bytes. */
export const LINUX_DIRENT64_NAME_OFFSET = linux_dirent64.SIZE
