/**
 * The command line of `virtiofsd`: that of Rust virtiofsd 1.14 and a few options more. Nothing heavy
 * is imported here: --help and a mistyped option answer at once.
 */
import { CAP_DAC_READ_SEARCH } from '../../protocol/linux/constants.js'
import {
  type CoherenceMode,
  DEFAULT_LEASE_MS,
  DEFAULT_MARGIN_MS,
  MAX_LEASE_MS,
  MAX_MARGIN_MS,
} from '../coherence/options.js'
import { type DaxPolicy, SAFE_WINDOW_BYTES } from '../dax/options.js'
import { IdTranslationError, parseTranslate } from '../filesystems/host/id-translation.js'
import type { CacheMode } from '../filesystems/host/options.js'
import { parseXattrMap, XattrMapError } from '../filesystems/host/xattrmap.js'
import type { MigrationMode, MigrationOnError } from '../vfs/migration.js'
import { type GivenOptions, readCommandLine } from './command-line.js'
import type {
  DaemonOptions,
  NegotiationMode,
  SandboxMode,
  SeccompAction,
} from './daemon-options.js'
import { UsageError } from './errors.js'
import { applyLegacyOptions } from './legacy-options.js'
import { LOG_LEVELS } from './log-levels.js'
import { OPTION_ROWS } from './option-table.js'
import * as values from './option-values.js'
import { readRustLog } from './rust-log.js'

export type { DaemonOptions } from './daemon-options.js'
export { UsageError } from './errors.js'
export { helpText } from './help.js'

const CACHE_MODES: readonly CacheMode[] = ['never', 'metadata', 'auto', 'always']
const NEGOTIATION_MODES: readonly NegotiationMode[] = ['never', 'auto', 'always']
const SANDBOX_MODES: readonly SandboxMode[] = ['namespace', 'chroot', 'none']
const SECCOMP_ACTIONS: readonly SeccompAction[] = ['kill', 'log', 'trap', 'none']
const INODE_FILE_HANDLES = ['never', 'prefer', 'mandatory', 'fallback'] as const
const MIGRATION_MODES: readonly MigrationMode[] = ['find-paths', 'file-handles']
const DAX_POLICIES: readonly DaxPolicy[] = ['never', 'sealed', 'exclusive', 'always']
const COHERENCE_MODES: readonly CoherenceMode[] = ['none', 'strict']
const MIGRATION_ON_ERROR: readonly MigrationOnError[] = ['abort', 'guest-error']

const DEFAULT_POLL_US = 50
const DEFAULT_POOL_THREADS = 16
const MAX_POOL_THREADS = 256
const MAX_POLL_US = 1_000_000
const MAX_QUEUES = 64
const MIN_NODE_DESCRIPTORS = 64
const DEFAULT_METADATA_CACHE = 32_768
const PASSTHROUGH = ['on', 'off'] as const
const MAX_METADATA_CACHE = 1_048_576
const MAX_NODE_DESCRIPTORS = 1_048_576
const MAX_INT = 2 ** 31 - 1

/** What --print-capabilities tells: features by the names of QEMU's vhost-user.json. */
const FEATURES = [
  'separate-options',
  'posix-acl-negotiation-mode',
  'security-label-negotiation-mode',
  'migrate-precopy',
]

export function capabilitiesText(): string {
  return `${JSON.stringify({ type: 'fs', features: FEATURES }, undefined, 2)}\n`
}

export type ParsedOptions = DaemonOptions | 'help' | 'version' | 'print-capabilities'

/** Parses the arguments after the program's name. Errors: UsageError. */
export function parseOptions(
  argv: readonly string[],
  environment: Readonly<Record<string, string | undefined>> = {},
): ParsedOptions {
  const given = readCommandLine(argv, OPTION_ROWS)
  if (given.final === 'help' || given.final === 'version') return given.final
  if (given.has('print-capabilities')) return 'print-capabilities'
  const warnings = applyLegacyOptions(given)
  const options: DaemonOptions = {
    ...connectionOptions(given, warnings),
    ...fileSystemOptions(given, warnings),
    ...isolationOptions(given),
    ...processOptions(given, environment, warnings),
    warnings,
  }
  checkTogether(options)
  return options
}

