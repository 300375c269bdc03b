/** What the command line comes to. */
import type { CoherenceMode } from '../coherence/options.js'
import type { DaxPolicy } from '../dax/options.js'
import type { CacheMode, InodeFileHandles } from '../filesystems/host/options.js'
import type { MigrationMode, MigrationOnError } from '../vfs/migration.js'
import type { LogThreshold } from './log-levels.js'
import type { CapabilityChange, IdMap } from './option-values.js'

/** `auto`: if the guest can; `always`: without it the guest is refused. */
export type NegotiationMode = 'never' | 'auto' | 'always'
export type SandboxMode = 'namespace' | 'chroot' | 'none'
export type SeccompAction = 'kill' | 'log' | 'trap' | 'none'

export interface DaemonOptions {
  readonly sharedDir: string
  /** This or `fd` is there, not both. */
  readonly socketPath: string | undefined
  readonly socketGroup: string | undefined
  readonly fd: number | undefined
  readonly tag: string | undefined
  /** Where `virtiofsctl` reaches the daemon; undefined: nowhere. */
  readonly controlSocket: string | undefined

  readonly cache: CacheMode
  readonly readonly: boolean
  readonly writeback: boolean
  readonly allowDirectIo: boolean
  readonly allowMmap: boolean
  readonly readdirplus: boolean
  readonly announceSubmounts: boolean
  readonly killprivV2: boolean
  readonly preserveNoatime: boolean
  readonly flock: boolean
  readonly posixLock: boolean
  readonly inodeFileHandles: InodeFileHandles

  /** Given, or implied by one of the next three. */
  readonly xattr: boolean
  readonly posixAcl: NegotiationMode
  readonly securityLabel: NegotiationMode
  /** Text that `parseXattrMap` takes. */
  readonly xattrmap: string | undefined

  /** undefined: not given. */
  readonly sandbox: SandboxMode | undefined
  readonly seccomp: SeccompAction | undefined
  readonly modcaps: readonly CapabilityChange[]
  readonly uidMap: readonly IdMap[]
  readonly gidMap: readonly IdMap[]
  /** Texts that `parseTranslate` takes. */
  readonly translateUid: readonly string[]
  readonly translateGid: readonly string[]

  readonly migrationMode: MigrationMode
  readonly migrationOnError: MigrationOnError
  readonly migrationVerifyHandles: boolean
  readonly migrationConfirmPaths: boolean

  readonly threadPoolSize: number
  readonly rlimitNofile: number | undefined
  readonly logLevel: LogThreshold
  readonly syslog: boolean

  readonly numRequestQueues: number
  readonly pollUs: number
  /** READ and WRITE go past the file system where that is possible. */
  readonly passthrough: 'on' | 'off'
  /** undefined: as many as the limit of descriptors suggests. */
  readonly nodeDescriptors: number | undefined
  /** Inodes whose attributes and names are kept at most; 0: none. */
  readonly metadataCache: number
  readonly reconnect: boolean
  /** Bytes of the DAX window; undefined: there is none. */
  readonly daxWindow: number | undefined
  readonly dax: DaxPolicy

  readonly coherence: CoherenceMode
  /** There with `strict`. */
  readonly versionTable: string | undefined
  readonly leaseMs: number
  readonly leaseMarginMs: number

  /** To be logged at the start: deprecated forms and the like. */
  readonly warnings: readonly string[]
}
