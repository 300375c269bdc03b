/** A rig with a DAX window, over the host's tree or in memory, whose front end is a fake VMM, and a guest's client. */
import type { ExecutionContext } from 'ava'
import type { DaxOptions } from '../../src/dax/options.js'
import { FileWatcher } from '../../src/dax/watcher.js'
import { Window } from '../../src/dax/window.js'
import { Token } from '../../src/device/device.js'
import { MemoryFileSystem } from '../../src/filesystems/memory/memory-filesystem.js'
import { CHANNEL_AT, DAX_AT } from '../../src/fuse/layout.js'
import type { MappableFiles } from '../../src/vfs/dax.js'
import type { Context } from '../../src/native/context.js'
import { FakeVmm, type VmmOptions } from '../helpers/fake-vmm.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { FuseClient, type FuseReply } from '../helpers/fuse-client.js'
import {
  BaseRig,
  hostFs,
  openDescriptors,
  type RigFileSystem,
  type RigOptions,
} from '../helpers/rig.js'

export const MIB = 1024 * 1024
export const RANGE = 2 * MIB
const SHMEM = 1n << 22n
const MAP_ALIGNMENT = 1 << 26

/** Bytes that say where they are. */
export function pattern(bytes: number, salt = 0): Buffer {
  const data = Buffer.alloc(bytes)
  for (let i = 0; i + 4 <= bytes; i += 4) data.writeUInt32LE((i + salt) >>> 0, i)
  return data
}

export interface MappableFileSystem extends RigFileSystem {
  readonly mappable: MappableFiles
}

export interface DaxRigOptions
  extends VmmOptions,
    Pick<RigOptions, 'host' | 'folder' | 'coherence'> {
  readonly backEnd?: 'host' | 'memory'
  /** In place of these. */
  readonly makeFs?: (context: Context) => MappableFileSystem
  readonly dax?: Partial<DaxOptions>
  /** Longest wait for an answer of the VMM. */
  readonly limitMs?: number
  /** The guest does not agree to DAX. */
  readonly noDax?: boolean
}

export class DaxRig extends BaseRig<MappableFileSystem> {
  readonly window: Window
  readonly vmm: FakeVmm
  readonly initReply: FuseReply
  /** Of the guest, after `mount`. */
  guest!: FuseClient
  readonly #watcher: FileWatcher

  constructor(options: DaxRigOptions = {}) {
    const dax: DaxOptions = {
      windowBytes: 64 * MIB,
      policy: options.backEnd === 'memory' ? 'sealed' : 'exclusive',
      minFileBytes: 4096,
      ...options.dax,
    }
    const made: { window?: Window; watcher?: FileWatcher; vmm?: FakeVmm } = {}
    super(
      { ...options, tag: 'dax', start: false },
      {
        makeFs: (context, folder) => {
          if (options.makeFs !== undefined) return options.makeFs(context)
          return options.backEnd === 'memory'
            ? new MemoryFileSystem(context)
            : hostFs(context, folder, options.host)
        },
        makeWindow(context, fs, log) {
          const window = new Window(context, DAX_AT, fs.mappable, dax, log)
          made.window = window
          made.watcher = new FileWatcher(context)
          window.watcher = made.watcher
          context.raw.watchFd(made.watcher.fd, Token.dax, false)
          return {
            dax: window,
            session: {
              bytes: dax.windowBytes,
              channelAt: CHANNEL_AT,
              attach: channel => {
                window.mapper = channel
              },
              whileWaiting: () => made.vmm!.serve(),
              limitMs: options.limitMs ?? 2000,
            },
          }
        },
      },
    )
    this.window = made.window!
    this.#watcher = made.watcher!
    this.window.rights = this.coherence?.mappings
    this.coherence?.mappings.attach(this.window)
    this.window.busy = nodeid => this.server.grows(nodeid)
    this.vmm = new FakeVmm(this.front, options)
    made.vmm = this.vmm
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
    this.guest = new FuseClient(this.front, this.front.rings[1]!)
    return this.guest.init(withDax ? 0x7fff_ffff : 0x7fff_ffff & ~MAP_ALIGNMENT, 2)
  }

  protected override ready(token: number): void {
    if (token === Token.dax) this.#watcher.read(id => this.window.changed(id))
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
    return Math.abs(this.guest.request(48, nodeid, body)!.error)
  }

  remove(...places: [moffset: number, bytes: number][]): number {
    const body = concat(
      u32s(places.length),
      ...places.flatMap(([at, n]) => [u64(BigInt(at)), u64(BigInt(n))]),
    )
    return Math.abs(this.guest.request(49, 1, body)!.error)
  }

  /** SETATTR of the size; errno. */
  truncate(nodeid: number, bytes: number): number {
    const body = concat(u32s(8, 0), u64(0n), u64(BigInt(bytes)), new Uint8Array(64))
    return Math.abs(this.guest.request(4, nodeid, body)!.error)
  }

  /** FUSE_ATTR_DAX and size of what LOOKUP says; the lookup is given back. */
  look(name: string): { nodeid: number; dax: boolean; size: number } {
    const { body } = this.guest.do(1, 1, new TextEncoder().encode(`${name}\0`))
    const nodeid = Number(body.getBigUint64(0, true))
    this.guest.forget(nodeid, 1)
    return {
      nodeid,
      dax: (body.getUint32(40 + 84, true) & 2) !== 0,
      size: Number(body.getBigUint64(48, true)),
    }
  }

  getattr(nodeid: number): { dax: boolean; size: number } {
    const { body } = this.guest.do(3, nodeid, concat(u32s(0, 0), u64(0n)))
    return {
      dax: (body.getUint32(16 + 84, true) & 2) !== 0,
      size: Number(body.getBigUint64(24, true)),
    }
  }

  override close(): void {
    this.end()
    this.vmm.close()
    this.#watcher.close()
    super.close()
  }
}

/** For one test: no rule is broken in it, no descriptor is left, and no mapping. */
export function daxRig(t: ExecutionContext, options: DaxRigOptions = {}): DaxRig {
  return daxRigs(t, options)[0]!
}

/** Several of them, each with its own guest. */
export function daxRigs(t: ExecutionContext, ...options: DaxRigOptions[]): DaxRig[] {
  const before = openDescriptors()
  const rigs = options.map(one => new DaxRig(one))
  t.teardown(() => {
    for (const one of rigs) one.end()
    const faults = rigs.flatMap(one => one.vmm.faults)
    const left = rigs.flatMap(one => [...one.window.table.ranges, ...one.window.table.files]).length
    for (const one of rigs) one.close()
    if (faults.length > 0) throw new Error(`rules broken: ${faults.join('; ')}`)
    if (left !== 0) throw new Error(`left over: ${left} ranges and files`)
    const surplus = openDescriptors() - before
    if (surplus !== 0) throw new Error(`left open: ${surplus} descriptors`)
  })
  return rigs
}
