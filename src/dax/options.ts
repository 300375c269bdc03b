/** What may be mapped into the DAX window: from the safest to the fastest. */

/**
 * - `never`: nothing; no window is offered.
 * - `sealed`: files whose size nobody but the daemon can change. Of a host directory that is none, of the
 *   in-memory file system all.
 * - `exclusive`: the operator says that while a guest runs nobody else makes the files shorter or longer. Files of whole pages are
 *   mapped; others are read, next to them, in the same mount.
 * - `always`: the same promise, and every file of some size is mapped: one that does not end with its page is made longer up
 *   to there for the moment of mapping (a front end maps whole pages of what is there), then cut again.
 *
 * Whoever breaks the promise, the mapping is taken away as soon as it is seen. A guest that touches it before gets
 * SIGBUS in its VMM: that is the VMM's end.
 */
export type DaxPolicy = 'never' | 'sealed' | 'exclusive' | 'always'

export interface DaxOptions {
  /** A power of two, MIN_WINDOW_BYTES at least. */
  readonly windowBytes: number
  readonly policy: DaxPolicy
  /** Smaller files are read: a mapping costs some hundred microseconds. */
  readonly minFileBytes: number
}

/** A guest that fills a larger window has more mappings than QEMU 11.1 takes, and sees I/O errors. */
export const SAFE_WINDOW_BYTES = 512 * 1024 * 1024
/** Linux maps 2 MiB at a time, and refuses the device with a smaller window. */
export const MIN_WINDOW_BYTES = 2 * 1024 * 1024
export const DEFAULT_MIN_FILE_BYTES = 32 * 1024
