/** Options of the host back end, by the names of the command line. */
import { DEFAULT_MIGRATION_OPTIONS, type MigrationOptions } from '../../vfs/migration.js'

/** Meanings as in Rust virtiofsd: how long the guest may answer from its own caches. */
export type CacheMode = 'never' | 'metadata' | 'auto' | 'always'

/**
 * Whether inodes are also reached by file handles (see file-handles.ts): `prefer` where the file system
 * and our capabilities allow it, `mandatory` always or not at all.
 */
export type InodeFileHandles = 'never' | 'prefer' | 'mandatory'

export interface HostOptions {
  /** The shared directory. */
  readonly sharedDir: string
  readonly cache: CacheMode
  /** Extended attributes pass through; otherwise the guest is told there are none. */
  readonly xattr: boolean
  readonly posixAcl: boolean
  readonly readOnly: boolean
  /** O_DIRECT of the guest reaches the host file. */
  readonly allowDirectIo: boolean
  readonly securityContext: boolean
  /** Text of --xattrmap (see xattrmap.ts); implies `xattr`. */
  readonly xattrmap?: string | undefined
  /** Texts of --translate-uid and --translate-gid (see id-translation.ts); not together with `posixAcl`. */
  readonly translateUid?: readonly string[] | undefined
  readonly translateGid?: readonly string[] | undefined
  /** O_NOATIME of the guest is kept; otherwise dropped (it needs to own the file). */
  readonly preserveNoatime: boolean
  /** Node descriptors kept open at most; others are opened again when needed. */
  readonly nodeDescriptors: number
  readonly inodeFileHandles: InodeFileHandles
  /** Open files and directories at most; past it ENFILE. Nodes keep fewer descriptors as these grow. */
  readonly openFiles: number
  /** Inodes whose attributes and names are kept at most, where changes by others are told; 0: none. */
  readonly keptInodes: number
  /**
   * What processes of the host store through mappings, which no event tells of, shows at once where the file system
   * changes mtime: attributes of regular files are not kept.
   */
  readonly mappedStores: boolean
  /** The guest's flock(2) locks are locks of the host. Without, the guest keeps them to itself. */
  readonly flockLocks: boolean
  /** The same for its fcntl(2) locks. */
  readonly posixLocks: boolean
  readonly migration: MigrationOptions
}

export const DEFAULT_HOST_OPTIONS: Omit<HostOptions, 'sharedDir'> = {
  cache: 'auto',
  xattr: false,
  posixAcl: false,
  readOnly: false,
  allowDirectIo: false,
  securityContext: false,
  preserveNoatime: false,
  nodeDescriptors: 4096,
  inodeFileHandles: 'prefer',
  openFiles: 65536,
  keptInodes: 32768,
  mappedStores: false,
  flockLocks: false,
  posixLocks: false,
  migration: DEFAULT_MIGRATION_OPTIONS,
}

/** Seconds that names and attributes may be cached; `metadata` caches no data. */
export const CACHE_SECONDS: Readonly<Record<CacheMode, number>> = {
  never: 0,
  metadata: 86400,
  auto: 1,
  always: 86400,
}
