/** Another process of the host that locks files: a C program that takes commands. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/**
 * Takes lines "COMMAND START LENGTH" on its input, answers each with the errno, 0 for success. r, w, u:
 * fcntl(F_SETLK) of that type; R, W: F_SETLKW; s, x, n: flock(LOCK_SH, LOCK_EX, LOCK_UN) with LOCK_NB; S, X: without.
 */
const SOURCE = `
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
int main(int argc, char **argv) {
  int fd = open(argv[1], O_RDWR);
  char command;
  long long start, length;
  if (argc < 2 || fd < 0) return 1;
  while (scanf(" %c %lld %lld", &command, &start, &length) == 3) {
    int answer;
    struct flock lock = { .l_whence = SEEK_SET, .l_start = start, .l_len = length };
    switch (command) {
      case 'r': case 'R': lock.l_type = F_RDLCK; break;
      case 'w': case 'W': lock.l_type = F_WRLCK; break;
      default: lock.l_type = F_UNLCK;
    }
    if (strchr("rwu", command)) answer = fcntl(fd, F_SETLK, &lock);
    else if (strchr("RW", command)) answer = fcntl(fd, F_SETLKW, &lock);
    else if (command == 'n') answer = flock(fd, LOCK_UN);
    else answer = flock(fd, (strchr("sS", command) ? LOCK_SH : LOCK_EX) | (strchr("sx", command) ? LOCK_NB : 0));
    printf("%d\\n", answer == 0 ? 0 : errno);
    fflush(stdout);
  }
  return 0;
}`

export class LockProcess {
  readonly process: ChildProcess
  readonly #answers: number[] = []
  readonly #closed: Promise<unknown>
  #taken = 0
  #text = ''

  constructor(program: string, file: string) {
    this.process = spawn(program, [file], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#closed = new Promise(done => this.process.on('close', done))
    this.process.stdout!.setEncoding('utf8').on('data', (text: string) => {
      this.#text += text
      const lines = this.#text.split('\n')
      this.#text = lines.pop()!
      for (const line of lines) this.#answers.push(Number(line))
    })
  }

  send(command: string, start = 0, length = 0): void {
    this.process.stdin!.write(`${command} ${start} ${length}\n`)
  }

  /** Commands that were not answered yet. */
  get answered(): boolean {
    return this.#answers.length > this.#taken
  }

  /** The next answer: 0 or an errno. */
  async answer(): Promise<number> {
    const limit = performance.now() + 60_000
    while (!this.answered) {
      if (performance.now() > limit) throw new Error('the locking process does not answer')
      await new Promise(go => setTimeout(go, 1))
    }
    return this.#answers[this.#taken++]!
  }

  async do(command: string, start = 0, length = 0): Promise<number> {
    this.send(command, start, length)
    return this.answer()
  }

  /** By SIGKILL. */
  async kill(): Promise<void> {
    this.process.kill('SIGKILL')
    this.process.stdin!.destroy()
    await this.#closed
  }
}

/** Compiles the program; `remove` takes it away. */
export function lockProgram(): { path: string; remove: () => void } {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-locks-'))
  const path = join(folder, 'lock')
  execFileSync('cc', ['-O1', '-Wall', '-D_GNU_SOURCE', '-x', 'c', '-', '-o', path], {
    input: SOURCE,
  })
  return { path, remove: () => rmSync(folder, { recursive: true, force: true }) }
}
