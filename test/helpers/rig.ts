/** The whole back end in this process, driven step by step by a front end on a socket pair. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import type { CoherenceOptions } from '../../src/coherence/options.js'
import { type Coherence, startCoherence } from '../../src/coherence/start.js'
import { Device, Token } from '../../src/device/device.js'
import type { TransferLimits } from '../../src/device/state-transfer.js'
import { HostChanges } from '../../src/filesystems/host/host-changes.js'
import type { WindowOptions } from '../../src/vhost/session.js'
import type { DaxWindow } from '../../src/vfs/dax.js'
import type { FileSystem } from '../../src/vfs/filesystem.js'
import { HostFileSystem } from '../../src/filesystems/host/host-filesystem.js'
import { DEFAULT_HOST_OPTIONS, type HostOptions } from '../../src/filesystems/host/options.js'
import {
  ARENA_BYTES,
  MESSAGE_AT,
  SCRATCH_AT,
  TABLE_AT,
  TABLE_BYTES,
} from '../../src/fuse/layout.js'
import { FuseServer } from '../../src/fuse/server.js'
import { DEFAULT_SESSION_OPTIONS, type SessionOptions } from '../../src/fuse/session.js'
import { native } from '../../src/native/addon.js'
import { Context } from '../../src/native/context.js'
import { VhostUserSession } from '../../src/vhost/session.js'
import { Chain } from '../../src/virtio/chain.js'
import { FrontEnd } from './front-end.js'
import { FuseClient } from './fuse-client.js'

export interface RigOptions {
  readonly host?: Partial<HostOptions>
  readonly fuse?: Partial<SessionOptions>
  readonly tag?: string
  readonly queues?: number
  readonly size?: number
  readonly eventIdx?: boolean
  readonly indirect?: boolean
  /** false: only connected; the test does the handshake. */
  readonly start?: boolean
  /** The shared directory, the test's own; by default one that goes with the rig. */
  readonly folder?: string
  readonly transferLimits?: TransferLimits
  /** Threads that may copy the data of large reads beside the device's; by default none. */
  readonly helpers?: number
  /** Metadata is kept; without it the host is asked each time. */
  readonly keepsMetadata?: boolean
  /** Longest spin; none by default. `pump` never spins: call `device.turn`. */
  readonly pollUs?: number
  /** The guest shares the version table in this open file. */
  readonly coherence?: Omit<CoherenceOptions, 'tablePath'>
}

/** What a rig asks of a back end. */
export interface RigFileSystem extends FileSystem {
  readonly nodeCount: number
  readonly handleCount: number
  dispose(): void
}

export type RigLog = (level: string, message: string) => void

/** What another kind of rig puts in place of the usual. */
export interface RigParts<F extends RigFileSystem> {
  readonly makeFs: (context: Context, folder: string, changes: HostChanges | undefined) => F
  /** Asked for once, before anything is started. */
  readonly makeWindow?: (
    context: Context,
    fs: F,
    log: RigLog,
  ) => { readonly dax: DaxWindow; readonly session: WindowOptions }
}

export function hostFs(
  context: Context,
  folder: string,
  options?: Partial<HostOptions>,
  changes?: HostChanges,
): HostFileSystem {
  const host = { ...DEFAULT_HOST_OPTIONS, sharedDir: folder, ...options }
  const fs = new HostFileSystem(context, SCRATCH_AT, host, changes)
  const fault = fs.start()
  if (fault < 0) throw new Error(`cannot open ${folder}: ${fault}`)
  return fs
}

export class BaseRig<F extends RigFileSystem> {
  readonly folder: string
  readonly context: Context
  readonly fs: F
  readonly coherence: Coherence | undefined
  readonly server: FuseServer
  readonly device: Device
  readonly session: VhostUserSession
  readonly front: FrontEnd
  readonly log: string[] = []
  closed = false
  readonly #socket: number
  readonly #ownsFolder: boolean
  readonly #changes: HostChanges | undefined

