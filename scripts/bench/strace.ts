/** System calls counted by strace: slow, but it needs nothing of the kernel but ptrace. */
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Runs `body` while strace counts what the processes and their threads do; counts by name and "total". */
export async function countWithStrace(
  pids: readonly number[],
  body: () => Promise<void>,
): Promise<Readonly<Record<string, number>>> {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-strace-'))
  const file = join(folder, 'counts')
  try {
    const args = ['-c', '-f', '-o', file, ...pids.flatMap(pid => ['-p', String(pid)])]
    const strace = spawn('strace', args, { stdio: ['ignore', 'ignore', 'pipe'] })
    const ended = new Promise<void>(done => strace.on('close', () => done()))
    // "strace: Process 123 attached", once for each process, with its threads in brackets.
    await new Promise<void>((attached, failed) => {
      let text = ''
      strace.on('error', failed)
      strace.on('close', status => failed(new Error(`strace ended (${status}): ${text}`)))
      strace.stderr!.setEncoding('utf8').on('data', (more: string) => {
        text += more
        if ((text.match(/attached/g) ?? []).length >= pids.length) attached()
      })
    })
    await body()
    strace.kill('SIGINT')
    await ended
    return parseCounts(readFileSync(file, 'utf8'))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The table of `strace -c`: "% time, seconds, usecs/call, calls, [errors,] syscall". */
export function parseCounts(text: string): Record<string, number> {
  const counts: Record<string, number> = { total: 0 }
  for (const line of text.split('\n')) {
    const words = line.trim().split(/\s+/)
    const name = words.at(-1)!
    if (!/^[\d.]+$/.test(words[0]!) || words.length < 5 || name === 'total') continue
    counts[name] = Number(words[3])
    counts.total! += counts[name]
  }
  return counts
}
