/** Options of the peer that this daemon does not have yet: refused, never ignored. */
import type { DaemonOptions } from './daemon-options.js'

interface Gap {
  readonly option: string
  readonly asked: (options: DaemonOptions) => boolean
  readonly why: string
}

const NO_SANDBOX = 'the daemon is not isolated yet: give --sandbox=none'
const NO_USER_NAMESPACE = 'there is no user namespace yet; --translate-uid and --translate-gid work'
const NO_MIGRATION = 'live migration does not work yet'

const GAPS: readonly Gap[] = [
  {
    option: '--sandbox',
    asked: options => options.sandbox !== undefined && options.sandbox !== 'none',
    why: NO_SANDBOX,
  },
  {
    option: '--seccomp',
    asked: options => options.seccomp !== undefined && options.seccomp !== 'none',
    why: 'system calls are not filtered yet: give --seccomp=none',
  },
  {
    option: '--modcaps',
    asked: options => options.modcaps.length > 0,
    why: 'the daemon keeps the capabilities it was started with',
  },
  { option: '--uid-map', asked: options => options.uidMap.length > 0, why: NO_USER_NAMESPACE },
  { option: '--gid-map', asked: options => options.gidMap.length > 0, why: NO_USER_NAMESPACE },
  {
    option: '--socket-group',
    asked: options => options.socketGroup !== undefined,
    why: 'the socket is for its owner alone; pass one of your own with --fd',
  },
  {
    option: '--inode-file-handles=mandatory',
    asked: options => options.inodeFileHandles === 'mandatory',
    why: 'files are referred to by descriptors; prefer falls back to that',
  },
  { option: '--syslog', asked: options => options.syslog, why: 'the log goes to stderr alone' },
  {
    option: '--migration-mode=file-handles',
    asked: options => options.migrationMode === 'file-handles',
    why: NO_MIGRATION,
  },
  {
    option: '--migration-on-error=guest-error',
    asked: options => options.migrationOnError === 'guest-error',
    why: NO_MIGRATION,
  },
  {
    option: '--migration-verify-handles',
    asked: options => options.migrationVerifyHandles,
    why: NO_MIGRATION,
  },
  {
    option: '--migration-confirm-paths',
    asked: options => options.migrationConfirmPaths,
    why: NO_MIGRATION,
  },
  {
    option: '--reconnect',
    asked: options => options.reconnect,
    why: 'the daemon ends when the front end goes',
  },
]

/** Why the daemon cannot run with `options`; undefined if it can. */
export function refuseUnsupported(options: DaemonOptions): string | undefined {
  const gap = GAPS.find(({ asked }) => asked(options))
  return gap === undefined ? undefined : `${gap.option} is not supported: ${gap.why}`
}
