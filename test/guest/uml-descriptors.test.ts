/** The daemon at its limit of descriptors: more open files than it can have, more inodes than it could hold open. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageFile } from '../../src/native/addon.js'
import { guestSuite } from './helpers/suite.js'

const DAEMON = [process.execPath, packageFile('dist', 'src', 'bin', 'virtiofsd.js')]

function limited(descriptors: number): readonly string[] {
  return ['prlimit', `--nofile=${descriptors}:${descriptors}`, ...DAEMON]
}

/**
 * openmany COUNT [create]: opens f0, f1, ... until one fails; prints how many, and the error's number.
 * Then checks that what is open still works, and that what failed works again when all is closed.
 */
const OPEN_MANY = `
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#define STOP(what) do { perror(what); return 1; } while (0)
static int fds[40000];
int main(int argc, char **argv) {
  int want = atoi(argv[1]), opened, error = 0;
  int flags = argc > 2 && !strcmp(argv[2], "create") ? O_CREAT | O_EXCL | O_RDWR : O_RDWR;
  char name[32], byte;
  struct rlimit limit = { 60000, 60000 };
  struct stat info;
  if (setrlimit(RLIMIT_NOFILE, &limit)) STOP("setrlimit");
  for (opened = 0; opened < want; opened++) {
    snprintf(name, sizeof name, "f%d", opened);
    if ((fds[opened] = open(name, flags, 0644)) < 0) { error = errno; break; }
  }
  printf("%d %d\\n", opened, error);
  fflush(stdout);
  for (int i = 0; i < opened; i += opened / 97 + 1) {
    if (pwrite(fds[i], "x", 1, 0) != 1) STOP("pwrite at the limit");
    if (pread(fds[i], &byte, 1, 0) != 1 || byte != 'x') STOP("pread at the limit");
    if (fstat(fds[i], &info) || info.st_size < 1) STOP("fstat at the limit");
  }
  if (stat("f0", &info)) STOP("stat at the limit");
  for (int i = 0; i < opened; i++) close(fds[i]);
  snprintf(name, sizeof name, "f%d", opened < want ? opened : 0);
  /* The guest sends the last of the RELEASEs after close() has returned. */
  for (int tries = 0; ; tries++) {
    int fd = open(name, flags & ~O_EXCL, 0644);
    if (fd >= 0) { close(fd); return 0; }
    if (tries == 3000) STOP("open after closing");
    usleep(20000);
  }
}`

const WORKS = `
  echo alive > alive; test "$(cat alive)" = alive; mkdir d; cp -r /usr/include/linux/netfilter d/; diff -r /usr/include/linux/netfilter d/netfilter; rm -rf d`

function emptyFiles(folder: string, count: number): void {
  for (let i = 0; i < count; i++) writeFileSync(join(folder, `f${i}`), '')
}

guestSuite(
  {
    title: 'UML, 20,000 descriptors',
    timeoutMs: 600_000,
    program: limited(20_000),
    helpers: { openmany: OPEN_MANY },
  },
  [
    {
      title: '20,000 files are opened, as many as there are descriptors for',
      prepare: folder => emptyFiles(folder, 20_000),
      script: `
        $HELPERS/openmany 20000 open > /tmp/many; cat /tmp/many; cp /tmp/many many
        read opened error < /tmp/many; test $opened -gt 19000; test $opened -lt 20000; test $error = 23 # ENFILE
        ${WORKS}`,
      host: (t, folder) => t.log(`opened, errno: ${readFileSync(join(folder, 'many'), 'utf8')}`),
    },
    {
      title: 'it is the guest’s own limit that stops a program first',
      script: `mkdir many; cd many; ulimit -n 100; python3 - <<'P'
import errno,os
fds=[]
try:
    while True: fds.append(os.open('f%d'%len(fds),os.O_CREAT|os.O_RDWR))
except OSError as e: assert e.errno==errno.EMFILE and 80 < len(fds) < 100, (e, len(fds))
P`,
    },
  ],
)

const TREE_FILES = 50_000

function makeTree(folder: string): void {
  for (let d = 0; d < 100; d++) {
    const sub = join(folder, 'tree', `a${d % 10}`, `d${d}`)
    mkdirSync(sub, { recursive: true })
    emptyFiles(sub, TREE_FILES / 100)
  }
}

guestSuite(
  {
    title: 'UML, 1,024 descriptors',
    timeoutMs: 600_000,
    program: limited(1024),
    helpers: { openmany: OPEN_MANY },
  },
  [
    {
      title: 'a tree of 50,000 files is walked, asked about, and removed',
      prepare: makeTree,
      script: `
        find tree -printf '%y %s %n\\n' | sed 's/^d.*/d/' | sort | uniq -c | xargs > /tmp/seen; grep -qx '111 d ${TREE_FILES} f 0 1' /tmp/seen || { cat /tmp/seen; exit 1; }
        test "$(cat tree/a3/d13/f7)" = ''; echo x > tree/a3/d13/f7; echo 2 > /proc/sys/vm/drop_caches; test "$(cat tree/a3/d13/f7)" = x
        rm -rf tree; test ! -e tree; ${WORKS}`,
      host: (t, folder) => t.deepEqual(readdirSync(folder), ['alive']),
    },
    {
      title: 'directories deeper than there are descriptors',
      script: `python3 - <<'P'
import os
for i in range(2000):
    os.mkdir('n'); os.chdir('n')
open('deepest','w').write('down here'); assert open('deepest').read()=='down here'
P
        test $(find . -name deepest | wc -l) = 1; rm -rf n; test -z "$(ls)"`,
    },
    {
      title: 'as many files are made as there are descriptors for',
      script: `$HELPERS/openmany 2000 create > /tmp/many; read opened error < /tmp/many; cat /tmp/many; test $opened -gt 600; test $opened -lt 1024; test $error = 23; ${WORKS}`,
    },
    {
      title: 'files that are open and gone keep their descriptors, and give them back',
      script: `python3 - <<'P'
import os,errno
for round in range(3):
    fds=[]
    for i in range(300):
        fd=os.open('g%d'%i,os.O_CREAT|os.O_RDWR); os.write(fd,b'%d'%i); os.unlink('g%d'%i); fds.append(fd)
    for i,fd in enumerate(fds):
        assert os.pread(fd,10,0)==b'%d'%i and os.fstat(fd).st_nlink==0
        os.fchmod(fd,0o600); os.close(fd)
P
        ${WORKS}`,
    },
  ],
)
