/**
 * User-mode Linux guests with a daemon each on one directory: one of them, or a process of the host, changes
 * something, the others, which have it cached, look at once. Counts the looks that show what was before, and
 * how long they do.
 *
 *     node dist/scripts/lab/coherence.js [--guests N] [--changer host] LOOKS [MODE...]
 *
 * N: 2 by default. MODE: strict, strict-0 (with --lease-ms=0), auto, never (default: all four).
 */
import { execFileSync, spawn } from 'node:child_process'
import {
  closeSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Duplex } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { scriptArguments } from '../arguments.js'
import { packageFile } from '../../src/native/addon.js'
import { type Mode, MODES } from './cache-modes.js'
import { Daemon } from './daemon.js'
import { runUml, TAG } from './uml.js'

/** Agents have 64 slots. */
const SLOTS = 16
const ANSWER_LIMIT_MS = 180_000
const BOOT_LIMIT_MS = 300_000
/** So many folders are prepared together, and left alone for so long: what is new is not cached with leases. */
const BLOCK = 1024
const SETTLE_MS = 800
/** How often every second time is looked before: what is asked for so often the daemon keeps, too. */
const AGAIN = 16
/** After a stale look: how long until one is right, looking so often. */
const LATE_LIMIT_MS = 5000
const LATE_STEP_MS = 20
/** Looks between two lines that say how far it is. */
const PROGRESS = 1000

/** What is done, given a folder with `file` ("before"), `other`, `link` and `empty/`. */
const CHANGES: Readonly<Record<string, (d: string) => readonly string[]>> = {
  overwrite: d => [`overwrite ${d}/file AFTER!`],
  append: d => [`append ${d}/file after`],
  truncate: d => [`truncate ${d}/file 3`],
  'mmap and msync': d => [`mmap ${d}/file AFTER!`],
  chmod: d => [`chmod ${d}/file 600`],
  utimes: d => [`utimes ${d}/file 12345`],
  setxattr: d => [`setxattr ${d}/file user.name after`],
  link: d => [`link ${d}/file ${d}/new`],
  unlink: d => [`unlink ${d}/file`],
  'rename away': d => [`rename ${d}/file ${d}/new`],
  'rename over': d => [`rename ${d}/other ${d}/file`],
  'symlink replaced': d => [`symlink after ${d}/temporary`, `rename ${d}/temporary ${d}/link`],
  create: d => [`create ${d}/new`],
  mkdir: d => [`mkdir ${d}/new`],
  rmdir: d => [`rmdir ${d}/empty`],
}

interface Look {
  /** Orders that have another guest cache it. */
  readonly prime: (d: string) => readonly string[]
  readonly order: (d: string) => string
  /** What a look on the host says. `fd`: on `file`, opened before the change. */
  readonly truth: (d: string, fd: number) => string
  readonly after: readonly string[]
}

const onFile = ['overwrite', 'append', 'truncate', 'mmap and msync', 'chmod', 'utimes', 'setxattr']
const onNames = ['link', 'unlink', 'rename away', 'rename over']
const onData = ['overwrite', 'append', 'truncate', 'mmap and msync']
const newNames = ['link', 'rename away', 'create', 'mkdir']

function told(stat: () => import('node:fs').BigIntStats): string {
  return orErrno(() => {
    const s = stat()
    const time = (ns: bigint): string =>
      `${ns / 1_000_000_000n}.${String(ns % 1_000_000_000n).padStart(9, '0')}`
    return `ino=${s.ino} size=${s.size} mode=${s.mode.toString(8)} nlink=${s.nlink} mtime=${time(s.mtimeNs)} ctime=${time(s.ctimeNs)}`
  })
}

function orErrno(look: () => string): string {
  try {
    return look()
  } catch (cause) {
    const { errno } = cause as NodeJS.ErrnoException
    if (errno === undefined) throw cause
    return String(errno)
  }
}

function statOf(name: string, after: readonly string[]): Look {
  return {
    prime: d => [`stat ${d}${name}`],
    order: d => `stat ${d}${name}`,
    truth: d => told(() => lstatSync(d + name, { bigint: true })),
    after,
  }
}

function ofFd(order: 'fstat' | 'pread', after: readonly string[]): Look {
  return {
    prime: d => [`open ${d}/file`, order],
    order: () => order,
    truth: (_, fd) =>
      order === 'fstat' ? told(() => fstatSync(fd, { bigint: true })) : contentOf(fd),
    after,
  }
}

