/** Who the caller is: owners, groups, umask, setgid directories, set-id bits, sticky directories, permissions. */
import { lstatSync, mkdirSync, statSync, writeFileSync, chownSync, chmodSync } from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { type GuestCase, guestSuite } from './helpers/suite.js'

function owner(
  t: ExecutionContext,
  path: string,
  uid: number,
  gid: number,
  permissions?: number,
): void {
  const info = lstatSync(path)
  t.deepEqual([info.uid, info.gid], [uid, gid], path)
  if (permissions !== undefined) t.is(info.mode & 0o7777, permissions, path)
}

/** `names`: what is done to a file, after which its set-id bits are gone. */
function setIdCase(names: string): GuestCase {
  return {
    title: 'set-id bits go with a write, a truncation, a change of owner; not with a read',
    script: `
      chmod 777 .; make() { cp /bin/true $1; chown 1:1 $1; chmod 6777 $1; }; mode() { stat -c %a,%s,%u $1 | cut -d, -f1; }
      for f in ${names} open read root; do make $f; done
      as 1234 2345 dd if=/dev/zero of=write bs=1 count=1 conv=notrunc 2>/dev/null; as 1234 2345 sh -c 'echo x >> append'; as 1234 2345 truncate -s 3 cut
      as 1234 2345 sh -c ': > open'; as 1234 2345 fallocate -l 200K fallocate; chown 2 chown; chgrp 2 chgrp; as 1234 2345 cat read >/dev/null
      
      as 1234 2345 python3 -c "
import os
if os.path.exists('copy'): assert os.copy_file_range(os.open('read',os.O_RDONLY),os.open('copy',os.O_WRONLY),100)==100"
      sync; for f in ${names}; do mode $f > /tmp/mode; grep -qx 777 /tmp/mode || { echo $f: $(cat /tmp/mode); exit 1; }; done
      test $(mode read) = 6777
      # Of a file without group execution setgid is no privilege, and stays.
      make locks; chmod 2767 locks; chmod g-x locks; as 1234 2345 sh -c 'echo x >> locks'; test $(mode locks) = 2767
      as 1 1 sh -c 'echo x >> root'; test $(mode root) = 777
      # chmod by the owner in a foreign group clears setgid.
      touch own; chown 1234:3000 own; as 1234 2345 chmod 2775 own; test $(mode own) = 775`,
    host: (t, folder) => {
      for (const name of [...names.split(' '), 'root'])
        t.is(statSync(join(folder, name)).mode & 0o7777, 0o777, name)
      t.is(statSync(join(folder, 'read')).mode & 0o7777, 0o6777)
      t.is(statSync(join(folder, 'locks')).mode & 0o7777, 0o2767)
    },
  }
}

