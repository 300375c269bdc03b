/**
 * Coherence between guests (--coherence=strict), as a layer over a back end: replies get the timeouts that
 * the guest has leases for, and changes wait for the leases of other guests. See leases.ts.
 *
 * A request that changes something is handed on when its inodes are free, and else answered DEFERRED,
 * before anything is done: it comes again, from the start, when it is due.
 */
import { Errno } from '../../protocol/errno.js'
import {
  FALLOC_FL_COLLAPSE_RANGE,
  FALLOC_FL_INSERT_RANGE,
  ioctlChanges,
  O_TRUNC,
  RENAME_EXCHANGE,
} from '../../protocol/linux/constants.js'
import { DEFERRED, type FileSystem, type Negotiated, type Outcome } from '../vfs/filesystem.js'
import { ForwardingFileSystem } from '../vfs/forwarding.js'
import { type Identities, InodeKey, NO_INODE } from '../vfs/identities.js'
import type { Attributes, EntryReply, OpenReply, SetAttributes } from '../vfs/replies.js'
import type { DirectorySink, Name, Payload, Request, Span } from '../vfs/request.js'
import type { Change } from './change.js'
import { isSettled, LeasedReplies } from './leased-replies.js'
import type { Leases } from './leases.js'
import type { MappingLeases } from './mapping-leases.js'
import { LeasingSink } from './leasing-sink.js'
import { OngoingChanges } from './ongoing-changes.js'
import type { SizeLocks } from './size-locks.js'

export class CoherentFileSystem extends ForwardingFileSystem {
  override readonly waits: OngoingChanges
  readonly #leases: Leases
  readonly #identities: Identities
  readonly #replies: LeasedReplies
  readonly #sink: LeasingSink
  readonly #key = new InodeKey()

