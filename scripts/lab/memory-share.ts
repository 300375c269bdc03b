/**
 * One file system in memory for several guests, each with a DAX window: all of them mount the same files and share memory
 * through them. One thread serves them in turn, with a context, a view of the file system, a device and a session for each.
 *
 *     node dist/scripts/lab/memory-share.js WINDOW-BYTES SOCKET...
 *
 * Ends when every guest has gone; what their windows did is told then.
 */
import { Opcode } from '../../protocol/fuse/opcodes.js'
import { DEFAULT_MIN_FILE_BYTES } from '../../src/dax/options.js'
import { Window } from '../../src/dax/window.js'
import { Token } from '../../src/device/device.js'
import { makeDevice } from '../../src/device/make-device.js'
import { LINGER_MS } from '../../src/device/patience.js'
import { MemoryFileSystem } from '../../src/filesystems/memory/memory-filesystem.js'
import { MemoryStore } from '../../src/filesystems/memory/store.js'
import { ARENA_BYTES, CHANNEL_AT, DAX_AT, MESSAGE_AT } from '../../src/fuse/layout.js'
import { DEFAULT_SESSION_OPTIONS } from '../../src/fuse/session.js'
import { native } from '../../src/native/addon.js'
import { Context } from '../../src/native/context.js'
import type { Log } from '../../src/vhost/log.js'
import { VhostUserSession } from '../../src/vhost/session.js'
import { TAG } from './uml.js'

/** So long each sleeps while no guest asks anything: kicks wake one context, not all. */
const IDLE_MS = LINGER_MS

/** One guest, from when it connects until it goes. */
class Guest {
  readonly context = new Context({ arenaBytes: ARENA_BYTES, maxSegments: 33024, poolThreads: 1 })
  readonly #fs: MemoryFileSystem
  readonly #window: Window
  readonly #made: ReturnType<typeof makeDevice>
  readonly #session: VhostUserSession
  readonly #socket: number

  constructor(store: MemoryStore, windowBytes: number, socket: number, log: Log) {
    const { context } = this
    this.#socket = socket
    this.#fs = new MemoryFileSystem(context, store)
    const dax = { windowBytes, policy: 'sealed', minFileBytes: DEFAULT_MIN_FILE_BYTES } as const
    this.#window = new Window(context, DAX_AT, this.#fs.mappable, dax, log)
    const settings = {
      pollUs: 0,
      passthrough: false,
      logLevel: 'info',
      fuse: DEFAULT_SESSION_OPTIONS,
    } as const
    this.#made = makeDevice(context, this.#fs, this.#window, settings, log)
    this.#window.busy = nodeid => this.#made.server.grows(nodeid)
    native.setNonBlocking(socket, true)
    this.#session = new VhostUserSession(context, MESSAGE_AT, this.#made.device, {
      socketFd: socket,
      requestQueues: 1,
      tag: TAG,
      log,
      window: {
        bytes: windowBytes,
        channelAt: CHANNEL_AT,
        attach: channel => {
          this.#window.mapper = channel
        },
      },
    })
    context.raw.watchFd(socket, Token.socket, false)
  }

  /** Does what there is to do. 'worked', 'idle', or 'gone'. */
  turn(mayWait: boolean): 'worked' | 'idle' | 'gone' {
    const { device } = this.#made
    const { requests } = device.counters
    const ready = device.turn(mayWait, IDLE_MS)
    if (this.#session.deferred && this.#session.readable() === 'closed') return 'gone'
    for (let i = 0; i < ready; i++)
      if (this.context.ready[i] === Token.socket && this.#session.readable() === 'closed')
        return 'gone'
    return ready > 0 || device.counters.requests !== requests ? 'worked' : 'idle'
  }

  /** What it did; nothing of it is left. */
  end(): string {
    this.context.raw.unwatchFd(this.#socket)
    this.#session.close()
    native.closeFd(this.#socket)
    const { requests } = this.#made.server
    const summary = `FUSE_READ ${requests[Opcode.FUSE_READ]}, FUSE_WRITE ${requests[Opcode.FUSE_WRITE]}, ${this.#window.summary()}`
    this.#fs.dispose()
    this.context.dispose()
    return summary
  }
}

function main([windowBytes, ...paths]: readonly string[]): void {
  const log: Log = (level, message) => {
    if (level !== 'debug' && level !== 'trace') console.log(`${level}: ${message}`)
  }
  const listeners = paths.map(path => native.unixListen(path, 1))
  const bad = listeners.findIndex(fd => fd < 0)
  if (bad >= 0) throw new Error(`cannot listen on ${paths[bad]}: ${listeners[bad]}`)
  const store = new MemoryStore()
  // What is in it stays, also while no guest is there.
  const idle = new Context({ arenaBytes: ARENA_BYTES, maxSegments: 16, poolThreads: 1 })
  const keeper = new MemoryFileSystem(idle, store)
  console.log('listening')
  const guests = new Map<number, Guest>()
  const waiting = new Set(listeners.keys())
  let idles = false
  while (waiting.size + guests.size > 0) {
    let worked = false
    for (const index of waiting) {
      const socket = native.unixAccept(listeners[index]!, 0)
      if (socket < 0) continue
      waiting.delete(index)
      guests.set(index, new Guest(store, Number(windowBytes), socket, log))
    }
    for (const [index, guest] of guests) {
      const did = guest.turn(idles)
      if (did !== 'idle') worked = true
      if (did !== 'gone') continue
      guests.delete(index)
      console.log(`guest ${index}: ${guest.end()}`)
    }
    // Each looks at its rings once more before all sleep in turn.
    idles = !worked
    if (idles && guests.size === 0) idle.wait(IDLE_MS, 0)
  }
  keeper.dispose()
  idle.dispose()
  for (const fd of listeners) native.closeFd(fd)
}

main(process.argv.slice(2))