function contentOf(fd: number): string {
  const bytes = Buffer.alloc(500)
  return bytes.toString('utf8', 0, readSync(fd, bytes, 0, 500, 0))
}

const namesOf = (folder: string): string =>
  readdirSync(folder)
    .toSorted()
    .map(name => `/${name}`)
    .join('')

const LOOKS: Readonly<Record<string, Look>> = {
  stat: statOf('/file', [...onFile, ...onNames]),
  'stat of the folder': statOf('', [...onNames, 'create', 'mkdir', 'rmdir']),
  'stat of the link': statOf('/link', ['symlink replaced']),
  'stat of a folder removed': statOf('/empty', ['rmdir']),
  negative: statOf('/new', newNames),
  'open fd': ofFd('fstat', [...onFile, ...onNames]),
  'read of an open fd': ofFd('pread', onData),
  'open and read': {
    prime: d => [`cat ${d}/file`],
    order: d => `cat ${d}/file`,
    truth: d => orErrno(() => readFileSync(`${d}/file`, 'utf8')),
    after: [...onData, 'unlink', 'rename away', 'rename over'],
  },
  readdir: {
    prime: d => [`ls ${d}`],
    order: d => `ls ${d}`,
    truth: namesOf,
    after: [...onNames, 'create', 'mkdir', 'rmdir'],
  },
  readlink: {
    prime: d => [`readlink ${d}/link`],
    order: d => `readlink ${d}/link`,
    truth: d => readlinkSync(`${d}/link`),
    after: ['symlink replaced'],
  },
  getxattr: {
    prime: d => [`getxattr ${d}/file user.name`],
    order: d => `getxattr ${d}/file user.name`,
    truth: () => 'after',
    after: ['setxattr'],
  },
}

/** Every change with everything that can be cached of it. */
export const PAIRS = Object.entries(LOOKS).flatMap(([look, { after }]) =>
  after.map(change => ({ look, change })),
)

export interface LookResult {
  readonly look: string
  readonly change: string
  readonly stale: boolean
  /** Milliseconds from the change until a look was right; 0 where the first was. */
  readonly lateMs: number
  /** What was seen, and what was there. */
  readonly seen: string
  readonly truth: string
  /** How long it took to have it cached: with more than the margin the guest was too slow. */
  readonly primeMs: number
  /** How long the change took. */
  readonly changeMs: number
}

/** A guest, or a process of the host, that takes orders. */
class Agent {
  readonly #line: Duplex
  readonly #waiting = new Map<number, (answer: string) => void>()
  readonly ready: Promise<void>

  constructor(line: Duplex) {
    this.#line = line
    this.ready = new Promise(done => {
      createInterface({ input: line }).on('line', text => {
        if (text === '0 ready') return done()
        const space = text.indexOf(' ')
        const slot = Number(text.slice(0, space))
        const take = this.#waiting.get(slot)
        this.#waiting.delete(slot)
        return take?.(text.slice(space + 1))
      })
    })
    line.on('error', () => undefined)
  }

  order(slot: number, text: string): Promise<string> {
    return new Promise((done, failed) => {
      const timer = setTimeout(
        () => failed(new Error(`no answer to "${text}" in slot ${slot}`)),
        ANSWER_LIMIT_MS,
      )
      this.#waiting.set(slot, answer => {
        clearTimeout(timer)
        done(answer)
      })
      this.#line.write(`${slot} ${text}\n`)
    })
  }

  end(): void {
    this.#line.write('0 end\n')
  }
}

export interface Guests {
  readonly mode: Mode
  readonly share: string
  readonly agents: readonly Agent[]
  /** On the host, in the same directory. */
  readonly host: Agent
  readonly daemons: readonly Daemon[]
  /** Ends all. Errors: a guest or a daemon did not end well. */
  close(): Promise<void>
  /** Ends all at once. */
  kill(): Promise<void>
}

