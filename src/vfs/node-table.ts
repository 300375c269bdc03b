/**
 * Nodes by nodeid. A nodeid is a slot index in the low 32 bits and the slot's generation above it
 * (20 bits, so below 2^53): a guest that names a node it has forgotten gets nothing, not the node that
 * took the slot over. The root has slot 1, generation 0, for ever.
 *
 * A node goes when the guest's lookups and our own holds (children that name their parent, directory
 * entries, open files) are both gone. `get` answers only while there are lookups.
 */
import { ROOT_NODEID } from './filesystem.js'
import { highestGeneration, MAX_GENERATION, settleSlots, slotOf, TWO32 } from './generations.js'

/** What the table keeps in each node; owned by the table. */
export interface NodeBase {
  nodeid: number
  lookups: number
  holds: number
}

const ROOT_SLOT = 1

export class NodeTable<N extends NodeBase> {
  readonly #slots: (N | undefined)[] = [undefined, undefined]
  readonly #generations: number[] = [0, 0]
  readonly #free: number[] = []
  #size = 0

  /** Nodes in the table, held ones included. */
  get size(): number {
    return this.#size
  }

  /** Puts the root in its place, with a lookup that is never taken back. */
  setRoot(node: N): void {
    if (this.#slots[ROOT_SLOT] === undefined) this.#size++
    this.#slots[ROOT_SLOT] = node
    node.nodeid = ROOT_NODEID
    node.lookups = 1
    node.holds = 1
  }

  /** The node a guest names, or undefined for anything it may not name: any number is safe. */
  get(nodeid: number): N | undefined {
    const node = this.#slots[slotOf(nodeid)]
    return node !== undefined && node.nodeid === nodeid && node.lookups > 0 ? node : undefined
  }

  /** Adds a node with no lookups and one hold of the caller, who ends it with `unhold`. Returns its nodeid. */
  insert(node: N): number {
    const slot = this.#free.pop() ?? this.#slots.length
    if (slot === this.#slots.length) this.#generations.push(0)
    this.#slots[slot] = node
    node.nodeid = this.#generations[slot]! * TWO32 + slot
    node.lookups = 0
    node.holds = 1
    this.#size++
    return node.nodeid
  }

  /**
   * As `insert`, for a node that comes from another table, in the place its nodeid names there. False: the
   * place is taken. `settle` ends a row of these.
   */
  insertAt(node: N, nodeid: number): boolean {
    const slot = slotOf(nodeid)
    if (slot <= ROOT_SLOT || this.#slots[slot] !== undefined) return false
    this.#free.length = 0
    while (this.#slots.length <= slot) {
      this.#slots.push(undefined)
      this.#generations.push(0)
    }
    this.#slots[slot] = node
    this.#generations[slot] = Math.floor(nodeid / TWO32)
    node.nodeid = nodeid
    node.lookups = 0
    node.holds = 1
    this.#size++
    return true
  }

  /** The node of that nodeid, also one that is only held. */
  at(nodeid: number): N | undefined {
    const node = this.#slots[slotOf(nodeid)]
    return node !== undefined && node.nodeid === nodeid ? node : undefined
  }

  /** Frees the places that `insertAt` left, for nodeids above every one of `generation`. */
  settle(generation: number): void {
    settleSlots(this.#slots, this.#generations, this.#free, ROOT_SLOT + 1, generation)
  }

  /** The highest generation of any nodeid so far. */
  get generation(): number {
    return highestGeneration(this.#generations)
  }

  addLookup(node: N): void {
    node.lookups++
  }

  /** Takes back lookups; more than there are count as all. True when the node left the table. */
  forget(node: N, nlookup: number): boolean {
    if (node.nodeid === ROOT_NODEID) return false
    node.lookups = nlookup < node.lookups ? node.lookups - nlookup : 0
    return this.#collect(node)
  }

  hold(node: N): void {
    node.holds++
  }

  /** True when the node left the table. */
  unhold(node: N): boolean {
    node.holds--
    return this.#collect(node)
  }

  /**
   * Takes back every lookup but the root's. `gone` sees each node that leaves the table by that; when it
   * ends holds of others, it also hears of those by the answer of `unhold`.
   */
  forgetAll(gone: (node: N) => void): void {
    for (const node of this.#slots)
      if (node !== undefined && this.forget(node, node.lookups)) gone(node)
  }

  #collect(node: N): boolean {
    if (node.lookups > 0 || node.holds > 0 || node.nodeid === ROOT_NODEID) return false
    const slot = slotOf(node.nodeid)
    if (this.#slots[slot] !== node) return false
    this.#slots[slot] = undefined
    this.#size--
    const generation = this.#generations[slot]! + 1
    this.#generations[slot] = generation
    // A slot whose generations are used up is never given out again.
    if (generation <= MAX_GENERATION) this.#free.push(slot)
    return true
  }

  *[Symbol.iterator](): IterableIterator<N> {
    for (const node of this.#slots) if (node !== undefined) yield node
  }
}
