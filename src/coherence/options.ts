/** What coherence between guests is given by the command line. */

/**
 * - `none`: a guest caches by its own --cache mode, and may be late.
 * - `strict`: no guest sees anything that another guest of the same table has changed before; what processes of
 *   the host change it may see late by a lease.
 */
export type CoherenceMode = 'none' | 'strict'

/** How long a guest may cache what others have changed lately; with 0 it asks each time, whatever it is. */
export const DEFAULT_LEASE_MS = 250
export const MAX_LEASE_MS = 5000
/** What others have left alone for long it may cache for so many times that. */
export const LONG_LEASE = 4

/** How long a guest may cache at most. */
export function longLeaseMs(leaseMs: number): number {
  return Math.min(leaseMs * LONG_LEASE, MAX_LEASE_MS)
}
/**
 * What a lease lasts longer than the guest's timeout. Linux counts that from when the task that asked has the
 * reply (fs/fuse/dir.c, time_to_jiffies, 6.1; fuse_time_to_jiffies, 7.2), in ticks of up to 10 ms rounded up:
 * the reply's way there must fit.
 */
export const DEFAULT_MARGIN_MS = 250
export const MAX_MARGIN_MS = 2500

export interface CoherenceOptions {
  /** The file of the version table, open; it stays open for as long as the daemon lives. */
  readonly tableFd: number
  /** Its name, for messages. */
  readonly tablePath: string
  readonly leaseMs: number
  readonly marginMs: number
  /** See clockOffsetMs; 0 by default. */
  readonly clockOffsetMs?: number
  /** See LeaseOptions; for tests. */
  readonly quietMs?: number
  readonly nowMs?: () => number
  readonly pause?: (ms: number) => void
}
