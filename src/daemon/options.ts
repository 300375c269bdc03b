/** The command line of `virtiofsd`. */
import { parseArgs } from 'node:util'
import type { CacheMode } from '../filesystems/host/options.js'
import type { LogLevel } from '../vhost/session.js'

export interface DaemonOptions {
  readonly sharedDir: string
  readonly socketPath: string | undefined
  readonly fd: number | undefined
  readonly tag: string | undefined
  readonly cache: CacheMode
  readonly numRequestQueues: number
  readonly pollUs: number
  readonly threadPoolSize: number
  readonly logLevel: LogLevel | 'off'
  readonly xattr: boolean
  readonly posixAcl: boolean
  readonly securityLabel: boolean
  readonly readonly: boolean
  readonly writeback: boolean
  readonly allowDirectIo: boolean
  readonly allowMmap: boolean
  readonly readdirplus: boolean
  readonly killprivV2: boolean
  readonly announceSubmounts: boolean
  readonly preserveNoatime: boolean
  readonly rlimitNofile: number | undefined
}

/** What is wrong with the command line: a sentence for the operator. */
export class UsageError extends Error {}

interface Flag {
  readonly type: 'string' | 'boolean'
  /** Placeholder of the value in --help. */
  readonly value?: string
  readonly help: string
  /** Not an option of Rust virtiofsd. */
  readonly own?: boolean
}

/** One row an option, in the order of --help. */
const FLAGS: Readonly<Record<string, Flag>> = {
  'shared-dir': { type: 'string', value: 'DIR', help: 'directory to share (required)' },
  'socket-path': { type: 'string', value: 'PATH', help: 'vhost-user socket to make and listen on' },
  fd: {
    type: 'string',
    value: 'N',
    help: 'listening vhost-user socket that was passed as descriptor N',
  },
  tag: {
    type: 'string',
    value: 'TAG',
    help: 'tag the guest mounts by, at most 36 bytes; only for front ends that ask the daemon for it',
  },
  cache: {
    type: 'string',
    value: 'MODE',
    help: 'what the guest may cache: never, metadata, auto (default), always',
  },
  writeback: { type: 'boolean', help: 'let the guest keep dirty pages' },
  'allow-direct-io': { type: 'boolean', help: "pass the guest's O_DIRECT on to the host file" },
  'allow-mmap': { type: 'boolean', help: 'allow shared mappings with --cache=never and metadata' },
  'no-readdirplus': { type: 'boolean', help: 'read directories without attributes' },
  xattr: { type: 'boolean', help: 'extended attributes' },
  'posix-acl': { type: 'boolean', help: 'POSIX access control lists (implies --xattr)' },
  'security-label': {
    type: 'boolean',
    help: 'security labels of new files from the guest (implies --xattr)',
  },
  readonly: { type: 'boolean', help: 'refuse every change' },
  'killpriv-v2': {
    type: 'boolean',
    help: 'clear set-id bits in the daemon on write and truncate (default)',
  },
  'no-killpriv-v2': { type: 'boolean', help: 'leave set-id bits to the guest' },
  'announce-submounts': {
    type: 'boolean',
    help: 'show mount points of the host as such in the guest (default)',
  },
  'no-announce-submounts': { type: 'boolean', help: 'hide them' },
  'preserve-noatime': { type: 'boolean', help: "keep the guest's O_NOATIME" },
  'thread-pool-size': {
    type: 'string',
    value: 'N',
    help: 'most threads for file I/O that would block (default 16)',
  },
  'rlimit-nofile': {
    type: 'string',
    value: 'N',
    help: 'limit of open descriptors; 0 leaves it as it is',
  },
  'log-level': {
    type: 'string',
    value: 'LEVEL',
    help: 'error, warn, info (default), debug, trace, off',
  },
  'num-request-queues': {
    type: 'string',
    value: 'N',
    help: 'request queues that --tag announces, 1 to 64 (default 1); without --tag the front end decides',
    own: true,
  },
  'poll-us': {
    type: 'string',
    value: 'US',
    help: 'longest spin before sleeping, in microseconds; 0 turns it off (default 30)',
    own: true,
  },
  help: { type: 'boolean', help: 'show this text' },
  version: { type: 'boolean', help: 'show the version' },
}

const CACHE_MODES: readonly string[] = ['never', 'metadata', 'auto', 'always']
const LOG_LEVELS: readonly string[] = ['error', 'warn', 'info', 'debug', 'trace', 'off']
const DEFAULT_POLL_US = 30
const DEFAULT_POOL_THREADS = 16

