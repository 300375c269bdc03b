/** Two guests, each with a daemon of its own, and the host lock files of one tree. */
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { findUml } from '../../scripts/lab/uml.js'
import { registerMissing } from './helpers/missing.js'
import { GuestShell } from './helpers/shell.js'

const TITLE = 'locks between two guests and the host'
const LOCKS = ['--flock', '--posix-lock']
const NEVER = [...LOCKS, '--cache=never']
const STEP_MS = 600_000

const share = mkdtempSync(join(tmpdir(), 'virtiofsd-locks-'))
const tables = mkdtempSync('/dev/shm/virtiofsd-locks-')
const STRICT = [...LOCKS, '--coherence=strict', `--version-table=${join(tables, 'table')}`]
const inShare = (name: string): string => join(share, name)
let one: GuestShell
let two: GuestShell

async function runs(t: ExecutionContext, guest: GuestShell, script: string): Promise<string> {
  const { status, output } = await guest.run(script)
  t.is(status, 0, `${script}\n${output}`)
  return output
}

/** Waits for a file that a guest makes. */
async function appears(name: string): Promise<void> {
  const limit = Date.now() + 120_000
  while (!existsSync(inShare(name))) {
    if (Date.now() > limit) throw new Error(`${name} does not appear`)
    await new Promise(go => setTimeout(go, 10))
  }
}

/** `flock -n` on the host: whether it got the lock. */
function hostGets(name: string): boolean {
  return spawnSync('flock', ['-n', inShare(name), 'true']).status === 0
}

/** In a guest, in the background: has the lock until the file `until` is there. */
const hold = (lock: string, until: string): string =>
  `(flock 9; touch held-${until}; until [ -e ${until} ]; do sleep 0.05; done) 9>${lock} >/dev/null &`

/** fcntl(2) locks in Python. */
const POSIX = `
import fcntl,os,struct,sys,time
def lock(fd,kind,wait=False,start=0,length=0):
    fcntl.fcntl(fd, fcntl.F_SETLKW if wait else fcntl.F_SETLK, struct.pack('hhqqi4x',kind,0,start,length,0))
def who(fd,kind):
    return struct.unpack('hhqqi4x',fcntl.fcntl(fd,fcntl.F_GETLK,struct.pack('hhqqi4x',kind,0,0,0,0)))
`
let programs = 0
/** A command that runs the text, in the share. */
function python(text: string): string {
  const name = `program${programs++}.py`
  writeFileSync(inShare(name), POSIX + text)
  return `python3 ${name}`
}

/** Both guests at once. */
async function both(
  t: ExecutionContext,
  script: (name: string) => string,
  [first, second] = [one, two],
): Promise<void> {
  await Promise.all([runs(t, first, script('one')), runs(t, second, script('two'))])
}

/** Two guests with these options. */
const pair = (args: readonly string[]): Promise<[GuestShell, GuestShell]> =>
  Promise.all([GuestShell.start(share, args), GuestShell.start(share, args)])

/** Writers in both count up. */
async function count(t: ExecutionContext, guests: [GuestShell, GuestShell]): Promise<void> {
  for (const kind of ['posix', 'flock']) {
    writeFileSync(inShare('count'), '0')
    const text = `
for i in range(60):
    fd=os.open('count',os.O_RDWR)
    ${kind === 'posix' ? 'lock(fd,fcntl.F_WRLCK,wait=True)' : 'fcntl.flock(fd,fcntl.LOCK_EX)'}
    n=int(os.read(fd,20)); os.pwrite(fd,b'%d'%(n+1),0); os.close(fd)`
    const up = python(text)
    await both(
      t,
      () =>
        `pids=; for w in 1 2; do ${up} & pids="$pids $!"; done; for p in $pids; do wait $p; done`,
      guests,
    )
    t.is(readFileSync(inShare('count'), 'utf8'), '240', kind)
  }
}

