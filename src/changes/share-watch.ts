/**
 * Tells what changes in the share, by path: a fanotify group with a mark on every directory of it.
 *
 * The kernel is the only source, for changes through this daemon and for those of others: so they come in one
 * order. What is through this daemon is known by the process id. Marks of directories work the same with
 * privilege and without, cost nothing while nobody listens, and say nothing of the rest of the host.
 *
 * Events are read every TICK_MS. Until then the kernel puts equal ones together (many writes are one `modify`),
 * and a name that came and went may be told as one event of each kind. So an event says where to look.
 *
 * Not told: stores through mappings, access times, what a network file system's other clients do, and what
 * happens below a file system that is mounted in the share after the start of watching.
 */
import { readSync } from 'node:fs'
import type { Change, ChangeKindName } from '../../protocol/control/messages.js'
import { Errno } from '../../protocol/errno.js'
import { DT_DIR, DT_UNKNOWN } from '../../protocol/linux/constants.js'
import { FAN } from '../../protocol/linux/fanotify.js'
import {
  type EventPlace,
  type NamedEvent,
  readNamedEvents,
} from '../../protocol/linux/fanotify-names.js'
import { Context } from '../native/context.js'
import { Directories, type WatchedDirectory } from './directories.js'
import { RenamedDirectories } from './renamed-directories.js'
import { ShareTree, TREE_ARENA_BYTES } from './share-tree.js'

/** The inode of each stays in memory while it is watched: 1.1 KiB on ext4; and 0.6 KiB here. */
export const MAX_DIRECTORIES = 65_536

const TICK_MS = 50
/** Longest turn of the walk, between which the thread does other things. */
const WALK_TURN_MS = 5
const READ_BYTES = 65_536
/** Reads in one turn: more than the kernel's queue holds by default. */
const READS = 64
/** A directory that is not there is looked for in this turn and the next two; so many of them at most. */
const MOST_TRIES = 3
const MOST_MISSED = 10_000
/** Before everything is looked for anew: who makes changes faster than they are read shall not keep us at it. */
const REST_MS = 500

const MASK =
  FAN.CREATE |
  FAN.DELETE |
  FAN.RENAME |
  FAN.MODIFY |
  FAN.ATTRIB |
  FAN.DELETE_SELF |
  FAN.EVENT_ON_CHILD |
  FAN.ONDIR
export interface ChangeListener {
  /**
   * Changes in their order; `lost` when the kernel dropped some before them: who looks now misses none of what
   * comes.
   */
  changed(changes: readonly Change[], lost: boolean): void
  /** Every directory there was is watched, but for `unwatched`. Again when there are more of those. */
  watching(directories: number, unwatched: number): void
}

/** A directory to be watched. */
interface Step {
  readonly parent: WatchedDirectory | undefined
  readonly name: string
  /** It was there, came by a rename, or was made: then what is found in it is new, too. */
  readonly why: 'start' | 'renamed' | 'made'
  readonly byGuest: boolean
  /** Number of the turn in which it was told of. */
  readonly turn: number
  /** How often it was missed. */
  readonly tries: number
}

export class ShareWatch {
  readonly #context: Context
  readonly #group: number
  readonly #tree: ShareTree
  readonly #events = Buffer.allocUnsafeSlow(READ_BYTES)
  readonly #directories = new Directories()
  readonly #moved: RenamedDirectories
  readonly #steps: Step[] = []
  /** Not found where they should be: gone, or there was a rename that is not told yet. */
  #missed: Step[] = []
  #turn = 0
  #listener: ChangeListener | undefined
  #timer: NodeJS.Timeout | undefined
  #walking: NodeJS.Immediate | undefined
  #resting: NodeJS.Timeout | undefined
  /** Changes were dropped, and not every directory is watched since. */
  #behind = false
  #unwatched = 0
  /** What was told of them, -1: nothing was. */
  #toldUnwatched = -1
  #changes: Change[] = []
  #lost = false

  private constructor(context: Context, group: number) {
    this.#context = context
    this.#group = group
    this.#tree = new ShareTree(context)
    this.#moved = new RenamedDirectories(this.#tree, this.#directories)
  }

  /** Before the process is isolated: afterwards there are no new groups. -errno: of fanotify_init(2). */
  static open(): ShareWatch | number {
    const context = new Context({ arenaBytes: TREE_ARENA_BYTES, maxSegments: 1, poolThreads: 1 })
    const group = context.raw.fanotifyInitNamed()
    if (group >= 0) return new ShareWatch(context, group)
    context.dispose()
    return group
  }

  /** The share, as it is found now. Errors: those of open(2), thrown. */
  share(path: string): void {
    this.#tree.open(path)
  }

