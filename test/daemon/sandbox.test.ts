/** The sandbox as the kernel sees it, in each mode, and that a guest is served in it. */
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { type FuseClient, text } from '../helpers/fuse-client.js'
import { Launched, type LaunchOptions, Place, PROGRAM, until } from '../helpers/launch.js'
import {
  asNobody,
  capabilities,
  childrenOf,
  FILE_HANDLES,
  giveAway,
  guest,
  missing,
  type Mode,
  MODES,
  NOBODY,
  processesWith,
  SERVING,
  started,
  threadsOf,
} from './sandbox-helpers.js'

const DAC_OVERRIDE = 1
const SYS_ADMIN = 21
const named = (name: string): Mode => MODES.find(mode => mode.name === name)!
const ROOT = named('namespace, root')

function testIf(why: string | undefined): typeof test | typeof test.skip {
  return why === undefined ? test : test.skip
}

/** Starting pool threads and collecting garbage take threads that came after the isolation. */
function keepBusy(client: FuseClient): void {
  const { nodeid, fh } = client.create(1, 'busy')
  client.write(nodeid, fh, 0, new Uint8Array(4096).fill(7))
  // FSYNC is done by the pool.
  client.do(20, nodeid, concat(u64(fh), u32s(0, 0)))
  client.release(nodeid, fh)
  client.do(10, 1, text('busy'))
}

for (const mode of MODES) {
  testIf(missing(mode))(
    `${mode.name}: every thread is inside, with nothing it does not need`,
    async t => {
      const place = new Place(t)
      const daemon = await started(t, place, mode)
      const client = await guest(t, place)
      keepBusy(client)
      isolated(t, daemon.pid, mode, place.share)
      t.is(childrenOf(daemon.pid), '', 'the process that was started serves')
      t.deepEqual(
        processesWith(place.socket).filter(pid => pid !== daemon.pid),
        [],
      )
    },
  )

  testIf(missing(mode))(`${mode.name}: a guest's users are served`, async t => {
    const place = new Place(t)
    await started(t, place, mode, ['--xattr'])
    const client = await guest(t, place)
    for (const [uid, owner] of mode.ids) serve(t, client, place.share, uid, owner)
    if (mode.rootless === true && mode.ranges !== true) {
      const stranger = client.request(9, 1, concat(u32s(0o755, 0), text('theirs')), {
        uid: 1234,
        gid: 1234,
      })!
      t.true(
        stranger.error === -1 || stranger.error === -22,
        `an id it cannot take on: ${stranger.error}`,
      )
      t.false(existsSync(join(place.share, 'theirs')))
    }
  })
}

function isolated(
  t: ExecutionContext,
  pid: number,
  mode: Mode,
  share: string,
  seccomp = '2',
): void {
  const threads = threadsOf(pid)
  const host = threadsOf(process.pid)[0]!
  t.true(threads.length > 5, `only ${threads.length} threads`)
  const first = threads[0]!
  const mask = mode.capabilities.toString(16).padStart(16, '0')
  for (const thread of threads) {
    for (const kind of ['mnt', 'net', 'user', 'pid'] as const)
      t.is(thread.namespace(kind), first.namespace(kind), `${thread.name}: ${kind}`)
    const root = statSync(`${thread.folder}/root/.`)
    const wanted = statSync(mode.newRoot ? share : '/')
    t.deepEqual([root.dev, root.ino], [wanted.dev, wanted.ino], `${thread.name}: root`)
    t.is(thread.status('CapPrm'), mask, `${thread.name}: permitted`)
    t.is(thread.status('CapEff'), mask, `${thread.name}: effective`)
    t.is(thread.status('CapInh'), '0'.repeat(16), `${thread.name}: inheritable`)
    t.is(thread.status('CapAmb'), '0'.repeat(16), `${thread.name}: ambient`)
    if (mode.bounding !== true) t.is(thread.status('CapBnd'), mask, `${thread.name}: bounding`)
    t.is(thread.status('NoNewPrivs'), '1', `${thread.name}: no new privileges`)
    t.is(thread.status('Seccomp'), seccomp, `${thread.name}: seccomp`)
  }
  if (mode.newRoot) noWayUp(t, pid, share)
  t.is(first.namespace('mnt') !== host.namespace('mnt'), mode.mounts || mode.ranges === true)
  t.is(first.namespace('net') !== host.namespace('net'), mode.net)
  t.is(first.namespace('user') !== host.namespace('user'), mode.users)
  if (!mode.mounts) return
  // One mount, the share's, is all there is: no way back, no /proc, no /dev.
  const mounts = readFileSync(`/proc/${pid}/mountinfo`, 'utf8').trimEnd().split('\n')
  t.is(mounts.length, 1, mounts.join('\n'))
  t.is(mounts[0]!.split(' ')[4], '/')
  t.true(share.endsWith(mounts[0]!.split(' ')[3]!), mounts[0])
}

