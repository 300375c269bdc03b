/** The control socket of a running daemon: a guest's driver and the host make changes, clients are told. */
import { execFileSync, spawn } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { frame } from '../../protocol/control/frames.js'
import type { Change, ControlReply, Status } from '../../protocol/control/messages.js'
import { ControlClient } from '../../src/control/client.js'
import { changeLine } from '../../src/control/text.js'
import { packageFile } from '../../src/native/addon.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { text } from '../helpers/fuse-client.js'
import { Launched, Place, until } from '../helpers/launch.js'
import { guest, missing, MODES, started } from './sandbox-helpers.js'

const CTL = packageFile('dist', 'src', 'bin', 'virtiofsctl.js')

const control = (place: Place): string => join(place.folder, 'control.sock')

async function daemonOf(
  t: ExecutionContext,
  place: Place,
  more: readonly string[] = [],
): Promise<Launched> {
  const daemon = new Launched(t, [
    `--shared-dir=${place.share}`,
    `--socket-path=${place.socket}`,
    `--control-socket=${control(place)}`,
    ...more,
  ])
  await daemon.ready()
  return daemon
}

function pathOf(change: Change | undefined): string {
  return Buffer.from(change?.path ?? []).toString()
}

/** A client that is told of changes. */
class Listener {
  readonly changes: Change[] = []
  readonly replies: ControlReply[] = []
  readonly client: ControlClient

  constructor(t: ExecutionContext, place: Place) {
    this.client = new ControlClient(control(place), 'events', reply => {
      if (reply.type === 'events') this.changes.push(...reply.events)
      else this.replies.push(reply)
    })
    t.teardown(() => this.client.close())
  }

  static async on(t: ExecutionContext, place: Place): Promise<Listener> {
    const listener = new Listener(t, place)
    await until(() => listener.replies.some(({ type }) => type === 'watching'))
    return listener
  }

  /** What was told up to the change of that path. */
  async upTo(path: string): Promise<string[]> {
    await until(() => this.changes.some(one => pathOf(one) === path))
    return this.changes.map(one => changeLine(one).trimEnd().replaceAll('\t', ' '))
  }

  get lost(): (number | null)[] {
    return this.replies.flatMap(reply => (reply.type === 'lost' ? [reply.changes] : []))
  }
}

async function statusOf(place: Place): Promise<Status> {
  let answer: ControlReply | undefined
  const client = new ControlClient(control(place), 'status', reply => {
    answer = reply
    client.close()
  })
  await client.ended
  if (answer?.type !== 'status') throw new Error(`no status: ${JSON.stringify(answer)}`)
  return answer
}

for (const mode of MODES) {
  const run = missing(mode) === undefined ? test : test.skip
  run(`${mode.name}: what guest and host do is told, each under its name`, async t => {
    const place = new Place(t)
    mkdirSync(join(place.share, 'd'), { mode: 0o755 })
    const daemon = await started(t, place, mode, [`--control-socket=${control(place)}`])
    const client = await guest(t, place)
    t.is(statSync(control(place)).mode & 0o777, 0o600)
    const listener = await Listener.on(t, place)
    const folder = client.lookup(1, 'd')
    const { nodeid, fh } = client.create(folder, 'made')
    for (let i = 0; i < 20; i++) client.write(nodeid, fh, i, Uint8Array.of(i))
    client.release(nodeid, fh)
    client.do(12, folder, concat(u64(1n), text('made'), text('moved')))
    client.do(9, 1, concat(u32s(0o755, 0), text('new')))
    client.do(10, 1, text('moved'))
    await listener.upTo('moved')
    appendFileSync(join(place.share, 'file'), 'x')
    chmodSync(join(place.share, 'd'), 0o700)
    rmSync(join(place.share, 'new'), { recursive: true })
    await until(() => listener.changes.some(one => one.kind === 'delete' && pathOf(one) === 'new'))
    const lines = await listener.upTo('new')
    // How many of the writes are told as one depends on who is how fast.
    const first = lines.indexOf('guest modify file d/made')
    const once = lines.filter((line, i) => !line.includes('modify file d/made') || i === first)
    t.true(lines.length - once.length < 19)
    t.deepEqual(once, [
      'guest create file d/made',
      'guest modify file d/made',
      'guest rename file d/made moved',
      'guest create directory new',
      'guest delete file moved',
      'other modify file file',
      'other attrib directory d',
      'other delete directory new',
    ])
    const status = await statusOf(place)
    t.is(status.pid, daemon.pid)
    t.is(status.frontEnd, 'connected')
    t.is(status.listeners, 1)
    t.deepEqual(status.requests.WRITE, [20, 0])
    t.is(status.counters.watchedDirectories, 2)
    t.true(status.counters.nodes! >= 2)
    t.is(status.counters.openFiles, 0)
    client.front.close()
    t.is(await daemon.end(), 0, daemon.stderr)
  })
}

