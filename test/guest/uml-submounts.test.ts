/** File systems of the host mounted inside the share: told apart in the guest, or not. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type GuestCase, guestSuite } from './helpers/suite.js'

/** share/: plain, tmp (tmpfs) with deep/inner (tmpfs), bind (a bind mount of elsewhere), file (a bind mount of a file). */
function mountAll(share: string): () => void {
  const mounts: string[] = []
  const mount = (folder: string, ...args: string[]): void => {
    execFileSync('mount', [...args, folder])
    mounts.push(folder)
  }
  const at = (...names: string[]): string => join(share, 'm', ...names)
  // What is mounted later comes into the daemon's sandbox only from a mount that passes it on.
  mount(share, '--bind', share)
  execFileSync('mount', ['--make-shared', share])
  mkdirSync(at('plain', 'elsewhere'), { recursive: true })
  mkdirSync(at('tmp'))
  mkdirSync(at('bind'))
  writeFileSync(at('plain', 'f'), 'plain')
  writeFileSync(at('plain', 'elsewhere', 'f'), 'bound')
  writeFileSync(at('file'), '')
  mount(at('tmp'), '-t', 'tmpfs', 'virtiofsd-test')
  mkdirSync(at('tmp', 'deep', 'inner'), { recursive: true })
  writeFileSync(at('tmp', 'f'), 'on tmpfs')
  mount(at('tmp', 'deep', 'inner'), '-t', 'tmpfs', 'virtiofsd-test')
  writeFileSync(at('tmp', 'deep', 'inner', 'f'), 'inner')
  mount(at('bind'), '--bind', at('plain', 'elsewhere'))
  mount(at('file'), '--bind', at('plain', 'f'))
  return () => {
    for (const folder of mounts.reverse()) execFileSync('umount', ['-l', folder])
  }
}

const READ_AND_WRITE: GuestCase = {
  title: 'files below mount points are read, written, made and removed',
  script: `
    m=../m; test "$(cat $m/tmp/f)" = 'on tmpfs'; test "$(cat $m/tmp/deep/inner/f)" = inner; test "$(cat $m/bind/f)" = bound; test "$(cat $m/file)" = plain
    echo new > $m/tmp/new; mkdir $m/tmp/d; mv $m/tmp/new $m/tmp/d/; test "$(cat $m/tmp/d/new)" = new; cp -r /usr/include/linux/netfilter $m/tmp/deep/inner/
    diff -r /usr/include/linux/netfilter $m/tmp/deep/inner/netfilter; rm -rf $m/tmp/deep/inner/netfilter
    python3 - <<'P'
import errno,os
for f in (os.rename,os.link):
    try: f('../m/tmp/f','../m/plain/x'); assert 0
    except OSError as e: assert e.errno==errno.EXDEV, e
try: os.rmdir('../m/tmp/deep/inner'); assert 0
except OSError as e: assert e.errno in (errno.EBUSY,errno.ENOTEMPTY), e
P
    # The same file by both its ways.
    echo more >> $m/bind/f; sleep 1.1; test "$(cat $m/plain/elsewhere/f)" = "$(cat $m/bind/f)"; echo kept > $m/tmp/kept`,
  host: (t, folder) => {
    t.is(readFileSync(join(folder, '../m/tmp/kept'), 'utf8'), 'kept\n')
    t.is(readFileSync(join(folder, '../m/plain/elsewhere/f'), 'utf8'), 'boundmore\n')
  },
}

const ANNOUNCED: readonly GuestCase[] = [
  {
    title: 'each has a device number of its own, and a line in /proc/mounts once it was entered',
    script: `
      m=../m; test $(stat -c %d $m) = $(stat -c %d $m/plain)
      ls $m/tmp $m/tmp/deep/inner $m/bind >/dev/null
      stat -c %d $m/plain $m/tmp/. $m/tmp/deep/inner/. $m/bind/. > /tmp/devices; test $(sort -u /tmp/devices | wc -l) = 4 || { cat /tmp/devices; cat /proc/mounts; exit 1; }
      test "$(stat -c %d $m/tmp/.)" = "$(stat -c %d $m/tmp/f)"
      for f in tmp tmp/deep/inner bind; do grep -q " /mnt/share/m/$f virtiofs " /proc/mounts; done; fails grep -q share/m/plain /proc/mounts
      mountpoint -q $m/tmp; fails mountpoint -q $m/plain`,
  },
  {
    title: 'find -xdev stays out, find goes in; du -x and df know the difference',
    script: `
      m=../m; find $m -xdev -name f | sort | xargs > /tmp/x; grep -qx "$m/plain/elsewhere/f $m/plain/f" /tmp/x || { cat /tmp/x; exit 1; }
      find $m -name f | sort | xargs > /tmp/x; grep -qx "$m/bind/f $m/plain/elsewhere/f $m/plain/f $m/tmp/deep/inner/f $m/tmp/f" /tmp/x || { cat /tmp/x; exit 1; }
      tar --one-file-system -cf /tmp/t.tar $m; tar tf /tmp/t.tar | grep -c '/f$' | grep -qx 2
      test "$(df --output=size $m/tmp | tail -1)" != "$(df --output=size $m/plain | tail -1)"`,
  },
  READ_AND_WRITE,
  {
    title: 'a file system that the host mounts later appears, and goes again',
    script: `mkdir late; ls late; host mount; sleep 1.1; test "$(cat late/f)" = late; test $(stat -c %d late/.) != $(stat -c %d .)
      host unmount; sleep 1.1; fails cat late/f; cd ..; ls case$CASE/late >/dev/null 2>&1 || true; echo alive > case$CASE/alive; test "$(cat case$CASE/alive)" = alive`,
    actions: {
      mount: folder => {
        execFileSync('mount', ['-t', 'tmpfs', 'virtiofsd-test', join(folder, 'late')])
        writeFileSync(join(folder, 'late', 'f'), 'late')
      },
      // Lazily: the daemon may have something open there.
      unmount: folder => execFileSync('umount', ['-l', join(folder, 'late')]),
    },
  },
]

const HIDDEN: readonly GuestCase[] = [
  {
    title: 'all have one device number, and none is in /proc/mounts',
    script: `
      m=../m; ls $m $m/tmp $m/tmp/deep/inner $m/bind >/dev/null
      stat -c %d $m $m/plain $m/tmp/. $m/tmp/f $m/tmp/deep/inner/. $m/tmp/deep/inner/f $m/bind/f | sort -u | wc -l | grep -qx 1
      test $(grep -c /mnt/share /proc/mounts) = 1
      # Not further: inode numbers may meet now (of two tmpfs, both roots are 1), and find would see a loop.
      test $(find $m -path $m/tmp/deep -prune -o -xdev -name f -print | wc -l) = 4`,
  },
  READ_AND_WRITE,
]

if (process.getuid?.() !== 0) test.skip('UML, submounts (mounting takes root)', () => undefined)
else {
  guestSuite({ title: 'UML, submounts', timeoutMs: 600_000, prepare: mountAll }, ANNOUNCED)
  guestSuite(
    {
      title: 'UML, --no-announce-submounts',
      daemonArgs: ['--no-announce-submounts'],
      timeoutMs: 600_000,
      prepare: mountAll,
    },
    HIDDEN,
  )
}
