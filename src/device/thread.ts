/**
 * The device thread: waits for the front end, runs session and device until one of them ends. Started
 * by src/daemon as a worker; talks to it by messages (log records, how it ended) and an eventfd (stop).
 */
import { parentPort, workerData } from 'node:worker_threads'
import { errnoName } from '../../protocol/errno.js'
import { HostFileSystem } from '../filesystems/host/host-filesystem.js'
import type { HostOptions } from '../filesystems/host/options.js'
import { ARENA_BYTES, MESSAGE_AT, SCRATCH_AT, TABLE_AT, TABLE_BYTES } from '../fuse/layout.js'
import { FuseServer } from '../fuse/server.js'
import type { SessionOptions } from '../fuse/session.js'
import { native } from '../native/addon.js'
import { Context } from '../native/context.js'
import { type Log, type LogLevel, VhostUserSession } from '../vhost/session.js'
import { Chain } from '../virtio/chain.js'
import { Device, Token } from './device.js'
import { tracer } from './trace.js'

export interface ThreadOptions {
  /** Listening socket; the thread accepts one connection. Owned by the starter. */
  readonly listenerFd: number
  /** Readable when the thread is to end. */
  readonly stopFd: number
  readonly requestQueues: number
  readonly tag?: string | undefined
  readonly pollUs: number
  readonly poolThreads: number
  readonly logLevel: LogLevel
  readonly fuse: SessionOptions
  readonly host: HostOptions
}

export type ThreadMessage =
  | { readonly type: 'log'; readonly level: LogLevel; readonly message: string }
  | { readonly type: 'connected' }
  /** `violation` is empty when the front end just went, or the thread was told to stop. */
  | { readonly type: 'ended'; readonly violation: string }

const MAX_SEGMENTS = 32768 + 256

function post(message: ThreadMessage): void {
  parentPort?.postMessage(message)
}

function main(options: ThreadOptions): void {
  const log: Log = (level, message) => post({ type: 'log', level, message })
  const context = new Context({
    arenaBytes: ARENA_BYTES,
    maxSegments: MAX_SEGMENTS,
    poolThreads: options.poolThreads,
  })
  // A umask of its own for this thread: the guest's is applied to what it creates.
  if (context.unshareFs() < 0)
    log('warn', 'cannot take the umask out of the process; files are made with umask 0')
  context.umask(0)
  const fs = new HostFileSystem(context, SCRATCH_AT, options.host)
  const fault = fs.start()
  if (fault < 0) {
    post({
      type: 'ended',
      violation: `cannot open the shared directory ${options.host.sharedDir}: ${errnoName(fault)}`,
    })
    return
  }
  const violation = serve(context, fs, options, log)
  fs.dispose()
  context.dispose()
  post({ type: 'ended', violation })
}

function serve(context: Context, fs: HostFileSystem, options: ThreadOptions, log: Log): string {
  context.raw.watchFd(options.stopFd, Token.stop, false)
  const socketFd = accept(context, options.listenerFd)
  if (socketFd < 0) return ''
  post({ type: 'connected' })
  let device: Device
  const server = new FuseServer(context, fs, {
    ...options.fuse,
    onComplete: (queue, head, written) => device.completed(queue, head, written),
    onFault: (message, cause) =>
      log('error', `${message}: ${cause instanceof Error ? cause.stack : String(cause)}`),
    trace: options.logLevel === 'trace' ? tracer(log) : undefined,
  })
  device = new Device(context, new Chain(context, TABLE_AT, TABLE_BYTES), server, {
    pollUs: options.pollUs,
    log,
  })
  native.setNonBlocking(socketFd, true)
  const session = new VhostUserSession(context, MESSAGE_AT, device, {
    socketFd,
    requestQueues: options.requestQueues,
    tag: options.tag,
    log,
  })
  context.raw.watchFd(socketFd, Token.socket, false)
  run(context, device, session)
  context.raw.unwatchFd(socketFd)
  session.close()
  native.closeFd(socketFd)
  return session.violation
}

/** Until the front end goes or the stop descriptor is readable. */
function run(context: Context, device: Device, session: VhostUserSession): void {
  for (;;) {
    const ready = device.turn()
    for (let i = 0; i < ready; i++) {
      const token = context.ready[i]!
      if (token === Token.stop) return
      if (token === Token.socket && session.readable() === 'closed') return
    }
  }
}

/** The connection, or -1 when told to stop before one came. */
function accept(context: Context, listenerFd: number): number {
  context.raw.watchFd(listenerFd, Token.listener, false)
  for (;;) {
    const ready = context.wait(-1, 0)
    for (let i = 0; i < ready; i++) if (context.ready[i] === Token.stop) return -1
    const fd = ready > 0 ? native.unixAccept(listenerFd, 0) : -1
    if (fd < 0) continue
    context.raw.unwatchFd(listenerFd)
    return fd
  }
}

main(workerData as ThreadOptions)
