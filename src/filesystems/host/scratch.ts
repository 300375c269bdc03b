/** How the host back end divides `Request.scratchAt`: offsets in bytes. */
export const STAT_AT = 0
export const STAT2_AT = 256
/** A name the back end remembers, with its NUL. */
export const NAME_AT = 512
/** struct statfs, or a file handle (136 bytes). */
export const OTHER_AT = 1024
/** Directory entries: the rest, 64 KiB. */
export const ENTRIES_AT = 4096
export const ENTRIES_BYTES = 65536
