/** Extended attributes and access control lists: overlayfs on the mount, rsync, the namespaces, the limits. */
import { execFileSync } from 'node:child_process'
import { existsSync, lstatSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { type GuestCase, guestSuite } from './helpers/suite.js'

/** `trusted.` and `user.` attributes of one file on the host. */
function attributes(path: string): Map<string, string> {
  const args = ['-h', '-d', '-m', '-', '--absolute-names', path]
  const lines = execFileSync('getfattr', args, { encoding: 'utf8' }).split('\n')
  return new Map(
    lines
      .filter(line => line !== '' && !line.startsWith('#'))
      .map(line => [line.split('=')[0]!, line.slice(line.indexOf('=') + 1)]),
  )
}

function isWhiteout(path: string): boolean {
  const info = lstatSync(path)
  return info.isCharacterDevice() && info.rdev === 0
}

function dump(program: string, args: readonly string[], folder: string): string {
  return execFileSync(program, [...args, '.'], { cwd: folder, encoding: 'utf8' })
}

function sameOnHost(t: ExecutionContext, folder: string, file: string, subfolder: string): void {
  const sorted = (text: string): string => text.trim().split('\n\n').sort().join('\n\n')
  const xattrs = dump('getfattr', ['-R', '-h', '-d', '-m', '-'], join(folder, subfolder))
  t.is(sorted(xattrs), sorted(readFileSync(join(folder, `${file}.xattr`), 'utf8')))
  const acls = dump('getfacl', ['-R', '-P', '-n'], join(folder, subfolder))
  t.is(sorted(acls), sorted(readFileSync(join(folder, `${file}.acl`), 'utf8')))
}

/** Fills a lower layer at $1. */
const LOWER = `
  fill() {
    mkdir -p $1/dir/sub $1/gone $1/replaced $1/moved
    echo lower > $1/kept; echo lower > $1/changed; echo lower > $1/removed; echo lower > $1/renamed
    echo lower > $1/dir/inside; echo lower > $1/dir/sub/deep; echo x > $1/gone/x; echo x > $1/replaced/x; echo x > $1/moved/x
    head -c 300000 /dev/urandom > $1/meta; echo m > $1/mapped; ln -s kept $1/soft
  }
  change() {
    cd $1
    echo upper > new; echo upper >> changed; rm removed; mv renamed renamed2; rm -r gone; rm -r replaced; mkdir replaced; echo new > replaced/y
    mv moved moved2; chmod 600 meta; touch dir/sub/added; ln new hard; rm soft; ln -s new soft; mkdir -p fresh/er; echo f > fresh/er/f
    python3 -c "
import mmap
f=open('mapped','r+b'); m=mmap.mmap(f.fileno(),2); m[0:1]=b'M'; m.flush()"
    cd - >/dev/null
  }
  check() {
    test "$(cat $1/kept)" = lower; test "$(cat $1/changed)" = "$(printf 'lower\\nupper')"; test ! -e $1/removed; test ! -e $1/renamed
    test "$(cat $1/renamed2)" = lower; test ! -e $1/gone; test "$(ls $1/replaced)" = y; test ! -e $1/moved; test "$(cat $1/moved2/x)" = x
    test "$(stat -c %a $1/meta)" = 600; cmp $1/meta $2/meta; test "$(cat $1/dir/inside $1/dir/sub/deep | sort -u)" = lower
    test "$(ls $1/dir/sub | xargs)" = 'added deep'; test "$(readlink $1/soft)" = new; test "$(cat $1/hard $1/fresh/er/f | xargs)" = 'upper f'
    test "$(cat $1/mapped)" = M
    test "$(ls $1 | xargs)" = 'changed dir fresh hard kept mapped meta moved2 new renamed2 replaced soft'
  }`

function checkUpper(t: ExecutionContext, folder: string): void {
  const upper = join(folder, 'upper')
  for (const name of ['removed', 'renamed', 'gone', 'moved'])
    t.true(isWhiteout(join(upper, name)), name)
  t.is(attributes(join(upper, 'replaced')).get('trusted.overlay.opaque'), '"y"')
  t.is(attributes(join(upper, 'moved2')).get('trusted.overlay.redirect'), '"moved"')
  t.true(attributes(join(upper, 'meta')).has('trusted.overlay.metacopy'))
  t.true(attributes(join(upper, 'changed')).has('trusted.overlay.origin'))
  t.is(lstatSync(join(upper, 'meta')).mode & 0o7777, 0o600)
  t.is(readFileSync(join(upper, 'changed'), 'utf8'), 'lower\nupper\n')
  t.false(existsSync(join(upper, 'kept')))
}

const cases: GuestCase[] = [
  {
    title: 'overlayfs with its upper layer on the mount, its lower layer on the guest',
    script: `${LOWER}
      fill /tmp/lower1; mkdir upper work /tmp/merged1
      mount -t overlay -o lowerdir=/tmp/lower1,upperdir=upper,workdir=work,metacopy=on,redirect_dir=on overlay /tmp/merged1
      # Names are asked for anew after a second; a file copied up through O_TMPFILE has none at first.
      change /tmp/merged1; sleep 1.2; check /tmp/merged1 /tmp/lower1; sync; umount /tmp/merged1; echo 2 > /proc/sys/vm/drop_caches
      mount -t overlay -o lowerdir=/tmp/lower1,upperdir=upper,workdir=work,metacopy=on,redirect_dir=on overlay /tmp/merged1
      check /tmp/merged1 /tmp/lower1
      # What was copied up without its data gets it with the first write.
      echo end >> /tmp/merged1/meta; test "$(tail -1 /tmp/merged1/meta | tail -c 4)" = end; test $(stat -c %s /tmp/merged1/meta) = 300004
      chmod 640 /tmp/merged1/kept; chmod 644 /tmp/merged1/kept; rm /tmp/merged1/meta; head -c 300000 /tmp/lower1/meta > /tmp/merged1/meta2
      cmp /tmp/merged1/meta2 /tmp/lower1/meta; umount /tmp/merged1
      dmesg | grep overlayfs: | grep -v 'null uuid\\|index=off' | (! grep .)`,
    host: (t, folder) => {
      const upper = join(folder, 'upper')
      t.true(isWhiteout(join(upper, 'meta')))
      t.true(attributes(join(upper, 'kept')).has('trusted.overlay.metacopy'))
    },
  },
  {
    title: 'overlayfs with every layer on the mount',
    script: `${LOWER}
      fill lower; (cd lower; find . -type f | sort | xargs md5sum) > /tmp/before; mkdir upper work /tmp/merged2
      mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work,metacopy=on,redirect_dir=on,index=off overlay /tmp/merged2
      change /tmp/merged2; check /tmp/merged2 lower
      (cd lower; find . -type f | sort | xargs md5sum) | diff /tmp/before -
      echo 2 > /proc/sys/vm/drop_caches; check /tmp/merged2 lower; umount /tmp/merged2`,
    host: checkUpper,
  },
  {
    title: 'overlayfs with only its lower layer on the mount, and two lower layers',
    script: `${LOWER}
      fill one; mkdir two; echo top > two/kept; mkdir /tmp/upper3 /tmp/tmpfs3; mount -t tmpfs t /tmp/tmpfs3; mkdir /tmp/tmpfs3/{u,w,m}
      mount -t overlay -o lowerdir=two:one,upperdir=/tmp/tmpfs3/u,workdir=/tmp/tmpfs3/w overlay /tmp/tmpfs3/m
      test "$(cat /tmp/tmpfs3/m/kept)" = top; echo more >> /tmp/tmpfs3/m/changed; rm /tmp/tmpfs3/m/kept; test ! -e /tmp/tmpfs3/m/kept
      test "$(cat two/kept one/changed | xargs)" = 'top lower'; diff -r one/dir /tmp/tmpfs3/m/dir; umount /tmp/tmpfs3/m`,
  },
  {
    title: 'a build in an overlay: tar out, compile, remove',
    script: `
      mkdir upper work /tmp/merged4
      mount -t overlay -o lowerdir=/usr/include/linux,upperdir=upper,workdir=work overlay /tmp/merged4
      tar -C /tmp/merged4 -cf /tmp/all.tar .; mkdir /tmp/merged4/again; tar -C /tmp/merged4/again -xf /tmp/all.tar; diff -r /usr/include/linux /tmp/merged4/again
      rm -rf /tmp/merged4/netfilter* /tmp/merged4/again; test "$(ls /tmp/merged4 | wc -l)" = "$(ls /usr/include/linux | grep -vc ^netfilter)"
      echo 'int main(void){return 0;}' > /tmp/merged4/x.c; cc -o /tmp/merged4/x /tmp/merged4/x.c; /tmp/merged4/x; umount /tmp/merged4`,
    host: (t, folder) => t.true(isWhiteout(join(folder, 'upper', 'netfilter.h'))),
  },
  {
    title: 'rsync -aHAX keeps attributes and access control lists',
    script: `
      mkdir -p src/a/b; echo f > src/f; echo g > src/a/g; ln src/f src/hard; ln -s f src/soft; mkfifo src/p; chmod 4751 src/a/g
      setfattr -n user.plain -v text src/f; setfattr -n user.binary -v 0x000102ff src/a/g; setfattr -n user.empty src/a/b
      setfattr -n trusted.t -v secret src/f; setfattr -n security.s -v label src/a; setfattr -h -n trusted.link -v l src/soft
      setfacl -m u:1234:rw,g:2345:r,o::- src/f; setfacl -m u:1234:rwx,d:u:1234:rwx,d:g:2345:rx,d:o::- src/a
      rsync -aHAX src/ dst/
      both() { (cd $1 && getfattr -R -h -d -m - . > ../$1.xattr; getfacl -R -P -n . > ../$1.acl); }
      both src; both dst; cat src.xattr
      sorted() { sed '/^$/!H;$!{/^$/!d};x;s/\\n/|/g' $1 | sort; }
      diff <(sorted src.xattr) <(sorted dst.xattr); diff <(sorted src.acl) <(sorted dst.acl)
      grep -q 'security.s="label"' dst.xattr; grep -q 'trusted.link="l"' dst.xattr; grep -q 'default:group:2345:r-x' dst.acl
      test "$(rsync -aHAXn --itemize-changes src/ dst/)" = ''`,
    host: (t, folder) => {
      sameOnHost(t, folder, 'src', 'src')
      sameOnHost(t, folder, 'dst', 'dst')
    },
  },
  {
    title: 'attributes are set, replaced, listed and removed in every namespace',
    script: `
      python3 - <<'P'
import os,errno
def refused(code, f, *a, **k):
    try: f(*a, **k)
    except OSError as e: assert e.errno==code, (e, code)
    else: assert False, 'worked: %r' % (a,)
open('f','w').close(); os.mkdir('d')
for name in ['user.a','trusted.a','security.a']:
    for path in ['f','d']:
        refused(errno.ENODATA, os.getxattr, path, name)
        refused(errno.ENODATA, os.setxattr, path, name, b'1', os.XATTR_REPLACE)
        os.setxattr(path, name, b'1', os.XATTR_CREATE)
        refused(errno.EEXIST, os.setxattr, path, name, b'2', os.XATTR_CREATE)
        os.setxattr(path, name, b'two\\0bytes', os.XATTR_REPLACE)
        assert os.getxattr(path, name) == b'two\\0bytes'
        assert name in os.listxattr(path)
        os.setxattr(path, name, b''); assert os.getxattr(path, name) == b''
        os.removexattr(path, name)
        refused(errno.ENODATA, os.removexattr, path, name)
        assert name not in os.listxattr(path)
fd=os.open('f',os.O_RDONLY); os.unlink('f')
os.setxattr(fd,'user.gone',b'still here'); assert os.getxattr(fd,'user.gone')==b'still here'; os.close(fd)
os.symlink('d','s')
refused(errno.EPERM, os.setxattr, 's', 'user.x', b'1', follow_symlinks=False)
refused(errno.EOPNOTSUPP, os.setxattr, 'd', 'nonsense.x', b'1')
os.setxattr('d','user.'+'n'*250,b'long'); assert os.getxattr('d','user.'+'n'*250)==b'long'
refused(errno.ERANGE, os.setxattr, 'd', 'user.'+'n'*251, b'long')
P
      touch mine; chown 1234 mine; setfattr -n trusted.t -v x mine; as 1234 1234 setfattr -n user.own -v x mine
      fails as 1234 1234 setfattr -n trusted.t -v y mine; fails as 1234 1234 getfattr -n trusted.t mine
      fails as 1235 1235 setfattr -n user.own -v y mine; test "$(getfattr --only-values -n user.own mine)" = x`,
  },
  {
    title: 'values that are too large, or buffers too small, are told apart',
    prepare: folder => tmpfs(join(folder, 'tmpfs')),
    script: `
      python3 - <<'P'
import os,errno,ctypes
libc=ctypes.CDLL(None,use_errno=True)
open('f','w').close()
try: os.setxattr('f','user.big',b'x'*65537); assert 0
except OSError as e: assert e.errno==errno.E2BIG, e
try: os.setxattr('f','user.big',b'x'*65536)
except OSError as e: assert e.errno in (errno.ENOSPC, errno.E2BIG), e   # what the host's file system holds
os.setxattr('f','user.v',b'0123456789')
buf=ctypes.create_string_buffer(16)
assert libc.getxattr(b'f',b'user.v',buf,5)==-1 and ctypes.get_errno()==errno.ERANGE
assert libc.getxattr(b'f',b'user.v',None,0)==10 and libc.getxattr(b'f',b'user.v',buf,10)==10 and buf.value==b'0123456789'
assert libc.listxattr(b'f',buf,3)==-1 and ctypes.get_errno()==errno.ERANGE
# tmpfs holds values of every size.
open('tmpfs/f','w').close()
value=os.urandom(65536); os.setxattr('tmpfs/f','trusted.big',value); assert os.getxattr('tmpfs/f','trusted.big')==value
for size in (4000,4096,8192,40000): os.setxattr('tmpfs/f','trusted.v',value[:size]); assert os.getxattr('tmpfs/f','trusted.v')==value[:size]
P`,
  },
  {
    title: '1,000 attributes of one file are listed',
    prepare: folder => tmpfs(join(folder, 'tmpfs')),
    script: `
      python3 - <<'P'
import os
open('tmpfs/f','w').close()
names={'trusted.name%04d'%i for i in range(1000)}
for n in names: os.setxattr('tmpfs/f',n,n.encode())
assert names <= set(os.listxattr('tmpfs/f'))
assert all(os.getxattr('tmpfs/f',n)==n.encode() for n in names)
for n in names: os.removexattr('tmpfs/f',n)
assert not names & set(os.listxattr('tmpfs/f'))
P`,
  },
  {
    title: 'new files inherit the default list, the umask then has no say',
    script: `
      mkdir d; setfacl -d -m u::rwx,u:1234:rwx,g::rx,o::r d; umask 077
      touch d/f; mkdir d/sub; mkfifo d/p; touch d/sub/g
      getfacl -cn d/f | xargs > /tmp/o; grep -qx 'user::rw- user:1234:rwx #effective:rw- group::r-x #effective:r-- mask::rw- other::r--' /tmp/o || { cat /tmp/o; exit 1; }
      getfacl -cn d/sub | grep -qx default:user:1234:rwx; getfacl -cn d/sub/g | grep -q user:1234:rwx; getfacl -cn d/p | grep -q user:1234:rwx
      test $(stat -c %a d/sub) = 774
      python3 -c "import os; os.close(os.open('d/narrow',os.O_CREAT|os.O_WRONLY,0o640)); os.mkdir('d/mk',0o700)"
      test $(stat -c %a d/narrow) = 640; test $(stat -c %a d/mk) = 700
      # Without a default list it has.
      mkdir e; touch e/f; mkdir e/sub; test $(stat -c %a e/f) = 600; test $(stat -c %a e/sub) = 700
      umask 027; touch e/g; test $(stat -c %a e/g) = 640; umask 0; touch e/h; test $(stat -c %a e/h) = 666
      # A removed default list does not either.
      setfacl -k d; umask 022; touch d/late; test $(stat -c %a d/late) = 644`,
    host: (t, folder) => {
      t.is(lstatSync(join(folder, 'd/f')).mode & 0o7777, 0o664)
      const list = execFileSync('getfacl', ['-cn', 'd/sub'], { cwd: folder, encoding: 'utf8' })
      t.true(list.includes('default:user:1234:rwx') && list.includes('\nuser:1234:rwx'), list)
      t.is(lstatSync(join(folder, 'e/f')).mode & 0o7777, 0o600)
    },
  },
  {
    title: 'a list lets another user in and keeps one out',
    script: `
      chmod 711 .; echo secret > f; chmod 600 f; fails as 1234 2345 cat f
      setfacl -m u:1234:r f; test "$(as 1234 2345 cat f)" = secret; fails as 1235 2345 cat f; fails as 1234 2345 sh -c 'echo x >> f'
      setfacl -m u:1234:rw f; as 1234 2345 sh -c 'echo x >> f'; setfacl -m m::r f; fails as 1234 2345 sh -c 'echo x >> f'
      setfacl -x u:1234 f; fails as 1234 2345 cat f
      setfacl -m g:2345:r f; as 1235 2345 cat f >/dev/null; fails as 1235 2346 cat f
      # A member of a group by its other groups.
      setpriv --reuid 1235 --regid 9 --groups 7,2345 cat f >/dev/null
      echo open > g; chmod 644 g; setfacl -m u:1234:- g; fails as 1234 2345 cat g; as 1235 2345 cat g >/dev/null
      mkdir d; chmod 700 d; setfacl -m u:1234:rwx d; as 1234 2345 touch d/mine; test $(stat -c %u d/mine) = 1234; fails as 1235 2345 ls d
      fails as 1234 2345 setfacl -m u:1234:rw g; chown 1235 g; as 1235 2345 setfacl -b g; as 1234 2345 cat g >/dev/null`,
  },
  {
    title: 'chmod and the list agree; setting a list clears setgid for a stranger to the group',
    script: `
      touch f; setfacl -m u:1234:rwx,g::rw f; chmod 640 f; getfacl -cn f | grep -q 'mask::r--'; test $(stat -c %a f) = 640
      setfacl -b f; getfacl -cn f | (! grep mask); getfattr -d -m - f | (! grep acl)
      setfacl -m u::rwx,g::r,o::x f; test $(stat -c %a f) = 741
      touch s; chown 1234:2345 s; chmod 2775 s; as 1234 1 setfacl -m u:7:r s; echo $(stat -c %a s)
      # The size too: Linux 6.1 asks anew only for what it knows changed.
      sleep 1.1; test $(stat -c %a s) = 775`,
    host: (t, folder) => t.is(lstatSync(join(folder, 's')).mode & 0o7777, 0o775),
  },
  {
    title: 'a list that the host changes has its effect in the guest',
    script: `
      chmod 711 .; echo secret > f; chmod 600 f; fails as 1234 2345 cat f; host allow; sleep 1.1; test "$(as 1234 2345 cat f)" = secret
      getfacl -cn f | grep -q user:1234:r--; host deny; sleep 1.1; fails as 1234 2345 cat f`,
    actions: {
      allow: folder => execFileSync('setfacl', ['-m', 'u:1234:r', join(folder, 'f')]),
      deny: folder => execFileSync('setfacl', ['-x', 'u:1234', join(folder, 'f')]),
    },
  },
  {
    title: 'file capabilities are kept, and go with a write',
    script: `
      cp /bin/true t; setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 t; cp -a t copy
      getfattr -n security.capability copy | grep -q AQAAAgAEAAAAAAAAAAAAAAAAAAA
      echo x >> t; fails getfattr -n security.capability t
      chmod 777 .; chown 1234 copy; fails getfattr -n security.capability copy`,
    host: (t, folder) => {
      t.false(attributes(join(folder, 't')).has('security.capability'))
      t.false(attributes(join(folder, 'copy')).has('security.capability'))
    },
  },
]

const mounts: string[] = []

function tmpfs(folder: string): void {
  mkdirSync(folder)
  execFileSync('mount', ['-t', 'tmpfs', 'virtiofsd-test', folder])
  mounts.push(folder)
}

guestSuite(
  {
    title: 'UML, attributes',
    // trusted.* attributes take CAP_SYS_ADMIN.
    daemonArgs: ['--xattr', '--posix-acl', '--modcaps=+sys_admin'],
    timeoutMs: 600_000,
    prepare: () => () => {
      for (const folder of mounts) execFileSync('umount', ['-l', folder])
    },
  },
  cases,
)