test('many clients are told the same; nothing is watched when the last one has gone', async t => {
  const place = new Place(t)
  await daemonOf(t, place)
  const listeners = await Promise.all(Array.from({ length: 20 }, () => Listener.on(t, place)))
  for (let i = 0; i < 300; i++) writeFileSync(join(place.share, `f${i}`), '')
  writeFileSync(join(place.share, 'last'), '')
  for (const listener of listeners) {
    const lines = await listener.upTo('last')
    t.is(lines.filter(line => line.startsWith('other create file f')).length, 300)
  }
  t.is((await statusOf(place)).listeners, 20)
  for (const { client } of listeners) client.close()
  let status = await statusOf(place)
  while (status.listeners > 0) status = await statusOf(place)
  t.is(status.counters.watchedDirectories, 0)
  const again = await Listener.on(t, place)
  writeFileSync(join(place.share, 'again'), '')
  t.deepEqual(await again.upTo('again'), ['other create file again'])
})

test('a client that does not read is told how many changes it missed; others miss none', async t => {
  t.timeout(300_000)
  const place = new Place(t)
  const names = Array.from({ length: 500 }, (_, i) => join(place.share, `${'n'.repeat(200)}${i}`))
  for (const name of names) writeFileSync(name, '')
  await daemonOf(t, place)
  const slow = await Listener.on(t, place)
  const fast = await Listener.on(t, place)
  slow.client.pause()
  // 220 bytes each, 3.3 MB in all, of which socket and daemon hold less than 2.
  const ROUNDS = 30
  for (let round = 1; round <= ROUNDS; round++) {
    for (const name of names) chmodSync(name, round % 2 === 0 ? 0o600 : 0o644)
    await until(() => fast.changes.length === round * names.length)
  }
  mkdirSync(join(place.share, 'end'))
  await until(() => fast.changes.some(one => pathOf(one) === 'end'))
  t.deepEqual(fast.lost, [])
  t.is(slow.changes.length, 0)
  slow.client.resume()
  await until(() => slow.lost.length > 0)
  const missed = slow.lost.reduce((sum: number, one) => sum + one!, 0)
  await until(() => slow.changes.length + missed === fast.changes.length)
  t.true(missed > 1000, `${missed} missed`)
  // From here on it is told again.
  writeFileSync(join(place.share, 'told'), '')
  await until(() => slow.changes.some(one => pathOf(one) === 'told'))
})

test('clients that come and vanish in the middle of everything do no harm', async t => {
  const place = new Place(t)
  const daemon = await daemonOf(t, place)
  const fds = (): number => readdirSync(`/proc/${daemon.pid}/fd`).length
  const before = fds()
  for (let round = 0; round < 30; round++) {
    const sockets = Array.from({ length: 8 }, () => connect(control(place)))
    for (const [i, socket] of sockets.entries()) {
      socket.on('error', () => undefined)
      const request = frame(packed('events'), 4096)
      socket.write(request.subarray(0, i === 0 ? 3 : request.length))
    }
    writeFileSync(join(place.share, `f${round}`), '')
    if (round % 3 === 0) await new Promise(done => setTimeout(done, 60))
    for (const socket of sockets) socket.destroy()
  }
  await until(() => fds() <= before)
  const listener = await Listener.on(t, place)
  writeFileSync(join(place.share, 'after'), '')
  t.deepEqual(await listener.upTo('after'), ['other create file after'])
  t.false(/WARN|ERROR/.test(daemon.stderr), daemon.stderr)
})

