/**
 * The device thread: waits for the front end, runs session and device until that one goes; with
 * `reconnect` it then waits for the next one. Started by src/daemon as a worker, which it sends messages:
 * log records, who came and went. It ends by itself, or with the process.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { errnoName } from '../../protocol/errno.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import type { CoherenceOptions } from '../coherence/options.js'
import type { LeaseCounters } from '../coherence/leases.js'
import { type Coherence, startCoherence } from '../coherence/start.js'
import { VersionTableError } from '../coherence/version-table.js'
import type { DaxOptions } from '../dax/options.js'
import { FileWatcher } from '../dax/watcher.js'
import { Window } from '../dax/window.js'
import { HostChanges } from '../filesystems/host/host-changes.js'
import { HostFileSystem } from '../filesystems/host/host-filesystem.js'
import type { HostOptions } from '../filesystems/host/options.js'
import { ARENA_BYTES, CHANNEL_AT, DAX_AT, MESSAGE_AT, SCRATCH_AT } from '../fuse/layout.js'
import type { FuseServer } from '../fuse/server.js'
import { native } from '../native/addon.js'
import { Context } from '../native/context.js'
import type { Log, LogLevel } from '../vhost/log.js'
import { VhostUserSession } from '../vhost/session.js'
import { type Device, Token } from './device.js'
import { IdleCpus } from './idle-cpus.js'
import { type DeviceSettings, makeDevice } from './make-device.js'
import { Rehearsal } from './rehearsal.js'

/** What the thread is started with. */
export interface ThreadStart {
  readonly poolThreads: number
  /** Changes that others make are watched, so that metadata can be kept. */
  readonly watchesChanges: boolean
}

/** What it is told when it may serve. */
export interface ThreadOptions extends DeviceSettings {
  /** Listening socket. The thread owns it: it accepts one connection and closes it. */
  readonly listenerFd: number
  /** Listen on, and serve the next front end when one has gone. */
  readonly reconnect: boolean
  /** An empty directory in memory for the rehearsal, the thread's to close; negative: there is none. */
  readonly stageFd: number
  /** eventfd by which the thread is asked for a `status` message; -1: none. */
  readonly statusFd: number
  readonly requestQueues: number
  readonly tag?: string | undefined
  readonly host: HostOptions
  /** undefined: no window. */
  readonly dax?: DaxOptions | undefined
  /** undefined: guests cache as `host.cache` says. */
  readonly coherence?: CoherenceOptions | undefined
}

export type ThreadMessage =
  | { readonly type: 'log'; readonly level: LogLevel; readonly message: string }
  /** Every module is there; the thread waits for its options, and the process is isolated by then. */
  | { readonly type: 'loaded' }
  /** A front end that connects now is served. */
  | { readonly type: 'ready' }
  | { readonly type: 'connected' }
  | { readonly type: 'status'; readonly status: ThreadStatus }
  /** The front end went, or the thread could not start. `violation` is empty when it just went. */
  | { readonly type: 'ended'; readonly violation: string }

/** Who has just said something may go on, and is not kept waiting. */
const REHEARSE_AFTER_MS = 5

/** What the thread can say of itself. */
export interface ThreadStatus {
  /** Requests taken and errors answered, by opcode. */
  readonly requests: Float64Array
  readonly errors: Float64Array
  readonly counters: Readonly<Record<string, number>>
}

const MAX_SEGMENTS = 32768 + 256

function post(message: ThreadMessage): void {
  parentPort?.postMessage(message)
}