  /** `inner` has `identities`. */
  constructor(inner: FileSystem, leases: Leases, mappings: MappingLeases, sizes: SizeLocks) {
    super(inner)
    this.#leases = leases
    this.#identities = inner.identities!
    this.#replies = new LeasedReplies(leases, this.#identities, mappings)
    this.waits = new OngoingChanges(leases, this.#identities, this.#replies.files, mappings, sizes)
    this.#sink = new LeasingSink(this.#replies)
  }

  override init(negotiated: Negotiated): void {
    this.#replies.files.clear()
    this.inner.init(negotiated)
  }

  /** What the back end keeps it looks at again after this, and grants are for what is as good as that. */
  override renew(): void {
    this.#leases.pin()
    this.inner.renew()
  }

  override destroy(): void {
    this.#replies.files.clear()
    this.inner.destroy()
  }

  // --- replies --------------------------------------------------------------------------------------------

  override lookup(request: Request, parent: number, name: Name, entry: EntryReply): Outcome {
    const looked = this.#leases.look()
    const outcome = this.inner.lookup(request, parent, name, entry)
    if (outcome < 0 && outcome !== -Errno.ENOENT) return outcome
    this.#replies.readClock()
    const leasedMs = this.#replies.leaseDirectory(parent, looked, false)
    if (outcome >= 0) {
      this.#replies.entry(entry, leasedMs, looked)
      return outcome
    }
    if (leasedMs === 0) return outcome
    // That there is no such name may be cached as well.
    this.#replies.noEntry(entry, leasedMs)
    return 0
  }

  override getattr(request: Request, nodeid: number, fh: number, attr: Attributes): Outcome {
    const looked = this.#leases.look()
    const outcome = this.inner.getattr(request, nodeid, fh, attr)
    if (outcome < 0) return outcome
    this.#replies.readClock()
    this.#replies.attributes(nodeid, attr, looked, undefined)
    return outcome
  }

  override readdir(
    request: Request,
    nodeid: number,
    fh: number,
    cookieLow: number,
    cookieHigh: number,
    sink: DirectorySink,
  ): Outcome {
    if (!sink.plus) return this.inner.readdir(request, nodeid, fh, cookieLow, cookieHigh, sink)
    const looked = this.#leases.look()
    // Asked for before the names are read; whether it holds shows with each of them.
    this.#replies.readClock()
    const leasedMs = this.#replies.leaseOpenDirectory(fh, looked)
    this.#sink.begin(sink, leasedMs, looked)
    const outcome = this.inner.readdir(request, nodeid, fh, cookieLow, cookieHigh, this.#sink)
    this.#sink.end()
    return outcome
  }

  override forget(nodeid: number, nlookup: number): void {
    this.inner.forget(nodeid, nlookup)
    if (this.#replies.files.has(nodeid) && this.#identities.ofNode(nodeid, this.#key) === NO_INODE)
      this.#replies.files.forget(nodeid)
  }

  // --- changes --------------------------------------------------------------------------------------------

  /** Announces `change`. False: the request is DEFERRED. Else `OngoingChanges.done` follows. */
  #begin(request: Request, change: Change): boolean {
    if (!this.waits.begin(request, change)) return false
    // The answer is to be of what is there now, the change itself included.
    this.renew()
    return true
  }

  override setattr(
    request: Request,
    nodeid: number,
    fh: number,
    set: SetAttributes,
    attr: Attributes,
  ): Outcome {
    const change = this.waits.make(set.setSize)
    this.waits.addNode(change, nodeid)
    if (set.setSize) change.cuts(0, set.sizeBytes)
    if (!this.#begin(request, change)) return DEFERRED
    const looked = this.#leases.look()
    const outcome = this.inner.setattr(request, nodeid, fh, set, attr)
    if (outcome >= 0) {
      this.#replies.readClock()
      this.#replies.attributes(nodeid, attr, looked, change.count > 0 ? change : undefined)
    }
    return this.waits.done(request, outcome)
  }

  /** An operation that makes a name in `parent`, for which `entry` is the answer. `made`: and an inode. */
  #named(
    request: Request,
    change: Change,
    looked: number,
    parent: number,
    outcome: Outcome,
    entry: EntryReply,
    made: boolean,
  ): Outcome {
    if (outcome >= 0) {
      this.#replies.readClock()
      if (made) this.#replies.made(entry.nodeid)
      const leasedMs = this.#replies.leaseDirectory(parent, looked, change.count > 0)
      this.#replies.entry(entry, leasedMs, looked)
    }
    return this.waits.done(request, outcome)
  }

  /** MKNOD, MKDIR, SYMLINK: `make` makes a name in `parent`. */
  #makeName(request: Request, parent: number, entry: EntryReply, make: () => Outcome): Outcome {
    const change = this.waits.make(false)
    this.waits.addNode(change, parent)
    if (!this.#begin(request, change)) return DEFERRED
    const looked = this.#leases.look()
    return this.#named(request, change, looked, parent, make(), entry, true)
  }

  override mknod(
    request: Request,
    parent: number,
    name: Name,
    mode: number,
    major: number,
    minor: number,
    entry: EntryReply,
  ): Outcome {
    return this.#makeName(request, parent, entry, () =>
      this.inner.mknod(request, parent, name, mode, major, minor, entry),
    )
  }

  override mkdir(
    request: Request,
    parent: number,
    name: Name,
    mode: number,
    entry: EntryReply,
  ): Outcome {
    return this.#makeName(request, parent, entry, () =>
      this.inner.mkdir(request, parent, name, mode, entry),
    )
  }