function connectionOptions(given: GivenOptions, warnings: string[]) {
  const sharedDir = given.value('shared-dir')
  if (sharedDir === undefined)
    throw new UsageError('--shared-dir is missing: name the directory to share; see --help')
  if (given.has('socket'))
    warnings.push(
      given.has('socket-path')
        ? '--socket has no effect beside --socket-path'
        : '--socket is deprecated: use --socket-path',
    )
  const socketPath = given.value('socket-path') ?? given.value('socket')
  const fd = optionalNumber(given, 'fd', 0, MAX_INT)
  if (socketPath === undefined && fd === undefined)
    throw new UsageError('give --socket-path PATH or --fd N; see --help')
  if (socketPath !== undefined && fd !== undefined)
    throw new UsageError('--socket-path and --fd exclude each other')
  const socketGroup = given.value('socket-group')
  if (socketGroup !== undefined && fd !== undefined)
    throw new UsageError(
      '--socket-group and --fd exclude each other: who made the socket chose its group',
    )
  const controlSocket = given.value('control-socket')
  if (controlSocket !== undefined && controlSocket === socketPath)
    throw new UsageError('--control-socket and --socket-path are two sockets: give two paths')
  const tag = given.value('tag')
  return {
    sharedDir,
    socketPath,
    socketGroup,
    fd,
    tag: tag === undefined ? undefined : values.tag(tag),
    controlSocket,
  }
}

function fileSystemOptions(given: GivenOptions, warnings: string[]) {
  const posixAcl = choice(given, 'posix-acl', NEGOTIATION_MODES) ?? 'never'
  const securityLabel = choice(given, 'security-label', NEGOTIATION_MODES) ?? 'never'
  const xattrmap = given.value('xattrmap')
  if (xattrmap !== undefined) readable(() => parseXattrMap(xattrmap))
  const handles = choice(given, 'inode-file-handles', INODE_FILE_HANDLES) ?? 'prefer'
  if (handles === 'fallback')
    warnings.push('--inode-file-handles=fallback is deprecated: use prefer')
  const cache = choiceOfAnyCase(given, 'cache', CACHE_MODES) ?? 'auto'
  const flock = given.has('flock')
  const posixLock = given.has('posix-lock')
  // With leases others' changes are seen whatever is cached.
  if ((flock || posixLock) && cache !== 'never' && given.value('coherence') !== 'strict')
    warnings.push(
      `${posixLock ? '--posix-lock' : '--flock'} with --cache=${cache}: a guest that has got a lock may still read from its cache what was there before: use --cache=never or --coherence=strict where files are written from several sides`,
    )
  return {
    cache,
    readonly: given.has('readonly'),
    writeback: given.has('writeback'),
    allowDirectIo: given.has('allow-direct-io'),
    allowMmap: given.has('allow-mmap'),
    readdirplus: !given.has('no-readdirplus'),
    announceSubmounts: !given.has('no-announce-submounts'),
    killprivV2: !given.has('no-killpriv-v2'),
    preserveNoatime: given.has('preserve-noatime'),
    flock,
    posixLock,
    inodeFileHandles: handles === 'fallback' ? 'prefer' : handles,
    xattr:
      given.has('xattr') ||
      xattrmap !== undefined ||
      posixAcl !== 'never' ||
      securityLabel !== 'never',
    posixAcl,
    securityLabel,
    xattrmap,
    migrationMode: choice(given, 'migration-mode', MIGRATION_MODES) ?? 'find-paths',
    migrationOnError: choice(given, 'migration-on-error', MIGRATION_ON_ERROR) ?? 'abort',
    migrationVerifyHandles: given.has('migration-verify-handles'),
    migrationConfirmPaths: given.has('migration-confirm-paths'),
  } as const
}

