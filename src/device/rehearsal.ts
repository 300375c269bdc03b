/**
 * A rehearsal: while the device thread waits for the front end, it serves a guest of its own, so that the
 * first requests of the real one find compiled code. JavaScript starts slow: a function is interpreted,
 * then compiled once it was called some hundred times.
 *
 * It takes the same path, ring to host file system, on a directory in memory that nobody else sees. The
 * shared directory is not touched. It goes in short steps, ends when there is something real to do, and
 * takes a bounded amount of CPU time. Objects have the shapes of real use: server and device are made as
 * the real ones are, and the back end is a `HostFileSystem` as well, under leases (in a table of its own) where
 * the guest will have them.
 */
import type { CoherenceOptions } from '../coherence/options.js'
import { type Coherence, rehearseCoherence } from '../coherence/start.js'
import type { HostChanges } from '../filesystems/host/host-changes.js'
import { HostFileSystem } from '../filesystems/host/host-filesystem.js'
import type { HostOptions } from '../filesystems/host/options.js'
import { SCRATCH_AT } from '../fuse/layout.js'
import type { Context } from '../native/context.js'
import type { Log } from '../vhost/log.js'
import { type DeviceSettings, makeDevice } from './make-device.js'
import { RehearsalGuest } from './rehearsal-guest.js'
import { RehearsalPrograms } from './rehearsal-programs.js'

/** CPU time of the whole process, compiler threads included, after which it ends. Under leases there is more to compile. */
const MOST_CPU_US = 150_000
const MOST_CPU_US_UNDER_LEASES = 300_000
/** About nine requests each. */
const MOST_ROUNDS = 1000

/** What of the device thread's options it needs. */
export interface RehearsalSettings extends DeviceSettings {
  /** An empty directory in memory, which the rehearsal closes; negative: there is none. */
  readonly stageFd: number
  readonly host: HostOptions
  /** As the guest will have it; its table is not touched. */
  readonly coherence?: CoherenceOptions | undefined
}

export class Rehearsal {
  readonly #context: Context
  readonly #settings: RehearsalSettings
  readonly #changes: HostChanges | undefined
  readonly #log: Log
  #fs: HostFileSystem | undefined
  #coherence: Coherence | undefined
  #guest: RehearsalGuest | undefined
  #programs: RehearsalPrograms | undefined
  #begun = process.cpuUsage()
  #round = 0
  #over = false

  /**
   * `changes`: as for the file system of the share, and a group of its own; the rehearsal closes it. The
   * thread stands in /proc/self/fd. Whatever the share's options do not let it do ends the rehearsal.
   */
  constructor(
    context: Context,
    settings: RehearsalSettings,
    changes: HostChanges | number | undefined,
    log: Log,
  ) {
    this.#context = context
    this.#settings = settings
    this.#changes = typeof changes === 'number' ? undefined : changes
    this.#log = log
    // A trace is of the guest alone.
    if (settings.stageFd < 0 || settings.logLevel === 'trace') this.end()
  }

  /** A few requests. False: it is over. */
  step(): boolean {
    if (this.#over) return false
    try {
      if (this.#programs === undefined) this.#programs = this.#begin()
      else this.#programs.run(this.#round++)
    } catch (cause) {
      this.#log('debug', `the rehearsal ends: ${cause instanceof Error ? cause.message : cause}`)
      this.end()
    }
    const used = process.cpuUsage(this.#begun)
    const mostUs = this.#settings.coherence ? MOST_CPU_US_UNDER_LEASES : MOST_CPU_US
    if (this.#round >= MOST_ROUNDS || used.user + used.system > mostUs) this.end()
    return !this.#over
  }

  /** Nothing of it is left but what was compiled. */
  end(): void {
    if (this.#over) return
    this.#over = true
    this.#guest?.close()
    this.#fs?.dispose()
    this.#changes?.close()
    const { stageFd } = this.#settings
    if (stageFd >= 0) this.#context.close(stageFd)
    const leases = this.#coherence ? `, ${this.#coherence.leases.counters.granted} leases` : ''
    this.#log('debug', `rehearsed ${this.#programs?.requests ?? 0} requests${leases}`)
  }

  #begin(): RehearsalPrograms {
    this.#begun = process.cpuUsage()
    const { host, fuse, pollUs, passthrough, logLevel, stageFd, coherence } = this.#settings
    const stage = { ...host, sharedDir: String(stageFd), readOnly: false }
    const fs = new HostFileSystem(this.#context, SCRATCH_AT, stage, this.#changes)
    if (fs.start() < 0) throw new Error(fs.startFault)
    this.#fs = fs
    const settings = { pollUs, passthrough, logLevel, fuse: { ...fuse, required: undefined } }
    this.#coherence = coherence && rehearseCoherence(this.#context, fs, coherence)
    const served = this.#coherence?.fs ?? fs
    const { device } = makeDevice(this.#context, served, undefined, settings, this.#log)
    this.#guest = new RehearsalGuest(this.#context, device)
    return new RehearsalPrograms(this.#guest)
  }
}
