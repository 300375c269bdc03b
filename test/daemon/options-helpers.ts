import type { DaemonOptions } from '../../src/daemon/daemon-options.js'
import { parseOptions, UsageError } from '../../src/daemon/options.js'

export const REQUIRED: readonly string[] = [
  '--shared-dir',
  '/share',
  '--socket-path',
  '/run/vfs.sock',
]

/** What REQUIRED alone comes to. */
export const defaults: DaemonOptions = {
  sharedDir: '/share',
  socketPath: '/run/vfs.sock',
  socketGroup: undefined,
  fd: undefined,
  tag: undefined,
  cache: 'auto',
  readonly: false,
  writeback: false,
  allowDirectIo: false,
  allowMmap: false,
  readdirplus: true,
  announceSubmounts: true,
  killprivV2: true,
  preserveNoatime: false,
  flock: false,
  posixLock: false,
  inodeFileHandles: 'prefer',
  xattr: false,
  posixAcl: 'never',
  securityLabel: 'never',
  xattrmap: undefined,
  sandbox: undefined,
  seccomp: undefined,
  modcaps: [],
  uidMap: [],
  gidMap: [],
  translateUid: [],
  translateGid: [],
  migrationMode: 'find-paths',
  migrationOnError: 'abort',
  migrationVerifyHandles: false,
  migrationConfirmPaths: false,
  threadPoolSize: 16,
  rlimitNofile: undefined,
  logLevel: 'info',
  syslog: false,
  numRequestQueues: 1,
  pollUs: 50,
  passthrough: 'on',
  nodeDescriptors: undefined,
  metadataCache: 32_768,
  reconnect: false,
  controlSocket: undefined,
  daxWindow: undefined,
  dax: 'never',
  coherence: 'none',
  versionTable: undefined,
  leaseMs: 250,
  leaseMarginMs: 250,
  warnings: [],
}

/** Parses REQUIRED and `words`. */
export function parse(...words: string[]): DaemonOptions {
  return parseAll([...REQUIRED, ...words])
}

export function parseAll(
  words: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): DaemonOptions {
  const options = parseOptions(words, environment)
  if (typeof options === 'string') throw new Error(`parsed to ${options}`)
  return options
}

/** Why `words` are refused. */
export function refusal(words: readonly string[]): string {
  try {
    parseOptions(words)
  } catch (cause) {
    if (cause instanceof UsageError) return cause.message
    throw cause
  }
  throw new Error(`not refused: ${words.join(' ')}`)
}
