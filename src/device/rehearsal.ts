/**
 * A rehearsal: while the device thread waits for the front end, and for the first request of the guest that boots
 * behind it, it serves a guest of its own, so that the first requests of the real one find compiled code.
 * JavaScript starts slow: a function is interpreted, then compiled once it was called some hundred times.
 *
 * It takes the same path, ring to host file system, on a directory in memory that nobody else sees. The
 * shared directory is not touched. It goes in short steps, makes room when the front end has something to say, ends
 * with the first request of the real guest, and takes a bounded amount of CPU time. Objects have the shapes of real use: server and device are made as
 * the real ones are, and the back end is a `HostFileSystem` as well, under leases (in a table of its own) where
 * the guest will have them.
 */
import type { CoherenceOptions } from '../coherence/options.js'
import { type RehearsedCoherence, rehearseCoherence } from '../coherence/start.js'
import type { HostChanges } from '../filesystems/host/host-changes.js'
import { HostFileSystem } from '../filesystems/host/host-filesystem.js'
import type { HostOptions } from '../filesystems/host/options.js'
import { SCRATCH_AT } from '../fuse/layout.js'
import type { Context } from '../native/context.js'
import type { Log } from '../vhost/log.js'
import { type DeviceSettings, makeDevice } from './make-device.js'
import { REHEARSAL_RINGS, RehearsalGuest } from './rehearsal-guest.js'
import { RehearsalPrograms } from './rehearsal-programs.js'

/** CPU time of the whole process, compiler threads included, after which it ends. Under leases there is more to compile. */
const MOST_CPU_US = 300_000
const MOST_CPU_US_UNDER_LEASES = 900_000
/** Some 27 requests each. */
const MOST_ROUNDS = 1000
/**
 * So often it begins anew, with new objects: code that was compiled for those that have long been in use is given up
 * at the first that is new (an empty array is of another kind). That is to happen here, and not to the guest.
 */
const PERFORMANCES = 2

/** What of the device thread's options it needs. */
export interface RehearsalSettings extends DeviceSettings {
  /** An empty directory in memory, which the rehearsal closes; negative: there is none. */
  readonly stageFd: number
  readonly host: HostOptions
  /** As the guest will have it; its table is not touched. */
  readonly coherence?: CoherenceOptions | undefined
  /** In place of the limits above, for tests. */
  readonly mostCpuUs?: number
}

/** One file system, under leases or not, and a guest that uses it. */
interface Performance {
  readonly fs: HostFileSystem
  readonly coherence: RehearsedCoherence | undefined
  readonly guest: RehearsalGuest
  readonly programs: RehearsalPrograms
}

export class Rehearsal {
  readonly #context: Context
  readonly #settings: RehearsalSettings
  readonly #changes: HostChanges | undefined
  readonly #log: Log
  readonly #mostCpuUs: number
  #performance: Performance | undefined
  #performances = 0
  #begun = process.cpuUsage()
  #round = 0
  #requests = 0
  #leases = 0
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
    const { coherence, mostCpuUs } = settings
    this.#mostCpuUs = mostCpuUs ?? (coherence ? MOST_CPU_US_UNDER_LEASES : MOST_CPU_US)
    // A trace is of the guest alone.
    if (settings.stageFd < 0 || settings.logLevel === 'trace') this.end()
  }

  /** A few requests. False: it is over. */
  step(): boolean {
    if (this.#over) return false
    try {
      if (this.#performance === undefined) this.#begin()
      else this.#performance.programs.run(this.#round++)
    } catch (cause) {
      this.#log('debug', `the rehearsal ends: ${cause instanceof Error ? cause.message : cause}`)
      this.end()
    }
    const used = process.cpuUsage(this.#begun)
    const part = Math.max((used.user + used.system) / this.#mostCpuUs, this.#round / MOST_ROUNDS)
    if (part >= 1) this.end()
    else if (part >= this.#performances / PERFORMANCES) this.#leave()
    return !this.#over
  }

  get over(): boolean {
    return this.#over
  }

  /** Its guest is plugged in. */
  get acting(): boolean {
    return this.#performance !== undefined
  }

  /** Takes its guest out of the context, so that a front end may say what it likes of memory. */
  pause(): void {
    this.#leave()
  }

  /** Nothing of it is left but what was compiled. */
  end(): void {
    if (this.#over) return
    this.#over = true
    this.#leave()
    this.#changes?.close()
    const { stageFd, coherence } = this.#settings
    if (stageFd >= 0) this.#context.close(stageFd)
    const leases = coherence ? `, ${this.#leases} leases` : ''
    this.#log(
      'debug',
      `rehearsed ${this.#requests} requests from ${this.#performances} beginnings${leases}`,
    )
  }

  #begin(): void {
    if (this.#performances++ === 0) this.#begun = process.cpuUsage()
    const { host, fuse, pollUs, passthrough, logLevel, stageFd } = this.#settings
    const stage = { ...host, sharedDir: String(stageFd), readOnly: false }
    const fs = new HostFileSystem(this.#context, SCRATCH_AT, stage, this.#changes)
    if (fs.start() < 0) throw new Error(fs.startFault)
    let guest: RehearsalGuest | undefined
    try {
      const settings = {
        pollUs,
        passthrough,
        logLevel,
        fuse: { ...fuse, required: undefined },
        rings: REHEARSAL_RINGS,
      }
      const { coherence: options } = this.#settings
      const coherence = options && rehearseCoherence(this.#context, fs, options)
      const served = coherence?.fs ?? fs
      const { device } = makeDevice(this.#context, served, undefined, settings, this.#log)
      guest = new RehearsalGuest(this.#context, device)
      const programs = new RehearsalPrograms(guest, () => coherence?.clear())
      this.#performance = { fs, coherence, guest, programs }
    } catch (cause) {
      guest?.close()
      fs.dispose()
      throw cause
    }
  }

  #leave(): void {
    if (this.#performance === undefined) return
    const { fs, coherence, guest, programs } = this.#performance
    this.#performance = undefined
    this.#requests += programs.requests
    this.#leases += coherence?.leases.counters.granted ?? 0
    guest.close()
    fs.dispose()
  }
}