/** Isolated or not, from here on: what needs /proc is done already. */
function main(
  context: Context,
  changes: HostChanges | number | undefined,
  stageChanges: HostChanges | number | undefined,
  idleCpus: IdleCpus | undefined,
  options: ThreadOptions,
): void {
  const log: Log = (level, message) => post({ type: 'log', level, message })
  if (typeof changes === 'number')
    log(
      'info',
      `no metadata is kept: changes by others cannot be watched (fanotify_init: ${errnoName(changes)}); Linux 5.13, or CAP_SYS_ADMIN, makes it possible`,
    )
  // A umask of its own for this thread: the guest's is applied to what it creates.
  const shared = context.unshareFs()
  if (shared < 0) {
    post({
      type: 'ended',
      violation: `unshare(CLONE_FS) is refused (${errnoName(shared)}): let whatever confines the daemon allow it`,
    })
    return
  }
  context.umask(0)
  const watched = typeof changes === 'number' ? undefined : changes
  const fs = new HostFileSystem(context, SCRATCH_AT, options.host, watched)
  const fault = fs.start()
  if (fault < 0) {
    post({ type: 'ended', violation: fs.startFault })
    return
  }
  const rehearsal = new Rehearsal(context, options, stageChanges, log)
  const coherence = options.coherence && coherent(context, fs, options.coherence, log)
  if (typeof coherence === 'string') {
    post({ type: 'ended', violation: coherence })
    return
  }
  do {
    const socketFd = accept(context, options, rehearsal)
    post({ type: 'connected' })
    const violation = serve(context, fs, coherence, socketFd, options, idleCpus, rehearsal, log)
    native.closeFd(socketFd)
    post({ type: 'ended', violation })
  } while (options.reconnect)
  rehearsal.end()
  fs.dispose()
  context.dispose()
}

/** Coherence over `fs`, or why it cannot be had. */
function coherent(
  context: Context,
  fs: HostFileSystem,
  options: CoherenceOptions,
  log: Log,
): Coherence | string {
  try {
    return startCoherence(context, fs, options, message => log('error', message))
  } catch (cause) {
    if (!(cause instanceof VersionTableError)) throw cause
    return `cannot use the version table ${options.tablePath}: ${cause.message}`
  }
}

/** Serves one front end; nothing of it is left afterwards. Returns how it broke the protocol, or ''. */
function serve(
  context: Context,
  fs: HostFileSystem,
  coherence: Coherence | undefined,
  socketFd: number,
  options: ThreadOptions,
  idleCpus: IdleCpus | undefined,
  rehearsal: Rehearsal,
  log: Log,
): string {
  const dax = options.dax && new Window(context, DAX_AT, fs.mappable, options.dax, log)
  const settings = { ...options, idleCpus }
  const { device, server } = makeDevice(context, coherence?.fs ?? fs, dax, settings, log)
  native.setNonBlocking(socketFd, true)
  const session = new VhostUserSession(context, MESSAGE_AT, device, {
    socketFd,
    requestQueues: options.requestQueues,
    tag: options.tag,
    log,
    window: dax && {
      bytes: options.dax!.windowBytes,
      channelAt: CHANNEL_AT,
      attach(channel) {
        dax.mapper = channel
      },
    },
  })
  const watcher = dax && new FileWatcher(context)
  if (dax !== undefined) {
    dax.busy = nodeid => server.grows(nodeid)
    dax.watcher = watcher
    dax.rights = coherence?.mappings
    coherence?.mappings.attach(dax)
  }
  if (watcher !== undefined && watcher.fd >= 0) context.raw.watchFd(watcher.fd, Token.dax, false)
  context.raw.watchFd(socketFd, Token.socket, false)
  const connected = rehearse(context, device, session, rehearsal)
  // It tells that it is ready once only, and the rehearsal would have that.
  const { statusFd } = options
  if (statusFd >= 0) context.raw.watchFd(statusFd, Token.status, false)
  const tellStatus = (): void => post({ type: 'status', status: statusOf(server, fs, coherence) })
  const filesChanged = (): void => watcher?.read(id => dax!.changed(id))
  if (connected) run(context, device, session, filesChanged, tellStatus)
  context.raw.unwatchFd(socketFd)
  if (statusFd >= 0) context.raw.unwatchFd(statusFd)
  session.close()
  if (watcher !== undefined && watcher.fd >= 0) context.raw.unwatchFd(watcher.fd)
  watcher?.close()
  coherence?.mappings.attach(undefined)
  const { hits, nameHits, looks, events } = fs.metadataCounters
  log(
    'debug',
    `metadata: ${hits} attributes and ${nameHits} names were answered from what is kept, ${looks} looks for changes found ${events}`,
  )
  if (server.spreadTotal > 0)
    log('debug', `${server.spreadTotal} large reads were copied by other threads`)
  if (dax !== undefined)
    log('debug', `DAX: ${dax.summary()}; FUSE_READ ${server.requests[Opcode.FUSE_READ]}`)
  if (coherence !== undefined)
    log(
      'debug',
      `coherence: ${JSON.stringify(coherence.leases.counters)}, mappings: ${JSON.stringify(coherence.mappings.counters)}`,
    )
  return session.violation
}

