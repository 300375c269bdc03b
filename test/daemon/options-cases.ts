/** Every option by itself: values it takes and what they come to, values it refuses and why. */
import type { defaults } from './options-helpers.js'

interface Case {
  readonly option: string
  /** Value as typed, and the fields that then differ from the defaults. */
  readonly good: readonly (readonly [string, Partial<typeof defaults>])[]
  readonly bad?: readonly (readonly [string, RegExp])[]
}

/** Options that take a value, as the next word or after an equals sign. */
export const WITH_VALUE: readonly Case[] = [
  { option: '--shared-dir', good: [['.', { sharedDir: '.' }]], bad: [['', /empty value/]] },
  { option: '--socket-path', good: [['name', { socketPath: 'name' }]], bad: [['', /empty value/]] },
  { option: '--socket-group', good: [['kvm', { socketGroup: 'kvm' }]] },
  {
    option: '--tag',
    good: [
      ['myfs', { tag: 'myfs' }],
      ['é'.repeat(18), { tag: 'é'.repeat(18) }],
    ],
    bad: [
      ['', /empty value/],
      ['é'.repeat(19), /--tag takes 1 to 36 bytes, not 38/],
    ],
  },
  {
    option: '--cache',
    good: [
      ['never', { cache: 'never' }],
      ['metadata', { cache: 'metadata' }],
      ['auto', {}],
      ['Always', { cache: 'always' }],
    ],
    bad: [['none', /--cache takes one of never, metadata, auto, always, not "none"/]],
  },
  {
    option: '--xattrmap',
    good: [[':map::user.virtiofs.:', { xattrmap: ':map::user.virtiofs.:', xattr: true }]],
    bad: [[':nonsense:', /xattrmap, rule 1 .*"nonsense"/]],
  },
  {
    option: '--sandbox',
    good: [
      ['namespace', { sandbox: 'namespace' }],
      ['chroot', { sandbox: 'chroot' }],
      ['None', { sandbox: 'none' }],
    ],
    bad: [['jail', /--sandbox takes one of namespace, chroot, none, not "jail"/]],
  },
  {
    option: '--seccomp',
    good: [
      ['kill', { seccomp: 'kill' }],
      ['log', { seccomp: 'log' }],
      ['trap', { seccomp: 'trap' }],
      ['none', { seccomp: 'none' }],
    ],
    bad: [['Kill', /--seccomp takes one of kill, log, trap, none, not "Kill"/]],
  },
  {
    option: '--modcaps',
    good: [
      ['+sys_admin', { modcaps: [{ capability: 21, action: 'add' }] }],
      [
        '+CAP_CHOWN:-checkpoint_restore:-cap_Chown',
        {
          modcaps: [
            { capability: 0, action: 'add' },
            { capability: 40, action: 'remove' },
            { capability: 0, action: 'remove' },
          ],
        },
      ],
    ],
    bad: [
      ['chown', /--modcaps takes \+NAME and -NAME.*"chown"/],
      ['+chown:', /--modcaps takes \+NAME and -NAME/],
      ['+flying', /--modcaps: there is no capability "flying"/],
    ],
  },
  {
    option: '--uid-map',
    good: [
      [':0:100000:65536:', { uidMap: [{ inside: 0, outside: 100000, count: 65536 }] }],
      ['/1/2/3/', { uidMap: [{ inside: 1, outside: 2, count: 3 }] }],
      [':0:0:4294967295:', { uidMap: [{ inside: 0, outside: 0, count: 4294967295 }] }],
    ],
    bad: [
      ['0:1000:1', /--uid-map takes :INSIDE:OUTSIDE:COUNT:.*"0:1000:1"/],
      [':0:1000/1:', /--uid-map takes :INSIDE:OUTSIDE:COUNT:/],
      [':0:1000:0:', /maps no id/],
      [':0:4294967295:1:', /goes past the last id, 4294967294/],
    ],
  },
  {
    option: '--gid-map',
    good: [[':0:1000:1:', { gidMap: [{ inside: 0, outside: 1000, count: 1 }] }]],
    bad: [[':0:1000:', /--gid-map takes :INSIDE:OUTSIDE:COUNT:/]],
  },
  {
    option: '--translate-uid',
    good: [['map:0:1000:1', { translateUid: ['map:0:1000:1'] }]],
    bad: [['turn:0:1000:1', /--translate-uid "turn:0:1000:1": type "turn"/]],
  },
  {
    option: '--translate-gid',
    good: [['forbid-guest:0:1000', { translateGid: ['forbid-guest:0:1000'] }]],
    bad: [['map:0:1', /--translate-gid "map:0:1": 2 numbers/]],
  },
  {
    option: '--migration-mode',
    good: [
      ['find-paths', {}],
      ['file-handles', { migrationMode: 'file-handles' }],
    ],
    bad: [['paths', /--migration-mode takes one of find-paths, file-handles, not "paths"/]],
  },
  {
    option: '--migration-on-error',
    good: [
      ['abort', {}],
      ['guest-error', { migrationOnError: 'guest-error' }],
    ],
    bad: [['retry', /--migration-on-error takes one of abort, guest-error, not "retry"/]],
  },
  {
    option: '--thread-pool-size',
    good: [
      ['0', { threadPoolSize: 0 }],
      ['256', { threadPoolSize: 256 }],
    ],
    bad: [
      ['many', /--thread-pool-size takes a number from 0 to 2147483647, not "many"/],
      ['1.5', /--thread-pool-size takes a number/],
    ],
  },
  {
    option: '--rlimit-nofile',
    good: [
      ['0', { rlimitNofile: 0 }],
      ['1048576', { rlimitNofile: 1048576 }],
    ],
    bad: [['1M', /--rlimit-nofile takes a number from 0 to 2147483647, not "1M"/]],
  },
  {
    option: '--log-level',
    good: [
      ['error', { logLevel: 'error' }],
      ['warn', { logLevel: 'warn' }],
      ['info', {}],
      ['DEBUG', { logLevel: 'debug' }],
      ['trace', { logLevel: 'trace' }],
      ['off', { logLevel: 'off' }],
    ],
    bad: [['err', /--log-level takes one of error, warn, info, debug, trace, off, not "err"/]],
  },
  {
    option: '--num-request-queues',
    good: [['64', { numRequestQueues: 64 }]],
    bad: [
      ['0', /--num-request-queues takes a number from 1 to 64, not "0"/],
      ['65', /not "65"/],
    ],
  },
  {
    option: '--poll-us',
    good: [
      ['0', { pollUs: 0 }],
      ['1000000', { pollUs: 1000000 }],
    ],
    bad: [['1000001', /--poll-us takes a number from 0 to 1000000, not "1000001"/]],
  },
  {
    option: '--passthrough',
    good: [
      ['on', { passthrough: 'on' }],
      ['off', { passthrough: 'off' }],
    ],
    bad: [['maybe', /--passthrough/]],
  },
  {
    option: '--metadata-cache',
    good: [
      ['0', { metadataCache: 0 }],
      ['1048576', { metadataCache: 1_048_576 }],
    ],
    bad: [['1048577', /--metadata-cache takes a number from 0 to 1048576, not "1048577"/]],
  },
  {
    option: '--control-socket',
    good: [['/run/c.sock', { controlSocket: '/run/c.sock' }]],
    bad: [],
  },
  {
    option: '--node-descriptors',
    good: [['64', { nodeDescriptors: 64 }]],
    bad: [['63', /--node-descriptors takes a number from 64 to 1048576, not "63"/]],
  },
]

/** Options without a value, and the fields that then differ from the defaults. */
export const SWITCHES: readonly (readonly [string, Partial<typeof defaults>])[] = [
  ['--xattr', { xattr: true }],
  ['--readonly', { readonly: true }],
  ['--announce-submounts', {}],
  ['--no-announce-submounts', { announceSubmounts: false }],
  ['--allow-mmap', { allowMmap: true }],
  ['--no-readdirplus', { readdirplus: false }],
  ['--writeback', { writeback: true }],
  ['--allow-direct-io', { allowDirectIo: true }],
  ['--killpriv-v2', {}],
  ['--no-flock', {}],
  ['--no-posix-lock', {}],
  ['--no-killpriv-v2', { killprivV2: false }],
  ['--preserve-noatime', { preserveNoatime: true }],
  ['--syslog', { syslog: true }],
  ['--migration-verify-handles', { migrationVerifyHandles: true }],
  ['--migration-confirm-paths', { migrationConfirmPaths: true }],
  ['--reconnect', { reconnect: true }],
]
