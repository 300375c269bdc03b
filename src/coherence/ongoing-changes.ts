/** The changes a guest's requests make: announced, waited for, made, ended. */
import { type Outcome, PENDING, type Waits } from '../vfs/filesystem.js'
import type { Identities } from '../vfs/identities.js'
import type { Name, Request } from '../vfs/request.js'
import { Change } from './change.js'
import type { FileMemories } from './file-memory.js'
import type { Leases } from './leases.js'
import type { MappingLeases } from './mapping-leases.js'
import type { SizeLocks } from './size-locks.js'
import { SWEEP_MS } from './version-table.js'

/** A change that has waited so long goes ahead: no honest lease lasts longer. */
const MOST_WAIT_MS = 10_000
/** How soon to ask again when a file is lengthened at this moment, to be mapped. */
const LENGTHENED_MS = 2

export class OngoingChanges implements Waits {
  /** Milliseconds after which a DEFERRED request wants to be handed in again. */
  againMs = 1
  readonly #leases: Leases
  readonly #identities: Identities
  readonly #files: FileMemories
  readonly #mappings: MappingLeases
  readonly #sizes: SizeLocks
  #sweptMs = Number.POSITIVE_INFINITY
  #granted = 0
  /** The change of the request in hand; it stays there when the back end throws. */
  #change: Change | undefined
  readonly #spare: Change[] = []
  /** Changes of suspended requests, by token. */
  readonly #suspended = new Map<number, Change>()

  constructor(
    leases: Leases,
    identities: Identities,
    files: FileMemories,
    mappings: MappingLeases,
    sizes: SizeLocks,
  ) {
    this.#leases = leases
    this.#identities = identities
    this.#files = files
    this.#mappings = mappings
    this.#sizes = sizes
    mappings.onWait = ms => {
      this.againMs = ms
    }
  }

  /** A new change, to which inodes are added. `data`: what files hold may change. */
  make(data: boolean): Change {
    // A back end that threw left its change behind.
    if (this.#change !== undefined) this.#end(this.#change)
    const change = this.#spare.pop() ?? new Change()
    change.count = 0
    change.data = data
    change.cut = -1
    change.wish = 0
    change.movesFrom = -1
    this.#change = change
    return change
  }

  addNode(change: Change, nodeid: number): void {
    change.took(this.#identities.ofNode(nodeid, change.next()))
  }

  addName(change: Change, parent: number, name: Name): void {
    change.took(this.#identities.ofName(parent, name, change.next()))
  }

  addHandle(change: Change, fh: number): void {
    change.took(this.#identities.ofHandle(fh, change.next()))
  }

  /** True when the change may be made now; `done` follows. Else the request is DEFERRED. */
  begin(request: Request, change: Change): boolean {
    const { waitedMs } = request
    const force = waitedMs > MOST_WAIT_MS
    const wait = this.#leases.begin(change, waitedMs > 0, force)
    this.againMs = wait > 0 ? wait : this.#others(change, force)
    if (this.againMs === 0) return true
    if (wait === 0) this.#leases.end(change)
    this.#change = undefined
    // Only announced, or ended unmade; but that has made new versions.
    this.#follow(change, wait === 0)
    this.#spare.push(change)
    return false
  }

  /** Leases have ended: what else others have to do with the files. Milliseconds to wait. */
  #others(change: Change, force: boolean): number {
    if (!this.#sizes.share(change) && !force) return LENGTHENED_MS
    const wait = this.#mappings.begin(change, force)
    if (wait > 0) this.#sizes.unshare(change)
    return wait
  }

  /** After the back end has answered; returns the outcome. */
  done(request: Request, outcome: Outcome): Outcome {
    const change = this.#change!
    if (outcome === PENDING) {
      this.#change = undefined
      this.#suspended.set(request.token, change)
    } else this.#end(change)
    return outcome
  }

  completed(token: number): void {
    const change = this.#suspended.get(token)
    if (change === undefined) return
    this.#suspended.delete(token)
    this.#end(change)
  }

  #end(change: Change): void {
    if (change === this.#change) this.#change = undefined
    this.#leases.end(change)
    this.#sizes.unshare(change)
    this.#mappings.done(change)
    this.#follow(change, true)
    this.#spare.push(change)
  }

  /** What the guest has cached of the files follows its own changes. */
  #follow(change: Change, ended: boolean): void {
    const { nodeids, before, after } = change
    const counted = !change.data ? 0 : ended ? 2 : 1
    for (let i = 0; i < change.count; i++)
      this.#files.changedByGuest(nodeids[i]!, before[i]!, after[i]!, counted)
  }

  promised(): boolean {
    const { granted } = this.#leases.counters
    const any = granted !== this.#granted
    this.#granted = granted
    return any
  }

  get busy(): boolean {
    return this.#leases.busy || this.#mappings.seated
  }

  upkeep(nowMs: number): number {
    this.#sweptMs = Math.min(this.#sweptMs, nowMs)
    if (nowMs - this.#sweptMs >= SWEEP_MS) {
      this.#sweptMs = nowMs
      this.#leases.sweep()
    }
    let ms = Math.ceil(this.#sweptMs + SWEEP_MS - nowMs)
    if (this.#leases.busy) {
      this.#leases.renew()
      ms = Math.min(ms, this.#leases.renewMs)
    }
    if (this.#mappings.seated) {
      this.#mappings.look()
      ms = Math.min(ms, this.#mappings.dueMs)
    }
    return ms
  }
}
