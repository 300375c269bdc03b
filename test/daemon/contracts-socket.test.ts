/** The socket and its pid file: how they are made, what stands in the way, what is left of them. */
import { existsSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { native } from '../../src/native/addon.js'
import { connect, guestReads, Launched, Place } from '../helpers/launch.js'

const options = (place: Place, ...more: string[]): string[] => [
  '--socket-path',
  place.socket,
  '--shared-dir',
  place.share,
  ...more,
]
const mode = (path: string): string => (statSync(path).mode & 0o777).toString(8)

test('socket and pid file are for their owner alone; the pid is that of the daemon', async t => {
  const place = new Place(t)
  const daemon = new Launched(t, options(place))
  await daemon.ready()
  t.is(mode(place.socket), '700')
  t.is(mode(`${place.socket}.pid`), '600')
  t.is(readFileSync(`${place.socket}.pid`, 'utf8'), `${daemon.pid}\n`)
})

test('with --socket-group the group may connect too', async t => {
  const place = new Place(t)
  const group = process.geteuid?.() === 0 ? 'disk' : String(process.getegid!())
  const daemon = new Launched(t, options(place, '--socket-group', group))
  await daemon.ready()
  t.is(mode(place.socket), '770')
  t.is(mode(`${place.socket}.pid`), '600')
  if (group === 'disk') t.is(statSync(place.socket).gid, native.groupId('disk'))
})

test('a socket and a pid file that a daemon left behind are replaced', async t => {
  const place = new Place(t)
  native.closeFd(place.listen())
  writeFileSync(`${place.socket}.pid`, '4194304999\n')
  const daemon = new Launched(t, options(place))
  await daemon.ready()
  t.is(readFileSync(`${place.socket}.pid`, 'utf8'), `${daemon.pid}\n`)
  t.is(guestReads(await connect(place.socket)), place.content)
  t.is(await daemon.end(), 0)
})

test('a second daemon on the same path is refused, and the first one serves on', async t => {
  const place = new Place(t)
  const first = new Launched(t, options(place, '--sandbox', 'none'))
  await first.ready()
  const second = new Launched(t, options(place))
  t.is(await second.end(), 1)
  t.regex(second.stderr, new RegExp(`is locked by .*process ${first.pid}`))
  t.is(guestReads(await connect(place.socket)), place.content)
  t.is(await first.end(), 0)
  t.false(existsSync(place.socket))
  t.false(existsSync(`${place.socket}.pid`))
})

const refused: readonly {
  readonly what: string
  readonly prepare?: (place: Place) => void
  readonly argv: (place: Place) => readonly string[]
  readonly message: RegExp
}[] = [
  {
    what: 'something else than a socket at the path',
    prepare: place => writeFileSync(place.socket, 'precious'),
    argv: place => options(place),
    message: /vhost\.sock exists and is not a socket/,
  },
  {
    what: 'a symbolic link in the place of the pid file',
    prepare: place => symlinkSync(join(place.folder, 'target'), `${place.socket}.pid`),
    argv: place => options(place),
    message: /cannot write the pid file .*ELOOP/,
  },
  {
    what: 'a directory that is not there',
    argv: place => ['--socket-path', '/nowhere/vhost.sock', '--shared-dir', place.share],
    message: /the directory \/nowhere does not exist/,
  },
  {
    what: 'a path that is too long',
    prepare: place => mkdirSync(join(place.folder, 'x'.repeat(100))),
    argv: place => [
      '--socket-path',
      join(place.folder, 'x'.repeat(100), 's'),
      '--shared-dir',
      place.share,
    ],
    message: /a socket path has at most 107 bytes/,
  },
  {
    what: 'a group that does not exist',
    argv: place => options(place, '--socket-group', 'no-such-group'),
    message: /there is no group "no-such-group"/,
  },
  {
    what: 'a share that does not exist',
    argv: place => ['--socket-path', place.socket, '--shared-dir', join(place.folder, 'none')],
    message: /the shared directory .* does not exist/,
  },
  {
    what: 'a descriptor that is no socket',
    argv: place => ['--fd', '0', '--shared-dir', place.share],
    message: /descriptor 0 is not a listening UNIX stream socket/,
  },
]
for (const { what, prepare, argv, message } of refused)
  test(`${what} is refused with status 1`, async t => {
    const place = new Place(t)
    prepare?.(place)
    const daemon = new Launched(t, argv(place))
    t.is(await daemon.end(), 1)
    t.regex(daemon.stderr, message)
    t.is(daemon.stderr.trimEnd().split('\n').length, 1, daemon.stderr)
    // Nothing is left behind, and what was there is still there.
    t.false(existsSync(`${place.socket}.pid`))
    if (existsSync(place.socket)) t.is(readFileSync(place.socket, 'utf8'), 'precious')
  })

test('a connected socket as --fd is refused: it has to listen', async t => {
  const place = new Place(t)
  const pair = new Int32Array(2)
  native.socketPair(pair)
  t.teardown(() => native.closeFd(pair[1]!))
  const daemon = new Launched(t, ['--fd=3', `--shared-dir=${place.share}`], {
    pass: { fd: pair[0]!, as: 3 },
  })
  t.is(await daemon.end(), 1)
  t.regex(daemon.stderr, /descriptor 3 is not a listening UNIX stream socket/)
})

test('one connection is accepted and the listener closed', async t => {
  const place = new Place(t)
  const daemon = new Launched(t, options(place))
  const front = await connect(place.socket)
  front.start()
  t.is(native.unixConnect(place.socket), -111)
  front.close()
  t.is(await daemon.end(), 0)
})