  override symlink(
    request: Request,
    parent: number,
    name: Name,
    target: Name,
    entry: EntryReply,
  ): Outcome {
    return this.#makeName(request, parent, entry, () =>
      this.inner.symlink(request, parent, name, target, entry),
    )
  }

  override link(
    request: Request,
    nodeid: number,
    newParent: number,
    newName: Name,
    entry: EntryReply,
  ): Outcome {
    const change = this.waits.make(false)
    this.waits.addNode(change, newParent)
    this.waits.addNode(change, nodeid)
    if (!this.#begin(request, change)) return DEFERRED
    const looked = this.#leases.look()
    const outcome = this.inner.link(request, nodeid, newParent, newName, entry)
    return this.#named(request, change, looked, newParent, outcome, entry, false)
  }

  #removeName(request: Request, parent: number, name: Name, remove: () => Outcome): Outcome {
    const change = this.waits.make(false)
    this.waits.addNode(change, parent)
    this.waits.addName(change, parent, name)
    if (!this.#begin(request, change)) return DEFERRED
    return this.waits.done(request, remove())
  }

  override unlink(request: Request, parent: number, name: Name): Outcome {
    return this.#removeName(request, parent, name, () => this.inner.unlink(request, parent, name))
  }

  override rmdir(request: Request, parent: number, name: Name): Outcome {
    return this.#removeName(request, parent, name, () => this.inner.rmdir(request, parent, name))
  }

  override rename(
    request: Request,
    parent: number,
    name: Name,
    newParent: number,
    newName: Name,
    flags: number,
  ): Outcome {
    const change = this.waits.make(false)
    this.waits.addNode(change, parent)
    if (newParent !== parent) {
      this.waits.addNode(change, newParent)
      change.moves(0, 1, (flags & RENAME_EXCHANGE) !== 0)
    }
    this.waits.addName(change, parent, name)
    this.waits.addName(change, newParent, newName)
    if (!this.#begin(request, change)) return DEFERRED
    const outcome = this.inner.rename(request, parent, name, newParent, newName, flags)
    return this.waits.done(request, outcome)
  }

  override open(
    request: Request,
    nodeid: number,
    flags: number,
    killSuid: boolean,
    opened: OpenReply,
  ): Outcome {
    if ((flags & O_TRUNC) === 0) {
      this.#replies.readClock()
      const version = this.#replies.track(nodeid)
      const { dataCount, others } = this.#leases
      const outcome = this.inner.open(request, nodeid, flags, killSuid, opened)
      // Nobody may write past this.
      opened.direct.writes = false
      if (outcome < 0) return outcome
      // The back end may know it from the host: no change of anybody's.
      const time = opened.keepCache ? undefined : this.#replies.changeTime(nodeid)
      const settled = time !== undefined && isSettled(time)
      const { files } = this.#replies
      const since = files.opened(nodeid, version, dataCount, others, time, settled)
      if (since === 'same') opened.keepCache = true
      else if (since === 'data') opened.keepCache = false
      if (others !== 'none' && this.#replies.byOthers(nodeid)) {
        opened.keepCache = false
        files.unseen(nodeid)
      }
      return outcome
    }
    const change = this.waits.make(true)
    this.waits.addNode(change, nodeid)
    change.cuts(0, 0)
    if (!this.#begin(request, change)) return DEFERRED
    const outcome = this.inner.open(request, nodeid, flags, killSuid, opened)
    opened.direct.writes = false
    // The cut itself is the guest's own change.
    if (outcome >= 0) {
      const version = change.count > 0 ? change.before[0]! : 0
      this.#replies.readClock()
      this.#replies.track(nodeid)
      const { others } = this.#leases
      const dataCount = change.counts[0]!
      this.#replies.files.opened(nodeid, version, dataCount, others, undefined, false)
    }
    return this.waits.done(request, outcome)
  }

  override create(
    request: Request,
    parent: number,
    name: Name,
    flags: number,
    mode: number,
    killSuid: boolean,
    entry: EntryReply,
    opened: OpenReply,
  ): Outcome {
    const change = this.waits.make(true)
    this.waits.addNode(change, parent)
    // Somebody else may have been first; then O_TRUNC is about what he has made.
    if ((flags & O_TRUNC) !== 0) {
      const at = change.count
      this.waits.addName(change, parent, name)
      change.cuts(at, 0)
    }
    if (!this.#begin(request, change)) return DEFERRED
    const looked = this.#leases.look()
    const outcome = this.inner.create(request, parent, name, flags, mode, killSuid, entry, opened)
    opened.direct.writes = false
    if (outcome >= 0) {
      opened.keepCache = false
      this.#replies.readClock()
      const version = this.#replies.track(entry.nodeid)
      const { dataCount, others } = this.#leases
      const { files } = this.#replies
      files.opened(entry.nodeid, version, dataCount, others, undefined, false)
    }
    return this.#named(request, change, looked, parent, outcome, entry, true)
  }

  override tmpfile(
    request: Request,
    parent: number,
    flags: number,
    mode: number,
    entry: EntryReply,
    opened: OpenReply,
  ): Outcome {
    const looked = this.#leases.look()
    const outcome = this.inner.tmpfile(request, parent, flags, mode, entry, opened)
    opened.direct.writes = false
    if (outcome >= 0) {
      this.#replies.readClock()
      this.#replies.made(entry.nodeid)
      this.#replies.attributes(entry.nodeid, entry.attr, looked, undefined)
    }
    return outcome
  }

  override write(
    request: Request,
    nodeid: number,
    fh: number,
    offset: number,
    from: Payload,
    killSuid: boolean,
    fromCache: boolean,
  ): Outcome {
    const change = this.waits.make(true)
    this.waits.addHandle(change, fh)
    if (!this.#begin(request, change)) return DEFERRED
    const outcome = this.inner.write(request, nodeid, fh, offset, from, killSuid, fromCache)
    return this.waits.done(request, outcome)
  }

  override fallocate(
    request: Request,
    nodeid: number,
    fh: number,
    offset: number,
    length: number,
    mode: number,
  ): Outcome {
    // They cut files, and move data under mappings; no guest of Linux asks.
    if ((mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) !== 0) return -Errno.EOPNOTSUPP
    const change = this.waits.make(true)
    this.waits.addHandle(change, fh)
    if (!this.#begin(request, change)) return DEFERRED
    const outcome = this.inner.fallocate(request, nodeid, fh, offset, length, mode)
    return this.waits.done(request, outcome)
  }

  override copyFileRange(
    request: Request,
    nodeidIn: number,
    fhIn: number,
    offsetIn: number,
    nodeidOut: number,
    fhOut: number,
    offsetOut: number,
    length: number,
  ): Outcome {
    const change = this.waits.make(true)
    this.waits.addHandle(change, fhOut)
    if (!this.#begin(request, change)) return DEFERRED
    const outcome = this.inner.copyFileRange(
      request,
      nodeidIn,
      fhIn,
      offsetIn,
      nodeidOut,
      fhOut,
      offsetOut,
      length,
    )
    return this.waits.done(request, outcome)
  }

  override ioctl(
    request: Request,
    nodeid: number,
    fh: number,
    command: number,
    input: Span,
    out: Span,
  ): Outcome {
    if (!ioctlChanges(command)) return this.inner.ioctl(request, nodeid, fh, command, input, out)
    const change = this.waits.make(false)
    this.waits.addHandle(change, fh)
    if (!this.#begin(request, change)) return DEFERRED
    return this.waits.done(request, this.inner.ioctl(request, nodeid, fh, command, input, out))
  }

  override setxattr(
    request: Request,
    nodeid: number,
    name: Name,
    value: Span,
    flags: number,
    killSgid: boolean,
  ): Outcome {
    const change = this.waits.make(false)
    this.waits.addNode(change, nodeid)
    if (!this.#begin(request, change)) return DEFERRED
    const outcome = this.inner.setxattr(request, nodeid, name, value, flags, killSgid)
    return this.waits.done(request, outcome)
  }

  override removexattr(request: Request, nodeid: number, name: Name): Outcome {
    const change = this.waits.make(false)
    this.waits.addNode(change, nodeid)
    if (!this.#begin(request, change)) return DEFERRED
    return this.waits.done(request, this.inner.removexattr(request, nodeid, name))
  }
}
