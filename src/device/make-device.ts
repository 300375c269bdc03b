/** Server and device on a file system: made in one place, so that those of a rehearsal have the same shapes. */
import type { Window } from '../dax/window.js'
import { TABLE_AT, TABLE_BYTES } from '../fuse/layout.js'
import { wherePossible } from '../fuse/passthrough.js'
import { FuseServer } from '../fuse/server.js'
import type { SessionOptions } from '../fuse/session.js'
import type { Context } from '../native/context.js'
import type { FileSystem } from '../vfs/filesystem.js'
import type { Log, LogLevel } from '../vhost/log.js'
import { Chain } from '../virtio/chain.js'
import { Device, type DeviceOptions } from './device.js'
import type { IdleCpus } from './idle-cpus.js'
import { tracer } from './trace.js'

export interface DeviceSettings {
  readonly pollUs: number
  /** Files are read and written past the file system where that is possible. */
  readonly passthrough: boolean
  readonly logLevel: LogLevel
  readonly fuse: SessionOptions
  /** undefined: one thread moves the data of large reads. */
  readonly idleCpus?: IdleCpus | undefined
  /** See DeviceOptions. */
  readonly rings?: DeviceOptions['rings']
}

export function makeDevice(
  context: Context,
  fs: FileSystem,
  window: Window | undefined,
  settings: DeviceSettings,
  log: Log,
): { readonly device: Device; readonly server: FuseServer } {
  let device: Device
  const { idleCpus } = settings
  const server = new FuseServer(context, fs, {
    ...settings.fuse,
    window,
    passthrough: settings.passthrough ? wherePossible : undefined,
    onComplete: (queue, head, written) => device.completed(queue, head, written),
    waitRoom: queue => device.waitRoom(queue),
    onFault: (message, cause) =>
      log('error', `${message}: ${cause instanceof Error ? cause.stack : String(cause)}`),
    spreading: idleCpus && {
      moreWaits: () => device.anyPending(),
      helpers: busy => idleCpus.helpers(busy),
    },
    trace: settings.logLevel === 'trace' ? tracer(log) : undefined,
  })
  device = new Device(context, new Chain(context, TABLE_AT, TABLE_BYTES), server, {
    pollUs: settings.pollUs,
    log,
    rings: settings.rings,
  })
  return { device, server }
}
