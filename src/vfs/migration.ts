/**
 * What a back end hands over when its guest moves to another daemon, and takes over there: nodes by
 * nodeid with how each is found again, and open files by fh. Names and paths are bytes as characters 0 to
 * 255.
 *
 * The one who restores does not trust it: it checks what only it can know (is the file there, is it inside the
 * share, is it the same one). Form and ranges are checked before (src/migration).
 */

/** How the destination finds a file: by its names, or by its file handle when the names lead elsewhere. */
export type MigrationMode = 'find-paths' | 'file-handles'
/** What a file that the destination does not find means: no migration, or errors for the guest that uses it. */
export type MigrationOnError = 'abort' | 'guest-error'

export interface MigrationOptions {
  readonly mode: MigrationMode
  readonly onError: MigrationOnError
  /** find-paths: send file handles along, to be compared at the destination. */
  readonly verifyHandles: boolean
  /** find-paths: look at the source whether each name still leads to its file. */
  readonly confirmPaths: boolean
}

export const DEFAULT_MIGRATION_OPTIONS: MigrationOptions = {
  mode: 'find-paths',
  onError: 'abort',
  verifyHandles: false,
  confirmPaths: false,
}

/** What was agreed on at INIT. */
export interface SessionState {
  readonly initialised: boolean
  readonly minor: number
  /** Flags of the reply: u32 each. */
  readonly flags: number
  readonly flags2: number
  readonly maxReadahead: number
  readonly maxPages: number
}

/** What holds for the whole state of a back end. */
export interface TreeState {
  readonly mode: MigrationMode
  /** File handle of the root, as in `NodeState`: both sides must have the same one. Empty: not compared. */
  readonly rootHandle: string
  /** Highest generations given out: of nodeids and of fhs. */
  readonly nodeGeneration: number
  readonly handleGeneration: number
}

/** A node, after the one it names as its parent. The root is not among them. */
export interface NodeState {
  readonly nodeid: number
  readonly lookups: number
  /** S_IFMT bits. */
  readonly type: number
  /** Found in `parent` under `name`; parent 0: not that way. */
  readonly parent: number
  readonly name: string
  /** Or under this path from the root on, without a leading slash; empty: not that way. */
  readonly path: string
  /** struct file_handle: u32 handle_bytes, i32 handle_type, the handle. Empty: none. */
  readonly handle: string
  /** A node on the same mount, to open the handle with; 0: none. */
  readonly anchor: number
}

export interface HandleState {
  readonly fh: number
  readonly nodeid: number
  readonly directory: boolean
  /** open(2) flags of the guest. */
  readonly flags: number
}

/**
 * A back end that can move. Saving changes nothing: the guest may go on here. Restoring starts from the
 * state after `destroy`, and `destroy` ends one that failed.
 */
export interface Migratable {
  /** Why the guest cannot move now, or ''. */
  readonly obstacle: string
  saveTree(): TreeState
  saveNodes(): Iterable<NodeState>
  saveHandles(): Iterable<HandleState>

  /** Each answers why the migration cannot go on, or ''. */
  restoreTree(state: TreeState): string
  restoreNode(state: NodeState): string
  restoreHandle(state: HandleState): string
  /** Everything was handed over. */
  restored(): string
  /** What the last one had to leave behind, for the log; or ''. */
  readonly losses: string
}
