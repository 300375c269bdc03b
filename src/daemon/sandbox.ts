/**
 * Isolation of the daemon: which means are used in which mode. The means are the shim's.
 *
 * The process that was launched is the one that serves: no child, so its pid is what launchers watch,
 * meter and kill. Instead of a pid namespace the filter refuses signals to, and looks into, other
 * processes, and /proc does not exist under the new root.
 */
import { errnoName } from '../../protocol/errno.js'
import { IsolationMode, native, packageFile } from '../native/addon.js'
import type { DaemonOptions, SandboxMode } from './daemon-options.js'
import { StartError } from './errors.js'
import type { CapabilityChange, IdMap } from './option-values.js'
import { seccompProgram, thisMachine } from './seccomp.js'

/** Numbers of linux/capability.h that serving a directory takes. */
const NEEDED = {
  CHOWN: 0,
  DAC_OVERRIDE: 1,
  FOWNER: 3,
  FSETID: 4,
  SETGID: 6,
  SETUID: 7,
  MKNOD: 27,
  SETFCAP: 31,
} as const
const CAP_DAC_READ_SEARCH = 2

/** Set for the process that the user namespace was made for. */
const MARK = 'VIRTIOFSD_USER_NAMESPACE'

export function sandboxMode(options: DaemonOptions): SandboxMode {
  return options.sandbox ?? 'namespace'
}

/** The shared directory as the device thread will find it. */
export function sharedDirInside(options: DaemonOptions, sharedDir: string): string {
  return sandboxMode(options) === 'none' ? sharedDir : '/'
}

/**
 * Without root, namespaces need a user namespace, and that a fresh process: replaces this one, under the
 * same pid, or returns when there is nothing to do. Before anything is opened. Errors: StartError.
 */
export function enterUserNamespace(options: DaemonOptions): void {
  const root = process.geteuid?.() === 0
  const maps = options.uidMap.length > 0 || options.gidMap.length > 0
  if (process.env[MARK] !== undefined) {
    delete process.env[MARK]
    return
  }
  if (maps && (root || sandboxMode(options) !== 'namespace'))
    throw new StartError(
      '--uid-map and --gid-map are for a user other than root with --sandbox=namespace; as root use --translate-uid and --translate-gid',
    )
  if (root || sandboxMode(options) !== 'namespace') return
  process.env[MARK] = '1'
  const tool = packageFile('native', 'build', 'Release', 'virtiofsd-userns')
  const argv = [
    'virtiofsd-userns',
    mapText(options.uidMap, process.geteuid?.() ?? 0),
    mapText(options.gidMap, process.getegid?.() ?? 0),
    process.execPath,
    ...process.execArgv,
    ...process.argv.slice(1),
  ]
  const fault = native.execute(tool, argv, options.fd ?? -1)
  throw new StartError(
    `cannot run ${tool} (${errnoName(fault)}): run "npm run build:native" in the package folder, or give --sandbox=none`,
  )
}

/** A map of one's own id onto itself when none is given. */
function mapText(maps: readonly IdMap[], own: number): string {
  const all = maps.length > 0 ? maps : [{ inside: own, outside: own, count: 1 }]
  return all.map(({ inside, outside, count }) => `${inside}:${outside}:${count}`).join(',')
}

/**
 * Isolates the whole process. The device thread has loaded all it needs and waits; afterwards no module
 * can be loaded and no path outside the share exists. Returns a directory in memory for the rehearsal (see
 * src/device/rehearsal.ts), or -errno. Errors: StartError; the process must then end.
 */
export function isolate(options: DaemonOptions, sharedDir: string): number {
  const mode = sandboxMode(options)
  if (mode === 'chroot' && process.geteuid?.() !== 0)
    throw new StartError(
      '--sandbox=chroot needs root: use --sandbox=namespace, or none if something else isolates the daemon',
    )
  const capabilities = capabilityMask(options.modcaps, options.inodeFileHandles !== 'never')
  // The run-time reads /etc/localtime when it first needs it. Afterwards that would be the guest's file.
  new Date().getTimezoneOffset()
  const [answer, step, stage] = native.isolate(
    mode === 'none'
      ? IsolationMode.none
      : mode === 'chroot'
        ? IsolationMode.chroot
        : IsolationMode.mountsAndNet,
    sharedDir,
    capabilities,
    !mayUseHandles(capabilities),
  )
  if (answer < 0)
    throw new StartError(
      `cannot set up --sandbox=${mode}: ${step} failed (${errnoName(answer)})${mode === 'namespace' ? '; in a container without CAP_SYS_ADMIN use --sandbox=chroot or none' : ''}`,
    )
  filter(options)
  return stage
}

/**
 * Whether files may be opened by handle. Landlock refuses a file whose directory the kernel does not have
 * at hand, as after opening by handle, so it goes with the other ways only.
 */
function mayUseHandles(mask: bigint): boolean {
  const have = native.getCapabilities()
  return typeof have === 'bigint' && ((have & mask) >> BigInt(CAP_DAC_READ_SEARCH)) % 2n === 1n
}

function filter(options: DaemonOptions): void {
  const action = options.seccomp ?? 'kill'
  if (action === 'none') return
  const machine = thisMachine()
  if (machine === undefined)
    throw new StartError(
      `there is no system-call filter for ${process.arch}: give --seccomp=none to go without`,
    )
  const fault = native.installFilter(seccompProgram(machine, action, process.pid))
  if (fault < 0)
    throw new StartError(
      `cannot install the system-call filter (${errnoName(fault)}): give --seccomp=none to go without`,
    )
}

/** What is kept of the capabilities the daemon was started with. */
export function capabilityMask(changes: readonly CapabilityChange[], fileHandles: boolean): bigint {
  let mask = 0n
  for (const capability of Object.values(NEEDED)) mask |= 1n << BigInt(capability)
  if (fileHandles) mask |= 1n << BigInt(CAP_DAC_READ_SEARCH)
  for (const { capability, action } of changes) {
    const bit = 1n << BigInt(capability)
    mask = action === 'add' ? mask | bit : mask & ~bit
  }
  return mask
}
