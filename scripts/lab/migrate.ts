/**
 * A guest that moves between two QEMUs, each with a daemon of its own on the same directory:
 *   node dist/scripts/lab/migrate.js QEMU [file|live|cancel|refused] [daemon options ...]
 * QEMU must be 8.2 or newer: older ones do not migrate vhost-user-fs.
 * `file`: stopped, saved to a file, restored from it. `live`: moved while it reads and writes. `cancel`: the move
 * is called off on the way. `refused`: the destination shares another directory and does not take the state. In
 * the last two the guest must go on where it was.
 * Says what the guest found afterwards and ends with status 0 if that is what it should be.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Daemon } from './daemon.js'
import { findQemu, makeInitramfs, qemuArguments, type QemuOptions } from './qemu.js'

const MIB = 1 << 20
const FILES = 48
const FILE_BYTES = 2 * MIB
const LIMIT_MS = 240_000
const WAYS: readonly string[] = ['file', 'live', 'cancel', 'refused']

/**
 * What the guest does. It keeps files open, goes on writing, and reads data files into its page cache, each
 * once: what the daemon puts into guest memory during the move is looked at only after it. The move has been
 * through all memory once by then, so that pages which are not logged stay behind.
 */
const commandOf = (unlink: boolean): string => `
exec 3<>open.txt 4<lines.txt 5<>unlinked.txt
echo hidden >&5
${unlink ? 'rm unlinked.txt' : ''}
echo 'before' >&3
read -r first <&4
echo "lab: first $first"
cd dir/deep; here=$(pwd); cd "$here"
echo 'lab: ready'
# Dirties memory faster than it is moved, so that the move goes on as long as the host wants; the same
# memory each time.
dd if=/dev/urandom of=/tmp/seed bs=1M count=20 2>/dev/null
while [ ! -e /mnt/read ]; do
  dd if=/dev/zero of=/tmp/x bs=1M count=20 conv=notrunc 2>/dev/null
  dd if=/tmp/seed of=/tmp/x bs=1M count=20 conv=notrunc 2>/dev/null
done &
while [ ! -e /mnt/go ]; do sleep 0.1; done
i=0
while [ ! -e /mnt/stop ]; do
  i=$((i+1))
  echo "entry $i" >>/mnt/log.txt
  echo "seq $i" >&3
  n=$((i % ${FILES}))
  cat /mnt/data/$n >/dev/null
  echo $n >/mnt/dir/deep/last
  [ $i = ${FILES} ] && echo read >/mnt/read
done
echo "lab: loops $i"
read -r second <&4
echo "lab: second $second"
echo 'after' >&3
echo "lab: open $(cat /proc/self/fd/5)"
cat last
(cd /mnt/data; md5sum *) >/mnt/sums
tail -n 1 /mnt/open.txt
wc -l </mnt/log.txt
`

/** QEMU's monitor, in JSON. */
class Monitor {
  readonly #socket: Socket
  #text = ''
  readonly #waiting: ((answer: Record<string, unknown>) => void)[] = []

  static async open(path: string): Promise<Monitor> {
    for (let i = 0; ; i++) {
      const socket = connect(path)
      const ok = await new Promise<boolean>(done => {
        socket.once('connect', () => done(true))
        socket.once('error', () => done(false))
      })
      if (ok) {
        const monitor = new Monitor(socket)
        await monitor.run('qmp_capabilities')
        return monitor
      }
      if (i > 100) throw new Error(`no monitor at ${path}`)
      await pause(100)
    }
  }

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.setEncoding('utf8').on('data', (text: string) => this.#take(text))
  }

