/**
 * What guest and daemon agreed on at INIT, and the reply to it.
 *
 * Source: include/uapi/linux/fuse.h, struct fuse_init_in and fuse_init_out; fs/fuse/inode.c
 * process_init_reply() for what the guest makes of each flag.
 */
import { Errno } from '../../protocol/errno.js'
import { InitFlag, InitFlag2 } from '../../protocol/fuse/flags.js'
import {
  FUSE_KERNEL_MINOR_VERSION,
  FUSE_KERNEL_VERSION,
  fuse_init_in,
  fuse_init_out,
} from '../../protocol/fuse/structs.js'
import type { DaxWindow } from '../vfs/dax.js'
import type { FileSystem, Negotiated, Outcome } from '../vfs/filesystem.js'
import type { SessionState } from '../vfs/migration.js'
import type { ReplySink } from './ops-directory.js'
import { Passthrough, type PassthroughPolicy } from './passthrough.js'
import type { FuseRequest } from './request.js'

/** Oldest minor served: Linux 4.20 and the other guests still in use. */
const MIN_MINOR = 27
/** Bytes of fuse_init_in before flags2 (7.36). */
const INIT_IN_BASE_BYTES = 16
/** Most pages (of 4 KiB) of one request; the guest lowers it to what its ring can hold. */
const MAX_PAGES = 256
const PAGE_BYTES = 4096
/** log2 of it: pieces of the DAX window begin on pages. */
const MAP_ALIGNMENT = 12
/** Requests the guest may have waiting: as the peer, all that 16 bits hold. */
const MAX_BACKGROUND = 65535

/** Options of the daemon that INIT flags depend on. */
export interface SessionOptions {
  /** The guest may keep dirty pages (--writeback). */
  readonly writeback: boolean
  /** READDIRPLUS is offered (not with --no-readdirplus). */
  readonly readdirplus: boolean
  /** Clear set-id bits on write in the daemon (--killpriv-v2). */
  readonly killpriv: boolean
  readonly posixAcl: boolean
  readonly securityContext: boolean
  readonly announceSubmounts: boolean
  /** mmap of files opened for direct I/O (--allow-mmap). */
  readonly allowMmap: boolean
  /** A guest that cannot keep to these is refused: INIT answers EPROTO (--posix-acl=always and the like). */
  readonly required?: { readonly posixAcl: boolean; readonly securityContext: boolean } | undefined
  /** The guest's DAX window, if the daemon has one. */
  readonly window?: DaxWindow | undefined
  /** Which open files are read and written past the file system; undefined: none. */
  readonly passthrough?: PassthroughPolicy | undefined
}

export const DEFAULT_SESSION_OPTIONS: SessionOptions = {
  writeback: false,
  readdirplus: true,
  killpriv: true,
  posixAcl: false,
  securityContext: false,
  announceSubmounts: true,
  allowMmap: false,
}

export class FuseSession {
  /** INIT was answered and no DESTROY came since. */
  initialised = false
  minor = 0
  /** SETXATTR carries the longer struct (FUSE_SETXATTR_EXT). */
  setxattrExt = false
  /** New nodes come with a security context. */
  securityContext = false
  createSuppGroup = false
  /** The window, once the guest has agreed to it. */
  dax: DaxWindow | undefined = undefined
  readonly maxReadBytes = MAX_PAGES * PAGE_BYTES
  sink!: ReplySink
  /** Open files whose reads and writes go past the file system. */
  readonly passthrough = new Passthrough()

  readonly #options: SessionOptions
  #flags = 0
  #flags2 = 0
  #maxReadahead = 0

  constructor(options: SessionOptions) {
    this.#options = options
  }

  reset(): void {
    this.initialised = false
    this.setxattrExt = false
    this.securityContext = false
    this.createSuppGroup = false
    this.dax = undefined
    this.passthrough.clear()
  }