/** Boots `count` guests on one new directory. */
export async function bootGuests(
  mode: Mode,
  count: number,
  extra: readonly string[] = [],
): Promise<Guests> {
  const share = mkdtempSync(join(tmpdir(), 'virtiofsd-coherence-'))
  // The guest's /tmp is its own.
  const lab = mkdtempSync('/var/tmp/virtiofsd-coherence-')
  const table = mkdtempSync('/dev/shm/virtiofsd-coherence-')
  const program = join(lab, 'agent')
  execFileSync('cc', [
    ...['-O1', '-Wall', '-D_GNU_SOURCE', '-pthread'],
    ...[packageFile('scripts', 'lab', 'coherence-agent.c'), '-o', program],
  ])
  const daemons: Daemon[] = []
  const agents: Agent[] = []
  const ends: Promise<unknown>[] = []
  const end = new AbortController()
  const onHost = spawn(program, ['-'], { cwd: share, stdio: ['pipe', 'pipe', 'inherit'] })
  const host = new Agent(Duplex.from({ readable: onHost.stdout, writable: onHost.stdin }))
  ends.push(new Promise(done => onHost.on('exit', done)))
  const clean = (): void => {
    for (const folder of [share, lab, table]) rmSync(folder, { recursive: true, force: true })
  }
  const kill = async (): Promise<void> => {
    end.abort()
    onHost.kill()
    for (const daemon of daemons) await daemon.kill()
    clean()
  }
  try {
    for (let i = 0; i < count; i++) {
      const args = ['--tag', TAG, '--xattr', ...MODES[mode](join(table, 'table')), ...extra]
      const daemon = await Daemon.start({ sharedDir: share, args })
      daemons.push(daemon)
      const guest = runUml({
        socketPath: daemon.socketPath,
        command: `${program} /dev/ttyS0`,
        timeoutMs: 3_600_000,
        memoryMiB: 256,
        abort: end.signal,
        onLine: line => agents.push(new Agent(line)),
      })
      ends.push(guest)
      const late = new Promise((_, failed) =>
        setTimeout(() => failed(new Error('the guest did not boot')), BOOT_LIMIT_MS).unref(),
      )
      const early = guest.then(({ console }) => {
        throw new Error(`the guest ended:\n${console.slice(-2000)}`)
      })
      early.catch(() => undefined)
      await Promise.race([agents[i]!.ready, late, early])
    }
  } catch (cause) {
    await kill()
    throw cause
  }
  return {
    mode,
    share,
    agents,
    host,
    daemons,
    kill,
    async close() {
      for (const agent of [...agents, host]) agent.end()
      await Promise.all(ends)
      const logs: string[] = []
      for (const daemon of daemons) {
        const status = await daemon.exit()
        if (status !== 0 || /ERROR|WARN/.test(daemon.log)) logs.push(daemon.log)
      }
      clean()
      if (logs.length > 0) throw new Error(`a daemon did not end well:\n${logs.join('\n')}`)
    },
  }
}

function prepare(folder: string): void {
  mkdirSync(join(folder, 'empty'), { recursive: true })
  writeFileSync(join(folder, 'file'), 'before')
  writeFileSync(join(folder, 'other'), 'other file')
  symlinkSync('before', join(folder, 'link'))
}

export type Changer = 'guest' | 'host'

/** `count` changes by the first guest, or on the host, all pairs of change and look in turn; each other guest looks. */
export async function takeLooks(
  { mode, share, agents, host }: Guests,
  count: number,
  took: (result: LookResult) => void,
  by: Changer = 'guest',
): Promise<void> {
  const changer = by === 'host' ? host : agents[0]!
  const lookers = by === 'host' ? agents : agents.slice(1)
  const all = (slot: number, text: string): Promise<string[]> =>
    Promise.all(lookers.map(looker => looker.order(slot, text)))
  // Direct I/O has no shared mappings before Linux 6.6.
  const pairs = PAIRS.filter(
    ({ change }) => mode !== 'never' || by === 'host' || !change.startsWith('mmap'),
  )
  const folderOf = (index: number): string => join(share, `d${index}`)
  let next = 0
  async function one(slot: number, index: number): Promise<void> {
    const { look, change } = pairs[index % pairs.length]!
    const { prime, order, truth } = LOOKS[look]!
    const name = `d${index}`
    const folder = folderOf(index)
    const fd = openSync(join(folder, 'file'), 'r')
    const first = performance.now()
    for (const text of prime(name)) await all(slot, text)
    const hot = Math.floor(index / pairs.length) % 2 === 1
    if (hot) await all(slot, `again ${AGAIN} ${order(name)}`)
    const primeMs = performance.now() - first
    const began = performance.now()
    for (const text of CHANGES[change]!(name)) {
      const answer = await changer.order(slot, text)
      if (answer !== 'ok') throw new Error(`${text}: ${answer}`)
    }
    const changed = performance.now()
    const answers = await all(slot, order(name))
    const there = truth(folder, fd)
    const late = await Promise.all(
      answers.map((seen, i) =>
        seen === there ? 0 : untilRight(lookers[i]!, slot, order(name), there),
      ),
    )
    closeSync(fd)
    if (prime(name)[0]!.startsWith('open')) await all(slot, 'close')
    for (const [i, seen] of answers.entries()) {
      const stale = seen !== there
      const lateMs = late[i]! === 0 ? 0 : late[i]! - changed
      const changeMs = changed - began
      took({ look, change, stale, lateMs, seen, truth: there, primeMs, changeMs })
    }
  }
  async function worker(slot: number, end: number): Promise<void> {
    while (next < end) await one(slot, next++)
  }
  while (next < count) {
    const first = next
    const end = Math.min(first + BLOCK, count)
    for (let index = first; index < end; index++) prepare(folderOf(index))
    await new Promise(done => setTimeout(done, SETTLE_MS))
    await Promise.all(Array.from({ length: SLOTS }, (_, slot) => worker(slot, end)))
    for (let index = first; index < end; index++) rmSync(folderOf(index), { recursive: true })
  }
}

