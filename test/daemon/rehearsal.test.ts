/** The daemon's rehearsal before the front end comes: nobody waits for it, and nothing is left of it. */
import { existsSync, readdirSync, readlinkSync, statSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { connect, guestReads, Launched, Place } from '../helpers/launch.js'

const root = process.geteuid?.() === 0
const DONE = /rehearsed (\d+) requests/
/** How many more there are is a matter of CPU time. */
const SOME = 90

/** Names and all times of the share, and of the file in it. */
function traces(share: string): string {
  const times = (path: string): string => {
    const { ino, atimeNs, mtimeNs, ctimeNs } = statSync(path, { bigint: true })
    return `${ino} ${atimeNs} ${mtimeNs} ${ctimeNs}`
  }
  const all = [share, join(share, 'file')].map(times)
  return `${all} ${readdirSync(share)} ${times(share)}`
}

function descriptors(pid: number): readonly string[] {
  return readdirSync(`/proc/${pid}/fd`).map(fd => readlinkSync(`/proc/${pid}/fd/${fd}`))
}

async function leavesNothing(t: ExecutionContext, ...options: string[]): Promise<void> {
  const place = new Place(t)
  readdirSync(place.share)
  const before = traces(place.share)
  const argv = [`--socket-path=${place.socket}`, `--shared-dir=${place.share}`, '--log-level=debug']
  const daemon = new Launched(t, [...argv, ...options])
  await daemon.said('rehearsed')
  t.notRegex(daemon.stderr, /the rehearsal ends:/)
  t.true(Number(DONE.exec(daemon.stderr)![1]) > SOME, daemon.stderr)
  t.is(traces(place.share), before)
  const open = descriptors(daemon.pid)
  t.deepEqual(
    open.filter(link => link.startsWith('/memfd:')),
    [],
  )
  for (const once of ['anon_inode:[fanotify]', 'mountinfo'])
    t.true(open.filter(link => link.endsWith(once)).length <= 1, `${once} in ${open}`)
  for (const fd of readdirSync(`/proc/${daemon.pid}/fd`))
    t.false(existsSync(`/proc/${daemon.pid}/fd/${fd}/file-0.txt`), 'the stage is open')
}

const asRoot = root ? test : test.skip

asRoot('it leaves nothing behind, in a namespace', leavesNothing)
asRoot(
  'it leaves nothing behind, with --sandbox=none and Landlock',
  leavesNothing,
  '--sandbox=none',
  '--inode-file-handles=never',
)
asRoot(
  'it leaves nothing behind, whatever the share is served as',
  leavesNothing,
  '--readonly',
  '--xattr',
  '--cache=never',
  '--posix-acl=always',
  '--security-label=always',
)

/** A daemon whose front end was there before it. */
async function connectedEarly(t: ExecutionContext) {
  const place = new Place(t)
  const fd = place.listen()
  const front = await connect(place.socket)
  const daemon = new Launched(
    t,
    ['--fd=3', `--shared-dir=${place.share}`, '--sandbox=none', '--log-level=debug'],
    { pass: { fd, as: 3 } },
  )
  await daemon.said('the front end is connected')
  return { place, front, daemon }
}

test('a front end that is there already is served', async t => {
  const { place, front, daemon } = await connectedEarly(t)
  t.is(guestReads(front), place.content)
  t.is(await daemon.end(), 0, daemon.stderr)
  t.regex(daemon.stderr, DONE)
})

asRoot('it goes on while a guest boots, whatever the front end says meanwhile', async t => {
  const { place, front, daemon } = await connectedEarly(t)
  front.handshake()
  while (!DONE.test(daemon.stderr)) {
    // Steps come after 5 ms of silence.
    await new Promise(done => setTimeout(done, 20 * Math.random()))
    t.is(front.setMemTable(), 0)
  }
  t.notRegex(daemon.stderr, /the rehearsal ends:/)
  t.true(Number(DONE.exec(daemon.stderr)![1]) > SOME, daemon.stderr)
  t.regex(daemon.stderr, /is connected.*rehearsed/s)
  t.is(guestReads(front), place.content)
  t.is(await daemon.end(), 0, daemon.stderr)
})
