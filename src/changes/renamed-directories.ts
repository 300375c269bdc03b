/**
 * Directories that were renamed a moment ago. Where one is now must be looked up among the places it was told or
 * found to be at: the kernel puts equal renames together, so that of a to b, b to a, a to b only the first two are
 * told; and a rename into a directory that was not watched yet is told as one to nowhere.
 */
import type { Directories, WatchedDirectory } from './directories.js'
import type { ShareTree } from './share-tree.js'

/** Places of a directory that are remembered, and turns in which it may be at none of them. */
const MOST_PLACES = 64
const MOST_TURNS = 20

interface Place {
  readonly parent: WatchedDirectory
  readonly name: string
}

interface Renamed {
  readonly key: string
  readonly directory: WatchedDirectory
  readonly places: Place[]
  readonly byGuest: boolean
  /** Turns in which it was nowhere: the next rename of it, or of what leads to it, is on its way. */
  turns: number
}

export class RenamedDirectories {
  readonly #tree: ShareTree
  readonly #directories: Directories
  readonly #byKey = new Map<string, Renamed>()

  constructor(tree: ShareTree, directories: Directories) {
    this.#tree = tree
    this.#directories = directories
  }

  clear(): void {
    this.#byKey.clear()
  }

  /** The directory of that key is or was, or will be told to be, at this place; no `parent`: at none that is watched. */
  note(
    key: string,
    directory: WatchedDirectory,
    parent: WatchedDirectory | undefined,
    name: string,
    byGuest: boolean,
  ): void {
    if (parent === undefined) return
    let noted = this.#byKey.get(key)
    if (noted?.directory !== directory) {
      noted = { key, directory, places: [], byGuest, turns: 0 }
      this.#byKey.set(key, noted)
    }
    const { places } = noted
    const isNoted = places.some(place => place.parent === parent && place.name === name)
    if (!isNoted && places.length < MOST_PLACES) places.push({ parent, name })
  }

  /**
   * After the events of a turn: puts right what is known of their places, and hands `tell` the path that was
   * thought and the one that is. False: one was not found for so long that all must be looked for anew.
   */
  settle(tell: (path: string | undefined, to: string, byGuest: boolean) => void): boolean {
    // One may be below another.
    for (let found = true; found; ) {
      found = false
      for (const renamed of this.#byKey.values()) if (this.#settleOne(renamed, tell)) found = true
    }
    for (const renamed of this.#byKey.values()) if (++renamed.turns > MOST_TURNS) return false
    return true
  }

  /** True when it is settled, and noted no more. */
  #settleOne(
    { key, directory, places, byGuest }: Renamed,
    tell: (path: string | undefined, to: string, byGuest: boolean) => void,
  ): boolean {
    const path = this.#directories.pathOf(directory, '')
    const isGone = this.#directories.get(key) !== directory
    if (isGone || (path !== undefined && this.#tree.isAt(path, key))) return this.#byKey.delete(key)
    for (const { parent, name } of places) {
      const to = this.#directories.pathOf(parent, name)
      if (to === undefined || to === path || !this.#tree.isAt(to, key)) continue
      directory.parent = parent
      directory.name = name
      tell(path, to, byGuest)
      return this.#byKey.delete(key)
    }
    // Outside the share, as was told.
    return path === undefined && this.#byKey.delete(key)
  }
}
