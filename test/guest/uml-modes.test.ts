/** Every mode of the daemon: a short boot each, which runs one common list and what is the mode's own. */
import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { type GuestCase, guestSuite } from './helpers/suite.js'

const TREE = '/usr/include/linux/netfilter'

/** What works in every mode that writes. */
const COMMON: readonly GuestCase[] = [
  {
    title: 'files and directories are made, read, renamed and removed',
    script: `
      mkdir -p a/b/c; echo one > a/b/c/f; test "$(cat a/b/c/f)" = one; mv a/b x; test "$(cat x/c/f)" = one; test ! -e a/b
      for i in $(seq 100); do echo $i > x/f$i; done; test "$(cat x/f* | sort -n | tail -1)" = 100; test $(ls x | wc -l) = 101
      echo new > n; mv n x/f1; test "$(cat x/f1)" = new; mv x/f2 x/f3; test "$(cat x/f3)" = 2; test ! -e x/f2
      rm x/f1; fails cat x/f1; test $(ls x | wc -l) = 99; rm -rf a x; test -z "$(ls)"; fails rmdir missing; mkdir d; touch d/f; fails rmdir d`,
    host: (t, folder) => t.deepEqual(readdirSync(folder), ['d']),
  },
  {
    title: 'tar there and back, and diff',
    script: `tar -C ${TREE} -cf all.tar .; mkdir out; tar -C out -xf all.tar; diff -r ${TREE} out; cp -a out copy; diff -r out copy; rm -rf out`,
    host: (t, folder) => {
      execFileSync('diff', ['-r', TREE, join(folder, 'copy')])
      t.false(existsSync(join(folder, 'out')))
    },
  },
  {
    title: 'sqlite with one writer',
    script: `
      { echo 'create table t(i int); begin;'; for i in $(seq 200); do echo "insert into t values($i);"; done; echo 'commit; delete from t where i % 2;'; } | sqlite3 -bail db
      test "$(sqlite3 db 'select count(*), sum(i) from t; vacuum; pragma integrity_check' | xargs)" = '100|10100 ok'`,
    host: (t, folder) => {
      const answer = execFileSync('sqlite3', [join(folder, 'db'), 'select sum(i) from t'])
      t.is(answer.toString().trim(), '10100')
    },
  },
  {
    title: 'fio verifies what it wrote',
    script: `fio --name=v --size=2M --bsrange=1k-64k --rw=randwrite --verify=crc32c --verify_fatal=1 --ioengine=psync --fsync=32 --output=/tmp/fio || { cat /tmp/fio; exit 1; }`,
  },
  {
    title: 'append, truncate and holes',
    script: `
      echo one > f; echo two >> f; test "$(cat f)" = "$(printf 'one\\ntwo')"
      (for i in $(seq 50); do echo a; done >> log) & (for i in $(seq 50); do echo b; done >> log); wait; test "$(grep -c a log) $(grep -c b log)" = '50 50'
      truncate -s 2 f; test "$(cat f)" = on; truncate -s 8 f; test "$(od -An -tx1 f | tr -d ' \\n')" = 6f6e000000000000; : > f; test ! -s f
      truncate -s 1M big; printf end | dd of=big bs=1 seek=1048576 conv=notrunc 2>/dev/null; test $(stat -c %s big) = 1048579; test "$(tail -c 3 big)" = end
      python3 - <<'P'
import os
f=os.open('t',os.O_RDWR|os.O_CREAT); os.write(f,b'0123456789'*1000); os.ftruncate(f,5000); assert os.fstat(f).st_size==5000
assert os.pread(f,10,4995)==b'56789'; os.pwrite(f,b'x',6000); assert os.pread(f,2,5999)==b'\\0x' and os.fstat(f).st_size==6001
os.close(os.open('t',os.O_WRONLY|os.O_TRUNC)); assert os.fstat(f).st_size==0 and os.pread(f,1,0)==b''
P`,
    host: (t, folder) => {
      t.is(readFileSync(join(folder, 'log'), 'utf8').split('\n').length, 101)
      t.is(readFileSync(join(folder, 't')).length, 0)
      t.is(
        readFileSync(join(folder, 'big')).subarray(1048570).toString('latin1'),
        '\0\0\0\0\0\0end',
      )
    },
  },
  {
    title: 'hard links, O_TMPFILE, a file that is open and gone',
    script: `
      echo one > a; ln a b; test $(stat -c %h b) = 2; echo two >> b; test "$(tail -1 a)" = two; rm a; test "$(head -1 b)" = one
      python3 - <<'P'
import os,ctypes
fd=os.open('.',os.O_TMPFILE|os.O_RDWR,0o640); os.write(fd,b'temporary'); assert os.fstat(fd).st_nlink==0
assert ctypes.CDLL(None).linkat(-100,b'/proc/self/fd/%d'%fd,-100,b'named',0x400)==0
assert open('named').read()=='temporary' and os.stat('named').st_nlink==1
fd=os.open('gone',os.O_RDWR|os.O_CREAT); os.write(fd,b'before'); os.unlink('gone'); os.write(fd,b' after')
assert os.pread(fd,100,0)==b'before after'; os.ftruncate(fd,3); assert os.fstat(fd).st_size==3
P
      test ! -e gone`,
    host: (t, folder) => {
      t.is(readFileSync(join(folder, 'named'), 'utf8'), 'temporary')
      t.deepEqual(readdirSync(folder).sort(), ['b', 'named'])
    },
  },
  {
    title: 'a program is run from the mount, and mapped for itself',
    script: `
      cp /bin/busybox b 2>/dev/null || cp /bin/true b; if ./b true; then :; fi
      python3 - <<'P'
import mmap
open('f','wb').write(b'0123456789'*1000)
f=open('f','r+b'); m=mmap.mmap(f.fileno(),10000,flags=mmap.MAP_PRIVATE); assert m[9990:10000]==b'0123456789'
m[0:1]=b'x'; assert open('f','rb').read(1)==b'0'
P`,
  },
]