  get counters(): { readonly watchedDirectories: number; readonly unwatchedDirectories: number } {
    return { watchedDirectories: this.#directories.size, unwatchedDirectories: this.#unwatched }
  }

  /** Watches until `stop`. */
  start(listener: ChangeListener): void {
    this.#listener = listener
    this.#toldUnwatched = -1
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
    this.#begin()
  }

  /** Nothing is told any more, and nothing watched. */
  stop(): void {
    clearInterval(this.#timer)
    this.#listener = undefined
    this.#forget()
    this.#changes = []
    this.#lost = false
    this.#behind = false
    // Nothing old is in the queue when it starts again.
    while (this.#read() > 0);
  }

  close(): void {
    this.stop()
    this.#context.close(this.#group)
    this.#tree.close()
    this.#context.dispose()
  }

  #forget(): void {
    clearImmediate(this.#walking)
    clearTimeout(this.#resting)
    this.#walking = undefined
    this.#resting = undefined
    this.#context.raw.fanotifyClear(this.#group)
    this.#directories.clear()
    this.#moved.clear()
    this.#missed = []
    this.#steps.length = 0
    this.#unwatched = 0
  }

  #begin(): void {
    this.#steps.push({
      parent: undefined,
      name: '',
      why: 'start',
      byGuest: false,
      turn: 0,
      tries: 0,
    })
    this.#walk()
  }

  // --- events -------------------------------------------------------------------------------------

  /** Bytes of events read, 0 when there are none, -1 when they cannot be. */
  #read(): number {
    if (this.#context.pollNow(this.#group, -1) === 0) return 0
    try {
      return readSync(this.#group, this.#events)
    } catch {
      return -1
    }
  }

  #tick(): void {
    for (let i = 0; i < READS; i++) {
      const bytes = this.#read()
      if (bytes < 0) this.#startAnew()
      if (bytes <= 0) break
      for (const event of readNamedEvents(this.#events, bytes)) this.#take(event)
    }
    const told = (path: string | undefined, to: string, byGuest: boolean): void =>
      this.#tellRename(path, to, true, byGuest)
    if (!this.#moved.settle(told)) this.#startAnew()
    if (this.#missed.length > 0) this.#tryAgain()
    this.#tell()
    if (this.#toldUnwatched >= 0 && this.#unwatched > this.#toldUnwatched) this.#sayWatching()
  }

  #sayWatching(): void {
    this.#toldUnwatched = this.#unwatched
    this.#listener?.watching(this.#directories.size, this.#unwatched)
  }

  #tell(): void {
    this.#turn++
    if (this.#changes.length === 0 && !this.#lost) return
    const changes = this.#changes
    const lost = this.#lost
    this.#changes = []
    this.#lost = false
    this.#listener?.changed(changes, lost)
  }

  #take(event: NamedEvent): void {
    if ((event.mask & FAN.Q_OVERFLOW) !== 0) this.#startAnew()
    else if ((event.mask & FAN.RENAME) !== 0) this.#renamed(event)
    else if (event.place !== undefined) this.#happened(event, event.place)
  }

  /** Directories may have come or moved unseen. */
  #startAnew(): void {
    this.#forget()
    this.#behind = true
    this.#resting = setTimeout(() => this.#begin(), REST_MS)
  }

  // --- renames of directories ---------------------------------------------------------------------

  #renamed({ mask, pid, from, to, inode }: NamedEvent): void {
    const path = this.#pathOf(from)
    const target = to === undefined ? undefined : this.#directories.get(to.directory)
    const toPath = this.#pathOf(to)
    if (path === undefined && toPath === undefined) return
    const isDirectory = (mask & FAN.ONDIR) !== 0
    const byGuest = pid === process.pid
    const moved = isDirectory && inode !== undefined ? this.#directories.get(inode) : undefined
    const known = moved !== undefined
    if (known) {
      const source = from === undefined ? undefined : this.#directories.get(from.directory)
      this.#moved.note(inode!, moved, moved.parent, moved.name, byGuest)
      this.#moved.note(inode!, moved, source, from?.name ?? '', byGuest)
      this.#moved.note(inode!, moved, target, to?.name ?? '', byGuest)
      moved.parent = target
      moved.name = to?.name ?? ''
    }
    this.#tellRename(path, toPath, isDirectory, byGuest)
    // What comes from elsewhere may hold directories that are not watched; what was renamed before it could be
    // watched is new, and so is all that is in it.
    if (toPath !== undefined && isDirectory && (!known || path === undefined))
      this.#come(target!, to!.name, path === undefined ? 'renamed' : 'made', byGuest)
  }

  #tellRename(
    path: string | undefined,
    to: string | undefined,
    isDirectory: boolean,
    byGuest: boolean,
  ): void {
    const change = { isDirectory, byGuest, path: bytesOf(path), to: bytesOf(to) }
    this.#changes.push({ kind: 'rename', ...change })
  }

  // --- everything else ----------------------------------------------------------------------------

  #happened({ mask, pid, inode }: NamedEvent, place: EventPlace): void {
    if ((mask & FAN.DELETE_SELF) !== 0) this.#directories.remove(inode ?? place.directory)
    const path = this.#pathOf(place)
    if (path === undefined) return
    const isDirectory = (mask & FAN.ONDIR) !== 0
    const byGuest = pid === process.pid
    const tell = (bit: number, kind: ChangeKindName): void => {
      if ((mask & bit) !== 0)
        this.#changes.push({ kind, isDirectory, byGuest, path: bytesOf(path), to: undefined })
    }
    const cameBack =
      (mask & FAN.CREATE) !== 0 && (mask & FAN.DELETE) !== 0 && this.#tree.exists(path)
    if (cameBack) tell(FAN.DELETE, 'delete')
    tell(FAN.CREATE, 'create')
    if (isDirectory && (mask & FAN.CREATE) !== 0)
      this.#come(this.#directories.get(place.directory)!, place.name, 'made', byGuest)
    tell(FAN.MODIFY, 'modify')
    tell(FAN.ATTRIB, 'attrib')
    if (!cameBack) tell(FAN.DELETE, 'delete')
  }

