/** What the guests do: trees made on the host beforehand, and the steps as shell text. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageFile } from '../../src/native/addon.js'
import { makeNpmProject, npmCi } from './npm-project.js'

const TREE_FOLDERS = 80
const FILES_EACH = 50
const SOURCES = 12
/** Long before git's index: what is as young as it, to the second, git reads again to be sure. */
const WRITTEN_AT = new Date('2024-01-01T00:00:00Z')

/**
 * One measured step: its time is what `command` takes, after `before`, in the mounted share. All of them in turn can be
 * done again and again: `before` takes away what the last time left.
 */
export interface Step {
  readonly name: string
  readonly command: string
  readonly before?: string
  /** The guest's caches are dropped first. */
  readonly cold?: boolean
}

const FIO = 'fio --minimal --name=job --directory=data --filename=file --ioengine=psync --size=64M'

/** O_DIRECT in the guest makes every request reach the daemon; buffered reads are cold. */
export const STEPS: readonly Step[] = [
  // What comes first meets a daemon that has just started: its own step, so that no other one pays.
  {
    name: 'first use',
    command: `find tree -type f | xargs cat | wc -c; mkdir new && cd new && touch $(seq 500) && cd .. && rm -r new; ${FIO} --rw=randrw --bs=4k --io_size=16M --direct=1`,
  },
  { name: 'fio seq write 128k', command: `${FIO} --rw=write --bs=128k --end_fsync=1` },
  { name: 'fio seq read 128k, cold', command: `${FIO} --rw=read --bs=128k`, cold: true },
  { name: 'fio seq read 128k, warm', command: `${FIO} --rw=read --bs=128k` },
  { name: 'fio seq read 1m, direct', command: `${FIO} --rw=read --bs=1m --direct=1` },
  {
    name: 'fio rand read 4k, cold',
    command: `${FIO} --rw=randread --bs=4k --io_size=24M`,
    cold: true,
  },
  {
    name: 'fio rand read 4k, direct',
    command: `${FIO} --rw=randread --bs=4k --io_size=24M --direct=1`,
  },
  {
    name: 'fio rand read 4k, direct, 8 jobs',
    command: `${FIO} --rw=randread --bs=4k --io_size=4M --direct=1 --numjobs=8`,
  },
  {
    name: 'fio rand write 4k, direct',
    command: `${FIO} --rw=randwrite --bs=4k --io_size=24M --direct=1`,
  },
  { name: 'find, cold', command: 'find tree -type f -printf "%s\\n" | wc -l', cold: true },
  { name: 'find, again', command: 'find tree -type f -printf "%s\\n" | wc -l' },
  {
    name: 'stat storm',
    before: 'find tree -type f > /tmp/names',
    command: `perl -ne 'chomp; push @n, $_; END { for (1..5) { stat($_) or die $_ for @n } }' /tmp/names`,
  },
  {
    name: 'stat of absent files',
    command: `perl -e 'for (1..4) { for (1..2000) { -e "tree/absent-$_" and die } }'`,
  },
  { name: 'git status, cold', command: 'git -C tree status --short', cold: true },
  { name: 'git status, again', command: 'git -C tree status --short' },
  { name: 'untar', before: 'rm -rf out', command: 'mkdir out && tar xf tree.tar -C out' },
  { name: 'grep -r, cold', command: 'grep -r "no such word" tree || true', cold: true },
  { name: 'rm -r', command: 'rm -r out' },
  {
    name: 'compile',
    before: 'rm -f sources/*.o sources/lib.a',
    command: 'make -s -C sources -j2',
    cold: true,
  },
  { name: 'npm ci', command: npmCi('npm'), cold: true },
  {
    name: 'create and remove 2,000 files',
    before: 'rm -rf many',
    command: 'mkdir many && cd many && touch $(seq 2000) && rm $(seq 2000)',
  },
]

/** Makes what the steps need in `root`. */
export function makeGuestTree(root: string): void {
  const tree = join(root, 'tree')
  for (let folder = 0; folder < TREE_FOLDERS; folder++) {
    const path = join(tree, `part-${folder % 8}`, `folder-${folder}`)
    mkdirSync(path, { recursive: true })
    for (let i = 0; i < FILES_EACH; i++) {
      const file = join(path, `file-${i}.txt`)
      writeFileSync(file, `${folder} ${i}\n`.repeat(20 + ((folder * i) % 300)))
      utimesSync(file, WRITTEN_AT, WRITTEN_AT)
    }
  }
  const git = (...args: string[]): void => {
    const who = ['-c', 'user.name=bench', '-c', 'user.email=bench@localhost', '-c', 'gc.auto=0']
    execFileSync('git', ['-C', tree, ...who, ...args], { stdio: 'ignore' })
  }
  git('init', '-q')
  git('add', '.')
  git('commit', '-q', '-m', 'all')
  execFileSync('tar', ['cf', join(root, 'tree.tar'), '-C', tree, '--exclude=.git', '.'])
  mkdirSync(join(root, 'data'))
  makeSources(join(root, 'sources'))
  makeNpmProject(join(root, 'npm'))
}

/** A library of small C files with a header each that includes the others. */
function makeSources(folder: string): void {
  mkdirSync(folder)
  const names = Array.from({ length: SOURCES }, (_, i) => `part${i}`)
  for (const name of names) {
    writeFileSync(join(folder, `${name}.h`), `#pragma once\nint ${name}(int);\n`)
    const includes = names.map(other => `#include "${other}.h"\n`).join('')
    const body = `#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n${includes}int ${name}(int x) { return x + printf("${name}"); }\n`
    writeFileSync(join(folder, `${name}.c`), body)
  }
  const objects = names.map(name => `${name}.o`).join(' ')
  writeFileSync(join(folder, 'Makefile'), `all: lib.a\nlib.a: ${objects}\n\tar rcs $@ $^\n`)
}

/** The steps as a script for bash, to run in `folder` of the share; see guest-steps for what it prints, and for `awake`. */
export function script(steps: readonly Step[], awake: boolean, folder = '.'): string {
  const lines = [
    `cd ${folder}`,
    `AWAKE=${awake ? 1 : ''}`,
    `. ${packageFile('scripts', 'bench', 'guest-steps')}`,
  ]
  for (const one of steps) {
    lines.push('sync; cd "$top"')
    if (one.before !== undefined) lines.push(one.before)
    if (one.cold === true) lines.push('echo 3 > /proc/sys/vm/drop_caches')
    lines.push(`step '${one.name}' '${one.command.replaceAll("'", `'"'"'`)}'`)
  }
  return lines.join('\n')
}
