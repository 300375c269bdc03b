/** Where the log goes: never waiting, nothing lost in silence, no record forged. */
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { makeLog } from '../../src/daemon/log.js'
import { oneRecord, StderrOutlet } from '../../src/daemon/log-outlets.js'
import { datagram, SyslogOutlet } from '../../src/daemon/syslog.js'
import { native } from '../../src/native/addon.js'
import { until } from '../helpers/launch.js'

/** All there is to read now. */
function drain(fd: number): string {
  const bytes = Buffer.alloc(1 << 20)
  let text = ''
  for (;;)
    try {
      text += bytes.toString('utf8', 0, readSync(fd, bytes))
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'EAGAIN') return text
      throw cause
    }
}

test('what a reader that sleeps leaves no room for is dropped, and the count told', t => {
  const pair = new Int32Array(2)
  native.socketPair(pair)
  const [ours, theirs] = pair as unknown as [number, number]
  t.teardown(() => {
    native.closeFd(ours)
    native.closeFd(theirs)
  })
  native.setNonBlocking(theirs, true)
  const outlet = new StderrOutlet(ours)
  const many = 20_000
  for (let i = 0; i < many; i++) outlet.write('info', `line ${i} ${'.'.repeat(100)}`)
  const early = drain(theirs)
  outlet.write('info', 'awake again')
  const late = drain(theirs)
  const whole = early.split('\n').filter(line => line.endsWith('..')).length
  t.true(whole > 10 && whole < many)
  const told = Number(/WARN virtiofsd\] (\d+) log lines were dropped\n/.exec(late)![1])
  t.is(whole + told, many)
  t.regex(late, /INFO virtiofsd\] awake again\n$/)
  // Every record begins a line, one that was cut before it or not.
  for (const line of (early + late).split('\n').slice(0, -1)) t.regex(line, /^\[/)
})

test('a reader that is gone is no reason to end', t => {
  const pair = new Int32Array(2)
  native.socketPair(pair)
  native.closeFd(pair[1]!)
  t.teardown(() => native.closeFd(pair[0]!))
  const outlet = new StderrOutlet(pair[0]!)
  t.notThrows(() => outlet.write('error', 'nobody hears it'))
})

test('a name a guest chose does not look like a record of its own', t => {
  const name = 'a\n[2026-01-01T00:00:00.000Z INFO virtiofsd] forged\x1b[2J\r\t'
  t.is(oneRecord(name), 'a\n    [2026-01-01T00:00:00.000Z INFO virtiofsd] forged\\x1b[2J\\x0d ')
})

test('records of the system log are as RFC 3164 has them', t => {
  const at = new Date(2026, 0, 5, 7, 8, 9)
  t.is(datagram('error', 'gone', at), `<27>Jan  5 07:08:09 virtiofsd[${process.pid}]: gone`)
  t.is(datagram('info', 'gone', at).slice(0, 4), '<30>')
  t.is(datagram('trace', 'gone', at).slice(0, 4), '<31>')
})

test('nobody at the path of the system log: there is none', t => {
  t.is(SyslogOutlet.open('/nowhere/log'), undefined)
})

test('level off logs nothing', t => {
  t.notThrows(() => makeLog('off', false)('error', 'not seen'))
})

const RECEIVER = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
for i in range(int(sys.argv[2])):
    sys.stdout.buffer.write(s.recv(65536) + b'\\n')
    sys.stdout.flush()
`

/** A system logger that hears `count` datagrams and ends. */
class SystemLogger {
  heard = ''
  readonly ended: Promise<unknown>

  constructor(path: string, count: number) {
    const child = spawn('python3', ['-c', RECEIVER, path, String(count)])
    child.stdout.on('data', (part: Buffer) => {
      this.heard += part.toString()
    })
    this.ended = new Promise(done => child.on('close', done))
  }
}

test('datagrams arrive; a system logger that was started anew gets them too', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-syslog-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'log')
  const first = new SystemLogger(path, 1)
  await until(() => existsSync(path))
  const outlet = SyslogOutlet.open(path)!
  t.teardown(() => outlet.close())
  outlet.write('warn', 'one')
  await first.ended
  outlet.write('warn', 'lost')
  rmSync(path)
  const second = new SystemLogger(path, 2)
  await until(() => existsSync(path))
  outlet.write('warn', 'two')
  await second.ended
  t.regex(first.heard, /^<28>.*virtiofsd\[\d+\]: one\n$/)
  t.regex(second.heard, /: 1 log records were dropped\n.*: two\n$/)
})
