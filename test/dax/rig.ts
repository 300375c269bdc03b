/** A back end with a DAX window over any file system, a front end with a fake VMM, and a guest's client. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import type { DaxOptions } from '../../src/dax/options.js'
import { FileWatcher } from '../../src/dax/watcher.js'
import { Window } from '../../src/dax/window.js'
import { Device, Token } from '../../src/device/device.js'
import { HostFileSystem } from '../../src/filesystems/host/host-filesystem.js'
import { DEFAULT_HOST_OPTIONS, type HostOptions } from '../../src/filesystems/host/options.js'
import { MemoryFileSystem } from '../../src/filesystems/memory/memory-filesystem.js'
import {
  ARENA_BYTES,
  CHANNEL_AT,
  DAX_AT,
  MESSAGE_AT,
  SCRATCH_AT,
  TABLE_AT,
  TABLE_BYTES,
} from '../../src/fuse/layout.js'
import { FuseServer } from '../../src/fuse/server.js'
import { DEFAULT_SESSION_OPTIONS } from '../../src/fuse/session.js'
import { native } from '../../src/native/addon.js'
import { Context } from '../../src/native/context.js'
import { VhostUserSession } from '../../src/vhost/session.js'
import { Chain } from '../../src/virtio/chain.js'
import { FakeVmm, type VmmOptions } from '../helpers/fake-vmm.js'
import { concat, FrontEnd, u32s, u64 } from '../helpers/front-end.js'
import { FuseClient, type FuseReply } from '../helpers/fuse-client.js'
import { openDescriptors } from '../helpers/rig.js'

export const MIB = 1024 * 1024
export const RANGE = 2 * MIB
const SHMEM = 1n << 22n
const MAP_ALIGNMENT = 1 << 26

export interface DaxRigOptions extends VmmOptions {
  readonly backEnd?: 'host' | 'memory'
  readonly dax?: Partial<DaxOptions>
  readonly host?: Partial<HostOptions>
  /** Longest wait for an answer of the VMM. */
  readonly limitMs?: number
  /** The guest does not agree to DAX. */
  readonly noDax?: boolean
}

export class DaxRig {
  readonly folder = mkdtempSync(join(tmpdir(), 'virtiofsd-dax-'))
  readonly context = new Context({ arenaBytes: ARENA_BYTES, maxSegments: 33024, poolThreads: 4 })
  readonly fs: HostFileSystem | MemoryFileSystem
  readonly window: Window
  readonly device: Device
  readonly session: VhostUserSession
  readonly front: FrontEnd
  readonly vmm: FakeVmm
  readonly log: string[] = []
  readonly initReply: FuseReply
  client!: FuseClient
  closed = false
  readonly #watcher: FileWatcher
  readonly #socket: number

