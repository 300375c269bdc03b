/**
 * Which parts of a sparse file have memory: a set of byte ranges, kept as a sorted list of edges
 * [start, end, start, end, ...] in which neighbours never touch.
 *
 * The kernel counts the same (st_blocks of the memfd), but asking it costs a system call per write, and
 * SEEK_DATA does not show what was only reserved by fallocate.
 */
export class Extents {
  readonly #edges: number[] = []
  #bytes = 0

  /** Bytes in the set. */
  get bytes(): number {
    return this.#bytes
  }

  /** Bytes of [start, end) that are not in the set. */
  missing(start: number, end: number): number {
    let missing = end - start
    for (let i = this.#indexOf(start, false) & ~1; i < this.#edges.length; i += 2) {
      const from = Math.max(this.#edges[i]!, start)
      const to = Math.min(this.#edges[i + 1]!, end)
      if (from >= end) break
      if (to > from) missing -= to - from
    }
    return missing
  }

  /** Adds [start, end), which is not empty. Returns the bytes that were new. */
  add(start: number, end: number): number {
    const added = this.missing(start, end)
    if (added > 0) this.#replace(start, end, 0)
    this.#bytes += added
    return added
  }

  /** Takes [start, end) out, when it is a range at all. Returns the bytes that were in it. */
  remove(start: number, end: number): number {
    if (start >= end) return 0
    const removed = end - start - this.missing(start, end)
    if (removed > 0) this.#replace(start, end, 1)
    this.#bytes -= removed
    return removed
  }

  /**
   * Drops the edges in [start, end] and sets new ones where the range begins and ends. Even indices are
   * starts: an edge is needed where the neighbourhood's state (by `parity` of the index) differs.
   */
  #replace(start: number, end: number, parity: 0 | 1): void {
    const first = this.#indexOf(start, false)
    const after = this.#indexOf(end, true)
    const edges: number[] = []
    if ((first & 1) === parity) edges.push(start)
    if ((after & 1) === parity) edges.push(end)
    this.#edges.splice(first, after - first, ...edges)
  }

  /** Index of the first edge at or past `offset`; with `past`, strictly past it. */
  #indexOf(offset: number, past: boolean): number {
    let low = 0
    let high = this.#edges.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const edge = this.#edges[middle]!
      if (edge < offset || (past && edge === offset)) low = middle + 1
      else high = middle
    }
    return low
  }
}
