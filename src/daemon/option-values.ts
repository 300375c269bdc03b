/** Values of options: what their text means. Errors: UsageError. */
import { MIN_WINDOW_BYTES } from '../dax/options.js'
import { UsageError } from './errors.js'

/** A change to the capabilities the daemon keeps. */
export interface CapabilityChange {
  /** Number as in linux/capability.h. */
  readonly capability: number
  readonly action: 'add' | 'remove'
}

/** `count` ids from `inside` on, in the user namespace, stand for those from `outside` on. */
export interface IdMap {
  readonly inside: number
  readonly outside: number
  readonly count: number
}

/** Names as in linux/capability.h; the index is the number. */
const CAPABILITIES: readonly string[] = [
  'chown',
  'dac_override',
  'dac_read_search',
  'fowner',
  'fsetid',
  'kill',
  'setgid',
  'setuid',
  'setpcap',
  'linux_immutable',
  'net_bind_service',
  'net_broadcast',
  'net_admin',
  'net_raw',
  'ipc_lock',
  'ipc_owner',
  'sys_module',
  'sys_rawio',
  'sys_chroot',
  'sys_ptrace',
  'sys_pacct',
  'sys_admin',
  'sys_boot',
  'sys_nice',
  'sys_resource',
  'sys_time',
  'sys_tty_config',
  'mknod',
  'lease',
  'audit_write',
  'audit_control',
  'setfcap',
  'mac_override',
  'mac_admin',
  'syslog',
  'wake_alarm',
  'block_suspend',
  'audit_read',
  'perfmon',
  'bpf',
  'checkpoint_restore',
]

const MAX_TAG_BYTES = 36
/** Ids are below it: the last one of 32 bits means "none". */
const ID_LIMIT = 0xffff_ffff

export function wholeNumber(text: string, name: string, least: number, most: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN
  if (!(value >= least && value <= most))
    throw new UsageError(`${name} takes a number from ${least} to ${most}, not "${text}"`)
  return value
}

/** `8G`: a power of two that Linux and QEMU take. */
export function windowBytes(text: string): number {
  const form = /^(\d{1,15})([kmgt]?)i?b?$/i.exec(text)
  const unit = form === null ? -1 : ['', 'k', 'm', 'g', 't'].indexOf(form[2]!.toLowerCase())
  const bytes = unit < 0 ? 0 : Number(form![1]) * 1024 ** unit
  // QEMU aborts when the size of a PCI region is none; Linux maps 2 MiB at a time.
  if (!(bytes >= MIN_WINDOW_BYTES && bytes <= 2 ** 46 && Number.isInteger(Math.log2(bytes))))
    throw new UsageError(
      `--dax-window takes a power of two from 2M on, as 64M or 8G, not "${text}"`,
    )
  return bytes
}

export function oneOf<T extends string>(text: string, name: string, known: readonly T[]): T {
  const found = known.find(value => value === text)
  if (found === undefined)
    throw new UsageError(`${name} takes one of ${known.join(', ')}, not "${text}"`)
  return found
}

export function tag(text: string): string {
  const bytes = new TextEncoder().encode(text).length
  if (bytes > MAX_TAG_BYTES)
    throw new UsageError(`--tag takes 1 to ${MAX_TAG_BYTES} bytes, not ${bytes}`)
  return text
}

/** `+sys_admin:-chown`; any case, with or without `cap_`. */
export function capabilityChanges(text: string): CapabilityChange[] {
  return text.split(':').map(change => {
    const action = change[0]
    if (action !== '+' && action !== '-')
      throw new UsageError(
        `--modcaps takes +NAME and -NAME with ":" between, as +sys_admin:-chown; not "${text}"`,
      )
    const name = change.slice(1).toLowerCase().replace(/^cap_/, '')
    const capability = CAPABILITIES.indexOf(name)
    if (capability < 0)
      throw new UsageError(`--modcaps: there is no capability "${change.slice(1)}"`)
    return { capability, action: action === '+' ? 'add' : 'remove' }
  })
}

/** `:inside:outside:count:`; any character but letters and digits may stand for the colon. */
export function idMap(text: string, name: string): IdMap {
  const form = /^([^\p{L}\p{N}])(\d+)\1(\d+)\1(\d+)\1$/u.exec(text)
  if (form === null)
    throw new UsageError(
      `${name} takes :INSIDE:OUTSIDE:COUNT:, as :0:100000:65536: ; not "${text}"`,
    )
  const [inside, outside, count] = form.slice(2).map(Number) as [number, number, number]
  if (count === 0) throw new UsageError(`${name} ${text} maps no id`)
  if (Math.max(inside, outside) + count > ID_LIMIT)
    throw new UsageError(`${name} ${text} goes past the last id, ${ID_LIMIT - 1}`)
  return { inside, outside, count }
}
