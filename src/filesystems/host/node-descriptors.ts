/**
 * The bounded set of nodes that have an O_PATH descriptor. When it is full, a node that was not used
 * lately gives its descriptor up (a clock with one hand).
 *
 * Nodes without a name are passed over while they take up no more than half of the set: their
 * descriptor may be the only way to the inode.
 */
import type { Context } from '../../native/context.js'
import type { HostNode } from './node.js'

/** However little there is: fewer than this and every step would open anew. */
export const MIN_NODE_DESCRIPTORS = 16

export class NodeDescriptors {
  /** Nodes with a descriptor, in no order; the clock's hand goes round them. */
  readonly #open: HostNode[] = []
  readonly #context: Context
  /** Sees a node before its descriptor is closed. */
  readonly #beforeEviction: (node: HostNode) => void
  readonly #most: number
  #limit: number
  #hand = 0
  #nameless = 0
  /** Its descriptor stays: the caller is using it. */
  guarded: HostNode | undefined

  constructor(context: Context, most: number, beforeEviction: (node: HostNode) => void) {
    this.#context = context
    this.#most = Math.max(most, MIN_NODE_DESCRIPTORS)
    this.#limit = this.#most
    this.#beforeEviction = beforeEviction
  }

  get count(): number {
    return this.#open.length
  }

  /** `room` is what there is for nodes now, apart from their own limit. */
  fitInto(room: number): void {
    this.#limit = Math.min(this.#most, Math.max(room, MIN_NODE_DESCRIPTORS))
    while (this.#open.length > this.#limit && this.#evict(undefined));
  }

  /** Gives `node`, which has none, the descriptor `fd`. */
  add(node: HostNode, fd: number): void {
    if (this.#open.length >= this.#limit) this.#evict(node)
    node.fd = fd
    node.referenced = true
    node.openIndex = this.#open.length
    this.#open.push(node)
    if (node.nameless) this.#nameless++
  }

  close(node: HostNode): void {
    if (node.openIndex < 0) return
    this.#context.close(node.fd)
    node.fd = -1
    const index = node.openIndex
    node.openIndex = -1
    const last = this.#open.pop()!
    if (last !== node) {
      this.#open[index] = last
      last.openIndex = index
    }
    if (node.nameless) this.#nameless--
  }

  setNameless(node: HostNode, nameless: boolean): void {
    if (node.nameless === nameless) return
    node.nameless = nameless
    if (node.openIndex >= 0) this.#nameless += nameless ? 1 : -1
  }

  /** Gives up one descriptor that was not used lately. False when there is none to give. */
  #evict(spare: HostNode | undefined): boolean {
    const keepNameless = this.#nameless * 2 <= this.#limit
    for (let steps = this.#open.length * 2; steps > 0; steps--) {
      if (this.#hand >= this.#open.length) this.#hand = 0
      const node = this.#open[this.#hand]!
      if (node === spare || node === this.guarded || (node.nameless && keepNameless)) {
        this.#hand++
        continue
      }
      if (node.referenced) {
        node.referenced = false
        this.#hand++
        continue
      }
      this.#beforeEviction(node)
      this.close(node)
      return true
    }
    return false
  }

  /**
   * The process or the host is out of descriptors: gives up a quarter of those here, never that of
   * `spare`. False when there are none to give.
   */
  relieve(spare: HostNode | undefined): boolean {
    const before = this.#open.length
    for (let i = Math.ceil(before / 4); i > 0; i--) if (!this.#evict(spare)) break
    return this.#open.length < before
  }
}
