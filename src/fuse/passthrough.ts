/**
 * Passthrough: READ and WRITE of an open file go from the ring to its descriptor, past the file system.
 *
 * What can be done so the back end says with OPEN (`OpenReply.direct`): a descriptor that is good until RELEASE, and
 * whose reads and writes need nothing of the back end. What is done so the policy decides, once for each OPEN.
 * Everything out of the ordinary (an error, data that is not in memory, set-id bits to clear, a DAX window)
 * goes the ordinary way, which answers as if there was no other.
 */
import type { FileSystem } from '../vfs/filesystem.js'
import type { DirectAccess } from '../vfs/replies.js'
import { slotOf, TWO32 } from '../vfs/generations.js'

/** What a policy is asked about. Good for the time of the call. */
export interface PassthroughFile {
  readonly fs: FileSystem
  readonly nodeid: number
  /** open(2) flags of the guest. */
  readonly flags: number
  readonly uid: number
  readonly gid: number
  readonly pid: number
  /** Below the share's root, as it is known now; undefined when the file has no name, or the back end knows none. */
  path(): string | undefined
}

/** True: reads and writes of this open file go past the file system. */
export type PassthroughPolicy = (file: PassthroughFile) => boolean

/** The default: whatever the back end allows. */
export const wherePossible: PassthroughPolicy = () => true

/** More open files than these go the ordinary way. */
const MOST_SLOTS = 1 << 20

/** Which fh has which descriptor: arrays by the low word of the fh, checked against its high word. */
export class Passthrough {
  #fds = new Int32Array(64).fill(-1)
  #generations = new Uint32Array(64)
  #readFlags = new Int32Array(64)
  #readsFrom = new Uint32Array(64)
  #writes = new Uint8Array(64)
  #size = 0

  /** Open files that go past the file system. */
  get size(): number {
    return this.#size
  }

  /** `fh` was opened; `direct` is the back end's and is copied. */
  add(fh: number, direct: DirectAccess): void {
    const slot = slotOf(fh)
    if (slot >= MOST_SLOTS) return
    if (slot >= this.#fds.length) this.#grow(slot)
    if (this.#fds[slot]! < 0) this.#size++
    this.#fds[slot] = direct.fd
    this.#generations[slot] = Math.floor(fh / TWO32)
    this.#readFlags[slot] = direct.reads ? direct.readFlags : -1
    this.#readsFrom[slot] = direct.readsFrom
    this.#writes[slot] = direct.writes ? 1 : 0
  }

  #grow(slot: number): void {
    const length = 2 ** Math.ceil(Math.log2(slot + 1))
    const fds = new Int32Array(length).fill(-1)
    fds.set(this.#fds)
    const generations = new Uint32Array(length)
    generations.set(this.#generations)
    const readFlags = new Int32Array(length)
    readFlags.set(this.#readFlags)
    const readsFrom = new Uint32Array(length)
    readsFrom.set(this.#readsFrom)
    const writes = new Uint8Array(length)
    writes.set(this.#writes)
    this.#fds = fds
    this.#generations = generations
    this.#readFlags = readFlags
    this.#readsFrom = readsFrom
    this.#writes = writes
  }

  /** Its file system does not know the flags: reads go the ordinary way from now on. */
  stopReads(slot: number): void {
    this.#readFlags[slot] = -1
  }

  /** `fh` is about to be closed. */
  remove(fh: number): void {
    const slot = slotOf(fh)
    if (!(slot < this.#fds.length) || this.#fds[slot]! < 0) return
    if (this.#generations[slot] !== Math.floor(fh / TWO32)) return
    this.#fds[slot] = -1
    this.#size--
  }

  /** Every file is about to be closed. */
  clear(): void {
    if (this.#size > 0) this.#fds.fill(-1)
    this.#size = 0
  }

  /** Place of the fh whose two words lie at `at`, or -1: it goes the ordinary way. */
  find(view: DataView, at: number): number {
    const slot = view.getUint32(at, true)
    if (slot >= this.#fds.length || this.#fds[slot]! < 0) return -1
    return this.#generations[slot] === view.getUint32(at + 4, true) ? slot : -1
  }
  fd(slot: number): number {
    return this.#fds[slot]!
  }
  /** RWF_* flags to read `bytes` with; -1: such a read goes the ordinary way. */
  readFlags(slot: number, bytes: number): number {
    return bytes < this.#readsFrom[slot]! ? -1 : this.#readFlags[slot]!
  }
  writes(slot: number): boolean {
    return this.#writes[slot] === 1
  }
}
