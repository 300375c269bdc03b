/** The command lines of the launchers there are (Kata, libvirt, Incus and others), word by word. */
import test from 'ava'
import type { DaemonOptions } from '../../src/daemon/daemon-options.js'
import { defaults, parseAll } from './options-helpers.js'

interface Launch {
  readonly launcher: string
  readonly line: string
  readonly options: Partial<DaemonOptions>
  /** How many warnings there are. */
  readonly warnings?: number
}

const FD = { socketPath: undefined }
const ALL_IDS = 2 ** 32 - 2

const LAUNCHES: readonly Launch[] = [
  {
    launcher: 'Kata Go',
    line: '--syslog --cache=never --shared-dir=/run/kata-shared/foo --fd=123',
    options: { ...FD, fd: 123, syslog: true, cache: 'never', sharedDir: '/run/kata-shared/foo' },
  },
  {
    launcher: 'Kata Go with its default extra arguments and SELinux in the guest',
    line: '--syslog --cache=auto --shared-dir=/run/kata/x/shared --fd=3 --thread-pool-size=1 --announce-submounts --xattr',
    options: {
      ...FD,
      fd: 3,
      syslog: true,
      sharedDir: '/run/kata/x/shared',
      threadPoolSize: 1,
      xattr: true,
    },
  },
  {
    launcher: 'Kata runtime-rs',
    line: '--socket-path virtiofsd.sock --shared-dir /run/kata/x/ro --cache auto --thread-pool-size=1 -o announce_submounts --xattr',
    options: {
      socketPath: 'virtiofsd.sock',
      sharedDir: '/run/kata/x/ro',
      threadPoolSize: 1,
      xattr: true,
    },
    warnings: 1,
  },
  {
    launcher: 'libvirt',
    line: '--fd=31 --shared-dir /export --cache always --sandbox namespace --xattr --thread-pool-size=8 --rlimit-nofile=65536 --log-level debug --uid-map=:0:1000:1: --uid-map=:1:100000:65536: --gid-map=:0:1000:1:',
    options: {
      ...FD,
      fd: 31,
      sharedDir: '/export',
      cache: 'always',
      sandbox: 'namespace',
      xattr: true,
      threadPoolSize: 8,
      rlimitNofile: 65536,
      logLevel: 'debug',
      uidMap: [
        { inside: 0, outside: 1000, count: 1 },
        { inside: 1, outside: 100000, count: 65536 },
      ],
      gidMap: [{ inside: 0, outside: 1000, count: 1 }],
    },
  },
  {
    launcher: 'libvirt, the old form',
    line: '--fd=36 -o source=/a,,b,cache=always,sandbox=chroot,xattr,no_flock,no_posix_lock --thread-pool-size=4 --rlimit-nofile=1024 -d',
    options: {
      ...FD,
      fd: 36,
      sharedDir: '/a,b',
      cache: 'always',
      sandbox: 'chroot',
      xattr: true,
      threadPoolSize: 4,
      rlimitNofile: 1024,
      logLevel: 'debug',
    },
    warnings: 2,
  },
  {
    launcher: "Unraid's wrapper of libvirt",
    line: '--syslog --inode-file-handles=mandatory --announce-submounts --fd=36 --shared-dir /mnt/user/DVR --cache always --sandbox chroot --xattr',
    options: {
      ...FD,
      fd: 36,
      syslog: true,
      inodeFileHandles: 'mandatory',
      sharedDir: '/mnt/user/DVR',
      cache: 'always',
      sandbox: 'chroot',
      xattr: true,
    },
  },
  {
    launcher: 'Incus with id maps',
    line: `--fd=3 --cache=metadata --shared-dir=/s --translate-uid=map:0:1000:1 --translate-uid=forbid-guest:1:${ALL_IDS} --translate-gid=map:0:1000:1 --translate-gid=forbid-guest:1:${ALL_IDS}`,
    options: {
      ...FD,
      fd: 3,
      cache: 'metadata',
      sharedDir: '/s',
      translateUid: ['map:0:1000:1', `forbid-guest:1:${ALL_IDS}`],
      translateGid: ['map:0:1000:1', `forbid-guest:1:${ALL_IDS}`],
    },
  },
  {
    launcher: 'Incus',
    line: '--fd=3 --cache=never --shared-dir=/s --posix-acl=auto',
    options: { ...FD, fd: 3, cache: 'never', sharedDir: '/s', posixAcl: 'auto', xattr: true },
  },
  {
    launcher: 'Incus with an old daemon',
    line: '--fd=3 --cache=always --shared-dir=/s --posix-acl',
    options: { ...FD, fd: 3, cache: 'always', sharedDir: '/s', posixAcl: 'always', xattr: true },
  },
  {
    launcher: 'virtme-ng',
    line: '--syslog --no-announce-submounts --posix-acl --readonly --socket-path /tmp/S --shared-dir / --sandbox none --cache always',
    options: {
      syslog: true,
      announceSubmounts: false,
      posixAcl: 'always',
      xattr: true,
      readonly: true,
      socketPath: '/tmp/S',
      sharedDir: '/',
      sandbox: 'none',
      cache: 'always',
    },
  },
  {
    launcher: 'Podman machine',
    line: '--sandbox none --socket-path /tmp/S --shared-dir . --seccomp=none',
    options: { sandbox: 'none', socketPath: '/tmp/S', sharedDir: '.', seccomp: 'none' },
  },
  {
    launcher: 'coreos-assembler as root',
    line: '--sandbox none --socket-path /tmp/S --shared-dir . --seccomp=none --modcaps=-mknod:-setfcap',
    options: {
      sandbox: 'none',
      socketPath: '/tmp/S',
      sharedDir: '.',
      seccomp: 'none',
      modcaps: [
        { capability: 27, action: 'remove' },
        { capability: 31, action: 'remove' },
      ],
    },
  },
  {
    launcher: 'Lima',
    line: '--socket-path /l/virtiofsd-0.sock --shared-dir /home/me',
    options: { socketPath: '/l/virtiofsd-0.sock', sharedDir: '/home/me' },
  },
  {
    launcher: 'KubeVirt',
    line: '--socket-path=/s --shared-dir=/p --sandbox=none --cache=auto --migration-on-error=guest-error --migration-mode=find-paths',
    options: {
      socketPath: '/s',
      sharedDir: '/p',
      sandbox: 'none',
      migrationOnError: 'guest-error',
    },
  },
  {
    launcher: 'Cloud Hypervisor',
    line: '--shared-dir /d --socket-path /s --cache never --tag myfs',
    options: { sharedDir: '/d', socketPath: '/s', cache: 'never', tag: 'myfs' },
  },
  {
    launcher: 'microvm.nix',
    line: '--socket-path=s.sock --socket-group=kvm --shared-dir=/nix/store --rlimit-nofile 1048576 --thread-pool-size 192 --posix-acl --xattr --cache=auto --inode-file-handles=prefer --readonly',
    options: {
      socketPath: 's.sock',
      socketGroup: 'kvm',
      sharedDir: '/nix/store',
      rlimitNofile: 1048576,
      threadPoolSize: 192,
      posixAcl: 'always',
      xattr: true,
      readonly: true,
    },
  },
  {
    launcher: 'bcvk, mkosi and others',
    line: '--socket-path=/s --shared-dir=/d --cache=never --sandbox=namespace --readonly --translate-uid=map:0:1000:1 --inode-file-handles=never',
    options: {
      socketPath: '/s',
      sharedDir: '/d',
      cache: 'never',
      sandbox: 'namespace',
      readonly: true,
      translateUid: ['map:0:1000:1'],
      inodeFileHandles: 'never',
    },
  },
]

for (const { launcher, line, options, warnings } of LAUNCHES)
  test(launcher, t => {
    const parsed = parseAll(line.split(' '))
    t.is(parsed.warnings.length, warnings ?? 0)
    t.deepEqual({ ...parsed, warnings: [] }, { ...defaults, ...options })
  })

test("Podman's RUST_LOG", t => {
  const line = '--sandbox none --socket-path /tmp/S --shared-dir . --seccomp=none'
  t.is(parseAll(line.split(' '), { RUST_LOG: 'ERROR' }).logLevel, 'error')
})