/** The moment when a look is right; Infinity when none is in time. */
async function untilRight(
  looker: Agent,
  slot: number,
  order: string,
  there: string,
): Promise<number> {
  const limit = performance.now() + LATE_LIMIT_MS
  while (performance.now() < limit) {
    if ((await looker.order(slot, order)) === there) return performance.now()
    await new Promise(done => setTimeout(done, LATE_STEP_MS))
  }
  return Number.POSITIVE_INFINITY
}

async function main(): Promise<void> {
  const { values, positionals } = scriptArguments(import.meta.url, {
    allowPositionals: true,
    options: {
      guests: { type: 'string', default: '2' },
      changer: { type: 'string', default: 'guest' },
    },
  })
  const [looks = '400', ...modes] = positionals
  const count = Number(values.guests)
  const by: Changer = values.changer === 'host' ? 'host' : 'guest'
  const lookers = by === 'host' ? count : count - 1
  if (!(lookers >= 1))
    throw new Error('--guests: a number from 2 on, or from 1 with --changer host')
  for (const mode of (modes.length > 0 ? modes : Object.keys(MODES)) as Mode[]) {
    const guests = await bootGuests(mode, count)
    const began = performance.now()
    const results: LookResult[] = []
    try {
      const changes = Math.ceil(Number(looks) / lookers)
      let late = 0
      const took = (result: LookResult): void => {
        if (result.stale) late++
        if (results.push(result) % PROGRESS === 0)
          console.error(`${mode}: ${results.length} of ${looks} looks, ${late} stale`)
      }
      await takeLooks(guests, changes, took, by)
    } catch (cause) {
      await guests.kill()
      throw cause
    }
    const seconds = (performance.now() - began) / 1000
    await guests.close()
    const stale = results.filter(result => result.stale)
    const waits = results.filter(result => result.changeMs >= 100).length / lookers
    const times = results.map(({ changeMs }) => changeMs).toSorted((a, b) => a - b)
    console.log(
      `${mode}: ${results.length} looks, ${stale.length} stale; ${waits} changes took 100 ms or more, the median ${times[times.length >> 1]!.toFixed(1)} ms, the longest ${times.at(-1)!.toFixed(0)} ms; ${seconds.toFixed(0)} s`,
    )
    const kinds = new Map<string, number>()
    for (const { look, change } of stale)
      kinds.set(`${change} / ${look}`, (kinds.get(`${change} / ${look}`) ?? 0) + 1)
    const late = stale.map(({ lateMs }) => lateMs).toSorted((a, b) => a - b)
    const lateAt = (part: number): string => late[Math.floor(part * (late.length - 1))]!.toFixed(0)
    if (late.length > 0)
      console.log(
        `    late by ${lateAt(0.5)} ms in the median, 99 %: ${lateAt(0.99)} ms, all: ${lateAt(1)} ms`,
      )
    for (const [kind, number] of kinds) console.log(`    ${kind}: ${number}`)
    for (const { change, look, seen, truth, primeMs, changeMs } of stale.slice(
      0,
      mode.startsWith('strict') ? 10 : 0,
    ))
      console.log(
        `  ${change} / ${look}, after ${primeMs.toFixed(0)} and ${changeMs.toFixed(0)} ms\n    saw  ${seen}\n    is   ${truth}`,
      )
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main()