const SHARED_MAPPING: GuestCase = {
  title: 'a shared mapping reaches the host, and the host another mapping',
  script: `
    head -c 8192 /dev/zero > map
    python3 - <<'P'
import mmap,os
f=open('map','r+b'); m=mmap.mmap(f.fileno(),8192)
if os.fork()==0: m[5000:5005]=b'child'; os._exit(0)
os.wait(); assert m[5000:5005]==b'child'; m[0:6]=b'parent'; m.flush()
assert os.pread(f.fileno(),6,0)==b'parent'; os.pwrite(f.fileno(),b'pwrite',100); assert m[100:106]==b'pwrite'
P`,
  host: (t, folder) => {
    const bytes = readFileSync(join(folder, 'map'))
    t.is(bytes.subarray(0, 6).toString(), 'parent')
    t.is(bytes.subarray(100, 106).toString(), 'pwrite')
    t.is(bytes.subarray(5000, 5005).toString(), 'child')
  },
}

/** Linux learned to map files with FOPEN_DIRECT_IO in 6.6, where the daemon allows it. */
function directMapping(allowed: boolean): GuestCase {
  return {
    title: `a shared mapping is ${allowed ? 'made where the guest can' : 'refused'}`,
    script: `
      head -c 4096 /dev/zero > map
      python3 - <<'P'
import mmap,os,errno
allowed=${allowed ? 'True' : 'False'} and tuple(map(int,os.uname().release.split('.')[:2]))>=(6,6)
f=open('map','r+b')
try: m=mmap.mmap(f.fileno(),4096)
except OSError as e: assert e.errno==errno.ENODEV and not allowed, e
else: assert allowed; m[0:6]=b'mapped'; m.flush(); assert os.pread(f.fileno(),6,0)==b'mapped'
P`,
  }
}

const HOST_ACTIONS: GuestCase['actions'] = {
  change: folder => writeFileSync(join(folder, 'content'), 'NEW!'),
  grow: folder => appendFileSync(join(folder, 'grows'), 'more'),
  make: folder => writeFileSync(join(folder, 'made'), 'made'),
  remove: folder => unlinkSync(join(folder, 'removed')),
}

/** A file of each kind, seen by the guest, then changed by the host. */
const BEFORE_AND_CHANGE = `
  printf 'old.' > content; printf four > grows; touch removed; cat content grows removed; ls >/dev/null; fails stat made; sync
  host change; host grow; host make; host remove`

const ALL_SEEN = `
  test "$(cat content)" = NEW!; test $(stat -c %s grows) = 8; test "$(cat grows)" = fourmore; test "$(cat made)" = made; fails stat removed
  test "$(ls | xargs)" = 'content grows made'`

const SEEN_AT_ONCE: GuestCase = {
  title: 'what the host changes is seen at once',
  script: `${BEFORE_AND_CHANGE}; ${ALL_SEEN}`,
  actions: HOST_ACTIONS,
}

const SEEN_AFTER_A_SECOND: GuestCase = {
  title: 'what the host changes is seen within a second',
  script: `${BEFORE_AND_CHANGE}; sleep 1.1; ${ALL_SEEN}`,
  actions: HOST_ACTIONS,
}

