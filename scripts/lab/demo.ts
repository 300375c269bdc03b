/**
 * The main job: serves a directory and boots a guest that mounts it, lists it, reads and writes a file.
 * On a terminal the guest's shell then stays open; after `--` a command runs instead.
 */
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Daemon } from './daemon.js'
import { runUml, TAG } from './uml.js'

const USAGE = 'usage: npm run demo -- [DIRECTORY] [-- COMMAND...]'
const WRITTEN = 'written-by-the-guest.txt'

const TOUR = `
echo "guest: $(uname -sr), the share is mounted on $PWD"
echo "guest: it holds:"; ls -la
first=$(find . -maxdepth 1 -type f ! -name ${WRITTEN} | sort | head -1)
if [ -n "$first" ]; then echo "guest: $first begins:"; head -c 300 "$first" | head -5; fi
echo "hello from $(uname -sr) at $(date -u +%FT%TZ)" > ${WRITTEN} && echo "guest: wrote ${WRITTEN}: $(cat ${WRITTEN})"
`

function sampleDirectory(): string {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-sample-'))
  writeFileSync(
    join(folder, 'hello.txt'),
    'Hello from the host: this file is served by virtiofsd-ts.\n',
  )
  return folder
}

async function main(argv: readonly string[]): Promise<number> {
  const split = argv.indexOf('--')
  const [named, ...surplus] = split < 0 ? argv : argv.slice(0, split)
  const command = split < 0 ? undefined : argv.slice(split + 1)
  if (surplus.length > 0 || command?.length === 0) {
    console.error(USAGE)
    return 2
  }
  if (named !== undefined && statSync(named, { throwIfNoEntry: false })?.isDirectory() !== true) {
    console.error(`demo: ${named} is not a directory. ${USAGE}`)
    return 2
  }
  const directory = named === undefined ? sampleDirectory() : resolve(named)
  const interactive = command === undefined && process.stdin.isTTY === true
  let daemon: Daemon | undefined
  const cleanUp = (): void => {
    daemon?.process.kill('SIGKILL')
    if (named === undefined) rmSync(directory, { recursive: true, force: true })
  }
  process.on('exit', cleanUp)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    if (!(interactive && signal === 'SIGINT')) process.on(signal, () => process.exit(1))
  console.log(`demo: serving ${directory}`)
  daemon = await Daemon.start({ sharedDir: directory, args: ['--tag', TAG] })
  console.log('demo: booting a user-mode Linux guest')
  const result = await runUml({
    socketPath: daemon.socketPath,
    command: command === undefined ? TOUR : command.join(' '),
    interactive,
    timeoutMs: 24 * 3600_000,
    ...(interactive ? {} : { onOutput: printFrom() }),
  })
  const status = await daemon.exit()
  if (status !== 0) console.error(`demo: the daemon ended with status ${status}:\n${daemon.log}`)
  if (!interactive && result.status === -1)
    console.error(`demo: the guest did not mount the share; its console:\n${result.console}`)
  if (command === undefined) {
    const written = statSync(join(directory, WRITTEN), { throwIfNoEntry: false })
    console.log(
      written === undefined
        ? 'demo: the file the guest wrote is not there'
        : `demo: the host sees ${join(directory, WRITTEN)} (${written.size} bytes)${named === undefined ? '; the sample goes now' : ''}`,
    )
    if (written === undefined) return 1
  }
  return interactive ? (status ?? 1) : status === 0 ? result.status : 1
}

/** Prints what the command prints, and not the kernel's boot messages. */
function printFrom(): (text: string) => void {
  let inside = false
  let line = ''
  return text => {
    line += text.replaceAll('\r', '')
    const lines = line.split('\n')
    line = lines.pop()!
    for (const one of lines) {
      if (one === 'lab: start') inside = true
      else if (one.startsWith('lab: end ')) inside = false
      else if (inside) process.stdout.write(`${one}\n`)
    }
  }
}

process.exit(await main(process.argv.slice(2)))
