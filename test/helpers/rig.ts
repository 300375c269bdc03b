/** The whole back end in this process, driven step by step by a front end on a socket pair. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { Device, Token } from '../../src/device/device.js'
import type { TransferLimits } from '../../src/device/state-transfer.js'
import { HostChanges } from '../../src/filesystems/host/host-changes.js'
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
  /** Metadata is kept; without it the host is asked each time. */
  readonly keepsMetadata?: boolean
}

export class Rig {
  readonly folder: string
  readonly context: Context
  readonly fs: HostFileSystem
  readonly server: FuseServer
  readonly device: Device
  readonly session: VhostUserSession
  readonly front: FrontEnd
  readonly log: string[] = []
  closed = false
  readonly #socket: number
  readonly #ownsFolder: boolean
  readonly #changes: HostChanges | undefined

  constructor(options: RigOptions = {}) {
    this.folder = options.folder ?? mkdtempSync(join(tmpdir(), 'virtiofsd-rig-'))
    this.#ownsFolder = options.folder === undefined
    this.context = new Context({ arenaBytes: ARENA_BYTES, maxSegments: 33024, poolThreads: 4 })
    const changes = options.keepsMetadata === true ? HostChanges.open(this.context) : undefined
    if (typeof changes === 'number') throw new Error(`fanotify: ${changes}`)
    this.#changes = changes
    this.fs = new HostFileSystem(
      this.context,
      SCRATCH_AT,
      { ...DEFAULT_HOST_OPTIONS, sharedDir: this.folder, ...options.host },
      changes,
    )
    const fault = this.fs.start()
    if (fault < 0) throw new Error(`cannot open ${this.folder}: ${fault}`)
    this.server = new FuseServer(this.context, this.fs, {
      ...DEFAULT_SESSION_OPTIONS,
      ...options.fuse,
      onComplete: (queue, head, written) => this.device.completed(queue, head, written),
      onFault: (message, cause) => {
        throw new Error(message, { cause })
      },
    })
    const log = (level: string, message: string): void => {
      if (level !== 'trace' && level !== 'debug') this.log.push(`${level}: ${message}`)
    }
    this.device = new Device(
      this.context,
      new Chain(this.context, TABLE_AT, TABLE_BYTES),
      this.server,
      {
        pollUs: 0,
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
      for (let i = 0; i < ready; i++)
        if (this.context.ready[i] === Token.socket) {
          requests = -1
          if (this.session.readable() === 'closed') this.end()
        }
    }
  }

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