/** Directories that are open or stood in: the share, and /proc/self/fd in a mount of its own. */
function noWayUp(t: ExecutionContext, pid: number, share: string): void {
  const inode = (path: string): string => {
    const { dev, ino } = statSync(path, { bigint: true })
    return `${dev}:${ino}`
  }
  const places = threadsOf(pid).map(({ folder }) => `${folder}/cwd`)
  for (const fd of readdirSync(`/proc/${pid}/fd`)) places.push(`/proc/${pid}/fd/${fd}`)
  let own = 0
  for (const place of places) {
    if (statSync(place, { throwIfNoEntry: false })?.isDirectory() !== true) continue
    if (inode(place) === inode(share)) continue
    own++
    t.is(inode(`${place}/..`), inode(place), `${place} (${readlinkSync(place)})`)
  }
  t.true(own > 0)
}

/** What an ordinary user of the guest does in a day; `owner` is who owns it on the host. */
function serve(
  t: ExecutionContext,
  client: FuseClient,
  share: string,
  uid: number,
  owner: number,
): void {
  const as = { uid, gid: uid }
  const folder = `of-${uid}`
  const dir = client.do(9, 1, concat(u32s(0o777, 0), text(folder)), as)
  const nodeid = dir.body.getBigUint64(0, true)
  const made = client.do(35, nodeid, concat(u32s(0o102, 0o100640, 0, 0), text('a')), as).body
  const file = made.getBigUint64(0, true)
  const fh = made.getBigUint64(128, true)
  const data = new TextEncoder().encode(`by ${uid}`)
  t.is(client.write(file, fh, 0, data), data.length)
  t.deepEqual(client.read(file, fh, 0, 100), data)
  const found = lstatSync(join(share, folder, 'a'))
  t.is(found.uid, owner)
  t.is(found.gid, owner)
  t.is(found.mode & 0o7777, 0o640)
  client.do(21, file, concat(u32s(1, 0, 0, 0), text('user.test'), data.subarray(0, 1)), as)
  const attribute = client.do(22, file, concat(u32s(100, 0), text('user.test')), as)
  t.deepEqual(attribute.bytes, data.subarray(0, 1))
  client.do(6, nodeid, concat(text('link'), text('/etc/passwd')), as)
  client.do(13, nodeid, concat(u64(file), text('hard')), as)
  client.do(12, nodeid, concat(u64(nodeid), text('a'), text('b')), as)
  client.release(file, fh)
  t.deepEqual(readdirSync(join(share, folder)).sort(), ['b', 'hard', 'link'])
  for (const name of ['b', 'hard', 'link']) client.do(10, nodeid, text(name), as)
  client.do(11, 1, text(folder), as)
  t.false(existsSync(join(share, folder)))
}

// --- what can be chosen -----------------------------------------------------------------------------

const CHOICES: readonly (readonly [argv: string, wanted: bigint])[] = [
  ['--inode-file-handles=never', capabilities(...SERVING)],
  ['--modcaps=+sys_admin:-mknod', capabilities(...SERVING, FILE_HANDLES, SYS_ADMIN) & ~(1n << 27n)],
  [
    '--modcaps=-dac_override:-dac_read_search',
    capabilities(...SERVING) & ~capabilities(DAC_OVERRIDE),
  ],
]
for (const [argv, wanted] of CHOICES)
  for (const mode of [ROOT, named('chroot, root'), named('none, root')])
    testIf(missing(mode))(`${mode.name} with ${argv}: the capabilities are these`, async t => {
      const place = new Place(t)
      const daemon = await started(t, place, mode, [argv])
      keepBusy(await guest(t, place))
      isolated(t, daemon.pid, { ...mode, capabilities: wanted }, place.share)
    })