  #pathOf(place: EventPlace | undefined): string | undefined {
    const directory = place && this.#directories.get(place.directory)
    return directory && this.#directories.pathOf(directory, place!.name)
  }

  // --- which directories --------------------------------------------------------------------------

  /** A directory came: it is watched at once, before what its maker does next. */
  #come(parent: WatchedDirectory, name: string, why: Step['why'], byGuest: boolean): void {
    this.#steps.push({ parent, name, why, byGuest, turn: this.#turn, tries: 0 })
    if (this.#walking === undefined) this.#walk()
  }

  #walk(): void {
    this.#walking = undefined
    const limit = performance.now() + WALK_TURN_MS
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      this.#watch(step)
      if (performance.now() < limit) continue
      this.#walking = setImmediate(() => this.#walk())
      return
    }
    if (this.#behind) this.#lost = true
    this.#behind = false
    if (this.#toldUnwatched < 0) this.#sayWatching()
  }

  /** What was renamed before it was missed has been told by now, or is with the next turn. */
  #tryAgain(): void {
    this.#steps.push(...this.#missed.splice(0, MOST_MISSED))
    this.#missed = []
    if (this.#walking === undefined) this.#walk()
  }

  #watch(step: Step): void {
    const { parent, name } = step
    const path = parent === undefined ? '.' : this.#directories.pathOf(parent, name)
    if (path === undefined) return
    const fd = this.#tree.openDirectory(path)
    if (fd < 0) {
      if (fd !== -Errno.ENOENT && fd !== -Errno.ENOTDIR && fd !== -Errno.ELOOP) this.#unwatched++
      else if (step.tries < MOST_TRIES) this.#missed.push({ ...step, tries: step.tries + 1 })
      return
    }
    const directory = this.#mark(fd, step)
    if (directory !== undefined) {
      // Who has looked there already did so before it was watched: he is to look again.
      if (step.why !== 'start' && step.turn !== this.#turn)
        this.#tellFound(directory, '', true, step.byGuest)
      this.#list(fd, directory, step)
    }
    this.#context.close(fd)
  }

  /** Undefined: it is not to be watched, or is already. */
  #mark(fd: number, { parent, name, byGuest }: Step): WatchedDirectory | undefined {
    const key = this.#tree.keyOf(fd)
    const known = key === undefined ? undefined : this.#directories.get(key)
    if (known !== undefined) {
      // Seen by another way (a bind mount), or renamed, which is not told yet.
      const isHere = known.parent === parent && known.name === name
      if (!isHere && this.#directories.pathOf(known, '') !== undefined) {
        if (parent !== undefined) this.#moved.note(key!, known, parent, name, byGuest)
        return undefined
      }
      known.parent = parent
      known.name = name
      return known
    }
    if (
      key === undefined ||
      this.#directories.size >= MAX_DIRECTORIES ||
      this.#context.raw.fanotifyMarkOpen(this.#group, fd, MASK) < 0
    ) {
      this.#unwatched++
      return undefined
    }
    return this.#directories.add(key, parent, name)
  }

  /** Goes on with the directories in it. */
  #list(fd: number, directory: WatchedDirectory, { why, byGuest }: Step): void {
    const fault = this.#tree.list(fd, (name, type) => {
      if (why === 'made') this.#tellFound(directory, name, type === DT_DIR, byGuest)
      if (type === DT_DIR || type === DT_UNKNOWN)
        this.#steps.push({ parent: directory, name, why, byGuest, turn: this.#turn, tries: 0 })
    })
    if (fault < 0) this.#unwatched++
  }

  #tellFound(
    directory: WatchedDirectory,
    name: string,
    isDirectory: boolean,
    byGuest: boolean,
  ): void {
    const path = bytesOf(this.#directories.pathOf(directory, name))
    this.#changes.push({ kind: 'create', isDirectory, byGuest, path, to: undefined })
  }
}

function bytesOf(path: string | undefined): Uint8Array | undefined {
  return path === undefined ? undefined : Buffer.from(path, 'latin1')
}
