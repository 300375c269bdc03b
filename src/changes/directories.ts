/**
 * The directories that are watched: by the key that events name them by, each with its place in the share.
 * Renames are applied in the order of the events, so that a path is the one at the time of the event.
 */

/** Longer chains are no paths: after events were lost there may be loops. */
const MAX_DEPTH = 4096

export class WatchedDirectory {
  /** Undefined for the share's root, and for one that was moved out of the share. */
  parent: WatchedDirectory | undefined
  /** Bytes as characters 0 to 255. */
  name: string

  constructor(parent: WatchedDirectory | undefined, name: string) {
    this.parent = parent
    this.name = name
  }
}

export class Directories {
  #root: WatchedDirectory | undefined
  readonly #byKey = new Map<string, WatchedDirectory>()

  get size(): number {
    return this.#byKey.size
  }

  get(key: string): WatchedDirectory | undefined {
    return this.#byKey.get(key)
  }

  /** The first one is the root. */
  add(key: string, parent: WatchedDirectory | undefined, name: string): WatchedDirectory {
    const made = new WatchedDirectory(parent, name)
    this.#byKey.set(key, made)
    this.#root ??= made
    return made
  }

  remove(key: string): void {
    this.#byKey.delete(key)
  }

  clear(): void {
    this.#byKey.clear()
    this.#root = undefined
  }

  /** Path of the entry `name` ('' or '.': of the directory itself), '' for the root; undefined outside the share. */
  pathOf(directory: WatchedDirectory, name: string): string | undefined {
    const parts = name === '' || name === '.' ? [] : [name]
    let at: WatchedDirectory | undefined = directory
    for (; at !== this.#root; at = at.parent) {
      if (at === undefined || parts.length > MAX_DEPTH) return undefined
      parts.push(at.name)
    }
    return parts.reverse().join('/')
  }
}
