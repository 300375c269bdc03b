/**
 * Takes a migrated state in, record by record as it arrives. The stream is not trusted: form, ranges, order
 * and counts are checked here, what lies behind a name by the back end.
 */
import type { Migratable, SessionState } from '../vfs/migration.js'
import { FrameReader, type Record } from './frames.js'
import { MAX_HANDLES, MAX_NODES, MigrationError } from './limits.js'
import { decodeEnd, decodeHandle, decodeHead, decodeNode, Kind } from './records.js'

export class StateLoader {
  readonly #reader = new FrameReader(record => this.#record(record))
  readonly #session: (state: SessionState) => string
  readonly #tree: Migratable
  #stage: number = Kind.head
  #begun = false
  #nodes = 0
  #handles = 0

  /** `session` takes what was agreed on at INIT; it answers why it cannot, or ''. */
  constructor(session: (state: SessionState) => string, tree: Migratable) {
    this.#session = session
    this.#tree = tree
  }

  /** Errors: MigrationError. */
  feed(bytes: Uint8Array): void {
    this.#reader.feed(bytes)
  }

  /** The stream has ended. Errors: MigrationError. */
  end(): void {
    if (this.#reader.unfinished || !this.#begun || this.#stage !== Kind.end + 1)
      throw new MigrationError('the state ends too early')
    this.#must(this.#tree.restored())
  }

  #record(record: Record): void {
    const kind = record[0]
    if (typeof kind !== 'number' || !(kind >= this.#stage && kind <= Kind.end))
      throw new MigrationError('the state is broken: a record at the wrong place')
    if (!this.#begun) {
      if (kind !== Kind.head) throw new MigrationError('the state is broken: it has no head')
      this.#begun = true
      this.#stage = Kind.node
      const { session, tree } = decodeHead(record)
      this.#must(this.#session(session))
      this.#must(this.#tree.restoreTree(tree))
      return
    }
    this.#stage = kind
    switch (kind) {
      case Kind.node:
        if (++this.#nodes > MAX_NODES) throw new MigrationError(`more than ${MAX_NODES} nodes`)
        this.#must(this.#tree.restoreNode(decodeNode(record)))
        return
      case Kind.handle:
        if (++this.#handles > MAX_HANDLES)
          throw new MigrationError(`more than ${MAX_HANDLES} open files`)
        this.#must(this.#tree.restoreHandle(decodeHandle(record)))
        return
      default:
        this.#end(record)
    }
  }

  #end(record: Record): void {
    const { nodes, handles } = decodeEnd(record)
    if (nodes !== this.#nodes || handles !== this.#handles)
      throw new MigrationError('the state is broken: records are missing')
    // Nothing may follow: no kind is past this stage.
    this.#stage = Kind.end + 1
  }

  #must(why: string): void {
    if (why !== '') throw new MigrationError(why)
  }
}