/** A msgpack map {version: 1, type}. */
function packed(type: string): Uint8Array {
  const word = (value: string): Uint8Array =>
    concat(Uint8Array.of(0xa0 + value.length), Buffer.from(value))
  return concat(Uint8Array.of(0x82), word('version'), Uint8Array.of(1), word('type'), word(type))
}

/** What the daemon says to these bytes, and that it ends the connection. */
async function answerTo(place: Place, bytes: Uint8Array): Promise<string> {
  const socket: Socket = connect(control(place))
  let answer = ''
  let closed = false
  socket.on('data', some => {
    answer += some.toString('latin1')
  })
  socket.on('error', () => undefined)
  socket.on('close', () => {
    closed = true
  })
  socket.write(bytes)
  await until(() => closed)
  return answer
}

test('hostile clients are told why, and cut off', async t => {
  const place = new Place(t)
  const daemon = await daemonOf(t, place)
  t.regex(await answerTo(place, u32s(0xffff_ffff)), /a message of 4294967295 bytes/)
  t.regex(await answerTo(place, Buffer.from('GET / HTTP/1.1\r\n\r\n')), /a message of \d+ bytes/)
  t.regex(await answerTo(place, frame(packed('stop'), 4096)), /unknown type/)
  t.regex(await answerTo(place, frame(Uint8Array.of(0xc7, 1, 1, 1), 4096)), /type 199/)
  // A flood of questions whose answers nobody reads.
  const flood = connect(control(place))
  flood.on('error', () => undefined)
  flood.pause()
  const questions = concat(...Array.from({ length: 200 }, () => frame(packed('status'), 4096)))
  let closed = false
  flood.on('close', () => {
    closed = true
  })
  for (let i = 0; i < 2000 && !closed; i++) {
    flood.write(questions)
    if (i % 50 === 0) await new Promise(done => setImmediate(done))
  }
  t.is((await statusOf(place)).frontEnd, 'waiting')
  flood.destroy()
  t.is(daemon.process.exitCode, null)
})

test('there are 64 clients at most', async t => {
  const place = new Place(t)
  await daemonOf(t, place)
  await Promise.all(Array.from({ length: 64 }, () => Listener.on(t, place)))
  const one = new Listener(t, place)
  await one.client.ended
  t.deepEqual(one.replies, [{ type: 'error', message: 'there are 64 clients already' }])
})

test('the socket is refused where the guest, or another daemon, has the place', async t => {
  const place = new Place(t)
  const start = (path: string): Launched =>
    new Launched(t, [
      `--shared-dir=${place.share}`,
      `--socket-path=${place.socket}`,
      `--control-socket=${path}`,
    ])
  const refused: readonly (readonly [path: string, says: RegExp])[] = [
    [join(place.share, 'c.sock'), /shared directory, where the guest can replace it/],
    [join(place.share, '..', 'share', 'c.sock'), /shared directory, where the guest/],
    [join(place.folder, 'nowhere', 'c.sock'), /directory .*nowhere does not exist/],
    [join(place.share, '..'), /is not a socket.*--control-socket/],
  ]
  for (const [path, says] of refused) {
    const daemon = start(path)
    t.is(await daemon.end(), 1)
    t.regex(daemon.stderr, says)
  }
  const same = start(place.socket)
  t.is(await same.end(), 2)
  t.regex(same.stderr, /give two paths/)
  const first = await daemonOf(t, place, ['--sandbox=none'])
  const second = new Launched(t, [
    `--shared-dir=${place.share}`,
    `--socket-path=${place.socket}2`,
    `--control-socket=${control(place)}`,
  ])
  t.is(await second.end(), 1)
  t.regex(second.stderr, /somebody listens on .*choose another --control-socket/)
  first.process.kill('SIGTERM')
  t.is(await first.end(), 1)
  t.false(existsSync(control(place)))
})