  constructor(options: DaxRigOptions = {}) {
    const { context } = this
    const dax: DaxOptions = {
      windowBytes: 64 * MIB,
      policy: options.backEnd === 'memory' ? 'sealed' : 'exclusive',
      minFileBytes: 4096,
      ...options.dax,
    }
    if (options.backEnd === 'memory') this.fs = new MemoryFileSystem(context)
    else {
      const host = { ...DEFAULT_HOST_OPTIONS, sharedDir: this.folder, ...options.host }
      const fs = new HostFileSystem(context, SCRATCH_AT, host)
      if (fs.start() < 0) throw new Error(fs.startFault)
      this.fs = fs
    }
    const log = (level: string, message: string): void => {
      if (level !== 'trace' && level !== 'debug') this.log.push(`${level}: ${message}`)
    }
    this.window = new Window(context, DAX_AT, this.fs.mappable, dax, log)
    this.#watcher = new FileWatcher(context)
    this.window.watcher = this.#watcher
    context.raw.watchFd(this.#watcher.fd, Token.dax, false)
    const server = new FuseServer(context, this.fs, {
      ...DEFAULT_SESSION_OPTIONS,
      window: this.window,
      onComplete: (queue, head, written) => this.device.completed(queue, head, written),
      onFault: (message, cause) => {
        throw new Error(message, { cause })
      },
    })
    this.window.busy = nodeid => server.grows(nodeid)
    this.device = new Device(context, new Chain(context, TABLE_AT, TABLE_BYTES), server, {
      pollUs: 0,
      log,
    })
    const pair = new Int32Array(2)
    native.socketPair(pair)
    this.#socket = pair[0]!
    native.setNonBlocking(this.#socket, true)
    this.session = new VhostUserSession(context, MESSAGE_AT, this.device, {
      socketFd: this.#socket,
      requestQueues: 1,
      tag: 'dax',
      log,
      window: {
        bytes: dax.windowBytes,
        channelAt: CHANNEL_AT,
        attach: channel => {
          this.window.mapper = channel
        },
        whileWaiting: () => this.vmm.serve(),
        limitMs: options.limitMs ?? 2000,
      },
    })
    context.raw.watchFd(this.#socket, Token.socket, false)
    this.front = new FrontEnd(pair[1]!)
    this.front.pump = () => this.pump()
    this.vmm = new FakeVmm(this.front, options)
    this.#handshake(options)
    this.initReply = this.mount(options.noDax !== true)
  }

  #handshake(options: DaxRigOptions): void {
    const { front } = this
    if (options.legacy === true) {
      // A front end that knows no SHMEM.
      const get = front.get.bind(front)
      front.get = request => (request === 15 ? get(request) & ~SHMEM : get(request))
    }
    front.start()
    this.vmm.connect()
    this.pump()
  }

  /** INIT of a guest that offers DAX, or none. */
  mount(withDax = true): FuseReply {
    this.client = new FuseClient(this.front, this.front.rings[1]!)
    return this.client.init(withDax ? 0x7fff_ffff : 0x7fff_ffff & ~MAP_ALIGNMENT, 2)
  }

  pump(): void {
    let requests = -1
    while (!this.closed && requests !== this.device.counters.requests) {
      requests = this.device.counters.requests
      const ready = this.device.turn(false)
      if (this.session.deferred) this.#readable()
      for (let i = 0; i < ready; i++) {
        const token = this.context.ready[i]
        if (token === Token.dax) this.#watcher.read(id => this.window.changed(id))
        if (token !== Token.socket || this.closed) continue
        requests = -1
        this.#readable()
      }
    }
  }

  #readable(): void {
    if (this.session.readable() === 'closed') this.end()
  }

  /** errno of SETUPMAPPING, 0 when it went well. */
  setup(nodeid: number, moffset: number, foffset = 0, bytes = RANGE, flags = 2): number {
    const body = concat(
      u64(0xffff_ffff_ffff_ffffn),
      u64(BigInt(foffset)),
      u64(BigInt(bytes)),
      u64(BigInt(flags)),
      u64(BigInt(moffset)),
    )
    return Math.abs(this.client.request(48, nodeid, body)!.error)
  }

  remove(...places: [moffset: number, bytes: number][]): number {
    const body = concat(
      u32s(places.length),
      ...places.flatMap(([at, n]) => [u64(BigInt(at)), u64(BigInt(n))]),
    )
    return Math.abs(this.client.request(49, 1, body)!.error)
  }

  /** SETATTR of the size; errno. */
  truncate(nodeid: number, bytes: number): number {
    const body = concat(u32s(8, 0), u64(0n), u64(BigInt(bytes)), new Uint8Array(64))
    return Math.abs(this.client.request(4, nodeid, body)!.error)
  }

  /** FUSE_ATTR_DAX and size of what LOOKUP says; the lookup is given back. */
  look(name: string): { nodeid: number; dax: boolean; size: number } {
    const { body } = this.client.do(1, 1, new TextEncoder().encode(`${name}\0`))
    const nodeid = Number(body.getBigUint64(0, true))
    this.client.forget(nodeid, 1)
    return {
      nodeid,
      dax: (body.getUint32(40 + 84, true) & 2) !== 0,
      size: Number(body.getBigUint64(48, true)),
    }
  }

  getattr(nodeid: number): { dax: boolean; size: number } {
    const { body } = this.client.do(3, nodeid, concat(u32s(0, 0), u64(0n)))
    return {
      dax: (body.getUint32(16 + 84, true) & 2) !== 0,
      size: Number(body.getBigUint64(24, true)),
    }
  }

  end(): void {
    if (this.closed) return
    this.closed = true
    this.context.raw.unwatchFd(this.#socket)
    this.session.close()
    native.closeFd(this.#socket)
  }

  close(): void {
    this.end()
    this.vmm.close()
    this.front.close()
    this.fs.dispose()
    this.#watcher.close()
    this.context.dispose()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** For one test: no rule is broken in it, no descriptor is left, and no mapping. */
export function daxRig(t: ExecutionContext, options: DaxRigOptions = {}): DaxRig {
  const before = openDescriptors()
  const made = new DaxRig(options)
  t.teardown(() => {
    made.end()
    const { faults } = made.vmm
    const { ranges, files } = made.window.table
    const left = `${ranges.size} ranges, ${files.size} files`
    made.close()
    if (faults.length > 0) throw new Error(`rules broken: ${faults.join('; ')}`)
    if (left !== '0 ranges, 0 files') throw new Error(`left over: ${left}`)
    const surplus = openDescriptors() - before
    if (surplus !== 0) throw new Error(`left open: ${surplus} descriptors`)
  })
  return made
}