  constructor(options: RigOptions, parts: RigParts<F>) {
    this.folder = options.folder ?? mkdtempSync(join(tmpdir(), 'virtiofsd-rig-'))
    this.#ownsFolder = options.folder === undefined
    this.context = new Context({ arenaBytes: ARENA_BYTES, maxSegments: 33024, poolThreads: 4 })
    const changes = options.keepsMetadata === true ? HostChanges.open(this.context) : undefined
    if (typeof changes === 'number') throw new Error(`fanotify: ${changes}`)
    this.#changes = changes
    this.fs = parts.makeFs(this.context, this.folder, changes)
    const log: RigLog = (level, message) => {
      if (level !== 'trace' && level !== 'debug') this.log.push(`${level}: ${message}`)
    }
    const window = parts.makeWindow?.(this.context, this.fs, log)
    this.coherence =
      options.coherence &&
      startCoherence(this.context, this.fs, { ...options.coherence, tablePath: 'table' }, message =>
        this.log.push(`error: ${message}`),
      )
    this.server = new FuseServer(this.context, this.coherence?.fs ?? this.fs, {
      ...DEFAULT_SESSION_OPTIONS,
      ...options.fuse,
      spreading: {
        moreWaits: () => this.device.anyPending(),
        helpers: () => options.helpers ?? 0,
      },
      window: window?.dax,
      onComplete: (queue, head, written) => this.device.completed(queue, head, written),
      waitRoom: queue => this.device.waitRoom(queue),
      onFault: (message, cause) => {
        throw new Error(message, { cause })
      },
    })
    this.device = new Device(
      this.context,
      new Chain(this.context, TABLE_AT, TABLE_BYTES),
      this.server,
      {
        pollUs: options.pollUs ?? 0,
        log,
        ...(options.transferLimits === undefined ? {} : { transferLimits: options.transferLimits }),
      },
    )
    const pair = new Int32Array(2)
    native.socketPair(pair)
    this.#socket = pair[0]!
    native.setNonBlocking(this.#socket, true)
    this.session = new VhostUserSession(this.context, MESSAGE_AT, this.device, {
      socketFd: this.#socket,
      requestQueues: 1,
      tag: options.tag,
      log,
      window: window?.session,
    })
    this.context.raw.watchFd(this.#socket, Token.socket, false)
    this.front = new FrontEnd(pair[1]!)
    this.front.pump = () => this.pump()
    if (options.start !== false) this.front.start(options)
  }

  /** Lets the back end do what there is to do now. */
  pump(): void {
    let requests = -1
    while (!this.closed && requests !== this.device.counters.requests) {
      requests = this.device.counters.requests
      const ready = this.device.turn(false)
      if (this.session.deferred) this.#readable()
      for (let i = 0; i < ready && !this.closed; i++) {
        const token = this.context.ready[i]!
        if (token === Token.socket) {
          requests = -1
          this.#readable()
        } else this.ready(token)
      }
    }
  }

  #readable(): void {
    if (this.session.readable() === 'closed') this.end()
  }

  /** Something else that is watched has something to read. */
  protected ready(_token: number): void {}

  /** A client on the first request queue, after INIT. */
  client(flags?: number, flags2?: number): FuseClient {
    const client = new FuseClient(this.front, this.front.rings[1]!)
    client.init(flags, flags2)
    return client
  }

  /** The back end's end of the connection. */
  end(): void {
    if (this.closed) return
    this.closed = true
    this.context.raw.unwatchFd(this.#socket)
    this.session.close()
    native.closeFd(this.#socket)
  }

  close(): void {
    this.end()
    this.front.close()
    this.fs.dispose()
    this.#changes?.close()
    this.context.dispose()
    if (this.#ownsFolder) rmSync(this.folder, { recursive: true, force: true })
  }
}

/** With a directory of the host. */
export class Rig extends BaseRig<HostFileSystem> {
  constructor(options: RigOptions = {}) {
    super(options, {
      makeFs: (context, folder, changes) => hostFs(context, folder, options.host, changes),
    })
  }
}

export function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length
}

/** A rig for one test; checks afterwards that no descriptor, node or handle is left. */
export function rig(t: ExecutionContext, options: RigOptions = {}): Rig {
  const before = openDescriptors()
  const made = new Rig(options)
  t.teardown(() => {
    made.end()
    const left = `${made.fs.nodeCount - 1} nodes, ${made.fs.handleCount} handles`
    made.close()
    // Assertions are over by now: a leak is thrown.
    if (left !== '0 nodes, 0 handles') throw new Error(`left over: ${left}`)
    const surplus = openDescriptors() - before
    if (surplus !== 0) throw new Error(`left open: ${surplus} descriptors`)
  })
  return made
}
