/**
 * The daemon's main thread: makes or takes the socket, starts the device thread, and ends when that
 * ends. It is never on the data path.
 */
import { realpathSync, statSync } from 'node:fs'
import { errnoName } from '../../protocol/errno.js'
import type { CoherenceOptions } from '../coherence/options.js'
import { clockOffsetMs } from '../coherence/host-clock.js'
import { openTableFile } from '../coherence/table-file.js'
import { DEFAULT_MIN_FILE_BYTES } from '../dax/options.js'
import type { ThreadOptions } from '../device/thread.js'
import { native } from '../native/addon.js'
import type { Log } from '../vhost/log.js'
import type { Control } from './control.js'
import type { DaemonOptions } from './daemon-options.js'
import type { DeviceThread } from './device-thread.js'
import { StartError } from './errors.js'
import { makeListener, takeListener } from './listener.js'
import { enterUserNamespace, isolate, sharedDirInside } from './sandbox.js'

export { StartError } from './errors.js'

/** Descriptors the process needs besides open files: rings, sockets, pool, log, modules. */
const RESERVED_DESCRIPTORS = 320
const MAX_DESCRIPTORS = 1_048_576

/** Runs until the front end goes (0), a signal comes (1), or something fails (1). Errors: StartError. */
export async function runDaemon(
  options: DaemonOptions,
  device: DeviceThread,
  log: Log,
): Promise<number> {
  enterUserNamespace(options)
  for (const warning of options.warnings) log('warn', warning)
  const sharedDir = checkSharedDir(options.sharedDir)
  const descriptors = raiseDescriptorLimit(options.rlimitNofile, log)
  const listener =
    options.fd === undefined
      ? makeListener(options.socketPath!, options.socketGroup)
      : takeListener(options.fd)
  let control: Control | undefined
  endOnSignals(() => {
    listener.cleanUp()
    control?.cleanUp()
  }, log)
  try {
    const coherence = coherenceOptions(options)
    control = await openControl(options, sharedDir, device, log)
    await device.loaded()
    const stageFd = isolate(options, sharedDir)
    control?.share(sharedDirInside(options, sharedDir))
    const statusFd = control === undefined ? -1 : native.eventFd()
    const serving = threadOptions(options, sharedDir, listener.fd, descriptors)
    return await device.run({ ...serving, stageFd, statusFd, coherence }, log)
  } finally {
    listener.cleanUp()
    control?.close()
  }
}

/** Its code is loaded only where it is wanted. */
async function openControl(
  { controlSocket }: DaemonOptions,
  sharedDir: string,
  device: DeviceThread,
  log: Log,
): Promise<Control | undefined> {
  if (controlSocket === undefined) return undefined
  const { Control } = await import('./control.js')
  return Control.open(controlSocket, sharedDir, device, log)
}

/** At once: nothing of a guest's is kept in the process that the kernel would not finish. */
function endOnSignals(cleanUp: () => void, log: Log): void {
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const)
    process.on(signal, () => {
      log('info', `${signal}: ending`)
      cleanUp()
      native.exitNow(1)
    })
}

/** Its real path. */
function checkSharedDir(path: string): string {
  const info = statSync(path, { throwIfNoEntry: false })
  if (info === undefined)
    throw new StartError(
      `the shared directory ${path} does not exist: create it or name another with --shared-dir`,
    )
  if (!info.isDirectory())
    throw new StartError(`${path} is not a directory: --shared-dir takes one`)
  return realpathSync(path)
}

/** Opens the version table, if there is to be one. */
function coherenceOptions(options: DaemonOptions): CoherenceOptions | undefined {
  const { coherence, versionTable, leaseMs, leaseMarginMs } = options
  if (coherence === 'none' || versionTable === undefined) return undefined
  try {
    const tableFd = openTableFile(versionTable)
    return {
      tableFd,
      tablePath: versionTable,
      leaseMs,
      marginMs: leaseMarginMs,
      clockOffsetMs: clockOffsetMs(),
    }
  } catch (cause) {
    throw new StartError(
      `cannot use the version table ${versionTable}: ${cause instanceof Error ? cause.message : String(cause)}`,
    )
  }
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

function threadOptions(
  options: DaemonOptions,
  sharedDir: string,
  listenerFd: number,
  descriptors: number,
): Omit<ThreadOptions, 'stageFd' | 'statusFd'> {
  const posixAcl = options.posixAcl !== 'never'
  const securityContext = options.securityLabel !== 'never'
  return {
    listenerFd,
    reconnect: options.reconnect,
    requestQueues: options.numRequestQueues,
    tag: options.tag,
    pollUs: options.pollUs,
    passthrough: options.passthrough === 'on',
    logLevel: options.logLevel === 'off' ? 'error' : options.logLevel,
    fuse: {
      writeback: options.writeback,
      readdirplus: options.readdirplus,
      killpriv: options.killprivV2,
      posixAcl,
      securityContext,
      announceSubmounts: options.announceSubmounts,
      allowMmap: options.allowMmap,
      required: {
        posixAcl: options.posixAcl === 'always',
        securityContext: options.securityLabel === 'always',
      },
    },
    dax:
      options.daxWindow === undefined
        ? undefined
        : {
            windowBytes: options.daxWindow,
            policy: options.dax,
            minFileBytes: DEFAULT_MIN_FILE_BYTES,
          },
    host: {
      sharedDir: sharedDirInside(options, sharedDir),
      cache: options.cache,
      xattr: options.xattr,
      posixAcl,
      readOnly: options.readonly,
      allowDirectIo: options.allowDirectIo,
      securityContext,
      preserveNoatime: options.preserveNoatime,
      flockLocks: options.flock,
      posixLocks: options.posixLock,
      xattrmap: options.xattrmap,
      translateUid: options.translateUid,
      translateGid: options.translateGid,
      inodeFileHandles: options.inodeFileHandles,
      migration: {
        mode: options.migrationMode,
        onError: options.migrationOnError,
        verifyHandles: options.migrationVerifyHandles,
        confirmPaths: options.migrationConfirmPaths,
      },
      nodeDescriptors: nodeDescriptors(options.nodeDescriptors, descriptors),
      keptInodes: options.metadataCache,
      mappedStores: options.coherence === 'strict' && options.leaseMs === 0,
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