const cases: GuestCase[] = [
  {
    title: 'everything made belongs to its maker, with the mode less the umask',
    script: `
      chmod 777 .
      as 1234 2345 sh -c '
        umask 027; echo x > f; mkdir d; ln -s f s; mkfifo p; ln f hard; umask 0; touch f0; mkdir d0; umask 077; touch f77; mkdir d77; umask 777; touch f777'
      as 1234 2345 python3 -c "
import os,socket
os.umask(0o002); socket.socket(socket.AF_UNIX).bind('sock'); os.mknod('node',0o100666)
fd=os.open('.',os.O_TMPFILE|os.O_RDWR,0o666); os.link('/proc/self/fd/%d'%fd,'tmp',src_dir_fd=0,follow_symlinks=True)"
      test "$(stat -c '%u %g %a' f d f0 d0 f77 d77 f777 sock node tmp | xargs)" = "$(for m in 640 750 666 777 600 700 0 775 664 664; do echo 1234 2345 $m; done | xargs)"
      fails as 1234 2345 mknod c c 1 3; fails as 1234 2345 chown 1235 f; fails as 1234 2345 chgrp 7 f; fails as 1235 2345 chmod 777 f`,
    host: (t, folder) => {
      for (const name of ['f', 'd', 's', 'p', 'hard', 'f77', 'sock', 'node', 'tmp'])
        owner(t, join(folder, name), 1234, 2345)
      owner(t, join(folder, 'f'), 1234, 2345, 0o640)
      owner(t, join(folder, 'd0'), 1234, 2345, 0o777)
      owner(t, join(folder, 'tmp'), 1234, 2345, 0o664)
    },
  },
  {
    title: 'root’s own files are root’s, also with another group',
    script: `umask 022; touch f; mkdir d; setpriv --regid 77 --clear-groups touch g; setpriv --reuid 88 --clear-groups true; test "$(stat -c '%u:%g' f d g | xargs)" = '0:0 0:0 0:77'`,
    host: (t, folder) => owner(t, join(folder, 'g'), 0, 77),
  },
  {
    title: 'supplementary groups give access and let files be given to them',
    script: `
      chmod 755 .; mkdir team; chgrp 3000 team; chmod 770 team; echo secret > team/s; chgrp 3000 team/s; chmod 640 team/s
      member() { setpriv --reuid 1234 --regid 2345 --groups 7,3000,8 "$@"; }
      test "$(member cat team/s)" = secret; member touch team/mine; member mkdir team/sub; test "$(stat -c '%u %g' team/mine)" = '1234 2345'
      member chgrp 3000 team/mine; test "$(stat -c %g team/mine)" = 3000; fails member chgrp 3001 team/mine
      fails as 1234 2345 cat team/s; fails as 1234 2345 touch team/other; as 1235 3000 touch team/by-gid
      # More of them than fit one small buffer.
      setpriv --reuid 1234 --regid 2345 --groups $(seq -s, 2800 3050) touch team/many; test -e team/many`,
    host: (t, folder) => {
      owner(t, join(folder, 'team/mine'), 1234, 3000)
      owner(t, join(folder, 'team/many'), 1234, 2345)
    },
  },
  {
    title: 'in a setgid directory everything gets the directory’s group, directories the bit',
    script: `
      mkdir d; chgrp 3000 d; chmod 2777 d; umask 022
      as 1234 2345 sh -c 'touch d/f; mkdir d/sub; mkdir d/sub/sub; ln -s x d/s; mkfifo d/p'
      test "$(stat -c '%u %g' d/f d/sub d/sub/sub d/s d/p | sort -u)" = '1234 3000'; test "$(stat -c %a d/sub d/sub/sub | sort -u)" = 2755
      # A setgid bit of one's own is kept only by a member of the group.
      as 1234 2345 python3 -c "
import os; os.umask(0)
os.close(os.open('d/stranger',os.O_CREAT|os.O_WRONLY,0o2775))"
      setpriv --reuid 1234 --regid 2345 --groups 3000 python3 -c "
import os; os.umask(0)
os.close(os.open('d/member',os.O_CREAT|os.O_WRONLY,0o2775))"
      test $(stat -c %a d/stranger) = 775; stat -c %a d/member; touch d/root; test $(stat -c %g d/root) = 3000`,
    host: (t, folder) => {
      owner(t, join(folder, 'd/f'), 1234, 3000, 0o644)
      owner(t, join(folder, 'd/sub'), 1234, 3000, 0o2755)
      owner(t, join(folder, 'd/stranger'), 1234, 3000, 0o775)
    },
  },
  setIdCase('write append cut open fallocate copy chown chgrp'),
  {
    title: 'a shared mapping of a set-id file clears the bits when it is written',
    script: `
      chmod 777 .; cp /bin/true m; chown 1:1 m; chmod 6777 m
      as 1234 2345 python3 -c "
import mmap,os
f=open('m','r+b'); m=mmap.mmap(f.fileno(),0); os.pwrite(f.fileno(),b'x',0); m[1:2]=b'y'; m.flush()"; sync; stat -c %a,%s m | grep -q ^777`,
  },
  {
    title: 'in a sticky directory only owners remove and rename',
    script: `
      mkdir t; chmod 1777 t; as 1234 2345 touch t/a t/b; as 1235 2345 touch t/c
      fails as 1235 2345 rm -f t/a; fails as 1235 2345 mv t/a t/x; fails as 1235 2345 mv -f t/c t/b; test -e t/a -a -e t/b -a -e t/c
      as 1235 2345 mv t/c t/c2; as 1234 2345 rm t/a; rm t/b; test "$(ls t)" = c2
      mkdir o; chown 1235 o; chmod 1777 o; as 1234 2345 touch o/f; as 1235 2345 rm -f o/f; test -z "$(ls o)"`,
  },
  {
    title: 'permissions of root’s files bind another user',
    prepare: folder => {
      writeFileSync(join(folder, 'host'), 'secret', { mode: 0o600 })
      mkdirSync(join(folder, 'closed'), { mode: 0o700 })
      writeFileSync(join(folder, 'closed', 'f'), 'inside')
      writeFileSync(join(folder, 'theirs'), 'theirs')
      chownSync(join(folder, 'theirs'), 1234, 2345)
      chmodSync(join(folder, 'theirs'), 0o400)
    },
    script: `
      chmod 755 .; echo secret > f; chmod 600 f; echo x > r; chmod 644 r; mkdir x; chmod 711 x; echo y > x/y; mkdir l; chmod 744 l; touch l/z
      u() { as 1234 2345 "$@"; }
      fails u cat f; fails u cat host; fails u sh -c 'echo x >> r'; fails u sh -c ': > r'; fails u truncate -s 0 r; fails u touch new; fails u mkdir new; fails u ln -s x new
      fails u rm -f r; fails u mv r r2; fails u chmod 777 r; fails u chown 1234 r; fails u touch -d 2001-01-01 r; u cat r >/dev/null
      fails u ls closed; fails u cat closed/f; fails u stat closed/f; fails u ls x; u cat x/y >/dev/null; u ls l >/dev/null; fails u cat l/z
      u cat theirs >/dev/null; fails u sh -c 'echo x >> theirs'; u chmod 600 theirs; u sh -c 'echo x >> theirs'
      fails u ln r l/z2; fails as 1235 2345 cat theirs; fails u test -w r; u test -r r; fails u test -x r; fails u setfattr -n user.x -v 1 r
      cat f host closed/f >/dev/null`,
  },
  {
    title: 'capabilities of the guest’s root count in the guest',
    script: `
      chmod 755 .; touch f; chown 5:5 f; chmod 600 f; echo x > f; cat f >/dev/null
      # Root without CAP_DAC_OVERRIDE is bound, and cannot give files away without CAP_CHOWN.
      fails setpriv --bounding-set -dac_override,-dac_read_search --inh-caps -dac_override,-dac_read_search cat f
      fails setpriv --bounding-set -chown --inh-caps -chown chown 6 f
      # The set-id program of another user runs as that user.
      cp /usr/bin/id id; chown 1234:2345 id; chmod 6755 id; as 99 98 ./id -u | grep -qx 1234; as 99 98 ./id -g | grep -qx 2345`,
  },
  {
    title: 'many users at once do not get into each other’s way',
    script: `
      chmod 777 .; for u in $(seq 1001 1006); do
        as $u $((u + 1000)) sh -c "for i in \\$(seq 15); do echo x > u$u.\\$i; done; mkdir d$u" & pids="$pids $!"
      done; for p in $pids; do wait $p; done
      for u in $(seq 1001 1006); do test $(find . -user $u -group $((u + 1000)) | wc -l) = 16; done; touch after; test $(stat -c %u:%g after) = 0:0`,
    host: (t, folder) => {
      for (let uid = 1001; uid <= 1006; uid++) owner(t, join(folder, `u${uid}.15`), uid, uid + 1000)
    },
  },
]

guestSuite({ title: 'UML, callers', daemonArgs: ['--xattr'], timeoutMs: 600_000 }, cases)
guestSuite(
  {
    title: 'UML, callers, --cache=never --no-killpriv-v2',
    daemonArgs: ['--cache=never', '--no-killpriv-v2'],
    timeoutMs: 600_000,
  },
  [
    ...cases.filter(one => /setgid directory|everything made/.test(one.title)),
    // With O_TRUNC Linux leaves them to the daemon, and the daemon to Linux.
    setIdCase('write append cut fallocate copy chown chgrp'),
  ],
)