/** Writers in both fill a database. */
async function sqlite(t: ExecutionContext, guests: [GuestShell, GuestShell]): Promise<void> {
  const db = inShare('db')
  rmSync(db, { force: true })
  execFileSync('sqlite3', [
    db,
    'pragma journal_mode=delete; create table c(n int); insert into c values(0); create table t(who text, i int, pad text);',
  ])
  await both(
    t,
    name => `
pids=
for w in 1 2; do
  (for i in $(seq 15); do echo "pragma busy_timeout=60000; begin immediate; insert into t values('${name}$w',$i,hex(randomblob(1500))); update c set n=n+1; commit;"; done | sqlite3 -bail db >/dev/null) & pids="$pids $!"
done
for p in $pids; do wait $p; done
sqlite3 db 'pragma busy_timeout=60000; pragma integrity_check' | grep -qx ok`,
    guests,
  )
  const seen = execFileSync(
    'sqlite3',
    [db, 'select count(*), count(distinct who), (select n from c) from t; pragma integrity_check'],
    { encoding: 'utf8' },
  )
  t.is(seen, '60|4|60\nok\n')
  t.is(await runs(t, guests[1], `sqlite3 db 'select n from c'`), '60\n')
}

if (findUml() === undefined) {
  registerMissing(TITLE, 'no user-mode Linux kernel in the cache: run "scripts/setup guest"')
} else {
  test.before(async () => {
    chmodSync(share, 0o755)
    ;[one, two] = await pair(NEVER)
  })

  const step = (title: string, run: (t: ExecutionContext) => Promise<void>): void =>
    test.serial(`${TITLE}: ${title}`, async t => {
      t.timeout(STEP_MS)
      await run(t)
    })

  step('flock(1) excludes, shares and waits', async t => {
    writeFileSync(inShare('l'), '')
    await runs(t, one, hold('l', 'go1'))
    await appears('held-go1')
    t.false(hostGets('l'))
    await runs(t, two, 'fails flock -n l true; fails flock -ns l true; flock -n other true')
    await runs(t, two, '(flock l touch got) >/dev/null 2>&1 & sleep 0.3; test ! -e got')
    writeFileSync(inShare('go1'), '')
    await appears('got')
    t.is(spawnSync('flock', ['-w', '120', inShare('l'), 'true']).status, 0)
    await both(t, () => 'for i in $(seq 20); do flock -s l flock -ns l true; done')
    await runs(
      t,
      one,
      'flock -ns l true; exec 8>l; flock -s 8; flock -x 8; flock -u 8; flock -n l true',
    )
  })

  step('a lock of the host keeps guests out, until it ends', async t => {
    writeFileSync(inShare('h'), '')
    const script = 'touch "$0.held"; until [ -e "$0.go" ]; do sleep 0.05; done'
    const holder = spawnSync('sh', [
      '-c',
      `flock "$1" sh -c '${script}' "$1" >/dev/null 2>&1 & until [ -e "$1.held" ]; do sleep 0.02; done`,
      'sh',
      inShare('h'),
    ])
    t.is(holder.status, 0)
    await both(t, () => 'fails flock -n h true')
    await both(
      t,
      name => `(flock h touch h-${name}) >/dev/null 2>&1 & sleep 0.2; test ! -e h-${name}`,
    )
    writeFileSync(inShare('h.go'), '')
    await appears('h-one')
    await appears('h-two')
  })

  step('fcntl locks of ranges, and who is in the way', async t => {
    writeFileSync(inShare('r'), 'x'.repeat(100))
    await runs(
      t,
      one,
      `${python(`
fd=os.open('r',os.O_RDWR); lock(fd,fcntl.F_WRLCK,start=10,length=20); lock(fd,fcntl.F_UNLCK,start=15,length=5); lock(fd,fcntl.F_RDLCK,start=50,length=10)
pid=os.fork()
if pid==0:
    # A lock is not inherited; here the owner is of this guest.
    kind,_,start,length,owner=who(fd,fcntl.F_WRLCK)
    assert (kind,start,length,owner)==(fcntl.F_WRLCK,10,5,os.getppid()), (kind,start,length,owner)
    os._exit(0)
assert os.waitpid(pid,0)[1]==0
open('r-held','w')
while not os.path.exists('r-go'): time.sleep(0.05)`)} & for i in $(seq 2400); do [ ! -e r-held ] || exit 0; sleep 0.05; done; exit 1`,
    )
    const others = `
fd=os.open('r',os.O_RDWR)
def busy(kind,start,length):
    try: lock(fd,kind,start=start,length=length)
    except (BlockingIOError,PermissionError): return True
    lock(fd,fcntl.F_UNLCK,start=start,length=length)
    return False
assert busy(fcntl.F_RDLCK,10,1) and busy(fcntl.F_WRLCK,0,11) and not busy(fcntl.F_WRLCK,15,5) and busy(fcntl.F_RDLCK,20,100)
assert busy(fcntl.F_WRLCK,59,1) and not busy(fcntl.F_RDLCK,50,10) and not busy(fcntl.F_WRLCK,60,0)
assert who(fd,fcntl.F_RDLCK)[:4]==(fcntl.F_WRLCK,0,10,5), who(fd,fcntl.F_RDLCK)`
    await runs(t, two, python(`${others}\nassert who(fd,fcntl.F_RDLCK)[4]==0`))
    execFileSync('python3', ['-c', `${POSIX}${others}`], { cwd: share })
    writeFileSync(inShare('r-go'), '')
    await runs(t, two, python(`fd=os.open('r',os.O_RDWR); lock(fd,fcntl.F_WRLCK,wait=True)`))
  })

  step('a counter that both count up under a lock loses nothing', t => count(t, [one, two]))

  step('sqlite with writers in both guests: no row lost, no page wrong', t => sqlite(t, [one, two]))

  step('the same with guests that cache, under strict coherence', async t => {
    const guests = await pair(STRICT)
    await count(t, guests)
    await sqlite(t, guests)
    for (const guest of guests) t.is(await guest.leave(), 0, guest.daemon.log)
  })

  step(
    'a process that is killed while it waits goes when the lock comes, and leaves it',
    async t => {
      writeFileSync(inShare('k'), '')
      await runs(t, one, hold('k', 'go-k'))
      await appears('held-go-k')
      await runs(
        t,
        two,
        'flock k touch k-never >/dev/null 2>&1 & echo $! > /tmp/waiter; sleep 0.3; kill -9 $(cat /tmp/waiter); sleep 0.2',
      )
      writeFileSync(inShare('go-k'), '')
      await runs(
        t,
        two,
        'for i in $(seq 2400); do [ -e /proc/$(cat /tmp/waiter) ] || break; sleep 0.05; done; [ ! -e /proc/$(cat /tmp/waiter) ]; flock k true; test ! -e k-never',
      )
      t.true(hostGets('k'))
    },
  )

  step('a guest that is killed has no locks any more', async t => {
    writeFileSync(inShare('g'), '')
    await runs(
      t,
      one,
      `${hold('g', 'never')}\n${python(`
fd=os.open('g',os.O_RDWR); lock(fd,fcntl.F_WRLCK); open('g-posix','w'); time.sleep(1000)`)} >/dev/null 2>&1 &`,
    )
    await appears('held-never')
    await appears('g-posix')
    await runs(t, two, '(flock g touch g-got) >/dev/null 2>&1 & sleep 0.2; test ! -e g-got')
    // It waits for something, too.
    writeFileSync(inShare('w'), '')
    await runs(t, two, hold('w', 'go-w'))
    await appears('held-go-w')
    await runs(t, one, '(flock w touch w-never) >/dev/null 2>&1 & sleep 0.2')
    t.is(await one.kill(), 0, one.daemon.log)
    await appears('g-got')
    await runs(t, two, python(`fd=os.open('g',os.O_RDWR); lock(fd,fcntl.F_WRLCK)`))
    writeFileSync(inShare('go-w'), '')
    await runs(t, two, 'flock w true; test ! -e w-never')
    // Its last answers may find nobody, which it says.
    t.false(/ERROR/.test(one.daemon.log), one.daemon.log)
  })

  step('a daemon that is killed has none either', async t => {
    writeFileSync(inShare('d'), '')
    await runs(t, two, hold('d', 'never2'))
    await appears('held-never2')
    t.false(hostGets('d'))
    t.false(/ERROR|WARN/.test(two.daemon.log), two.daemon.log)
    two.daemon.process.kill('SIGKILL')
    t.is(spawnSync('flock', ['-w', '120', inShare('d'), 'true']).status, 0)
  })

  test.after.always(async () => {
    await Promise.all([one?.kill(), two?.kill()])
    for (const folder of [share, tables]) rmSync(folder, { recursive: true, force: true })
  })
}
