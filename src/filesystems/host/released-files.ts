/**
 * Files that the guest has closed, left open for a moment in case it opens them again: compilers that run at the
 * same time read the same hundreds of headers, `git` the same index. Open and close are most of what such an OPEN
 * and RELEASE cost.
 *
 * Only plain read-only descriptors of local file systems wait here, for twice ROUND_MS at most unless there is much
 * to close. A file whose name goes, or which the guest forgets, is closed before. So what a host user can notice is
 * small: F_SETLEASE for writing is refused (EAGAIN) that much longer, and a mount is busy, as it is with the O_PATH
 * descriptors that nodes have anyway.
 */
import type { Context } from '../../native/context.js'
import type { HostNode } from './node.js'

/** How many may wait at most. */
const MOST_PLACES = 1024
/** What was not opened again in one round, and in the next, is closed. */
const ROUND_MS = 50
/** A close takes about 0.6 us; so many at once, and requests have their turn. */
const MOST_CLOSES = 128

export class ReleasedFiles {
  readonly #context: Context
  /** A node has one place, by its nodeid; there are a power of two. */
  readonly #places: number
  readonly #nodes: (HostNode | undefined)[]
  readonly #fds: Int32Array
  /** Round in which each was released. */
  readonly #rounds: Int32Array
  #count = 0
  #round = 0
  #nextRoundMs = 0
  /** Places that were looked at in this sweep. */
  #swept = 0
  /** OPENs that were spared. */
  hits = 0

  /** As many places as there are, but no more than `wanted`, which may be a fraction: one at least. */
  constructor(context: Context, wanted: number) {
    this.#context = context
    this.#places = Math.min(MOST_PLACES, 2 ** Math.floor(Math.log2(Math.max(wanted, 1))))
    this.#nodes = new Array(this.#places).fill(undefined)
    this.#fds = new Int32Array(this.#places).fill(-1)
    this.#rounds = new Int32Array(this.#places)
  }

  get count(): number {
    return this.#count
  }

  /** A descriptor on the node's file, opened O_RDONLY: the caller's from now on. -1: there is none. */
  take(node: HostNode): number {
    const place = node.nodeid & (this.#places - 1)
    if (this.#nodes[place] !== node) return -1
    this.hits++
    return this.#remove(place)
  }

  /** Takes over `fd`, opened O_RDONLY. */
  give(node: HostNode, fd: number): void {
    const place = node.nodeid & (this.#places - 1)
    this.#close(place)
    this.#nodes[place] = node
    this.#fds[place] = fd
    this.#rounds[place] = this.#round
    this.#count++
  }

  /** The file's name is about to go, or the guest forgets its node. */
  drop(node: HostNode): void {
    const place = node.nodeid & (this.#places - 1)
    if (this.#nodes[place] === node) this.#close(place)
  }

  /** Closes all. False: there were none. */
  clear(): boolean {
    const any = this.#count > 0
    for (let place = 0; place < this.#places; place++) this.#close(place)
    return any
  }

  /** Closes what has waited long enough. Returns after how many milliseconds to call again, -1: nothing waits. */
  tidy(nowMs: number): number {
    if (this.#count === 0) return -1
    // The clock was not looked at while nothing waited: a first round may be short.
    if (nowMs < this.#nextRoundMs) return Math.ceil(this.#nextRoundMs - nowMs)
    let closes = 0
    for (; this.#swept < this.#places; this.#swept++) {
      const place = this.#swept
      if (this.#nodes[place] === undefined || this.#rounds[place] === this.#round) continue
      if (closes++ === MOST_CLOSES) return 0
      this.#close(place)
    }
    this.#swept = 0
    this.#round = (this.#round + 1) | 0
    this.#nextRoundMs = nowMs + ROUND_MS
    return this.#count === 0 ? -1 : ROUND_MS
  }

  #close(place: number): void {
    if (this.#nodes[place] !== undefined) this.#context.close(this.#remove(place))
  }

  #remove(place: number): number {
    const fd = this.#fds[place]!
    this.#nodes[place] = undefined
    this.#fds[place] = -1
    this.#count--
    return fd
  }
}