function isolationOptions(given: GivenOptions) {
  const modcaps = given.value('modcaps')
  const translateUid = given.values('translate-uid')
  const translateGid = given.values('translate-gid')
  readable(() => parseTranslate(translateUid, '--translate-uid'))
  readable(() => parseTranslate(translateGid, '--translate-gid'))
  return {
    sandbox: choiceOfAnyCase(given, 'sandbox', SANDBOX_MODES),
    seccomp: choice(given, 'seccomp', SECCOMP_ACTIONS),
    modcaps: modcaps === undefined ? [] : values.capabilityChanges(modcaps),
    uidMap: given.values('uid-map').map(text => values.idMap(text, '--uid-map')),
    gidMap: given.values('gid-map').map(text => values.idMap(text, '--gid-map')),
    translateUid,
    translateGid,
  }
}

function processOptions(
  given: GivenOptions,
  environment: Readonly<Record<string, string | undefined>>,
  warnings: string[],
) {
  const threads = optionalNumber(given, 'thread-pool-size', 0, MAX_INT) ?? DEFAULT_POOL_THREADS
  if (threads > MAX_POOL_THREADS)
    warnings.push(`--thread-pool-size ${threads}: no more than ${MAX_POOL_THREADS} are started`)
  let logLevel = choiceOfAnyCase(given, 'log-level', LOG_LEVELS)
  if (logLevel === undefined && environment.RUST_LOG !== undefined) {
    const rustLog = readRustLog(environment.RUST_LOG)
    logLevel = rustLog.level
    warnings.push(...rustLog.warnings)
  }
  return {
    threadPoolSize: Math.min(threads, MAX_POOL_THREADS),
    rlimitNofile: optionalNumber(given, 'rlimit-nofile', 0, MAX_INT),
    logLevel: logLevel ?? 'info',
    syslog: given.has('syslog'),
    numRequestQueues: optionalNumber(given, 'num-request-queues', 1, MAX_QUEUES) ?? 1,
    pollUs: optionalNumber(given, 'poll-us', 0, MAX_POLL_US) ?? DEFAULT_POLL_US,
    passthrough: choice(given, 'passthrough', PASSTHROUGH) ?? 'on',
    nodeDescriptors: optionalNumber(
      given,
      'node-descriptors',
      MIN_NODE_DESCRIPTORS,
      MAX_NODE_DESCRIPTORS,
    ),
    metadataCache:
      optionalNumber(given, 'metadata-cache', 0, MAX_METADATA_CACHE) ?? DEFAULT_METADATA_CACHE,
    reconnect: given.has('reconnect'),
    ...daxOptions(given, warnings),
    ...coherenceOptions(given),
  }
}

function coherenceOptions(given: GivenOptions) {
  const coherence = choice(given, 'coherence', COHERENCE_MODES) ?? 'none'
  const versionTable = given.value('version-table')
  if (coherence === 'none') {
    for (const name of ['version-table', 'lease-ms', 'lease-margin-ms'])
      if (given.value(name) !== undefined)
        throw new UsageError(`--${name} has a meaning only with --coherence=strict`)
  } else {
    if (versionTable === undefined)
      throw new UsageError(
        '--coherence=strict needs --version-table PATH: a file in /dev/shm that the daemons of all guests of this directory name',
      )
    if ((given.value('cache') ?? 'auto').toLowerCase() !== 'auto')
      throw new UsageError('--coherence=strict decides what is cached: leave --cache out')
    if (given.has('writeback'))
      throw new UsageError(
        '--coherence=strict and --writeback exclude each other: a guest that keeps dirty pages keeps its own sizes and times',
      )
  }
  return {
    coherence,
    versionTable,
    leaseMs: optionalNumber(given, 'lease-ms', 0, MAX_LEASE_MS) ?? DEFAULT_LEASE_MS,
    leaseMarginMs: optionalNumber(given, 'lease-margin-ms', 0, MAX_MARGIN_MS) ?? DEFAULT_MARGIN_MS,
  } as const
}

