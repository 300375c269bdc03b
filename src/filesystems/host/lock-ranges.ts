/** Which bytes of a file one owner has locked, and how: as the kernel keeps it, so that it need not be asked. */
import { F_RDLCK, F_UNLCK } from '../../../protocol/linux/constants.js'

/** `end` is inclusive; Infinity: to the end of the file and beyond. `type` is F_RDLCK or F_WRLCK. */
export interface HeldRange {
  readonly start: number
  readonly end: number
  readonly type: number
}

export class LockRanges {
  /** In order; none touches the next if both are of one type. */
  readonly held: HeldRange[] = []

  /** Gives `start`...`end` the lock `type`, or none (F_UNLCK). */
  set(start: number, end: number, type: number): void {
    const { held } = this
    let from = this.#firstEndingFrom(start)
    let to = from
    while (to < held.length && held[to]!.start <= end) to++
    const pieces: HeldRange[] = []
    let tail: HeldRange | undefined
    let first = start
    let last = end
    if (from < to) {
      const head = held[from]!
      const rear = held[to - 1]!
      if (head.start < start) {
        if (head.type === type) first = head.start
        else pieces.push({ start: head.start, end: start - 1, type: head.type })
      }
      if (rear.end > end) {
        if (rear.type === type) last = rear.end
        else tail = { start: end + 1, end: rear.end, type: rear.type }
      }
    }
    if (type !== F_UNLCK) {
      const before = held[from - 1]
      if (before !== undefined && before.type === type && before.end + 1 === first) {
        first = before.start
        from--
      }
      const after = held[to]
      if (after !== undefined && after.type === type && last + 1 === after.start) {
        last = after.end
        to++
      }
      pieces.push({ start: first, end: last, type })
    }
    if (tail !== undefined) pieces.push(tail)
    held.splice(from, to - from, ...pieces)
  }

  /** The first that stands in the way of another owner's lock. */
  conflict(start: number, end: number, type: number): HeldRange | undefined {
    for (let i = this.#firstEndingFrom(start); i < this.held.length; i++) {
      const one = this.held[i]!
      if (one.start > end) return undefined
      if (type !== F_RDLCK || one.type !== F_RDLCK) return one
    }
    return undefined
  }

  /** Index of the first range that does not end before `start`. */
  #firstEndingFrom(start: number): number {
    let low = 0
    let high = this.held.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.held[middle]!.end < start) low = middle + 1
      else high = middle
    }
    return low
  }
}
