/** The control socket of a daemon: what `virtiofsctl` talks to. On the main thread; the guest has no part in it. */
import { realpathSync } from 'node:fs'
import { dirname, resolve, sep } from 'node:path'
import type { Status } from '../../protocol/control/messages.js'
import { errnoName } from '../../protocol/errno.js'
import { OPCODE_LIMIT, opcodeName } from '../../protocol/fuse/opcodes.js'
import { type ControlSource, ControlServer } from '../control/server.js'
import { ShareWatch } from '../changes/share-watch.js'
import type { Log } from '../vhost/log.js'
import type { DeviceThread } from './device-thread.js'
import { StartError } from './errors.js'
import { makeSocket } from './listener.js'
import { version } from './version.js'

const OWNER_ALONE = 0o177

export class Control {
  readonly #server: ControlServer
  readonly #watch: ShareWatch | undefined
  readonly #cleanUp: () => void
  readonly #log: Log
  #eventsFault = 'the daemon is about to start: try again'

  /** Before the process is isolated. Errors: StartError. */
  static async open(
    path: string,
    sharedDir: string,
    device: DeviceThread,
    log: Log,
  ): Promise<Control> {
    refuseInside(path, sharedDir)
    const watch = ShareWatch.open()
    const { fd, cleanUp } = makeSocket(path, '--control-socket', OWNER_ALONE)
    const control = new Control(watch, device, log, cleanUp)
    await control.#server.listen(fd)
    return control
  }

  private constructor(
    watch: ShareWatch | number,
    device: DeviceThread,
    log: Log,
    cleanUp: () => void,
  ) {
    this.#cleanUp = cleanUp
    this.#log = log
    this.#watch = typeof watch === 'number' ? undefined : watch
    this.#server = new ControlServer(this.#source(device), log)
    if (typeof watch === 'number')
      this.#setFault(
        `changes cannot be watched (fanotify_init: ${errnoName(watch)}): it takes Linux 5.17`,
      )
  }

  /** The process is isolated, and this is the share from inside. */
  share(path: string): void {
    if (this.#watch === undefined) return
    try {
      this.#watch.share(path)
      this.#eventsFault = ''
    } catch (cause) {
      this.#setFault(`changes cannot be watched: ${(cause as Error).message}`)
    }
  }

  #setFault(what: string): void {
    this.#eventsFault = what
    this.#log('warn', what)
  }

  close(): void {
    this.#server.close()
    this.#watch?.close()
    this.#cleanUp()
  }

  /** At once; the process ends. */
  cleanUp(): void {
    this.#cleanUp()
  }

  #source(device: DeviceThread): ControlSource {
    const startedAt = performance.now()
    const ofPackage = version()
    const fault = (): string => this.#eventsFault
    return {
      get eventsFault() {
        return fault()
      },
      startEvents: (changed, watching) =>
        this.#watch!.start({
          changed,
          watching: (directories, unwatched) =>
            watching({ type: 'watching', directories, unwatched }),
        }),
      stopEvents: () => this.#watch!.stop(),
      status: async (): Promise<Status> => {
        const answer = await device.status()
        const requests: Record<string, [number, number]> = {}
        for (let opcode = 0; opcode < OPCODE_LIMIT; opcode++) {
          const taken = answer?.requests[opcode] ?? 0
          if (taken > 0) requests[opcodeName(opcode)] = [taken, answer!.errors[opcode]!]
        }
        return {
          type: 'status',
          version: ofPackage,
          pid: process.pid,
          uptimeSeconds: Math.floor((performance.now() - startedAt) / 1000),
          frontEnd: device.connected ? 'connected' : 'waiting',
          listeners: this.#server.listeners,
          eventsFault: fault(),
          requests,
          counters: { ...answer?.counters, ...this.#watch?.counters },
        }
      },
    }
  }
}

/** A guest could put something else in its place. */
function refuseInside(path: string, sharedDir: string): void {
  let folder: string
  try {
    folder = realpathSync(dirname(resolve(path)))
  } catch {
    // makeSocket says what is wrong with it.
    return
  }
  if (sharedDir !== '/' && `${folder}/`.startsWith(`${sharedDir}${sep}`))
    throw new StartError(
      `the control socket ${path} would lie in the shared directory, where the guest can replace it: choose another --control-socket`,
    )
}