  /** After OPEN or CREATE with `flags`, of which `request.opened` tells. */
  opened(fs: FileSystem, request: FuseRequest, nodeid: number, flags: number): void {
    const { direct, fh } = request.opened
    if (direct.fd < 0 || this.#options.passthrough === undefined) return
    const { uid, gid, pid } = request
    const path = (): string | undefined => fs.pathOf?.(nodeid)
    if (this.#options.passthrough({ fs, nodeid, flags, uid, gid, pid, path }))
      this.passthrough.add(fh, direct)
  }

  /** The window, agreed on or not: for what must never be left in it. */
  get window(): DaxWindow | undefined {
    return this.#options.window
  }

  /** Decodes INIT and starts the file system. A newer major is answered with ours, as the protocol asks. */
  init(fs: FileSystem, request: FuseRequest): Outcome {
    const { view } = request.context
    const In = fuse_init_in.f
    const at = request.bodyAt
    const major = In.major.get(view, at)
    this.minor = In.minor.get(view, at)
    if (major < FUSE_KERNEL_VERSION || (major === FUSE_KERNEL_VERSION && this.minor < MIN_MINOR))
      return -Errno.EPROTO
    this.reset()
    this.window?.clear()
    fs.destroy()
    if (major > FUSE_KERNEL_VERSION) {
      this.#flags = 0
      this.#flags2 = 0
      return 0
    }
    const offered = In.flags.get(view, at)
    const extended =
      (offered & InitFlag.FUSE_INIT_EXT) !== 0 && request.bodyBytes >= INIT_IN_BASE_BYTES + 4
    const offered2 = extended ? In.flags2.get(view, at) : 0
    this.#maxReadahead = In.max_readahead.get(view, at)
    this.#choose(fs, offered, offered2)
    if (this.#lacksRequired()) return -Errno.EPROTO
    fs.init(this.#negotiated())
    this.initialised = true
    return 0
  }

  /** For the daemon this guest moves to. */
  save(): SessionState {
    return {
      initialised: this.initialised,
      minor: this.minor,
      flags: this.#flags,
      flags2: this.#flags2,
      maxReadahead: this.#maxReadahead,
      maxPages: MAX_PAGES,
    }
  }

  /**
   * Goes on with what the guest agreed on with another daemon. Answers why that cannot be, or ''. Requests
   * are refused until `initialised` is set.
   */
  restore(fs: FileSystem, state: SessionState): string {
    this.reset()
    if (!state.initialised) return ''
    if (state.minor < MIN_MINOR) return `the guest speaks FUSE 7.${state.minor}`
    if (state.maxPages > MAX_PAGES)
      return `the guest sends requests of ${state.maxPages} pages; this daemon takes ${MAX_PAGES}`
    this.#choose(fs, 0xffff_ffff, 0xffff_ffff)
    const surplus = (state.flags & ~this.#flags) >>> 0
    const surplus2 = (state.flags2 & ~this.#flags2) >>> 0
    if (surplus !== 0 || surplus2 !== 0)
      return `the source has negotiated what is off here: ${initFlagNames(surplus, surplus2)}: start both daemons with the same options`
    this.minor = state.minor
    this.#maxReadahead = state.maxReadahead
    this.#agree(state.flags, state.flags2)
    fs.init(this.#negotiated())
    return ''
  }

  #choose(fs: FileSystem, offered: number, offered2: number): void {
    const options = this.#options
    const can = fs.capabilities
    let wanted =
      InitFlag.FUSE_ASYNC_READ |
      InitFlag.FUSE_ATOMIC_O_TRUNC |
      InitFlag.FUSE_BIG_WRITES |
      InitFlag.FUSE_DONT_MASK |
      InitFlag.FUSE_HAS_IOCTL_DIR |
      InitFlag.FUSE_AUTO_INVAL_DATA |
      InitFlag.FUSE_ASYNC_DIO |
      InitFlag.FUSE_PARALLEL_DIROPS |
      InitFlag.FUSE_MAX_PAGES |
      InitFlag.FUSE_CACHE_SYMLINKS |
      InitFlag.FUSE_SETXATTR_EXT |
      InitFlag.FUSE_INIT_EXT
    if (can.readdirplus && options.readdirplus)
      wanted |= InitFlag.FUSE_DO_READDIRPLUS | InitFlag.FUSE_READDIRPLUS_AUTO
    if (can.writeback && options.writeback) wanted |= InitFlag.FUSE_WRITEBACK_CACHE
    if (can.killpriv && options.killpriv) wanted |= InitFlag.FUSE_HANDLE_KILLPRIV_V2
    if (can.posixAcl && options.posixAcl) wanted |= InitFlag.FUSE_POSIX_ACL
    if (can.submounts && options.announceSubmounts) wanted |= InitFlag.FUSE_SUBMOUNTS
    if (can.posixLocks) wanted |= InitFlag.FUSE_POSIX_LOCKS
    if (can.flockLocks) wanted |= InitFlag.FUSE_FLOCK_LOCKS
    let wanted2 = InitFlag2.FUSE_CREATE_SUPP_GROUP | InitFlag2.FUSE_ALLOW_IDMAP
    if (can.securityContext && options.securityContext) wanted2 |= InitFlag2.FUSE_SECURITY_CTX
    if (can.directIoMmap && options.allowMmap) wanted2 |= InitFlag2.FUSE_DIRECT_IO_ALLOW_MMAP

    if (this.window?.ready === true) {
      wanted |= InitFlag.FUSE_MAP_ALIGNMENT
      wanted2 |= InitFlag2.FUSE_HAS_INODE_DAX
    }
    this.#agree((wanted & offered) >>> 0, (wanted2 & offered2) >>> 0)
  }

  #lacksRequired(): boolean {
    const { required } = this.#options
    if (required === undefined) return false
    return (
      (required.posixAcl && (this.#flags & InitFlag.FUSE_POSIX_ACL) === 0) ||
      (required.securityContext && !this.securityContext)
    )
  }

  #agree(flags: number, flags2: number): void {
    this.#flags = flags
    this.#flags2 = flags2
    this.setxattrExt = (this.#flags & InitFlag.FUSE_SETXATTR_EXT) !== 0
    this.securityContext = (this.#flags2 & InitFlag2.FUSE_SECURITY_CTX) !== 0
    this.createSuppGroup = (this.#flags2 & InitFlag2.FUSE_CREATE_SUPP_GROUP) !== 0
    this.dax = (this.#flags & InitFlag.FUSE_MAP_ALIGNMENT) !== 0 ? this.window : undefined
  }

  #negotiated(): Negotiated {
    const has = (flag: number): boolean => (this.#flags & flag) !== 0
    return {
      minor: this.minor,
      posixAcl: has(InitFlag.FUSE_POSIX_ACL),
      killpriv: has(InitFlag.FUSE_HANDLE_KILLPRIV_V2),
      writeback: has(InitFlag.FUSE_WRITEBACK_CACHE),
      submounts: has(InitFlag.FUSE_SUBMOUNTS),
      dontMask: has(InitFlag.FUSE_DONT_MASK),
      createSuppGroup: this.createSuppGroup,
      securityContext: this.securityContext,
      maxWriteBytes: this.maxReadBytes,
      dax: this.dax,
    }
  }

  /** struct fuse_init_out: 64 bytes for every minor served (since 7.23). */
  encodeInit(request: FuseRequest, at: number): number {
    const { view, bytes } = request.context
    const Out = fuse_init_out.f
    bytes.fill(0, at, at + fuse_init_out.SIZE)
    Out.major.set(view, at, FUSE_KERNEL_VERSION)
    Out.minor.set(view, at, FUSE_KERNEL_MINOR_VERSION)
    Out.max_readahead.set(view, at, this.#maxReadahead)
    Out.flags.set(view, at, this.#flags)
    Out.flags2.set(view, at, this.#flags2)
    Out.max_background.set(view, at, MAX_BACKGROUND)
    Out.congestion_threshold.set(view, at, Math.floor(MAX_BACKGROUND * 0.75))
    Out.max_write.set(view, at, MAX_PAGES * PAGE_BYTES)
    Out.time_gran.set(view, at, 1)
    Out.max_pages.set(view, at, MAX_PAGES)
    if (this.dax !== undefined) Out.map_alignment.set(view, at, MAP_ALIGNMENT)
    return fuse_init_out.SIZE
  }
}

function initFlagNames(flags: number, flags2: number): string {
  const names = (table: Readonly<Record<string, number>>, word: number): string[] =>
    Object.entries(table)
      .filter(([, bit]) => (word & bit) !== 0)
      .map(([name]) => name)
  return [...names(InitFlag, flags), ...names(InitFlag2, flags2)].join(', ')
}
