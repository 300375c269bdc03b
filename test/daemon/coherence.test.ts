/** Daemons with --coherence=strict as processes: one table, several users and sandboxes; tables that are none. */
import { chmodSync, chownSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { ControlReply, Status } from '../../protocol/control/messages.js'
import { QUIET_MS } from '../../src/coherence/contention.js'
import { ControlClient } from '../../src/control/client.js'
import { entryOf, Fattr, setattrBody } from '../coherence/mock-guest.js'
import { FuseClient, text } from '../helpers/fuse-client.js'
import { connect, Launched, type LaunchOptions, Place } from '../helpers/launch.js'

const NOBODY = 65534
const WAIT_MS = 500
const sleep = (ms: number): Promise<void> => new Promise(done => setTimeout(done, ms))

function tableName(t: ExecutionContext): string {
  const folder = mkdtempSync('/dev/shm/virtiofsd-table-')
  t.teardown(() => rmSync(folder, { recursive: true }))
  // As /dev/shm itself.
  chmodSync(folder, 0o1777)
  return join(folder, 'table')
}

async function guest(
  t: ExecutionContext,
  place: Place,
  name: string,
  args: readonly string[],
  options: LaunchOptions = {},
): Promise<FuseClient> {
  const socket = join(place.folder, name)
  const argv = ['--socket-path', socket, '--shared-dir', place.share, ...args]
  const daemon = new Launched(t, argv, options)
  await daemon.ready()
  const front = await connect(socket)
  t.teardown(() => front.close())
  front.start()
  const client = new FuseClient(front, front.rings[1]!)
  client.init()
  return client
}

async function countersOf(path: string): Promise<Status['counters']> {
  let answer: ControlReply | undefined
  const client = new ControlClient(path, 'status', reply => {
    answer = reply
    client.close()
  })
  await client.ended
  return answer?.type === 'status' ? answer.counters : {}
}

function strict(table: string): string[] {
  return ['--coherence=strict', `--version-table=${table}`]
}

for (const [what, args, options] of [
  ['in the default sandbox', [], {}],
  ['without a sandbox', ['--sandbox=none'], {}],
  ['as another user', ['--sandbox=none'], { uid: NOBODY }],
] as const)
  test(`a daemon ${what} keeps to the leases of another`, async t => {
    if (process.geteuid?.() !== 0 && what !== 'without a sandbox') return t.pass()
    const place = new Place(t)
    const table = tableName(t)
    const control = join(place.folder, 'control.sock')
    const one = await guest(t, place, 'one', [...strict(table), `--control-socket=${control}`])
    chmodSync(table, 0o666)
    if ('uid' in options) {
      chmodSync(place.folder, 0o777)
      chownSync(join(place.share, 'file'), NOBODY, NOBODY)
    }
    const other = await guest(t, place, 'other', [...strict(table), ...args], options)
    // What the host has changed just now is not cached.
    await sleep(QUIET_MS + 50)
    const { nodeid, attrMs } = entryOf(one.do(1, 1, text('file')).body)
    // The second where starting the daemons took so long that the file is settled.
    t.true(attrMs === 250 || attrMs === 1000, `${attrMs} ms`)
    const theirs = other.lookup(1, 'file')
    const began = performance.now()
    other.do(4, theirs, setattrBody(Fattr.mode, { mode: 0o640 }))
    t.true(performance.now() - began > WAIT_MS - 50)
    t.is(entryOf(one.do(1, 1, text('file')).body).attrMs, 0)
    t.is(statSync(join(place.share, 'file')).mode & 0o777, 0o640)
    const { leasesGranted, changesByHost } = await countersOf(control)
    // Of the directory's names and the file.
    t.true(leasesGranted! >= 2)
    t.is(changesByHost, 0)
    return t.true(nodeid > 1)
  })

test('a table that is none ends the daemon with the reason', async t => {
  const place = new Place(t)
  const table = tableName(t)
  writeFileSync(table, 'not a table')
  const ended = async (path: string, reason: RegExp): Promise<void> => {
    const argv = ['--socket-path', place.socket, '--shared-dir', place.share, ...strict(path)]
    const daemon = new Launched(t, argv)
    t.is(await daemon.end(), 1)
    t.regex(daemon.stderr, reason)
  }
  await ended(table, /cannot use the version table .*: it is no version table, or was damaged/)
  await ended('/dev/shm', /cannot use the version table .*EISDIR/)
  await ended('/proc/self/status', /cannot use the version table .*(tmpfs|EACCES)/)
  await ended('/nowhere/table', /cannot use the version table .*ENOENT/)
})
