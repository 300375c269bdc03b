/**
 * Every option of `virtiofsd`, one row each: what the parser takes and --help shows. The names,
 * values and meanings are those of Rust virtiofsd 1.14, but for the last heading.
 */
import type { OptionSyntax } from './command-line.js'

export interface OptionRow extends OptionSyntax {
  /** Placeholder of the value. */
  readonly value?: string
  readonly help: string
}

export interface Heading {
  readonly title: string
  readonly rows: readonly OptionRow[]
}

const MODES = 'never|auto|always'
const ID_MAP = ':INSIDE:OUTSIDE:COUNT:'
const TRANSLATION = 'TYPE:FROM:TO:COUNT'

export const HEADINGS: readonly Heading[] = [
  {
    title: 'Socket and share',
    rows: [
      { name: 'shared-dir', takes: 'word', value: 'DIR', help: 'directory to share (required)' },
      {
        name: 'socket-path',
        takes: 'word',
        value: 'PATH',
        help: 'vhost-user socket to make and listen on',
      },
      {
        name: 'socket-group',
        takes: 'word',
        value: 'GROUP',
        help: 'group that may connect to the socket as well; not with --fd',
      },
      {
        name: 'fd',
        takes: 'word',
        value: 'N',
        help: 'listening vhost-user socket that was passed as descriptor N',
      },
      {
        name: 'tag',
        takes: 'word',
        value: 'TAG',
        help: 'tag the guest mounts by, at most 36 bytes; only for front ends that ask the daemon for it',
      },
    ],
  },
  {
    title: 'File system',
    rows: [
      {
        name: 'cache',
        takes: 'word',
        value: 'MODE',
        help: 'what the guest may cache: never, metadata, auto (default), always',
      },
      { name: 'readonly', takes: 'none', help: 'refuse every change' },
      { name: 'writeback', takes: 'none', help: 'let the guest keep dirty pages' },
      {
        name: 'allow-direct-io',
        takes: 'none',
        help: "pass the guest's O_DIRECT on to the host file",
      },
      {
        name: 'allow-mmap',
        takes: 'none',
        help: 'allow shared mappings with --cache=never and metadata',
      },
      {
        name: 'no-readdirplus',
        takes: 'none',
        help: 'read directories without attributes (always so with --cache=never)',
      },
      {
        name: 'announce-submounts',
        takes: 'none',
        undoes: 'no-announce-submounts',
        help: 'show mount points of the host as such in the guest (default)',
      },
      {
        name: 'no-announce-submounts',
        takes: 'none',
        undoes: 'announce-submounts',
        help: 'hide them',
      },
      {
        name: 'killpriv-v2',
        takes: 'none',
        undoes: 'no-killpriv-v2',
        help: 'clear set-id bits in the daemon on write and truncate (default here, not in Rust virtiofsd)',
      },
      {
        name: 'no-killpriv-v2',
        takes: 'none',
        undoes: 'killpriv-v2',
        help: 'leave set-id bits to the guest; needed when NFS is shared',
      },
      { name: 'preserve-noatime', takes: 'none', help: "keep the guest's O_NOATIME" },
      {
        name: 'inode-file-handles',
        takes: 'equals',
        value: 'never|prefer|mandatory',
        help: 'refer to files by handle instead of by open descriptor (default prefer)',
      },
    ],
  },
  {
    title: 'Extended attributes',
    rows: [
      { name: 'xattr', takes: 'none', help: 'extended attributes' },
      {
        name: 'posix-acl',
        takes: 'optional',
        bare: 'always',
        value: MODES,
        help: 'POSIX access control lists; auto: if the guest can; implies --xattr (default never)',
      },
      {
        name: 'security-label',
        takes: 'optional',
        bare: 'always',
        value: MODES,
        help: 'security labels of new files from the guest; implies --xattr (default never)',
      },
      {
        name: 'xattrmap',
        takes: 'word',
        value: 'RULES',
        help: 'names of attributes in the guest and on the host, as :map::user.virtiofs.: ; implies --xattr',
      },
    ],
  },
  {
    title: 'Isolation',
    rows: [
      {
        name: 'sandbox',
        takes: 'word',
        value: 'MODE',
        help: 'how the daemon is kept in the shared directory: namespace, chroot, none',
      },
      {
        name: 'seccomp',
        takes: 'word',
        value: 'ACTION',
        help: 'what a forbidden system call leads to: kill, log, trap, none',
      },
      {
        name: 'modcaps',
        takes: 'word',
        value: 'LIST',
        help: 'capabilities to keep or drop, as --modcaps=+sys_admin:-chown',
      },
    ],
  },
  {
    title: 'User and group ids',
    rows: [
      {
        name: 'uid-map',
        takes: 'word',
        list: true,
        value: ID_MAP,
        help: 'user ids of the user namespace of --sandbox=namespace; repeatable',
      },
      { name: 'gid-map', takes: 'word', list: true, value: ID_MAP, help: 'the same for group ids' },
      {
        name: 'translate-uid',
        takes: 'word',
        list: true,
        value: TRANSLATION,
        help: 'translate user ids in the daemon: guest, host, squash-guest, squash-host, map, or forbid-guest:FROM:COUNT; repeatable; not with --posix-acl',
      },
      {
        name: 'translate-gid',
        takes: 'word',
        list: true,
        value: TRANSLATION,
        help: 'the same for group ids',
      },
    ],
  },
  {
    title: 'Migration',
    rows: [
      {
        name: 'migration-mode',
        takes: 'word',
        value: 'MODE',
        help: 'how the destination finds the files again: find-paths (default), file-handles',
      },
      {
        name: 'migration-on-error',
        takes: 'word',
        value: 'ACTION',
        help: 'when it finds one not: abort (default), guest-error',
      },
      {
        name: 'migration-verify-handles',
        takes: 'none',
        help: 'find-paths: compare file handles at the destination',
      },
      {
        name: 'migration-confirm-paths',
        takes: 'none',
        help: 'find-paths: check every path again before the switch',
      },
    ],
  },
  {
    title: 'Process',
    rows: [
      {
        name: 'thread-pool-size',
        takes: 'word',
        value: 'N',
        help: 'most threads for file I/O that would block (default 16)',
      },
      {
        name: 'rlimit-nofile',
        takes: 'word',
        value: 'N',
        help: 'limit of open descriptors; 0 leaves it as it is',
      },
      {
        name: 'log-level',
        takes: 'word',
        value: 'LEVEL',
        help: 'error, warn, info (default), debug, trace, off; without it RUST_LOG decides',
      },
      { name: 'syslog', takes: 'none', help: 'log to the system log instead of stderr' },
      {
        name: 'print-capabilities',
        takes: 'none',
        help: 'describe the program for libvirt and others, as JSON',
      },
      { name: 'help', short: 'h', takes: 'none', final: true, help: 'show this text' },
      { name: 'version', short: 'V', takes: 'none', final: true, help: 'show the version' },
    ],
  },
  {
    title: 'Deprecated',
    rows: [
      { name: 'socket', takes: 'word', value: 'PATH', help: 'old name of --socket-path' },
      {
        name: 'o',
        takes: 'word',
        list: true,
        value: 'KEY[=VALUE],...',
        help: 'options in the form of the C virtiofsd; they win over the others',
      },
      { name: 'd', takes: 'none', help: 'the same as --log-level debug' },
      { name: 'f', takes: 'none', help: 'no effect: the daemon always stays in the foreground' },
    ],
  },
  {
    title: 'Not in Rust virtiofsd',
    rows: [
      {
        name: 'flock',
        takes: 'none',
        undoes: 'no-flock',
        help: "take the guest's flock locks on the host, so that they hold between guests and host; best with --cache=never or --coherence=strict",
      },
      {
        name: 'no-flock',
        takes: 'none',
        undoes: 'flock',
        help: 'leave them to the guest: they hold inside it alone (default)',
      },
      {
        name: 'posix-lock',
        takes: 'none',
        undoes: 'no-posix-lock',
        help: 'the same for fcntl (POSIX and open file description) locks',
      },
      {
        name: 'no-posix-lock',
        takes: 'none',
        undoes: 'posix-lock',
        help: 'leave those to the guest (default)',
      },
      {
        name: 'num-request-queues',
        takes: 'word',
        value: 'N',
        help: 'request queues that --tag announces, 1 to 64 (default 1); without --tag the front end decides',
      },
      {
        name: 'poll-us',
        takes: 'word',
        value: 'US',
        help: 'longest spin before sleeping, in microseconds; 0 turns it off (default 50)',
      },
      {
        name: 'passthrough',
        takes: 'word',
        value: 'on|off',
        help: 'reads and writes of open files go straight to their descriptors where nothing else is to be done (default on)',
      },
      {
        name: 'node-descriptors',
        takes: 'word',
        value: 'N',
        help: 'most descriptors kept open for files the guest knows, 64 to 1048576 (default: an eighth of the limit, at most 32768)',
      },
      {
        name: 'metadata-cache',
        takes: 'word',
        value: 'N',
        help: 'inodes whose attributes and names the daemon keeps at most, where the kernel tells of changes by others (fanotify); 0 turns it off, at most 1048576 (default 32768)',
      },
      {
        name: 'reconnect',
        takes: 'none',
        help: 'listen again when the front end goes, instead of ending',
      },
      {
        name: 'coherence',
        takes: 'word',
        value: 'none|strict',
        help: 'strict: guests that share a version table see the changes of each other at once, and still cache (default none)',
      },
      {
        name: 'version-table',
        takes: 'word',
        value: 'PATH',
        help: 'file in /dev/shm by which the daemons of several guests keep these right; made if there is none; /dev/fd/N: a memfd that was passed as descriptor N',
      },
      {
        name: 'lease-ms',
        takes: 'word',
        value: 'MS',
        help: 'how long a guest may cache with --coherence=strict, and may be late for what processes of the host change, 0 to 5000 (default 250), and four times that, 5000 at most, for what nobody else has changed for 3 s; 0: it asks each time',
      },
      {
        name: 'lease-margin-ms',
        takes: 'word',
        value: 'MS',
        help: 'how much longer a change waits for it: a reply must reach the guest in less, 0 to 2500 (default 250)',
      },
      {
        name: 'control-socket',
        takes: 'word',
        value: 'PATH',
        help: 'socket to make for virtiofsctl, which tells changes in the share as they come, and the status; for this user alone',
      },
      {
        name: 'dax-window',
        takes: 'word',
        value: 'SIZE',
        help: 'offer the front end a DAX window of this size, a power of two from 2M on, best 512M; QEMU 11.1: vhost-user-test-device-pci',
      },
      {
        name: 'dax',
        takes: 'equals',
        value: 'never|sealed|exclusive|always',
        help: 'files mapped into that window: none; those nobody else can shorten (default: of a host directory none); those of whole pages; all. The last two are for shares where nobody but the guest changes the size of files: a VMM that touches what another has cut off dies of SIGBUS',
      },
    ],
  },
]

export const OPTION_ROWS: readonly OptionRow[] = HEADINGS.flatMap(heading => heading.rows)
