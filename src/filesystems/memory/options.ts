/** What the in-memory file system can be made with. */
import { totalmem } from 'node:os'

export interface MemoryOptions {
  /**
   * Bytes of file data (whole pages of 4096), link targets and extended attributes at most; past it
   * ENOSPC. Half of the machine's memory unless given, as tmpfs has it.
   */
  readonly maxBytes: number
  /**
   * Nodes at most, the root and every further hard link counted; past it ENOSPC. A node takes about
   * 1 KiB of this process' memory, and each file that is not empty one descriptor.
   */
  readonly maxNodes: number
  /** Seconds the guest may answer from its own caches. Long unless given: nobody else changes the tree. */
  readonly cacheSeconds: number
  /** Permission bits and owner of the root. */
  readonly rootMode: number
  readonly rootUid: number
  readonly rootGid: number
  /** The time of day in milliseconds since 1970, fractions allowed. */
  readonly clock: () => number
}

export function defaultMemoryOptions(): MemoryOptions {
  return {
    maxBytes: Math.floor(totalmem() / 2),
    maxNodes: 1_000_000,
    cacheSeconds: 86400,
    rootMode: 0o755,
    rootUid: 0,
    rootGid: 0,
    clock: Date.now,
  }
}
