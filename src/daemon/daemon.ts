/**
 * The daemon's main thread: makes or takes the socket, starts the device thread, and ends when that
 * ends. It is never on the data path.
 */
import { rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { Worker } from 'node:worker_threads'
import { errnoName } from '../../protocol/errno.js'
import type { ThreadMessage, ThreadOptions } from '../device/thread.js'
import { native } from '../native/addon.js'
import type { Log } from '../vhost/session.js'
import type { DaemonOptions } from './daemon-options.js'
import { StartError } from './errors.js'
import { refuseUnsupported } from './unsupported-options.js'

export { StartError } from './errors.js'

/** Descriptors the process needs besides open files: rings, sockets, pool, log, modules. */
const RESERVED_DESCRIPTORS = 320
const MAX_DESCRIPTORS = 1_048_576
/** A device thread that does not come to its end is left behind after this time. */
const STOP_LIMIT_MS = 2000

interface Listener {
  readonly fd: number
  /** Removes what was made for it. */
  readonly cleanUp: () => void
}

/** Runs until the front end goes (0), a signal comes (1), or something fails (1). Errors: StartError. */
export async function runDaemon(options: DaemonOptions, log: Log): Promise<number> {
  const refusal = refuseUnsupported(options)
  if (refusal !== undefined) throw new StartError(refusal)
  for (const warning of options.warnings) log('warn', warning)
  checkSharedDir(options.sharedDir)
  const descriptors = raiseDescriptorLimit(options.rlimitNofile, log)
  const listener =
    options.fd === undefined ? makeListener(options.socketPath!) : takeListener(options.fd)
  const stopFd = native.eventFd()
  try {
    const worker = new Worker(new URL('../device/thread.js', import.meta.url), {
      workerData: threadOptions(options, listener.fd, stopFd, descriptors),
    })
    return await supervise(worker, stopFd, log)
  } finally {
    listener.cleanUp()
    native.closeFd(stopFd)
  }
}

function checkSharedDir(path: string): void {
  const info = statSync(path, { throwIfNoEntry: false })
  if (info === undefined)
    throw new StartError(
      `the shared directory ${path} does not exist: create it or name another with --shared-dir`,
    )
  if (!info.isDirectory())
    throw new StartError(`${path} is not a directory: --shared-dir takes one`)
}

/** Sets the soft limit, the hard one if asked; returns the soft limit. */
function raiseDescriptorLimit(wanted: number | undefined, log: Log): number {
  const limits = new Float64Array(2)
  native.getNoFileLimit(limits)
  const hard = Math.min(limits[1]!, MAX_DESCRIPTORS)
  if (wanted === 0) return limits[0]!
  const target = wanted ?? hard
  const fault = native.setNoFileLimit(
    target,
    Math.max(target, Math.min(limits[1]!, MAX_DESCRIPTORS)),
  )
  if (fault >= 0) return target
  if (wanted !== undefined)
    throw new StartError(
      `cannot set the limit of open descriptors to ${wanted} (${errnoName(fault)}): leave --rlimit-nofile out or give at most ${limits[1]}`,
    )
  log(
    'warn',
    `cannot set the limit of open descriptors to ${target} (${errnoName(fault)}); it stays at ${limits[0]}`,
  )
  return limits[0]!
}

function makeListener(path: string): Listener {
  const full = resolve(path)
  const stale = statSync(full, { throwIfNoEntry: false })
  if (stale !== undefined) {
    if (!stale.isSocket())
      throw new StartError(
        `${path} exists and is not a socket: remove it or choose another --socket-path`,
      )
    rmSync(full)
  }
  // The socket is for its owner alone.
  const mask = process.umask(0o077)
  const fd = native.unixListen(path, 1)
  process.umask(mask)
  if (fd < 0) {
    const why = fd === -2 ? `${dirname(full)} does not exist` : errnoName(fd)
    throw new StartError(`cannot create the socket ${path}: ${why}`)
  }
  const pidFile = `${full}.pid`
  writeFileSync(pidFile, `${process.pid}\n`, { mode: 0o600 })
  return {
    fd,
    cleanUp: () => {
      native.closeFd(fd)
      rmSync(pidFile, { force: true })
      rmSync(full, { force: true })
    },
  }
}

function takeListener(fd: number): Listener {
  if (native.checkListener(fd) < 0)
    throw new StartError(
      `descriptor ${fd} is not a listening UNIX stream socket: pass one with --fd`,
    )
  return { fd, cleanUp: () => native.closeFd(fd) }
}

function threadOptions(
  options: DaemonOptions,
  listenerFd: number,
  stopFd: number,
  descriptors: number,
): ThreadOptions {
  const posixAcl = options.posixAcl !== 'never'
  const securityContext = options.securityLabel !== 'never'
  return {
    listenerFd,
    stopFd,
    requestQueues: options.numRequestQueues,
    tag: options.tag,
    pollUs: options.pollUs,
    // Reads that would block need a thread; 0 means no more of them than that.
    poolThreads: Math.max(1, options.threadPoolSize),
    logLevel: options.logLevel === 'off' ? 'error' : options.logLevel,
    fuse: {
      writeback: options.writeback,
      readdirplus: options.readdirplus,
      killpriv: options.killprivV2,
      posixAcl,
      securityContext,
      announceSubmounts: options.announceSubmounts,
      allowMmap: options.allowMmap,
    },
    host: {
      sharedDir: options.sharedDir,
      cache: options.cache,
      xattr: options.xattr,
      posixAcl,
      readOnly: options.readonly,
      allowDirectIo: options.allowDirectIo,
      securityContext,
      preserveNoatime: options.preserveNoatime,
      xattrmap: options.xattrmap,
      translateUid: options.translateUid,
      translateGid: options.translateGid,
      nodeDescriptors: nodeDescriptors(options.nodeDescriptors, descriptors),
      openFiles: Math.max(16, descriptors - RESERVED_DESCRIPTORS),
    },
  }
}

/** Descriptors kept for nodes: as many as wanted, otherwise a share of those there are. */
function nodeDescriptors(wanted: number | undefined, descriptors: number): number {
  if (wanted !== undefined && wanted > descriptors - RESERVED_DESCRIPTORS)
    throw new StartError(
      `--node-descriptors ${wanted} is too much for a limit of ${descriptors} open descriptors: raise it with --rlimit-nofile`,
    )
  return wanted ?? Math.max(64, Math.min(32_768, Math.floor(descriptors / 8)))
}

/** Waits for the thread's end; a signal ends it. Returns the exit status. */
function supervise(worker: Worker, stopFd: number, log: Log): Promise<number> {
  return new Promise(done => {
    let status = 0
    const stop = (signal: NodeJS.Signals): void => {
      log('info', `${signal}: ending`)
      status = 1
      native.eventWrite(stopFd)
      setTimeout(() => native.exitNow(1), STOP_LIMIT_MS).unref()
    }
    process.on('SIGTERM', stop)
    process.on('SIGINT', stop)
    process.on('SIGHUP', stop)
    worker.on('message', (message: ThreadMessage) => {
      if (message.type === 'log') log(message.level, message.message)
      else if (message.type === 'connected') log('info', 'the front end is connected')
      else if (message.violation !== '') {
        log('error', message.violation)
        status = 1
      } else if (status === 0) log('info', 'the front end is gone')
    })
    worker.on('error', cause => {
      log(
        'error',
        `the device thread failed: ${cause instanceof Error ? cause.stack : String(cause)}`,
      )
      status = 1
    })
    worker.on('exit', () => done(status))
    worker.on('online', () => log('info', 'Waiting for vhost-user socket connection...'))
  })
}
