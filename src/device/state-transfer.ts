/**
 * The device's state on its way through a pipe: to the front end at the source of a migration, from there
 * at the destination. Neither side waits for the other here: what the pipe takes or has is moved, then the
 * device goes on, so that a front end that is slow (or has no end in mind) holds up nothing.
 */
import { fstatSync, readSync, writeSync } from 'node:fs'
import type { FuseServer } from '../fuse/server.js'
import { StateLoader } from '../migration/load.js'
import { saveState } from '../migration/save.js'
import { native } from '../native/addon.js'
import type { Context } from '../native/context.js'
import type { Migratable } from '../vfs/migration.js'
import type { StateDirection } from '../vhost/device.js'
import type { Log } from '../vhost/log.js'

/** A front end that moves nothing for so long is given up. */
const IDLE_LIMIT_MS = 30_000
/** So is one that is not done after so long: a gigabyte at 2 MB/s. */
const TOTAL_LIMIT_MS = 500_000
const CHUNK_BYTES = 64 * 1024
/** Chunks moved before the device has a look at everything else. */
const CHUNKS_AT_ONCE = 16

const NEVER = 'no transfer was begun'

/** After which a front end is given up. */
export interface TransferLimits {
  readonly idleMs: number
  readonly totalMs: number
}

export class StateTransfer {
  active = false
  readonly #context: Context
  readonly #server: FuseServer
  readonly #token: number
  readonly #log: Log
  readonly #limits: TransferLimits
  readonly #in = Buffer.alloc(CHUNK_BYTES)
  #direction: StateDirection = 'save'
  #fd = -1
  #outcome = NEVER
  #startedMs = 0
  #movedMs = 0
  #chunks: Iterator<Buffer> | undefined
  #out: Buffer | undefined
  #loader: StateLoader | undefined
  #initialised = false

  /** `token`: of the event set, for the descriptor in use. */
  constructor(
    context: Context,
    server: FuseServer,
    token: number,
    log: Log,
    limits?: TransferLimits,
  ) {
    this.#context = context
    this.#server = server
    this.#token = token
    this.#log = log
    this.#limits = limits ?? { idleMs: IDLE_LIMIT_MS, totalMs: TOTAL_LIMIT_MS }
  }

  /** Begins; takes `fd` over. Returns why it cannot, or ''. */
  start(direction: StateDirection, fd: number): string {
    this.abort('another transfer was begun')
    const why = this.#begin(direction, fd)
    this.#outcome = why === '' ? 'it is not done' : why
    if (why === '') return ''
    native.closeFd(fd)
    return why
  }

  #begin(direction: StateDirection, fd: number): string {
    const { fs } = this.#server
    const { migration } = fs
    if (migration === undefined) return 'this file system cannot be migrated'
    if (direction === 'save' && migration.obstacle !== '') return migration.obstacle
    // Anything else might make a read or write wait, whatever is said of it.
    const kind = fstatSync(fd)
    if (!kind.isFIFO() && !kind.isSocket()) return 'its descriptor is neither a pipe nor a socket'
    const missed = direction === 'save' ? this.#context.raw.dirtyLogMisses() : 0
    if (missed > 0)
      return `${missed} writes to guest memory fell outside the dirty log: the destination would not have them`
    native.setNonBlocking(fd, true)
    const fault = this.#context.raw.watchFd(fd, this.#token, false, direction === 'save')
    if (fault < 0) return `its descriptor cannot be watched (errno ${-fault})`
    this.#direction = direction
    this.#fd = fd
    this.#startedMs = performance.now()
    this.#movedMs = this.#startedMs
    if (direction === 'save') this.#chunks = saveState(this.#server.session.save(), migration)
    else this.#loader = this.#newLoader(migration)
    this.active = true
    return ''
  }

  #newLoader(migration: Migratable): StateLoader {
    const { fs, session } = this.#server
    fs.destroy()
    session.reset()
    this.#initialised = false
    return new StateLoader(state => {
      this.#initialised = state.initialised
      return session.restore(fs, state)
    }, migration)
  }

  /** Longest sleep until the transfer must be looked at again, for `wait`. */
  get waitMs(): number {
    if (!this.active) return -1
    return Math.max(1, Math.ceil(this.#limitMs - performance.now()))
  }

  get #limitMs(): number {
    const { idleMs, totalMs } = this.#limits
    return Math.min(this.#movedMs + idleMs, this.#startedMs + totalMs)
  }

  /** Moves what can be moved now. True when that was anything. */
  step(): boolean {
    let moved = false
    try {
      for (let i = 0; i < CHUNKS_AT_ONCE && this.active; i++) {
        const went = this.#direction === 'save' ? this.#write() : this.#read()
        if (!went) break
        moved = true
      }
    } catch (cause) {
      this.#fail(cause instanceof Error ? cause.message : String(cause))
      return true
    }
    if (moved) this.#movedMs = performance.now()
    else if (this.active && performance.now() > this.#limitMs)
      this.#fail('the front end does not go on with it')
    return moved
  }

  /** False: the pipe is full. */
  #write(): boolean {
    if (this.#out === undefined) {
      const next = this.#chunks!.next()
      if (next.done === true) {
        this.#finish('')
        return true
      }
      this.#out = next.value
    }
    let written: number
    try {
      written = writeSync(this.#fd, this.#out)
    } catch (cause) {
      if (isAgain(cause)) return false
      throw cause
    }
    this.#out = written < this.#out.length ? this.#out.subarray(written) : undefined
    return true
  }

  /** False: the pipe is empty, and not at its end. */
  #read(): boolean {
    let got: number
    try {
      got = readSync(this.#fd, this.#in)
    } catch (cause) {
      if (isAgain(cause)) return false
      throw cause
    }
    if (got > 0) {
      this.#loader!.feed(this.#in.subarray(0, got))
      return true
    }
    this.#loader!.end()
    const { fs, session } = this.#server
    session.initialised = this.#initialised
    const losses = fs.migration?.losses ?? ''
    if (losses !== '') this.#log('warn', losses)
    this.#finish('')
    return true
  }

  /** How it went: '' done and good. At the destination everything was sent before this is asked. */
  check(): string {
    while (this.active && this.#direction === 'load' && this.step());
    this.abort('the front end asked before everything went through')
    return this.#outcome
  }

  /** Gives up a transfer under way; nothing is done without one. */
  abort(why: string): void {
    if (this.active) this.#fail(why)
  }

  #fail(why: string): void {
    if (this.#direction === 'load') {
      this.#server.fs.destroy()
      this.#server.session.reset()
    }
    this.#finish(why)
  }

  #finish(outcome: string): void {
    this.active = false
    this.#outcome = outcome
    this.#context.raw.unwatchFd(this.#fd)
    native.closeFd(this.#fd)
    this.#fd = -1
    this.#chunks = undefined
    this.#out = undefined
    this.#loader = undefined
  }
}

function isAgain(cause: unknown): boolean {
  return cause instanceof Error && 'code' in cause && cause.code === 'EAGAIN'
}