for (const [action, wanted] of [
  ['none', '0'],
  ['log', '2'],
  ['trap', '2'],
  ['kill', '2'],
])
  testIf(missing(ROOT))(`--seccomp=${action}`, async t => {
    const place = new Place(t)
    const daemon = await started(t, place, ROOT, [`--seccomp=${action}`])
    keepBusy(await guest(t, place))
    isolated(t, daemon.pid, ROOT, place.share, wanted)
  })

// --- mounts -------------------------------------------------------------------------------------------

function run(...argv: string[]): string {
  const { status, stdout, stderr } = spawnSync(argv[0]!, argv.slice(1), { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${argv.join(' ')}: ${stderr}`)
  return stdout
}

/** A share in a tmpfs whose mounts propagate, as systemd makes the host's root. */
function sharedTmpfs(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-mounts-'))
  run('mount', '-t', 'tmpfs', 'tmpfs', folder)
  run('mount', '--make-shared', folder)
  const share = join(folder, 'share')
  mkdirSync(join(share, 'later'), { recursive: true })
  mkdirSync(join(share, 'before'))
  t.teardown(() => {
    run('umount', '--recursive', folder)
    rmSync(folder, { recursive: true })
  })
  return share
}

for (const mode of [ROOT, named('chroot, root'), named('none, root')])
  testIf(missing(mode))(
    `${mode.name}: a mount made on the host while it serves appears, and goes`,
    async t => {
      const share = sharedTmpfs(t)
      run('mount', '-t', 'tmpfs', 'tmpfs', join(share, 'before'))
      writeFileSync(join(share, 'before', 'seen'), '')
      const place = new Place(t)
      const inShare = Object.assign(Object.create(place) as Place, { share })
      const daemon = await started(t, inShare, mode)
      const client = await guest(t, inShare)
      t.true(client.lookup(client.lookup(1, 'before'), 'seen') > 0, 'a mount from before')
      run('mount', '-t', 'tmpfs', 'tmpfs', join(share, 'later'))
      writeFileSync(join(share, 'later', 'new'), '')
      t.true(client.lookup(client.lookup(1, 'later'), 'new') > 0, 'a mount from later')
      if (mode.mounts) {
        const lines = readFileSync(`/proc/${daemon.pid}/mountinfo`, 'utf8').trimEnd().split('\n')
        t.deepEqual(lines.map(line => line.split(' ')[4]).sort(), ['/', '/before', '/later'])
        // A slave: what is mounted there goes no further, what is mounted on the host comes.
        for (const line of lines) t.regex(line, / master:\d+ /)
        for (const line of lines) t.notRegex(line, / shared:\d+ /)
      }
      run('umount', '--lazy', join(share, 'later'))
      t.is(client.lookup(client.lookup(1, 'later'), 'new'), -2)
    },
  )

testIf(missing(ROOT))('a mount made inside the namespace stays there', async t => {
  const share = sharedTmpfs(t)
  const place = new Place(t)
  const daemon = await started(t, Object.assign(Object.create(place) as Place, { share }), ROOT)
  // A shell of the host that enters the daemon's mount namespace but keeps its own root and tools.
  const probe = `
    import os, ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open('/proc/${daemon.pid}/ns/mnt', os.O_RDONLY)
    if libc.setns(fd, 0x20000) != 0: raise OSError(ctypes.get_errno(), 'setns')
    if libc.mount(b'tmpfs', b'/later', b'tmpfs', 0, None) != 0: raise OSError(ctypes.get_errno(), 'mount')
    open('/later/inside', 'w').close()
  `.replaceAll('\n    ', '\n')
  run('python3', '-c', probe)
  t.true(existsSync(`/proc/${daemon.pid}/root/later/inside`))
  t.false(existsSync(join(share, 'later', 'inside')))
  t.notRegex(readFileSync('/proc/self/mountinfo', 'utf8'), /share\/later /)
})

// --- what the share has in it ---------------------------------------------------------------------

// Under its new root the run-time would find the guest's file, and wait for a writer.
for (const mode of [ROOT, named('chroot, root')])
  testIf(missing(mode))(
    `${mode.name}: the daemon reads no file of the share for itself`,
    async t => {
      const place = new Place(t)
      const traps = [
        'etc/localtime',
        'etc/nsswitch.conf',
        'etc/passwd',
        'etc/ssl/openssl.cnf',
        'proc/self/fd',
      ]
      for (const trap of traps) {
        mkdirSync(dirname(join(place.share, trap)), { recursive: true })
        run('mkfifo', join(place.share, trap))
      }
      await started(t, place, mode, ['--log-level=trace'])
      keepBusy(await guest(t, place))
      // A pipe that somebody has open for reading, or is waiting to.
      for (const trap of traps)
        t.throws(() => openSync(join(place.share, trap), 0o4001), { code: 'ENXIO' }, trap)
    },
  )

// --- refusals -------------------------------------------------------------------------------------------

interface Refusal {
  readonly why: string
  readonly argv: readonly string[]
  readonly program?: (place: Place) => readonly string[]
  readonly rootless?: boolean
  readonly says: RegExp
  readonly share?: string
}
const REFUSALS: readonly Refusal[] = [
  {
    why: '--sandbox=chroot without root',
    argv: ['--sandbox=chroot'],
    rootless: true,
    says: /--sandbox=chroot needs root: use --sandbox=namespace, or none/,
  },
  {
    why: '--uid-map as root',
    argv: ['--uid-map=:0:100000:65536:'],
    says: /--uid-map and --gid-map are for a user other than root.*--translate-uid/,
  },
  {
    why: 'no share',
    argv: [],
    share: '/nonexistent/share',
    says: /shared directory \/nonexistent\/share does not exist/,
  },
  {
    why: 'a share that is a file',
    argv: [],
    share: '/etc/passwd',
    says: /\/etc\/passwd is not a directory/,
  },
  {
    why: 'namespace as root without CAP_SYS_ADMIN',
    argv: [],
    program: () => ['setpriv', '--bounding-set=-sys_admin'],
    says: /cannot set up --sandbox=namespace: unsharing the namespaces failed \(EPERM\); in a container without CAP_SYS_ADMIN use --sandbox=chroot or none/,
  },
  {
    why: 'chroot as root without CAP_SYS_CHROOT',
    argv: ['--sandbox=chroot'],
    program: () => ['setpriv', '--bounding-set=-sys_chroot'],
    says: /cannot set up --sandbox=chroot: changing the root failed \(EPERM\)/,
  },
  {
    why: 'a range of ids the user does not own',
    argv: ['--uid-map=:0:5000:1000:', '--gid-map=:0:5000:1000:'],
    rootless: true,
    says: /newuidmap: uid range \[0-1000\) -> \[5000-6000\) not allowed/,
  },
]

for (const { why, argv, program, rootless, says, share } of REFUSALS) {
  testIf(
    missing({ users: rootless === true && argv.length > 1, ranges: why.startsWith('a range') }),
  )(`refused with a reason: ${why}`, async t => {
    const place = new Place(t)
    if (rootless === true) giveAway(place.folder)
    const first = program?.(place) ?? (rootless === true ? asNobody(place.folder, true) : [])
    await refused(
      t,
      place,
      [`--shared-dir=${share ?? place.share}`, ...argv],
      { program: [...first, ...PROGRAM] },
      says,
    )
  })
}

async function refused(
  t: ExecutionContext,
  place: Place,
  argv: readonly string[],
  options: LaunchOptions,
  says: RegExp,
): Promise<void> {
  const daemon = new Launched(t, [`--socket-path=${place.socket}`, ...argv], options)
  t.is(await daemon.end(), 1, daemon.stderr)
  t.regex(daemon.stderr, says)
  t.notRegex(daemon.stderr, /^ +at /m, 'no stack')
  await until(() => processesWith(place.socket).length === 0)
  t.false(existsSync(`${place.socket}.pid`))
}

// A limit of a namespace is for those below it: none is left for the daemon.
testIf(missing({ users: true }))(
  'refused with a reason: user namespaces that are forbidden',
  async t => {
    const place = new Place(t)
    giveAway(place.folder)
    const program = [
      ...asNobody(place.folder, false),
      'unshare',
      '--user',
      `--map-user=${NOBODY}`,
      '--keep-caps',
      'sh',
      '-c',
      'echo 0 >/proc/sys/user/max_user_namespaces && exec "$0" "$@"',
      ...PROGRAM,
    ]
    await refused(
      t,
      place,
      [`--shared-dir=${place.share}`],
      { program },
      /cannot make a user namespace \(allow it: sysctl .* or give --sandbox=none\): No space left on device/,
    )
  },
)
