/**
 * The daemon started exactly as each launcher does (arguments, descriptors, stdio, directory,
 * environment), each time serving a guest's driver. The rows: peers.md 1.1 to 1.5.
 */
import { chownSync, closeSync, existsSync, openSync, readFileSync, rmSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { native } from '../../src/native/addon.js'
import { concat, FrontEnd, u32s } from '../helpers/front-end.js'
import { FuseClient } from '../helpers/fuse-client.js'
import { connect, guestReads, Launched, Place, PROGRAM, READY, until } from '../helpers/launch.js'

const count = (text: string, part: string): number => text.split(part).length - 1
const isRoot = process.geteuid?.() === 0

/** The guest reads its file, and when it goes the daemon ends with status 0. */
async function serves(
  t: ExecutionContext,
  place: Place,
  daemon: Launched,
  front?: FrontEnd,
): Promise<void> {
  t.is(guestReads(front ?? (await connect(place.socket))), place.content)
  t.is(await daemon.end(), 0, daemon.stderr)
}

/** A launcher that passed its socket keeps it, and finds nothing beside it. */
function leftAlone(t: ExecutionContext, place: Place): void {
  t.true(statSync(place.socket).isSocket())
  t.false(existsSync(`${place.socket}.pid`))
}

test('Kata Go: socket as descriptor 3, everything else /dev/null, nobody waits for readiness', async t => {
  const place = new Place(t)
  const daemon = new Launched(
    t,
    [
      '--syslog',
      '--cache=auto',
      `--shared-dir=${place.share}`,
      '--fd=3',
      '--thread-pool-size=1',
      '--announce-submounts',
      '--xattr',
    ],
    { pass: { fd: place.listen(), as: 3 }, stderr: 'null' },
  )
  await serves(t, place, daemon)
  leftAlone(t, place)
})

test('Kata Go: the process that was started is the daemon, by name too, and SIGKILL leaves nothing', async t => {
  const place = new Place(t)
  const daemon = new Launched(
    t,
    ['--syslog', '--cache=never', `--shared-dir=${place.share}`, '--fd=3'],
    { pass: { fd: place.listen(), as: 3 } },
  )
  const front = await connect(place.socket)
  t.teardown(() => front.close())
  front.start()
  t.is(readFileSync(`/proc/${daemon.pid}/comm`, 'utf8'), 'virtiofsd\n')
  const children = readFileSync(`/proc/${daemon.pid}/task/${daemon.pid}/children`, 'utf8')
  t.is(children, '')
  daemon.process.kill('SIGKILL')
  t.is(await daemon.end(), 'SIGKILL')
  t.is(front.receive(), undefined)
})

test('Kata runtime-rs: relative socket, stderr piped; the readiness line comes once', async t => {
  const place = new Place(t)
  const daemon = new Launched(
    t,
    [
      '--socket-path',
      'vhost.sock',
      '--shared-dir',
      place.share,
      '--cache',
      'auto',
      '--thread-pool-size=1',
      '-o',
      'announce_submounts',
    ],
    { cwd: place.folder },
  )
  await daemon.ready()
  t.true(statSync(place.socket).isSocket())
  await serves(t, place, daemon)
  t.is(count(daemon.stderr, READY), 1)
})

test('Kata runtime-rs: a stderr that nobody reads any more does not stop the daemon', async t => {
  const place = new Place(t)
  const daemon = new Launched(
    t,
    ['--socket-path', place.socket, '--shared-dir', place.share, '--log-level', 'trace'],
    { stderr: 'unread' },
  )
  // Each guest request is two lines of trace; a pipe holds 64 KiB.
  const front = await connect(place.socket)
  front.start()
  const client = new FuseClient(front, front.rings[1]!)
  client.init()
  for (let i = 0; i < 2000; i++) client.lookup(1, 'file')
  front.close()
  t.is(await daemon.end(), 0)
})

test('libvirt: descriptor 31, output to a log file, alive right after the start', async t => {
  const place = new Place(t)
  const file = join(place.folder, 'vm-fs0-virtiofsd.log')
  const log = openSync(file, 'a')
  const daemon = new Launched(
    t,
    [
      '--fd=31',
      '--shared-dir',
      place.share,
      '--cache',
      'always',
      '--sandbox',
      'namespace',
      '--xattr',
      '--thread-pool-size=8',
      '--rlimit-nofile=4096',
      '--log-level',
      'debug',
    ],
    { pass: { fd: place.listen(), as: 31 }, stderr: log, cwd: '/' },
  )
  closeSync(log)
  t.true(process.kill(daemon.pid, 0))
  await serves(t, place, daemon)
  leftAlone(t, place)
  t.is(count(readFileSync(file, 'utf8'), READY), 1)
})

test('libvirt, the old form: -o source with a doubled comma, SIGTERM ends it', async t => {
  const place = new Place(t)
  const daemon = new Launched(
    t,
    [
      '--fd=36',
      '-o',
      `source=${place.share.replaceAll(',', ',,')},cache=always,sandbox=chroot,xattr,no_flock,no_posix_lock`,
      '--thread-pool-size=4',
      '--rlimit-nofile=4096',
      '-d',
    ],
    { pass: { fd: place.listen(), as: 36 } },
  )
  if (!isRoot) {
    t.is(await daemon.end(), 1)
    return
  }
  t.is(guestReads(await connect(place.socket)), place.content)
  t.is(await daemon.end(), 0, daemon.stderr)
  leftAlone(t, place)
})

for (const [guest, words] of [
  [
    'a container image',
    [
      '--translate-uid=map:0:1000000:65536',
      '--translate-uid=forbid-guest:65536:4294901759',
      '--translate-gid=map:0:1000000:65536',
      '--translate-gid=forbid-guest:65536:4294901759',
    ],
  ],
  ['a disk image', ['--posix-acl=auto']],
  ['a daemon that names no feature', ['--posix-acl']],
] as const)
  test(`Incus, ${guest}: the socket is made through /proc/self/fd and connected before the start`, async t => {
    const place = new Place(t)
    const folder = openSync(place.folder, 'r')
    const fd = native.unixListen(`/proc/self/fd/${folder}/vhost.sock`, 1)
    const front = new FrontEnd(native.unixConnect(`/proc/self/fd/${folder}/vhost.sock`))
    closeSync(folder)
    const argv = ['--fd=3', '--cache=metadata', `--shared-dir=${place.share}`, ...words]
    const daemon = new Launched(t, argv, { pass: { fd, as: 3 } })
    await daemon.ready()
    await serves(t, place, daemon, front)
    leftAlone(t, place)
  })

test('virtme-ng: probes, a shell, the pid file as the sign of life, SIGTERM', async t => {
  const place = new Place(t)
  const help = new Launched(t, ['--help'], { program: ['sh', '-c', '"$@" 1>&2', 'sh', ...PROGRAM] })
  t.is(await help.end(), 0)
  t.true(help.stderr.includes('--readonly'))
  const version = new Launched(t, ['--version'], {
    program: ['sh', '-c', '"$@" 1>&2', 'sh', ...PROGRAM],
  })
  t.is(await version.end(), 0)
  t.regex(version.stderr, /^virtiofsd \d+\.\d+\.\d+\n$/)

  const line = `${PROGRAM.join(' ')} --syslog --no-announce-submounts --posix-acl --readonly --socket-path ${place.socket} --shared-dir ${place.share} --sandbox none --cache always`
  const shell = new Launched(t, ['-c', `${line} &`], { program: ['sh'] })
  const pidFile = `${place.socket}.pid`
  await until(() => existsSync(pidFile) && readFileSync(pidFile, 'utf8').endsWith('\n'))
  const pid = Number(readFileSync(pidFile, 'utf8'))
  t.is(readFileSync(`/proc/${pid}/comm`, 'utf8'), 'virtiofsd\n')
  const front = await connect(place.socket)
  t.teardown(() => front.close())
  front.start()
  process.kill(pid, 'SIGTERM')
  await until(
    () =>
      !existsSync(`/proc/${pid}`) ||
      /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')),
  )
  t.false(existsSync(place.socket))
  t.false(existsSync(pidFile))
  t.is(await shell.end(), 0)
})

for (const [launcher, words] of [
  ['Podman machine', []],
  ['coreos-assembler as root', ['--modcaps=-mknod:-setfcap']],
] as const)
  test(`${launcher}: shares the directory it is started in, and RUST_LOG=ERROR keeps it quiet`, async t => {
    const place = new Place(t)
    const daemon = new Launched(
      t,
      [
        '--sandbox',
        'none',
        '--socket-path',
        place.socket,
        '--shared-dir',
        '.',
        '--seccomp=none',
        ...words,
      ],
      { cwd: place.share, env: { RUST_LOG: 'ERROR' } },
    )
    await serves(t, place, daemon)
    t.is(daemon.stderr, '')
  })

test('Lima: two options, the rest by default; the socket is looked for', async t => {
  const place = new Place(t)
  const daemon = new Launched(t, ['--socket-path', place.socket, '--shared-dir', place.share])
  await until(() => existsSync(place.socket))
  await serves(t, place, daemon)
})

test('KubeVirt: as user 107, options with equals signs', async t => {
  const place = new Place(t)
  // The user needs a place for the socket.
  if (isRoot) chownSync(place.folder, 107, 107)
  const daemon = new Launched(
    t,
    [
      `--socket-path=${place.socket}`,
      `--shared-dir=${place.share}`,
      '--sandbox=none',
      '--cache=auto',
      '--migration-on-error=guest-error',
      '--migration-mode=find-paths',
    ],
    isRoot ? { uid: 107 } : {},
  )
  await serves(t, place, daemon)
})

test('Cloud Hypervisor: with --tag the daemon answers for config space; a second daemon takes over the path', async t => {
  const place = new Place(t)
  const argv = [
    '--shared-dir',
    place.share,
    '--socket-path',
    place.socket,
    '--cache',
    'never',
    '--tag',
    'myfs',
  ]
  for (let i = 0; i < 2; i++) {
    const daemon = new Launched(t, argv)
    const front = await connect(place.socket)
    front.negotiateProtocol()
    // GET_CONFIG: offset, size, flags, and as many bytes.
    front.send(24, concat(u32s(0, 40, 0), new Uint8Array(40)))
    const config = front.receive()!.payload
    t.is(String.fromCharCode(...new Uint8Array(config.buffer, 12, 5)), 'myfs\0')
    t.is(config.getUint32(12 + 36, true), 1)
    await serves(t, place, daemon, front)
  }
})

test('microvm.nix: a group for the socket, all descriptors', async t => {
  const place = new Place(t)
  const limits = new Float64Array(2)
  native.getNoFileLimit(limits)
  const daemon = new Launched(t, [
    '--socket-path',
    place.socket,
    '--socket-group',
    String(process.getegid!()),
    '--shared-dir',
    place.share,
    '--rlimit-nofile',
    String(Math.min(limits[1]!, 1_048_576)),
    '--thread-pool-size',
    '2',
    '--posix-acl',
    '--xattr',
    '--cache=auto',
    '--inode-file-handles=never',
    '--readonly',
  ])
  await until(() => existsSync(place.socket))
  await serves(t, place, daemon)
})

test('a folder that a launcher removed meanwhile does not keep the daemon from ending well', async t => {
  const place = new Place(t)
  const daemon = new Launched(t, [
    '--socket-path',
    place.socket,
    '--shared-dir',
    place.share,
    '--sandbox',
    'none',
  ])
  await daemon.ready()
  const front = await connect(place.socket)
  rmSync(dirname(place.socket), { recursive: true })
  front.close()
  t.is(await daemon.end(), 0, daemon.stderr)
})
