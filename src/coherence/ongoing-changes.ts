/** The changes a guest's requests make: announced, waited for, made, ended. */
import { type Outcome, PENDING, type Waits } from '../vfs/filesystem.js'
import type { Identities } from '../vfs/identities.js'
import type { Name, Request } from '../vfs/request.js'
import { Change } from './change.js'
import type { FileMemories } from './file-memory.js'
import type { Leases } from './leases.js'

/** A change that has waited so long goes ahead: no honest lease lasts longer. */
const MOST_WAIT_MS = 10_000

export class OngoingChanges implements Waits {
  /** Milliseconds after which a DEFERRED request wants to be handed in again. */
  againMs = 1
  readonly #leases: Leases
  readonly #identities: Identities
  readonly #files: FileMemories
  /** The change of the request in hand; it stays there when the back end throws. */
  #change: Change | undefined
  readonly #spare: Change[] = []
  /** Changes of suspended requests, by token. */
  readonly #suspended = new Map<number, Change>()

  constructor(leases: Leases, identities: Identities, files: FileMemories) {
    this.#leases = leases
    this.#identities = identities
    this.#files = files
  }

  /** A new change, to which inodes are added. `data`: what files hold may change. */
  make(data: boolean): Change {
    // A back end that threw left its change behind.
    if (this.#change !== undefined) this.#end(this.#change)
    const change = this.#spare.pop() ?? new Change()
    change.count = 0
    change.data = data
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
    const wait = this.#leases.begin(change, waitedMs > 0, waitedMs > MOST_WAIT_MS)
    if (wait === 0) return true
    this.againMs = wait
    this.#change = undefined
    // Only announced; but that has made new versions.
    this.#follow(change, false)
    this.#spare.push(change)
    return false
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

  get upkeepMs(): number {
    return this.#leases.busy ? this.#leases.renewMs : -1
  }

  upkeep(): void {
    this.#leases.renew()
  }
}
