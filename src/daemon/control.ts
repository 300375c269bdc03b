/** The control socket of a daemon: what `virtiofsctl` talks to. On the main thread; the guest has no part in it. */
import { realpathSync } from 'node:fs'
import { dirname, resolve, sep } from 'node:path'
import type { Status, Watching } from '../../protocol/control/messages.js'
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
    this.#watch = typeof watch === 'number' ? undefined : watch
    const eventsFault =
      typeof watch === 'number'
        ? `changes cannot be watched (fanotify_init: ${errnoName(watch)}): it takes Linux 5.17`
        : ''
    if (eventsFault !== '') log('warn', eventsFault)
    this.#server = new ControlServer(
      source(this.#watch, eventsFault, device, () => this.#server.listeners),
      log,
    )
  }

  /** The process is isolated, and this is the share from inside. */
  share(path: string): void {
    this.#watch?.share(path)
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

function source(
  watch: ShareWatch | undefined,
  eventsFault: string,
  device: DeviceThread,
  listeners: () => number,
): ControlSource {
  const startedAt = performance.now()
  const ofPackage = version()
  return {
    eventsFault,
    startEvents(changed, watching) {
      const say = (directories: number, unwatched: number): void => {
        const message: Watching = { type: 'watching', directories, unwatched }
        watching(message)
      }
      watch!.start({ changed, watching: say })
    },
    stopEvents: () => watch!.stop(),
    async status(): Promise<Status> {
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
        listeners: listeners(),
        eventsFault,
        requests,
        counters: { ...answer?.counters, ...watch?.counters },
      }
    },
  }
}
