/** Real programs in a user-mode Linux guest, on the mount, with the default options. */
import { execFileSync } from 'node:child_process'
import { existsSync, lstatSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { type GuestCase, guestSuite } from './helpers/suite.js'

const cases: GuestCase[] = [
  {
    title: 'git init, commit, clone, gc and fsck',
    script: `
      export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
      git init -q one; cp -r /usr/include/linux one/; cd one; git add -A; git commit -qm first
      for i in 1 2 3; do echo $i >> linux/fs.h; git commit -qam "change $i"; done; cd ..
      git clone -q one two; cd two; git gc -q; git fsck --full; git log --oneline | wc -l | grep -qx 4
      cd ..; diff -r one/linux two/linux`,
    host: (t, folder) => {
      const log = execFileSync(
        'git',
        ['-c', 'safe.directory=*', '-C', join(folder, 'two'), 'log', '--oneline'],
        { encoding: 'utf8' },
      )
      t.is(log.trim().split('\n').length, 4)
    },
  },
  {
    title: 'tar of /usr/include there and back',
    script: `tar -C /usr/include -cf all.tar .; mkdir out; tar -C out -xf all.tar; diff -r --no-dereference /usr/include out; rm -rf out`,
  },
  {
    title: 'cp -a and rsync -aH keep everything',
    script: `
      mkdir src; cp -r /usr/include/linux/* src/; ln src/fs.h src/hard; ln -s fs.h src/soft; ln -s /nowhere src/dangling
      mkfifo src/fifo; chmod 751 src/fs.h; touch -d '2001-02-03 04:05:06.789 UTC' src/fs.h; mkdir -p src/deep/er; chmod 2775 src/deep
      cp -a src cp; rsync -aH src/ rsync/
      list() { (cd $1 && find . -printf '%p %y %m %U:%G %n %s %T@ %l\\n' | sed 's/^\\(.* d [^ ]* [^ ]* \\)[0-9]* [0-9]* /\\1/' | sort); }
      diff <(list src) <(list cp); diff <(list src) <(list rsync)`,
  },
  {
    title: 'make builds a small program',
    script: `
      for i in $(seq 1 20); do echo "int f$i(int x){return x+$i;}" > f$i.c; done
      { for i in $(seq 1 20); do echo "int f$i(int);"; done; echo '#include <stdio.h>'; echo 'int main(void){int x=0;'
        for i in $(seq 1 20); do echo "x=f$i(x);"; done; echo 'printf("%d\\n",x);return 0;}'; } > main.c
      printf 'OBJS=%s\\nprog: $(OBJS)\\n\\tcc -o $@ $^\\n%%.o: %%.c\\n\\tcc -c -o $@ $<\\n' "main.o $(for i in $(seq 1 20); do printf 'f%d.o ' $i; done)" > Makefile
      make -s -j2; ./prog | grep -qx 210; make -s -q`,
  },
  ...(['delete', 'wal'] as const).map(
    (mode): GuestCase => ({
      title: `sqlite with four writers, journal mode ${mode}`,
      script: `
        sqlite3 db 'pragma journal_mode=${mode}; create table t(writer int, i int);'
        for w in 1 2 3 4; do
          (for i in $(seq 1 25); do echo "pragma busy_timeout=60000; insert into t values($w,$i);"; done | sqlite3 -bail db >/dev/null) & pids="$pids $!"
        done
        for p in $pids; do wait $p; done
        test "$(sqlite3 db 'select count(*), count(distinct writer) from t')" = '100|4'
        sqlite3 db 'pragma integrity_check' | grep -qx ok`,
      host: (t, folder) => {
        t.is(
          execFileSync('sqlite3', [join(folder, 'db'), 'select count(*) from t'], {
            encoding: 'utf8',
          }).trim(),
          '100',
        )
      },
    }),
  ),
  {
    title: 'fio verifies what it wrote at random',
    script: `
      fio --name=v --size=16M --bs=4k --rw=randwrite --verify=crc32c --verify_fatal=1 --ioengine=psync --output=/tmp/fio
      fio --name=m --size=8M --bs=64k --rw=randrw --verify=sha256 --verify_fatal=1 --ioengine=sync --fsync=16 --output=/tmp/fio2`,
  },
  {
    title: 'a shared mapping is shared between two processes and reaches the host',
    script: `
      head -c 8192 /dev/zero > map
      cat > m.py <<'P'
import mmap,os,sys
f=open('map','r+b'); m=mmap.mmap(f.fileno(),8192)
r,w=os.pipe(); pid=os.fork()
if pid==0:
    m[5000:5005]=b'child'; os.write(w,b'x'); os._exit(0)
os.read(r,1); os.waitpid(pid,0)
assert m[5000:5005]==b'child'
m[0:6]=b'parent'; m.flush()
P
      python3 m.py`,
    host: (t, folder) => {
      const bytes = readFileSync(join(folder, 'map'))
      t.is(bytes.subarray(0, 6).toString(), 'parent')
      t.is(bytes.subarray(5000, 5005).toString(), 'child')
    },
  },
  {
    title: '50,000 files in one directory are made, listed and removed',
    script: `
      mkdir d; cd d; perl -e 'for(1..50000){open(my $f,">","file$_") or die "$!"}'
      test $(ls -U | wc -l) = 50000; test $(find . -type f | wc -l) = 50000
      cd ..; rm -rf d; test ! -e d`,
  },
  {
    title: 'names of 255 bytes work, longer ones are refused',
    script: `
      n=$(printf 'n%.0s' $(seq 255)); echo x > $n; test "$(cat $n)" = x; mv $n m; mv m $n; rm $n
      if echo x > \${n}n 2>/dev/null; then exit 1; fi
      printf 'bytes' > $'\\xff\\xfe\\x01 "q'; ls | grep -c . | grep -qx 1`,
  },
  {
    title: 'truncation, holes and fallocate',
    script: `
      echo 0123456789 > f; truncate -s 4 f; test "$(cat f)" = 0123; truncate -s 1M f; test $(stat -c %s f) = 1048576
      fallocate -l 1M g; test $(stat -c %s g) = 1048576
      head -c 1048576 /dev/urandom > h; fallocate -p -o 4096 -l 65536 h
      test "$(dd if=h bs=4096 skip=1 count=16 2>/dev/null | tr -d '\\0' | wc -c)" = 0
      python3 -c "
import os
fd=os.open('h',os.O_RDONLY)
assert os.lseek(fd,4096,os.SEEK_DATA)==69632
assert os.lseek(fd,0,os.SEEK_HOLE)==4096"`,
  },
  {
    title: 'renames, with and without replacement and exchange',
    script: `
      echo a > a; echo b > b; mv a b; test "$(cat b)" = a; echo c > c
      python3 - <<'P'
import ctypes,os
libc=ctypes.CDLL(None,use_errno=True)
def r(a,b,f): return libc.renameat2(-100,a,-100,b,f)
assert r(b'b',b'c',1)==-1 and ctypes.get_errno()==17
assert r(b'b',b'c',2)==0
assert open('b').read()=='c\\n' and open('c').read()=='a\\n'
P
      mkdir d e; touch e/x; if mv -T d e 2>/dev/null; then exit 1; fi; mv d e/; test -d e/d`,
  },
  {
    title: 'links, symbolic links and an unlinked file that is open',
    script: `
      echo one > a; ln a b; test $(stat -c %h a) = 2; echo two >> b; test "$(tail -1 a)" = two; rm a; test $(stat -c %h b) = 1
      ln -s b s; test "$(readlink s)" = b; ln -s $(printf 'x%.0s' $(seq 4000)) long; test $(readlink long | wc -c) = 4001
      exec 3<>b; rm b; echo three >&3; test "$(stat -L -c %h /proc/self/fd/3)" = 0; test "$(cat /proc/self/fd/3)" != ''`,
  },
  {
    title: 'an ordinary user makes files that are its own',
    script: `
      chmod 777 .; setpriv --reuid 1234 --regid 2345 --clear-groups sh -c 'umask 027; touch f; mkdir d; ln -s f s; mkfifo p'
      stat -c '%u %g %a' f | grep -qx '1234 2345 640'; stat -c '%u %g %a' d | grep -qx '1234 2345 750'
      setpriv --reuid 1234 --regid 2345 --clear-groups sh -c 'chmod 600 f; ! chown 0 f 2>/dev/null'
      mkdir private; chmod 700 private; ! setpriv --reuid 1234 --regid 2345 --clear-groups touch private/x 2>/dev/null`,
    host: (t, folder) => {
      for (const name of ['f', 'd', 's', 'p']) {
        const info = lstatSync(join(folder, name))
        t.deepEqual([info.uid, info.gid], [1234, 2345], name)
      }
    },
  },
  {
    // The mode is asked together with the size: Linux 6.1 asks anew only for what a write changes.
    title: 'set-id bits go when another user writes',
    script: `
      cp /bin/true t; chmod 6777 t; chmod 777 .
      setpriv --reuid 1234 --regid 2345 --clear-groups sh -c 'echo x >> t'; test $(stat -c %a,%s t | cut -d, -f1) = 777
      chmod 6777 t; setpriv --reuid 1234 --regid 2345 --clear-groups truncate -s 1 t; test $(stat -c %a t) = 777`,
    host: (t, folder) => t.is(statSync(join(folder, 't')).mode & 0o7777, 0o777),
  },
  {
    title: 'special files',
    script: `mkfifo p; mknod c c 1 3; mknod b b 7 0; echo x > c; test "$(stat -c %t:%T c)" = 1:3; test "$(stat -c %F p)" = fifo
      python3 -c "import socket; s=socket.socket(socket.AF_UNIX); s.bind('s')"; test "$(stat -c %F s)" = socket
      (cat p > got &) ; echo through > p; for i in $(seq 2400); do ! grep -qx through got || break; sleep 0.05; done; grep -qx through got`,
    host: (t, folder) => t.true(lstatSync(join(folder, 'c')).isCharacterDevice()),
  },
  {
    title: 'times, also before 1970',
    script: `
      touch -d '1960-01-02 03:04:05.123456789 UTC' old; test "$(stat -c %y old | cut -c1-29)" = "$(TZ=UTC0 date -d '1960-01-02 03:04:05.123456789 UTC' '+%F %T.%N')"
      touch -a -d '2030-01-01 UTC' new; test $(stat -c %X new) = 1893456000; test $(stat -c %Y new) -lt 1893456000`,
  },
  {
    title: 'locks exclude inside the guest',
    script: `
      exec 3>lock; flock 3; ! flock -n lock true; flock -u 3; flock -n lock true
      python3 - <<'P'
import fcntl,os
f=open('l','w'); fcntl.lockf(f,fcntl.LOCK_EX,10,0)
pid=os.fork()
if pid==0:
    g=open('l','r+')
    try: fcntl.lockf(g,fcntl.LOCK_EX|fcntl.LOCK_NB,10,5); os._exit(1)
    except OSError: os._exit(0)
assert os.waitpid(pid,0)[1]==0
P`,
  },
  {
    title: 'O_TMPFILE and linkat, where the guest kernel has them over FUSE',
    script: `
      python3 - <<'P'
import os
try: fd=os.open('.',os.O_TMPFILE|os.O_RDWR,0o600)
except OSError as e:
    # Linux before 6.2 has no TMPFILE in FUSE.
    assert e.errno==95 and tuple(map(int,os.uname().release.split('.')[:2]))<(6,2), e
else:
    import ctypes
    os.write(fd,b'temporary')
    assert ctypes.CDLL(None).linkat(-100,b'/proc/self/fd/%d'%fd,-100,b'named',0x400)==0
    assert open('named').read()=='temporary'
P`,
  },
  {
    title: 'reading a directory in pieces, with removal between',
    script: `
      mkdir d; for i in $(seq 1 2000); do : > d/f$i; done
      python3 - <<'P'
import os
seen=set()
with os.scandir('d') as it:
    for n,e in enumerate(it):
        seen.add(e.name)
        if n%3==0: os.unlink('d/'+e.name)
assert len(seen)==2000, len(seen)
P
      test $(ls d | wc -l) = 1333; rm -r d`,
  },
  {
    title: 'statfs and access answer sensibly',
    script: `df --output=size . | tail -1 | grep -q '[1-9]'; touch f; chmod 000 f; test -r f; chmod 644 f
      chmod 755 .; ! setpriv --reuid 1234 --regid 2345 --clear-groups test -w f`,
  },
  {
    title: 'the file flags of the host can be read and set through ioctl, or are refused cleanly',
    script: `touch f; lsattr f >/dev/null 2>&1 || true; chattr +A f 2>/tmp/e || grep -Eq 'not supported|Inappropriate|not permitted' /tmp/e; echo alive > f`,
  },
  {
    title: 'a large file survives a copy through direct I/O sized requests',
    script: `head -c 33554432 /dev/urandom > a; dd if=a of=b bs=1M 2>/dev/null; cmp a b; sha256sum < a > sum; sync`,
    host: (t, folder) => {
      const sum = execFileSync('sha256sum', [join(folder, 'b')], { encoding: 'utf8' }).slice(0, 64)
      t.is(readFileSync(join(folder, 'sum'), 'utf8').slice(0, 64), sum)
    },
  },
  {
    title: 'what the host makes appears in the guest, and the other way round',
    script: `mkdir -p x/y/z; echo deep > x/y/z/f`,
    host: (t, folder) => {
      t.true(existsSync(join(folder, 'x/y/z/f')))
      t.deepEqual(readdirSync(folder), ['x'])
    },
  },
]

guestSuite({ title: 'UML, defaults', timeoutMs: 1_500_000 }, cases)