function statusOf(
  { requests, errors }: FuseServer,
  fs: HostFileSystem,
  coherence: Coherence | undefined,
): ThreadStatus {
  const { metadataCounters, knownNodeCount, handleCount, nodeDescriptorCount } = fs
  const counters = {
    nodes: knownNodeCount,
    openFiles: handleCount,
    nodeDescriptors: nodeDescriptorCount,
    ...metadataCounters,
    ...(coherence && leaseStatus(coherence.leases.counters)),
  }
  return { requests, errors, counters }
}

function leaseStatus(counters: LeaseCounters): Record<string, number> {
  return {
    leasesGranted: counters.granted,
    leasesRefused: counters.refused,
    leasesUnplaced: counters.unplaced,
    changes: counters.changes,
    changesWaited: counters.conflicts,
    changesForced: counters.forced,
    changesLapsed: counters.lapsed,
    changesByHost: counters.hostChanges,
  }
}

/**
 * While the guest boots: a step of the rehearsal whenever nobody has said anything for a moment, until that is over.
 * False: the front end went.
 */
function rehearse(
  context: Context,
  device: Device,
  session: VhostUserSession,
  rehearsal: Rehearsal,
): boolean {
  while (!rehearsal.over) {
    const ready = device.turn(!rehearsal.acting, REHEARSE_AFTER_MS)
    // What it writes while writes are logged would be no memory that the log knows.
    if (device.counters.requests > 0 || session.logging) rehearsal.end()
    else if (ready > 0 || session.deferred) rehearsal.pause()
    else {
      rehearsal.step()
      continue
    }
    if (session.deferred && session.readable() === 'closed') return false
    for (let i = 0; i < ready; i++)
      if (context.ready[i] === Token.socket && session.readable() === 'closed') return false
  }
  return true
}

/** Until the front end goes. */
function run(
  context: Context,
  device: Device,
  session: VhostUserSession,
  filesChanged: () => void,
  statusAsked: () => void,
): void {
  for (;;) {
    const ready = device.turn()
    if (session.deferred && session.readable() === 'closed') return
    for (let i = 0; i < ready; i++) {
      const token = context.ready[i]!
      if (token === Token.socket && session.readable() === 'closed') return
      if (token === Token.dax) filesChanged()
      if (token === Token.status) statusAsked()
    }
  }
}

/** The next connection; until it comes there is a rehearsal. */
function accept(
  context: Context,
  { listenerFd, reconnect }: ThreadOptions,
  rehearsal: Rehearsal,
): number {
  context.raw.watchFd(listenerFd, Token.listener, false)
  post({ type: 'ready' })
  // The main thread says so first, even where there is one CPU.
  let waitMs = REHEARSE_AFTER_MS
  for (;;) {
    const ready = context.wait(waitMs, 0)
    const fd = ready > 0 ? native.unixAccept(listenerFd, 0) : -1
    if (fd < 0) {
      waitMs = rehearsal.step() ? 0 : -1
      continue
    }
    rehearsal.pause()
    context.raw.unwatchFd(listenerFd)
    if (!reconnect) native.closeFd(listenerFd)
    return fd
  }
}

function start({ poolThreads, watchesChanges }: ThreadStart): void {
  const context = new Context({ arenaBytes: ARENA_BYTES, maxSegments: MAX_SEGMENTS, poolThreads })
  const open = (): HostChanges | number | undefined =>
    watchesChanges ? HostChanges.open(context) : undefined
  const changes = open()
  const stageChanges = open()
  const idleCpus = IdleCpus.open()
  parentPort?.once('message', (options: ThreadOptions) =>
    main(context, changes, stageChanges, idleCpus, options),
  )
  post({ type: 'loaded' })
}

start(workerData as ThreadStart)
