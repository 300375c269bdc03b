/**
 * PostgreSQL on a shared tree: a server in one guest dies in the middle of its work, and the other guest goes on with
 * its data. It takes no file locks, and its check for a second server is by process number, which says nothing of
 * another guest: so there is one server at a time.
 */
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { findUml } from '../../scripts/lab/uml.js'
import { registerMissing } from './helpers/missing.js'
import { GuestShell } from './helpers/shell.js'

const TITLE = 'a PostgreSQL server that moves between guests'
const VERSIONS = '/usr/lib/postgresql'
const LIMIT_MS = 900_000

/** The server runs as nobody, as it refuses root; what it reports is in $LOG. */
const FUNCTIONS = `
BIN=$(echo ${VERSIONS}/*/bin) DATA=$PWD/data LOG=/tmp/postgres.log
as() { setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/tmp PGHOST=/tmp PGUSER=nobody "$@"; }
start() {
  as $BIN/pg_ctl -D $DATA -l $LOG -s -w -t 240 -o "-k /tmp -c listen_addresses= -c dynamic_shared_memory_type=mmap -c shared_buffers=16MB" start ||
    { cat $LOG; return 1; }
}
stop() { as $BIN/pg_ctl -D $DATA -s -m fast -w -t 240 stop; }
sql() { as $BIN/psql -XAtq -v ON_ERROR_STOP=1 -d postgres -c "$1"; }
work() { as $BIN/pgbench -c 4 -t "$1" -d postgres >/tmp/bench 2>&1 || { cat /tmp/bench; return 1; }; }
# What the transactions of pgbench leave the same, whatever was done of them.
sums() { sql 'select (select sum(abalance) from pgbench_accounts) = (select sum(tbalance) from pgbench_tellers) and (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)'; }
`

if (findUml() === undefined) {
  registerMissing(TITLE, 'no user-mode Linux kernel in the cache: run "scripts/setup guest"')
} else if (!existsSync(VERSIONS) || readdirSync(VERSIONS).length === 0) {
  registerMissing(TITLE, 'no PostgreSQL: run "scripts/setup test"')
} else {
  test(TITLE, async t => {
    t.timeout(LIMIT_MS)
    const share = mkdtempSync(join(tmpdir(), 'virtiofsd-postgres-'))
    const table = mkdtempSync('/dev/shm/virtiofsd-postgres-')
    t.teardown(() => {
      for (const folder of [share, table]) rmSync(folder, { recursive: true, force: true })
    })
    chmodSync(share, 0o777)
    const args = ['--coherence=strict', `--version-table=${join(table, 'table')}`]
    const start = async (): Promise<GuestShell> => {
      const guest = await GuestShell.start(share, args)
      t.teardown(() => guest.kill())
      return guest
    }
    const [one, two] = await Promise.all([start(), start()])

    await runs(
      t,
      one,
      'as $BIN/initdb -D $DATA -k --no-sync --locale=C >/tmp/made 2>&1 || { cat /tmp/made; false; }; start',
    )
    await runs(t, one, 'as $BIN/pgbench -i -q -s 1 -d postgres >/tmp/made 2>&1; work 25')
    // The other guest has looked at all of it, and caches what it may.
    await runs(t, two, 'find $DATA -type f | xargs cat >/dev/null; ls -lR $DATA >/dev/null')
    await runs(
      t,
      one,
      "work 25; sql 'create table t(n int); insert into t select generate_series(1, 1000)'",
    )
    await runs(
      t,
      one,
      'server=$(head -1 $DATA/postmaster.pid); kill -STOP $server; pkill -KILL -P $server; kill -KILL $server; while [ -e /proc/$server ]; do sleep 0.05; done',
    )
    t.regex(
      await runs(
        t,
        two,
        "start; grep 'redo done' $LOG; sql 'select count(*), sum(n) from t'; sums; work 10; sums; stop",
      ),
      /redo done.*\n1000\|500500\nt\nt\n$/,
    )
    await runs(t, two, 'as $BIN/pg_checksums -D $DATA --check')
    t.is(
      await runs(t, one, "rm $LOG; start; sums; sql 'select count(*) from pgbench_history'; stop"),
      't\n40\n',
    )
    for (const guest of [one, two]) t.is(await guest.leave(), 0, guest.daemon.log)
  })
}

async function runs(t: ExecutionContext, guest: GuestShell, script: string): Promise<string> {
  const { status, output } = await guest.run(FUNCTIONS + script)
  t.is(status, 0, `${script}\n${output}`)
  return output
}
