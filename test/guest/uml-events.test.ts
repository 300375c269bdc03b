/**
 * Changes are told while a guest works: what it does, and what the host does, which it does not notice by itself.
 * An agent in the guest makes its inotify notice.
 */
import { execFileSync, spawn } from 'node:child_process'
import {
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { packageFile } from '../../src/native/addon.js'
import { guestSuite } from './helpers/suite.js'

// Not in /tmp: the guest has its own, and reads what is told through the host's tree.
const folder = mkdtempSync('/var/tmp/virtiofsd-events-')
const socket = join(folder, 'control.sock')
const told = join(folder, 'told')
const said = join(folder, 'said')

/** Starts virtiofsctl, and waits until everything is watched. */
function listen(): void {
  const args = [packageFile('dist', 'src', 'bin', 'virtiofsctl.js'), '--socket', socket, 'events']
  spawn(process.execPath, args, { stdio: ['ignore', openSync(told, 'w'), openSync(said, 'w')] })
  waitFor('^virtiofsctl: watching', said)
}

function waitFor(line: string, file: string): void {
  const loop = 'for i in $(seq 2400); do grep -q "$0" "$1" && exit 0; sleep 0.05; done; exit 1'
  execFileSync('sh', ['-c', loop, line, file])
}

/** Prints the name and mask of the first event in a directory that is no look. */
const NOTICE = `
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>
int main(int argc, char** argv) {
  char buffer[4096] __attribute__((aligned(8)));
  int fd = inotify_init1(0);
  if (argc < 2 || inotify_add_watch(fd, argv[1], IN_ATTRIB | IN_MODIFY | IN_CREATE | IN_DELETE) < 0) return 1;
  puts("ready"); fflush(stdout); alarm(120);
  if (read(fd, buffer, sizeof buffer) <= 0) return 1;
  struct inotify_event* event = (struct inotify_event*)buffer;
  printf("%s %x\\n", event->len > 0 ? event->name : ".", event->mask);
  return 0;
}`

guestSuite(
  {
    title: 'UML, events',
    timeoutMs: 600_000,
    daemonArgs: [`--control-socket=${socket}`],
    helpers: { notice: NOTICE },
    prepare: () => () => rmSync(folder, { recursive: true, force: true }),
  },
  [
    {
      title: 'what the guest does is told as of the guest',
      script: `host listen
        mkdir -p a/b; host seen; echo one > a/b/f; mv a/b/f a/g; ln a/g 'a/h i'; chmod 600 a/g; rm -r a/b; truncate -s 100 a/g
        dd if=/dev/zero of=big bs=64k count=20 status=none; touch end; host told`,
      actions: {
        listen,
        seen: at => waitFor(`create.directory.${basename(at)}/a/b$`, told),
        told: at => waitFor(`create.file.${basename(at)}/end`, told),
      },
      host: (t, at) => {
        const own = readFileSync(told, 'utf8')
          .split('\n')
          .filter(line => line.includes(`\t${basename(at)}`))
          .map(line => line.replaceAll(`${basename(at)}/`, '').replaceAll('\t', ' '))
        t.true(own.every(line => line.startsWith('guest ')))
        const expected = [
          'guest create directory a',
          'guest create directory a/b',
          'guest create file a/b/f',
          'guest modify file a/b/f',
          'guest rename file a/b/f a/g',
          'guest create file a/h i',
          'guest attrib file a/g',
          'guest delete directory a/b',
          'guest modify file a/g',
          'guest create file big',
          'guest modify file big',
          'guest create file end',
        ]
        t.deepEqual(
          expected.filter(line => !own.includes(line)),
          [],
          own.join('\n'),
        )
      },
    },
    {
      title: 'what the host does is told as of others',
      prepare: at => mkdirSync(join(at, 'd')),
      script: `ls d; host change; test "$(cat d/new)" = changed`,
      actions: {
        change: at => {
          writeFileSync(join(at, 'd', 'old'), 'changed')
          renameSync(join(at, 'd', 'old'), join(at, 'd', 'new'))
          waitFor(`^other.rename.file.${basename(at)}/d/old.${basename(at)}/d/new`, told)
        },
      },
      host: (t, at) => {
        const mine = `${basename(at)}/d/`
        const lines = readFileSync(told, 'utf8').split('\n')
        const about = lines.filter(line => line.startsWith('other') && line.includes(mine))
        t.deepEqual(about, [
          `other\tcreate\tfile\t${mine}old`,
          `other\tmodify\tfile\t${mine}old`,
          `other\trename\tfile\t${mine}old\t${mine}new`,
        ])
      },
    },
    {
      title: "an agent makes the guest's inotify notice what the host does; files keep their times",
      prepare: at => writeFileSync(join(at, 'watched'), 'old'),
      script: `
        cat watched; $HELPERS/notice . > /tmp/noticed & notice=$!
        until grep -q ready /tmp/noticed; do sleep 0.05; done
        host change
        # As in the README.
        cat ${told} | (cd .. && while IFS=$(printf '\\t') read -r who what which path to; do
          [ "$who" = other ] || continue
          for one in "$path" "$to"; do
            [ -n "$one" ] || continue
            one=$(printf %b "$one"); [ -e "$one" ] || one=$(dirname -- "$one")
            stat --cached=never -- "$one" >/dev/null && touch -c -h -m -r "$one" -- "$one"
          done
        done)
        wait $notice; cat /tmp/noticed; tail -1 /tmp/noticed | grep -q '^watched 2$'
        stat -c %y watched > times; test "$(cat watched)" = 'changed by the host'`,
      actions: {
        change: at => {
          writeFileSync(join(at, 'watched'), 'changed by the host')
          utimesSync(join(at, 'watched'), 1000, 1000)
          waitFor(`^other.modify.file.${basename(at)}/watched`, told)
        },
      },
      host: (t, at) => {
        t.is(statSync(join(at, 'watched')).mtimeMs, 1_000_000)
        t.regex(readFileSync(join(at, 'times'), 'utf8'), /^1970-01-01/)
      },
    },
  ],
)