export function helpText(): string {
  const width = 34
  const row = ([name, flag]: [string, Flag]): string => {
    const left = `  --${name}${flag.value === undefined ? '' : ` ${flag.value}`}`
    return `${left.padEnd(width)}${flag.help}${flag.own === true ? ' [not in Rust virtiofsd]' : ''}`
  }
  return [
    'virtiofsd: shares a directory of the host with a virtual machine (virtio-fs over vhost-user).',
    '',
    'Usage: virtiofsd --shared-dir DIR (--socket-path PATH | --fd N) [options]',
    '',
    ...Object.entries(FLAGS).map(row),
    '',
    'In the guest: mount -t virtiofs TAG /mnt',
    '',
  ].join('\n')
}

/** Parses the arguments after the program's name. Errors: UsageError. */
export function parseOptions(argv: readonly string[]): DaemonOptions | 'help' | 'version' {
  const options = Object.fromEntries(
    Object.entries(FLAGS).map(([name, flag]) => [name, { type: flag.type }]),
  )
  let values: Record<string, string | boolean | undefined>
  try {
    values = parseArgs({ args: [...argv], options, allowPositionals: false, strict: true })
      .values as typeof values
  } catch (cause) {
    throw new UsageError(`${(cause as Error).message.split('. ')[0]}; see --help`)
  }
  if (values.help === true) return 'help'
  if (values.version === true) return 'version'
  const text = (name: string): string | undefined => values[name] as string | undefined
  const on = (name: string): boolean => values[name] === true
  const sharedDir = text('shared-dir')
  if (sharedDir === undefined)
    throw new UsageError('--shared-dir is missing: name the directory to share')
  const socketPath = text('socket-path')
  const fd = wholeNumber(text('fd'), '--fd', 0, 2 ** 31 - 1)
  if (socketPath === undefined && fd === undefined)
    throw new UsageError('give --socket-path PATH or --fd N')
  if (socketPath !== undefined && fd !== undefined)
    throw new UsageError('--socket-path and --fd exclude each other')
  const posixAcl = on('posix-acl')
  const securityLabel = on('security-label')
  return {
    sharedDir,
    socketPath,
    fd,
    tag: checkedTag(text('tag')),
    cache: oneOf(text('cache') ?? 'auto', '--cache', CACHE_MODES) as CacheMode,
    numRequestQueues: wholeNumber(text('num-request-queues'), '--num-request-queues', 1, 64) ?? 1,
    pollUs: wholeNumber(text('poll-us'), '--poll-us', 0, 1_000_000) ?? DEFAULT_POLL_US,
    threadPoolSize:
      wholeNumber(text('thread-pool-size'), '--thread-pool-size', 0, 256) ?? DEFAULT_POOL_THREADS,
    logLevel: oneOf(
      text('log-level') ?? 'info',
      '--log-level',
      LOG_LEVELS,
    ) as DaemonOptions['logLevel'],
    xattr: on('xattr') || posixAcl || securityLabel,
    posixAcl,
    securityLabel,
    readonly: on('readonly'),
    writeback: on('writeback'),
    allowDirectIo: on('allow-direct-io'),
    allowMmap: on('allow-mmap'),
    readdirplus: !on('no-readdirplus'),
    killprivV2: !on('no-killpriv-v2') || on('killpriv-v2'),
    announceSubmounts: !on('no-announce-submounts') || on('announce-submounts'),
    preserveNoatime: on('preserve-noatime'),
    rlimitNofile: wholeNumber(text('rlimit-nofile'), '--rlimit-nofile', 0, 2 ** 31 - 1),
  }
}

function wholeNumber(
  text: string | undefined,
  name: string,
  least: number,
  most: number,
): number | undefined {
  if (text === undefined) return undefined
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN
  if (!(value >= least && value <= most))
    throw new UsageError(`${name} takes a number from ${least} to ${most}, not "${text}"`)
  return value
}

function oneOf(text: string, name: string, known: readonly string[]): string {
  if (!known.includes(text))
    throw new UsageError(`${name} takes one of ${known.join(', ')}, not "${text}"`)
  return text
}

function checkedTag(tag: string | undefined): string | undefined {
  if (tag === undefined) return undefined
  const bytes = new TextEncoder().encode(tag).length
  if (bytes === 0 || bytes > 36) throw new UsageError(`--tag takes 1 to 36 bytes, not ${bytes}`)
  return tag
}
