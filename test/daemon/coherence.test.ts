/** Daemons with --coherence=strict as processes: one table, several users and sandboxes; tables that are none. */
import { spawnSync } from 'node:child_process'
import { chmodSync, chownSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { QUIET_MS } from '../../src/coherence/contention.js'
import { DEFAULT_LEASE_MS, DEFAULT_MARGIN_MS, longLeaseMs } from '../../src/coherence/options.js'
import { native } from '../../src/native/addon.js'
import { entryOf, Fattr, setattrBody } from '../coherence/mock-guest.js'
import { countersOf } from '../helpers/control.js'
import { FuseClient, text } from '../helpers/fuse-client.js'
import { connect, Launched, type LaunchOptions, Place, PROGRAM, until } from '../helpers/launch.js'

const NOBODY = 65534
/** Runs a program in a time namespace (time_namespaces(7)). */
const OTHER_CLOCK: readonly string[] = ['unshare', '--time', '--monotonic', '100000']
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

/** Looks the file up until the guest may cache it. `atMs`: before it was asked. */
async function leased(client: FuseClient): Promise<{ atMs: number; attrMs: number }> {
  let found = { atMs: 0, attrMs: 0 }
  await until(() => {
    const atMs = performance.now()
    found = { atMs, attrMs: entryOf(client.do(1, 1, text('file')).body).attrMs }
    return found.attrMs > 0
  })
  return found
}

function strict(table: string): string[] {
  return ['--coherence=strict', `--version-table=${table}`]
}

for (const [what, args, options] of [
  ['in the default sandbox', [], {}],
  ['without a sandbox', ['--sandbox=none'], {}],
  ['as another user', ['--sandbox=none'], { uid: NOBODY }],
  ['that was handed the same memfd', [], { memfd: true }],
  ['whose container has a clock of its own', [], { program: [...OTHER_CLOCK, ...PROGRAM] }],
] as const)
  test(`a daemon ${what} keeps to the leases of another`, async t => {
    if (process.geteuid?.() !== 0 && what !== 'without a sandbox') {
      t.pass()
      return
    }
    if (
      'program' in options &&
      spawnSync(OTHER_CLOCK[0]!, [...OTHER_CLOCK.slice(1), 'true']).status !== 0
    ) {
      t.pass('no time namespaces here')
      return
    }
    const place = new Place(t)
    const memfd = 'memfd' in options ? native.memfd('table', 0) : undefined
    const table = memfd === undefined ? tableName(t) : '/dev/fd/5'
    // To both the same open file description.
    const passed = (): LaunchOptions =>
      memfd === undefined ? {} : { pass: { fd: native.dupFd(memfd), as: 5 } }
    const control = join(place.folder, 'control.sock')
    const ones = [...strict(table), `--control-socket=${control}`]
    const one = await guest(t, place, 'one', ones, passed())
    if (memfd === undefined) chmodSync(table, 0o666)
    if ('uid' in options) {
      chmodSync(place.folder, 0o777)
      chownSync(join(place.share, 'file'), NOBODY, NOBODY)
    }
    const others = [...strict(table), ...args]
    const other = await guest(t, place, 'other', others, { ...options, ...passed() })
    if (memfd !== undefined) native.closeFd(memfd)
    // What the host has changed just now is not cached.
    await sleep(QUIET_MS + 50)
    const theirs = other.lookup(1, 'file')
    for (let tries = 1; ; tries++) {
      const { atMs, attrMs } = await leased(one)
      // Which of the two: it depends on how long the daemons took to begin.
      t.true([DEFAULT_LEASE_MS, longLeaseMs(DEFAULT_LEASE_MS)].includes(attrMs), `${attrMs}`)
      other.do(4, theirs, setattrBody(Fattr.mode, { mode: 0o640 }))
      const endsMs = attrMs + DEFAULT_MARGIN_MS
      t.true(performance.now() - atMs > endsMs - 50)
      const again = entryOf(one.do(1, 1, text('file')).body).attrMs
      // On a machine so busy that it may have been quiet for long enough by now: once more.
      if (performance.now() - atMs > endsMs + QUIET_MS && tries < 6) continue
      t.is(again, 0)
      break
    }
    t.is(statSync(join(place.share, 'file')).mode & 0o777, 0o640)
    const { leasesGranted, changesByHost } = await countersOf(control)
    // Of the directory's names and the file.
    t.true(leasesGranted! >= 2)
    t.is(changesByHost, 0)
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
  await ended('/dev/fd/99', /cannot use the version table \/dev\/fd\/99: .*ENOENT/)
})
