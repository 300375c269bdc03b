/**
 * Names that were looked up in directories whose changes are told (metadata-cache.ts), found and not found ones:
 * a table of fixed size in which a new name takes the place of one that is out of date, or of any.
 */
import type { KeptInode } from './kept-inode.js'
import type { HostNode } from './node.js'

/** Places a name may take, from its hash on. */
const WAYS = 4

class KeptName {
  dir: KeptInode
  /** `KeptInode.names` of the directory when the name was looked up: another number now makes it unknown. */
  names: number
  name: string
  node: HostNode | null

  constructor(dir: KeptInode, name: string, node: HostNode | null) {
    this.dir = dir
    this.names = dir.names
    this.name = name
    this.node = node
  }
}

export class KeptNames {
  readonly #places: (KeptName | undefined)[]
  readonly #mask: number
  readonly #bytes: Buffer
  #next = 0

  /** `bytes`: the arena, where names to look for lie. Room for about twice `most` names. */
  constructor(bytes: Buffer, most: number) {
    this.#bytes = bytes
    const count = most === 0 ? 0 : 2 ** Math.ceil(Math.log2(most * 2)) + WAYS
    this.#places = new Array<KeptName | undefined>(count).fill(undefined)
    this.#mask = Math.max(count - WAYS - 1, 0)
  }

  /** null: there is no such name. undefined: not known. */
  find(dir: KeptInode, at: number, bytes: number): HostNode | null | undefined {
    const first = this.#hash(dir, at, bytes)
    for (let i = first; i < first + WAYS; i++) {
      const kept = this.#places[i]
      if (kept !== undefined && this.#is(kept, dir, at, bytes)) return kept.node
    }
    return undefined
  }

  remember(dir: KeptInode, at: number, bytes: number, node: HostNode | null): void {
    const first = this.#hash(dir, at, bytes)
    let place = first + (this.#next++ & (WAYS - 1))
    for (let i = first; i < first + WAYS; i++) {
      const kept = this.#places[i]
      if (kept !== undefined && this.#is(kept, dir, at, bytes)) {
        kept.node = node
        return
      }
      if (kept === undefined || kept.names !== kept.dir.names) place = i
    }
    const name = this.#bytes.toString('latin1', at, at + bytes)
    this.#places[place] = new KeptName(dir, name, node)
  }

  clear(): void {
    this.#places.fill(undefined)
  }

  #is(kept: KeptName, dir: KeptInode, at: number, bytes: number): boolean {
    const { name } = kept
    if (kept.dir !== dir || kept.names !== dir.names || name.length !== bytes) return false
    for (let i = 0; i < bytes; i++) if (name.charCodeAt(i) !== this.#bytes[at + i]) return false
    return true
  }

  /** FNV-1a over the name, from the directory's place on. */
  #hash(dir: KeptInode, at: number, bytes: number): number {
    let hash = 0x811c9dc5 ^ dir.at
    for (let i = at; i < at + bytes; i++) hash = Math.imul(hash ^ this.#bytes[i]!, 0x01000193)
    return (hash ^ (hash >>> 15)) & this.#mask
  }
}