  #take(text: string): void {
    this.#text += text
    for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
      const message = JSON.parse(this.#text.slice(0, end)) as Record<string, unknown>
      this.#text = this.#text.slice(end + 1)
      if ('return' in message || 'error' in message) this.#waiting.shift()?.(message)
    }
  }

  async run(execute: string, args: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
    const answer = await new Promise<Record<string, unknown>>(done => {
      this.#waiting.push(done)
      this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`)
    })
    if ('error' in answer) throw new Error(`${execute}: ${JSON.stringify(answer.error)}`)
    return answer.return as Record<string, unknown>
  }

  close(): void {
    this.#socket.destroy()
  }
}

interface Machine {
  readonly daemon: Daemon
  readonly qemu: ChildProcess
  readonly monitor: Monitor
  console: string
}

const pause = (ms: number): Promise<void> => new Promise(done => setTimeout(done, ms))

async function until(what: string, check: () => boolean | Promise<boolean>): Promise<void> {
  const limit = Date.now() + LIMIT_MS
  while (!(await check())) {
    if (Date.now() > limit) throw new Error(`not in time: ${what}`)
    await pause(50)
  }
}

class Move {
  readonly lab = mkdtempSync(join(tmpdir(), 'virtiofsd-move-'))
  readonly share = mkdtempSync(join(tmpdir(), 'virtiofsd-share-'))
  readonly machines: Machine[] = []
  readonly #program: string
  readonly #daemonArgs: readonly string[]
  readonly #initramfs: string
  readonly #kernel: string

  constructor(program: string, daemonArgs: readonly string[]) {
    this.#program = program
    this.#daemonArgs = daemonArgs
    const guest = findQemu()
    if ('missing' in guest) throw new Error(guest.missing)
    this.#kernel = guest.kernel
    this.#initramfs = makeInitramfs(this.lab, guest, this.#options(''))
    mkdirSync(join(this.share, 'dir/deep'), { recursive: true })
    mkdirSync(join(this.share, 'data'))
    writeFileSync(join(this.share, 'lines.txt'), 'one\ntwo\n')
    for (const name of ['open.txt', 'log.txt', 'unlinked.txt'])
      writeFileSync(join(this.share, name), '')
    for (let i = 0; i < FILES; i++)
      writeFileSync(join(this.share, 'data', String(i)), randomBytes(FILE_BYTES))
  }

  #options(socketPath: string): QemuOptions {
    // Only file handles lead to a file without a name.
    const command = commandOf(this.#daemonArgs.includes('--migration-mode=file-handles'))
    return { socketPath, command, memoryMiB: 512, cpus: 2 }
  }

  async start(name: string, incoming: readonly string[], sharedDir = this.share): Promise<Machine> {
    const daemon = await Daemon.start({
      sharedDir,
      args: ['--cache=always', '--log-level', 'debug', ...this.#daemonArgs],
    })
    const path = join(this.lab, `${name}.qmp`)
    const args = [
      ...qemuArguments(this.#kernel, this.#initramfs, this.#options(daemon.socketPath)),
      // Without: the guest's CPU clears each page, and so marks it, just before the daemon fills it.
      ...['-append', 'console=ttyS0 quiet mitigations=off init_on_alloc=0 init_on_free=0'],
      ...['-qmp', `unix:${path},server=on,wait=off`],
      ...incoming,
    ]
    const qemu = spawn(this.#program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    let console = ''
    const machine: Machine = {
      daemon,
      qemu,
      monitor: await Monitor.open(path),
      get console() {
        return console
      },
      set console(text) {
        console = text
      },
    }
    for (const stream of [qemu.stdout!, qemu.stderr!])
      stream.setEncoding('utf8').on('data', (text: string) => {
        machine.console += text.replaceAll('\r', '')
      })
    this.machines.push(machine)
    return machine
  }

  async end(): Promise<void> {
    for (const { monitor, qemu, daemon } of this.machines) {
      monitor.close()
      qemu.kill('SIGKILL')
      await daemon.kill()
    }
    for (const folder of [this.lab, this.share]) rmSync(folder, { recursive: true, force: true })
  }
}

/** Waits for the end of a migration; its figures. */
async function migrated(machine: Machine): Promise<Record<string, unknown>> {
  let info: Record<string, unknown> = {}
  await until('the migration', async () => {
    info = await machine.monitor.run('query-migrate')
    if (info.status === 'failed') throw new Error(`the migration failed: ${JSON.stringify(info)}`)
    return info.status === 'completed'
  })
  return info
}

async function moveByFile(move: Move, from: Machine): Promise<Machine> {
  const file = join(move.lab, 'state')
  writeFileSync(join(move.share, 'go'), '')
  await until('the files to be read', () => existsSync(join(move.share, 'read')))
  await from.monitor.run('stop')
  await from.monitor.run('migrate', { uri: `file:${file}` })
  await migrated(from)
  const to = await move.start('to', ['-incoming', `file:${file}`])
  await until('the restore', async () =>
    ['paused', 'running'].includes((await to.monitor.run('query-status')).status as string),
  )
  await to.monitor.run('cont')
  return to
}

async function moveLive(move: Move, from: Machine, way: string): Promise<Machine> {
  const path = join(move.lab, 'wire')
  const share = way === 'refused' ? move.lab : move.share
  const to = await move.start('to', ['-incoming', `unix:${path}`], share)
  await from.monitor.run('migrate-set-parameters', {
    'max-bandwidth': 30 * MIB,
    'downtime-limit': 1,
  })
  await from.monitor.run('migrate', { uri: `unix:${path}` })
  await until('the first round', async () => {
    const { status, ram } = await from.monitor.run('query-migrate')
    if (status !== 'setup' && status !== 'active') throw new Error(`the migration is ${status}`)
    return ((ram as Record<string, number> | undefined)?.['dirty-sync-count'] ?? 0) >= 3
  })
  writeFileSync(join(move.share, 'go'), '')
  await until('the files to be read', () => existsSync(join(move.share, 'read')))
  if (way === 'cancel') {
    await from.monitor.run('migrate_cancel')
    await until('the end of the move', async () => {
      const { status } = await from.monitor.run('query-migrate')
      return status === 'cancelled'
    })
    return from
  }
  await from.monitor.run('migrate-set-parameters', {
    'max-bandwidth': 1000 * MIB,
    'downtime-limit': 2000,
  })
  const info = await migrated(from)
  if (way === 'refused') {
    await until('the destination to give up', () => to.qemu.exitCode !== null)
    console.log(/ERROR.*/.exec(to.daemon.log)?.[0])
    // Nobody told this QEMU: who manages both lets it go on.
    await from.monitor.run('cont')
    return from
  }
  const ram = info.ram as Record<string, number>
  console.log(
    `moved in ${info['total-time']} ms, down for ${info.downtime} ms, ${ram['dirty-sync-count']} rounds`,
  )
  return to
}

function check(move: Move, to: Machine): string[] {
  const faults: string[] = []
  const expect = (what: string, ok: boolean): void => {
    if (!ok) faults.push(what)
  }
  const text = to.console
  expect('position in a file', text.includes('lab: second two'))
  expect('another open file', text.includes('lab: open hidden'))
  const loops = Number(/lab: loops (\d+)/.exec(text)?.[1] ?? -1)
  const log = readFileSync(join(move.share, 'log.txt'), 'utf8')
  expect(
    'every entry',
    log === Array.from({ length: loops }, (_, i) => `entry ${i + 1}\n`).join(''),
  )
  const open = readFileSync(join(move.share, 'open.txt'), 'utf8')
  const sequence = Array.from({ length: loops }, (_, i) => `seq ${i + 1}\n`).join('')
  expect('the file that stayed open', open === `before\n${sequence}after\n`)
  const sums = readFileSync(join(move.share, 'sums'), 'utf8')
  for (let i = 0; i < FILES; i++) {
    const sum = createHash('md5')
      .update(readFileSync(join(move.share, 'data', String(i))))
      .digest('hex')
    expect(`what the guest has of data/${i}`, sums.includes(`${sum}  ${i}\n`))
  }
  console.log(`${loops} rounds in the guest, ${FILES} files of ${FILE_BYTES / MIB} MiB`)
  return faults
}

async function main([program, way = 'live', ...daemonArgs]: readonly string[]): Promise<number> {
  if (program === undefined || !WAYS.includes(way)) {
    console.error(`migrate QEMU [${WAYS.join('|')}] [daemon options ...]`)
    return 2
  }
  const move = new Move(program, daemonArgs)
  try {
    const from = await move.start('from', [])
    await until('the guest', () => from.console.includes('lab: ready'))
    const to = way === 'file' ? await moveByFile(move, from) : await moveLive(move, from, way)
    await pause(3000)
    writeFileSync(join(move.share, 'stop'), '')
    await until('the guest at its new place', () => /lab: end \d+/.test(to.console))
    const faults = check(move, to)
    for (const fault of faults) console.error(`wrong: ${fault}`)
    return faults.length === 0 ? 0 : 1
  } catch (cause) {
    console.error(cause)
    for (const machine of move.machines)
      console.error(machine.console.slice(-2000), machine.daemon.log.slice(-3000))
    return 1
  } finally {
    await move.end()
  }
}

process.exitCode = await main(process.argv.slice(2))
