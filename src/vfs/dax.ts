/**
 * The DAX window as the FUSE layer and the back ends see it (src/dax is the one that there is), and what
 * a back end does for it.
 */
import { DEFERRED, type Outcome } from './filesystem.js'
import type { Attributes } from './replies.js'

/** What a back end whose files can be mapped offers. */
export interface MappableFiles {
  /** Nobody but this back end can change a file's size: no process of the host has it by a name. */
  readonly owned: boolean
  /**
   * Opens a regular file O_RDWR for the window; the caller owns the descriptor. Errors: ESTALE; EACCES it is no
   * regular file; EROFS; those of open(2).
   */
  open(nodeid: number): number
  /** The guest may still name the node. */
  known(nodeid: number): boolean
}

/** Where guests of other daemons have the same files in their windows: what this one owes them. */
export interface MappingRights {
  /** Before the first mapping of a file, until `giveBack`: 0. Errors: DEFERRED; ESTALE; EIO too many guests have it. */
  take(nodeid: number): Outcome
  giveBack(nodeid: number): void
  /** Bytes of the file that may be mapped now: somebody is about to cut it. */
  limit(nodeid: number): number
  /** DEFERRED: the request comes again soon. */
  later(): Outcome
  /** Until `lengthened` nobody else changes the file's size. False: somebody is doing so. */
  lengthen(nodeid: number): boolean
  lengthened(nodeid: number): void
  /** Everything is given back. */
  clear(): void
}

/** Called by the device thread between requests' beginnings and answers; each call may wait for the front end. */
export interface DaxWindow {
  /** The front end has taken the window: DAX can be agreed on at INIT. */
  readonly ready: boolean

  /**
   * SETUPMAPPING: file bytes from `foffset` on appear in the window at `moffset`, all of `bytes` that the file
   * has. Errors: EINVAL outside the window or not on pages; ESTALE; EIO the policy, the file's size or the front
   * end are against it.
   */
  setup(nodeid: number, moffset: number, foffset: number, bytes: number): Outcome
  /** One entry of REMOVEMAPPING. What is not mapped is no error. */
  remove(moffset: number, bytes: number): Outcome

  /** Before the guest makes the file longer, up to `end` at most: 0, or why it must not be done. */
  beforeGrowth(nodeid: number, end: number): Outcome
  /** Before the file gets `bytes` bytes, and after that (or after it failed). */
  beforeResize(nodeid: number, bytes: number): Outcome
  afterResize(nodeid: number): Outcome
  /**
   * Another guest is about to cut the file: nothing past the first `keep` bytes, whole pages, stays in the window. False: the
   * front end has not confirmed that.
   */
  revoke(nodeid: number, keep: number): boolean
  /** It has, or will not, or made the file longer: what is there of what the guest believes to be there is in the window. */
  restore(nodeid: number): void
  /** Before the guest hears of the file's attributes: sets `attr.dax`, and has in the window what `attr.sizeBytes` says. */
  describe(nodeid: number, attr: Attributes): void
  /** The guest gave lookups of the node back. */
  forgotten(nodeid: number): void
  /** The guest begins or ends: everything is unmapped. */
  clear(): void
  /** The guest is gone or reset, and with it what the front end had mapped: nothing is said to it. */
  drop(): void
}

/** Changes a file's size by `change`: what is past its new end is unmapped before, and what belongs to it is mapped after. */
export function resized(
  dax: DaxWindow | undefined,
  nodeid: number,
  bytes: number,
  change: () => Outcome,
): Outcome {
  if (dax === undefined) return change()
  const fault = dax.beforeResize(nodeid, bytes)
  if (fault < 0) {
    if (fault !== DEFERRED) dax.afterResize(nodeid)
    return fault
  }
  const outcome = change()
  // It comes again; until then the guest does not look at what it is about to cut.
  if (outcome === DEFERRED) return outcome
  const mapped = dax.afterResize(nodeid)
  return outcome < 0 || mapped >= 0 ? outcome : mapped
}

/** Opens a file with O_TRUNC by `open`. That it got another size meanwhile, which cannot be mapped, does not undo the opening. */
export function openedEmpty(
  dax: DaxWindow | undefined,
  nodeid: number,
  open: () => Outcome,
): Outcome {
  const fault = dax?.beforeResize(nodeid, 0) ?? 0
  const outcome = fault < 0 ? fault : open()
  if (outcome !== DEFERRED) dax?.afterResize(nodeid)
  return outcome
}