test('a socket that a killed daemon left behind is replaced', async t => {
  const place = new Place(t)
  const first = await daemonOf(t, place)
  first.process.kill('SIGKILL')
  await first.end()
  t.true(existsSync(control(place)))
  await daemonOf(t, place)
  t.is((await statusOf(place)).frontEnd, 'waiting')
})

const run = (...args: string[]): string =>
  execFileSync(process.execPath, [CTL, ...args], { encoding: 'utf8', stdio: 'pipe' })

test('virtiofsctl prints changes as they come, until the daemon ends', async t => {
  const place = new Place(t)
  const daemon = await daemonOf(t, place)
  const outputs = ['', '']
  const errors = ['', '']
  const children = [[], ['--json']].map((more, i) => {
    const args = [CTL, '--socket', control(place), 'events', ...more]
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    child.stdout.setEncoding('utf8').on('data', (some: string) => {
      outputs[i] += some
    })
    child.stderr.setEncoding('utf8').on('data', (some: string) => {
      errors[i] += some
    })
    return child
  })
  await until(() => errors[0]!.includes('watching 1 dir') && outputs[1]!.includes('watching'))
  writeFileSync(join(place.share, 'a\tb'), '')
  execFileSync('sh', ['-c', 'mv "$0"/a* "$0/$(printf "\\377")"', place.share])
  await until(() => outputs.every(one => one.includes('rename')))
  t.is(outputs[0], 'other\tcreate\tfile\ta\\x09b\nother\trename\tfile\ta\\x09b\t\\xff\n')
  const rest = { isDirectory: false, by: 'other' }
  t.deepEqual(
    outputs[1]!
      .trimEnd()
      .split('\n')
      .map(line => JSON.parse(line) as unknown),
    [
      { type: 'watching', directories: 1, unwatched: 0 },
      { type: 'change', kind: 'create', ...rest, path: 'a\tb' },
      { type: 'change', kind: 'rename', ...rest, path: 'a\tb', to: '\ufffd', toBase64: '/w==' },
    ],
  )
  t.regex(run('--socket', control(place), 'status'), /^version .*\nprocess +\d+\n/)
  t.is((JSON.parse(run('--socket', control(place), 'status', '--json')) as Status).listeners, 2)
  daemon.process.kill('SIGTERM')
  // Their last words may come after the news of their end.
  await until(() => children.every(child => child.exitCode !== null && child.stderr.readableEnded))
  t.deepEqual(
    children.map(child => child.exitCode),
    [1, 1],
  )
  t.regex(errors[0]!, /the daemon has ended/)
})

const MISUSES: readonly (readonly [args: readonly string[], status: number, says: RegExp])[] = [
  [[], 2, /give --socket PATH/],
  [['--socket', '/nowhere'], 2, /give one command/],
  [['--socket', '/nowhere', 'stop'], 2, /no command "stop"/],
  [['--socket', '/nowhere', 'status', 'events'], 2, /give one command/],
  [['--sockets'], 2, /--sockets/],
  [['--socket', '/nowhere', 'status'], 1, /nowhere: .*ENOENT/],
  [['--socket', '/nowhere', 'events'], 1, /nowhere: .*ENOENT/],
]
test('virtiofsctl says what is wrong, and has --help and --version', t => {
  for (const [args, status, says] of MISUSES) {
    const fault = t.throws(() => run(...args)) as Error & { status: number; stderr: string }
    t.is(fault.status, status, args.join(' '))
    t.regex(fault.stderr, says)
  }
  t.regex(run('--help'), /^Usage: virtiofsctl --socket PATH events/m)
  t.regex(run('--version'), /^virtiofsctl \d/)
})
