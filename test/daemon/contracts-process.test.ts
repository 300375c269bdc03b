/** The daemon as a process: signals, statuses, the next front end, the log. */
import { existsSync, readdirSync } from 'node:fs'
import test from 'ava'
import { concat, u32s } from '../helpers/front-end.js'
import { FuseClient } from '../helpers/fuse-client.js'
import { connect, guestReads, Launched, Place, PROGRAM, READY, until } from '../helpers/launch.js'

const options = (place: Place, ...more: string[]): string[] => [
  '--socket-path',
  place.socket,
  '--shared-dir',
  place.share,
  ...more,
]

for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const)
  test(`${signal} ends the daemon with status 1, before and while it serves`, async t => {
    const place = new Place(t)
    for (const serving of [false, true]) {
      const daemon = new Launched(t, options(place, '--sandbox', 'none'))
      await daemon.ready()
      const front = serving ? await connect(place.socket) : undefined
      front?.start()
      daemon.process.kill(signal)
      t.is(await daemon.end(), 1)
      t.false(existsSync(place.socket))
      t.false(existsSync(`${place.socket}.pid`))
      front?.close()
    }
  })

test('a front end that breaks the protocol: status 1 and the reason', async t => {
  const place = new Place(t)
  const daemon = new Launched(t, options(place))
  const front = await connect(place.socket)
  t.teardown(() => front.close())
  front.send(999)
  t.is(await daemon.end(), 1)
  t.regex(daemon.stderr, /ERROR virtiofsd\] .*999/)
})

for (const way of ['socket-path', 'fd'] as const)
  test(`--reconnect with --${way}: one guest after the other, and nothing of the one before`, async t => {
    const place = new Place(t)
    const argv =
      way === 'fd'
        ? ['--fd', '7', '--shared-dir', place.share]
        : ['--socket-path', place.socket, '--shared-dir', place.share]
    const pass = way === 'fd' ? { pass: { fd: place.listen(), as: 7 } } : {}
    const daemon = new Launched(t, [...argv, '--reconnect', '--sandbox', 'none'], pass)
    await daemon.ready()
    const descriptors = (): number => readdirSync(`/proc/${daemon.pid}/fd`).length
    t.is(guestReads(await connect(place.socket)), place.content)
    await daemon.said('listening again')
    const before = descriptors()
    for (let i = 0; i < 3; i++) {
      // This one goes without a word, a file open.
      const front = await connect(place.socket)
      front.start()
      const client = new FuseClient(front, front.rings[1]!)
      client.init()
      client.open(client.lookup(1, 'file'), 0)
      front.close()
      const times = i + 2
      await until(() => daemon.stderr.split('listening again').length - 1 === times)
      await until(() => descriptors() <= before)
    }
    t.is(guestReads(await connect(place.socket)), place.content)
    t.is(daemon.stderr.split(READY).length - 1, 1)
    daemon.process.kill('SIGTERM')
    t.is(await daemon.end(), 1)
    t.is(existsSync(place.socket), way === 'fd')
  })

test('--reconnect survives a front end that breaks the protocol', async t => {
  const place = new Place(t)
  const daemon = new Launched(t, options(place, '--reconnect'))
  const front = await connect(place.socket)
  front.send(5, concat(u32s(9999, 0)))
  await daemon.said('listening again')
  front.close()
  t.is(guestReads(await connect(place.socket)), place.content)
})

test('without stdin, stdout and stderr the daemon serves all the same', async t => {
  const place = new Place(t)
  const daemon = new Launched(t, options(place), {
    program: ['sh', '-c', 'exec "$@" <&- >&- 2>&-', 'sh', ...PROGRAM],
  })
  t.is(guestReads(await connect(place.socket)), place.content)
  t.is(await daemon.end(), 0)
})

test('what is wrong with the command line: status 2, one sentence, nothing made', async t => {
  const place = new Place(t)
  const daemon = new Launched(t, options(place, '--no-such-option'))
  t.is(await daemon.end(), 2)
  t.is(daemon.stderr, 'virtiofsd: there is no option --no-such-option; see --help\n')
  t.false(existsSync(`${place.socket}.pid`))
})

test('without a system log --syslog falls back to stderr and says so', async t => {
  if (existsSync('/dev/log')) {
    t.pass('there is one here')
    return
  }
  const place = new Place(t)
  const daemon = new Launched(t, options(place, '--syslog'))
  await daemon.ready()
  t.regex(daemon.stderr, /WARN virtiofsd\] no system log at \/dev\/log: the log goes to stderr/)
})

const HEAR = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind('/dev/log')
print('listening', flush=True)
s.settimeout(90)
text = ''
while 'is gone' not in text:
    text = s.recv(65536).decode()
    print(text, file=sys.stderr, flush=True)
`

test('with --syslog the log goes to /dev/log alone, from inside the sandbox too', async t => {
  if (process.geteuid?.() !== 0) {
    t.pass('a /dev of its own takes root')
    return
  }
  const place = new Place(t)
  const script =
    'mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && { python3 -c "$0" 3>&- & } | read line && exec "$@"'
  const daemon = new Launched(t, ['--fd=3', '--syslog', `--shared-dir=${place.share}`], {
    program: ['unshare', '--mount', 'bash', '-c', script, HEAR, ...PROGRAM],
    pass: { fd: place.listen(), as: 3 },
  })
  // What the logger hears is what comes on stderr here.
  await daemon.ready()
  t.is(guestReads(await connect(place.socket)), place.content)
  t.is(await daemon.end(), 0)
  await daemon.said('the front end is gone')
  for (const line of daemon.stderr.trimEnd().split('\n'))
    t.regex(line, /^<30>[A-Z][a-z]{2} [ \d]\d [\d:]{8} virtiofsd\[\d+\]: /)
})