/** fincore opens the file and says how many pages of it the guest has then. */
const PAGES_KEPT: GuestCase = {
  title: 'a file opened again is read again only when somebody else changed it',
  script: `
    printf 'old.' > content; sync; for i in $(seq 40); do cat content >/dev/null; done; test $(fincore -n -o PAGES content) = 1
    host change; test $(fincore -n -o PAGES content) = 0; test "$(cat content)" = NEW!`,
  actions: HOST_ACTIONS,
}

/** `$EXPECTED`: the content read before the cache is dropped. */
const KEPT: GuestCase = {
  title: 'what the guest has cached stays, until it drops it',
  script: `${BEFORE_AND_CHANGE}; sleep 1.1; test $(stat -c %s grows) = 4; stat removed >/dev/null
    test "$(cat content)" = "$EXPECTED"; echo 3 > /proc/sys/vm/drop_caches; ${ALL_SEEN}`,
  actions: HOST_ACTIONS,
}

/** The part of the common list that a mode may bear on. */
function some(...titles: readonly string[]): readonly GuestCase[] {
  return COMMON.filter(one => titles.some(title => one.title.startsWith(title)))
}

function mode(args: readonly string[], own: readonly GuestCase[], common = COMMON): void {
  const options = { title: `UML, ${args.join(' ')}`, daemonArgs: args, timeoutMs: 600_000 }
  guestSuite(options, [...common, ...own])
}

mode(['--cache=never'], [directMapping(false), SEEN_AT_ONCE])
mode(['--cache=never', '--allow-mmap'], [directMapping(true)], [])
mode(
  ['--cache=metadata'],
  // Data is never cached.
  [directMapping(false), { ...KEPT, script: `EXPECTED='NEW!'; ${KEPT.script}` }],
  some('files', 'tar', 'fio', 'append', 'hard'),
)
mode(['--cache=always'], [SHARED_MAPPING, { ...KEPT, script: `EXPECTED=old.; ${KEPT.script}` }])
mode(
  ['--writeback'],
  [
    SHARED_MAPPING,
    {
      title: 'what the guest kept dirty reaches the host, also without a close',
      script: `
        printf 0123456789 > f; exec 3>>f; printf abc >&3; sync; cp f seen; exec 3>&-
        python3 - <<'P'
import os
f=os.open('partial',os.O_WRONLY|os.O_CREAT); os.pwrite(f,b'z'*5000,0); os.fsync(f)
os.pwrite(f,b'A',4999); os.pwrite(f,b'B',0); os.close(f)   # a page only partly written, on a file that is not readable
P
        host read`,
      actions: {
        read: folder => writeFileSync(join(folder, 'host'), readFileSync(join(folder, 'f'))),
      },
      host: (t, folder) => {
        t.is(readFileSync(join(folder, 'host'), 'utf8'), '0123456789abc')
        t.is(readFileSync(join(folder, 'partial'), 'utf8'), `B${'z'.repeat(4998)}A`)
      },
    },
    {
      title: 'times set stay, whatever is written back later',
      script: `printf x > f; touch -d '2001-01-01 UTC' f; sync; sleep 0.2; test $(stat -c %Y f) = 978307200`,
      host: (t, folder) => {
        const time = execFileSync('stat', ['-c', '%Y', join(folder, 'f')], { encoding: 'utf8' })
        t.is(time.trim(), '978307200')
      },
    },
    {
      title: 'new names of the host are seen within a second',
      script: `fails stat made; host make; sleep 1.1; test "$(cat made)" = made; touch removed; host remove; sleep 1.1; fails stat removed`,
      actions: HOST_ACTIONS,
    },
  ],
)
mode(['--cache=auto'], [PAGES_KEPT], [])
mode(['--no-readdirplus'], [SEEN_AFTER_A_SECOND], some('files', 'tar', 'hard'))
mode(
  ['--allow-direct-io'],
  [
    SEEN_AFTER_A_SECOND,
    {
      title: 'fio verifies what it wrote with O_DIRECT',
      script: `
        fio --name=d --size=4M --bs=4k --rw=randwrite --direct=1 --verify=crc32c --verify_fatal=1 --ioengine=psync --output=/tmp/fio || { cat /tmp/fio; exit 1; }
        fio --name=l --size=8M --bs=256k --rw=rw --direct=1 --verify=sha256 --verify_fatal=1 --ioengine=libaio --iodepth=8 --output=/tmp/fio || { cat /tmp/fio; exit 1; }`,
    },
    {
      title: 'O_DIRECT: alignment is the host file system’s, and memory never written does no harm',
      script: `
        python3 - <<'P'
import mmap,os,errno
fd=os.open('f',os.O_RDWR|os.O_CREAT|os.O_DIRECT); m=mmap.mmap(-1,65536); m[:]=os.urandom(65536)
assert os.pwrite(fd,m,0)==65536 and os.fstat(fd).st_size==65536
n=mmap.mmap(-1,65536); assert os.preadv(fd,[n],0)==65536 and n[:]==m[:]
assert os.preadv(fd,[n],65536)==0 and os.preadv(fd,[n],61440)==4096
try: os.pwrite(fd,memoryview(m)[:100],0)
except OSError as e: assert e.errno==errno.EINVAL, e
# User-mode Linux does not share the page that all such memory is: then an error, and on it goes.
z=mmap.mmap(-1,8192)
try: assert os.pwrite(fd,z,0)==8192
except OSError as e: assert e.errno in (errno.EFAULT,errno.EIO), e
assert os.pwrite(fd,m,0)==65536 and open('f','rb').read()==m[:]
P`,
    },
  ],
  some('tar', 'append'),
)
mode(['--thread-pool-size=0'], [SHARED_MAPPING], some('tar', 'sqlite', 'fio', 'append'))