function daxOptions(given: GivenOptions, warnings: string[]) {
  const text = given.value('dax-window')
  const policy = choice(given, 'dax', DAX_POLICIES)
  if (text === undefined) {
    if (policy !== undefined && policy !== 'never')
      throw new UsageError(`--dax=${policy} needs a window: give --dax-window SIZE`)
    return { daxWindow: undefined, dax: 'never' as const }
  }
  if (policy === 'never') return { daxWindow: undefined, dax: policy }
  const daxWindow = values.windowBytes(text)
  if (given.has('readonly'))
    throw new UsageError(
      '--dax-window and --readonly exclude each other: a front end maps what can be written',
    )
  const dax = policy ?? 'sealed'
  if (dax === 'sealed')
    warnings.push(
      '--dax=sealed maps no file of a host directory: give --dax=exclusive if nobody but the guest makes files shorter or longer',
    )
  if (daxWindow > SAFE_WINDOW_BYTES)
    warnings.push(
      `--dax-window ${text}: QEMU 11.1 takes 480 mappings of up to 2M at once; a guest that wants more gets I/O errors: 512M is safe`,
    )
  return { daxWindow, dax }
}

/** Options that exclude each other. */
function checkTogether(options: DaemonOptions): void {
  const { posixAcl, sandbox, translateUid, translateGid, uidMap, gidMap } = options
  if (posixAcl !== 'never' && translateUid.length + translateGid.length > 0)
    throw new UsageError(
      `--posix-acl=${posixAcl} excludes --translate-uid and --translate-gid: the ids inside access control lists would not be translated`,
    )
  if (sandbox !== undefined && sandbox !== 'namespace' && uidMap.length + gidMap.length > 0)
    throw new UsageError(
      `--uid-map and --gid-map need --sandbox=namespace: there is no user namespace with ${sandbox}`,
    )
  if (options.migrationMode === 'file-handles') {
    const needless = options.migrationConfirmPaths
      ? '--migration-confirm-paths'
      : options.migrationVerifyHandles
        ? '--migration-verify-handles'
        : undefined
    if (needless !== undefined)
      throw new UsageError(
        `${needless} is for --migration-mode=find-paths: file handles need no such check`,
      )
  }
  const last = options.modcaps.findLast(({ capability }) => capability === CAP_DAC_READ_SEARCH)
  if (options.inodeFileHandles === 'mandatory' && last?.action === 'remove')
    throw new UsageError(
      '--inode-file-handles=mandatory needs the capability that --modcaps=-dac_read_search drops',
    )
}

function optionalNumber(
  given: GivenOptions,
  name: string,
  least: number,
  most: number,
): number | undefined {
  const text = given.value(name)
  return text === undefined ? undefined : values.wholeNumber(text, `--${name}`, least, most)
}

function choice<T extends string>(
  given: GivenOptions,
  name: string,
  known: readonly T[],
): T | undefined {
  const text = given.value(name)
  return text === undefined ? undefined : values.oneOf(text, `--${name}`, known)
}

/** As in the peer, whose options differ in this. */
function choiceOfAnyCase<T extends string>(
  given: GivenOptions,
  name: string,
  known: readonly T[],
): T | undefined {
  const text = given.value(name)
  return text === undefined ? undefined : values.oneOf(text.toLowerCase(), `--${name}`, known)
}

/** Runs a parser of the file system: its complaint is about the command line. */
function readable(parse: () => unknown): void {
  try {
    parse()
  } catch (cause) {
    if (!(cause instanceof IdTranslationError || cause instanceof XattrMapError)) throw cause
    throw new UsageError(cause.message)
  }
}
