/** Daemons in each mode of isolation, and what /proc says about every thread of theirs. */
import { spawnSync } from 'node:child_process'
import {
  chownSync,
  lchownSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { connect, Launched, type Place, PROGRAM } from '../helpers/launch.js'
import { FuseClient } from '../helpers/fuse-client.js'

/** Whose daemon it is when it is not root's. Has an entry in /etc/passwd everywhere. */
export const NOBODY = 65534
/** The range that stands in /etc/subuid for that user. */
export const SUB_IDS = { first: 100_000, count: 65_536 } as const

/** Capabilities by number: what serving a directory takes, and file handles. */
export const SERVING = [0, 1, 3, 4, 6, 7, 27, 31]
export const FILE_HANDLES = 2
export const capabilities = (...numbers: number[]): bigint =>
  numbers.reduce((mask, number) => mask | (1n << BigInt(number)), 0n)

export interface Mode {
  readonly name: string
  readonly argv: readonly string[]
  readonly rootless?: boolean
  /** Has a range of ids through newuidmap. */
  readonly ranges?: boolean
  readonly mounts: boolean
  readonly net: boolean
  readonly users: boolean
  /** The root of the daemon is the share. */
  readonly newRoot: boolean
  /** Permitted and effective; the bounding set is the same but for `bounding`. */
  readonly capabilities: bigint
  /** The bounding set is left alone: it takes CAP_SETPCAP to drop from it. */
  readonly bounding?: boolean
  /** Ids the guest may use on the files of this share, with the owner its files have on the host. */
  readonly ids: readonly (readonly [guest: number, host: number])[]
}

const NEEDED = capabilities(...SERVING, FILE_HANDLES)
const AS_IS = [
  [0, 0],
  [1000, 1000],
  [4711, 4711],
] as const

export const MODES: readonly Mode[] = [
  {
    name: 'namespace, root',
    argv: [],
    mounts: true,
    net: true,
    users: false,
    newRoot: true,
    capabilities: NEEDED,
    ids: AS_IS,
  },
  {
    name: 'chroot, root',
    argv: ['--sandbox=chroot'],
    mounts: false,
    net: false,
    users: false,
    newRoot: true,
    capabilities: NEEDED,
    ids: AS_IS,
  },
  {
    name: 'none, root',
    argv: ['--sandbox=none'],
    mounts: false,
    net: false,
    users: false,
    newRoot: false,
    capabilities: NEEDED,
    ids: AS_IS,
  },
  {
    name: 'namespace, rootless, one id',
    argv: [],
    rootless: true,
    mounts: true,
    net: true,
    users: true,
    newRoot: true,
    capabilities: NEEDED,
    ids: [
      [0, NOBODY],
      [NOBODY, NOBODY],
    ],
  },
  {
    name: 'namespace, rootless, ranges of ids',
    argv: [
      `--uid-map=:0:${NOBODY}:1:`,
      `--uid-map=:1:${SUB_IDS.first}:${SUB_IDS.count}:`,
      `--gid-map=:0:${NOBODY}:1:`,
      `--gid-map=:1:${SUB_IDS.first}:${SUB_IDS.count}:`,
    ],
    rootless: true,
    ranges: true,
    mounts: true,
    net: true,
    users: true,
    newRoot: true,
    capabilities: NEEDED,
    ids: [
      [0, NOBODY],
      [1000, SUB_IDS.first + 999],
      [4711, SUB_IDS.first + 4710],
    ],
  },
  {
    name: 'none, rootless',
    argv: ['--sandbox=none'],
    rootless: true,
    mounts: false,
    net: false,
    users: false,
    newRoot: false,
    capabilities: 0n,
    bounding: true,
    ids: [
      [0, NOBODY],
      [NOBODY, NOBODY],
    ],
  },
]

const isRoot = process.geteuid?.() === 0

/** Whether the kernel lets a user make a user namespace. */
const userNamespaces =
  spawnSync(
    'setpriv',
    [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', 'unshare', '--user', 'true'],
    { stdio: 'ignore' },
  ).status === 0

/** Why a mode cannot be tried on this machine; undefined when it can. Errors: with CI set, that must not be. */
export function missing(mode: Pick<Mode, 'users' | 'ranges'>): string | undefined {
  const why = !isRoot
    ? 'needs root to start the daemon as other users'
    : mode.users && !userNamespaces
      ? 'the kernel forbids user namespaces'
      : mode.ranges === true && spawnSync('which', ['newuidmap']).status !== 0
        ? 'needs newuidmap (Debian package uidmap)'
        : undefined
  if (why !== undefined && process.env.CI !== undefined) throw new Error(why)
  return why
}

/**
 * Runs what follows as a user without privilege who owns a range of ids. The files that say so lie in
 * `folder` and take the place of the host's in a mount namespace of its own.
 */
export function asNobody(folder: string, ranges: boolean): string[] {
  const user = ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups']
  if (!ranges) return user
  const file = join(folder, 'ids')
  writeFileSync(file, `nobody:${SUB_IDS.first}:${SUB_IDS.count}\n`)
  return [
    'unshare',
    '--mount',
    '--propagation=slave',
    'sh',
    '-c',
    'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@"',
    file,
    ...user,
  ]
}

/** Gives what lies in `folder` to the daemon's user. */
export function giveAway(folder: string): void {
  chownSync(folder, NOBODY, NOBODY)
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' }))
    lchownSync(join(folder, name), NOBODY, NOBODY)
}

/** The daemon in `mode` on the place's share, ready. */
export async function started(
  t: ExecutionContext,
  place: Place,
  mode: Mode,
  more: readonly string[] = [],
): Promise<Launched> {
  if (mode.rootless === true) giveAway(place.folder)
  const daemon = new Launched(
    t,
    [`--shared-dir=${place.share}`, `--socket-path=${place.socket}`, ...mode.argv, ...more],
    mode.rootless === true
      ? { program: [...asNobody(place.folder, mode.ranges === true), ...PROGRAM] }
      : {},
  )
  await daemon.ready()
  return daemon
}

/** A guest's driver on the daemon, past INIT. */
export async function guest(t: ExecutionContext, place: Place): Promise<FuseClient> {
  const front = await connect(place.socket)
  t.teardown(() => front.close())
  front.start()
  const client = new FuseClient(front, front.rings[1]!)
  client.init()
  return client
}

export interface Thread {
  readonly name: string
  readonly folder: string
  readonly namespace: (kind: 'mnt' | 'net' | 'user' | 'pid') => string
  /** A line of /proc/PID/status. */
  readonly status: (key: string) => string
}

/** Every thread of a process, its children not among them. */
export function threadsOf(pid: number): Thread[] {
  return readdirSync(`/proc/${pid}/task`).map(id => {
    const folder = `/proc/${pid}/task/${id}`
    const lines = new Map(
      readFileSync(`${folder}/status`, 'utf8')
        .split('\n')
        .map(line => line.split(':\t', 2) as [string, string]),
    )
    return {
      name: `${lines.get('Name')} ${id}`,
      folder,
      namespace: kind => readlinkSync(`${folder}/ns/${kind}`),
      status: key => lines.get(key) ?? '',
    }
  })
}

export function childrenOf(pid: number): string {
  return readdirSync(`/proc/${pid}/task`)
    .map(id => readFileSync(`/proc/${pid}/task/${id}/children`, 'utf8'))
    .join('')
}

/** Processes whose command line has this text in it. */
export function processesWith(text: string): number[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .map(Number)
    .filter(pid => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(text)
      } catch {
        return false
      }
    })
}