mode(
  ['--readonly', '--xattr'],
  [
    {
      title: 'what is there is read',
      prepare: folder => cpSync(TREE, join(folder, 'tree'), { recursive: true }),
      script: `diff -r ${TREE} tree; test $(find tree -type f | wc -l) = $(find ${TREE} -type f | wc -l); df . >/dev/null; getfattr -d tree`,
    },
    {
      title: 'every change is refused with EROFS',
      prepare: folder => {
        mkdirSync(join(folder, 'd'))
        writeFileSync(join(folder, 'f'), 'content')
        writeFileSync(join(folder, 'g'), '')
      },
      script: `
        python3 - <<'P'
import os,errno,ctypes,socket
libc=ctypes.CDLL(None,use_errno=True)
def exchange():
    if libc.renameat2(-100,b'f',-100,b'g',2)<0: raise OSError(ctypes.get_errno(),'')
ro=os.open('f',os.O_RDONLY)
tries={
 'create': lambda: os.open('new',os.O_CREAT|os.O_WRONLY), 'write': lambda: os.open('f',os.O_WRONLY), 'read and write': lambda: os.open('f',os.O_RDWR),
 'append': lambda: os.open('f',os.O_WRONLY|os.O_APPEND), 'open and truncate': lambda: os.open('f',os.O_WRONLY|os.O_TRUNC), 'tmpfile': lambda: os.open('.',os.O_TMPFILE|os.O_RDWR),
 'read only and truncate': lambda: os.open('f',os.O_RDONLY|os.O_TRUNC),
 'mkdir': lambda: os.mkdir('new'), 'rmdir': lambda: os.rmdir('d'), 'unlink': lambda: os.unlink('f'), 'rename': lambda: os.rename('f','new'), 'rename over': lambda: os.rename('f','g'),
 'exchange': exchange, 'link': lambda: os.link('f','new'), 'symlink': lambda: os.symlink('f','new'), 'mkfifo': lambda: os.mkfifo('new'),
 'mknod': lambda: os.mknod('new',0o20600,os.makedev(1,3)), 'bind': lambda: socket.socket(socket.AF_UNIX).bind('new'),
 'chmod': lambda: os.chmod('f',0o600), 'chown': lambda: os.chown('f',1,1), 'truncate': lambda: os.truncate('f',1), 'utime': lambda: os.utime('f',(1,1)),
 'fchmod': lambda: os.fchmod(ro,0o600), 'setxattr': lambda: os.setxattr('f','user.a',b'1'), 'removexattr': lambda: os.removexattr('f','user.a'),
}
wrong=[]
for name,f in tries.items():
    try: f()
    except OSError as e:
        if e.errno!=errno.EROFS: wrong.append('%s: %s'%(name,e))
    else: wrong.append(name+': worked')
assert not wrong, '; '.join(wrong)
P
        fails setfacl -m u:1:r f`,
      host: (t, folder) => {
        t.deepEqual(readdirSync(folder).sort(), ['d', 'f', 'g'])
        t.is(readFileSync(join(folder, 'f'), 'utf8'), 'content')
      },
    },
    {
      title: 'what the host changes is seen',
      prepare: folder => writeFileSync(join(folder, 'grows'), 'four'),
      script: `test "$(cat grows)" = four; host grow; host make; sleep 1.1; test "$(cat grows made)" = fourmoremade`,
      actions: HOST_ACTIONS,
    },
  ],
  [],
)
