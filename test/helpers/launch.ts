/** The daemon as a launcher starts it, and a guest's driver on its socket. */
import { type ChildProcess, execFileSync, type SpawnOptions, spawn } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { native, packageFile } from '../../src/native/addon.js'
import { FrontEnd } from './front-end.js'
import { FuseClient } from './fuse-client.js'

export const READY = 'Waiting for vhost-user socket connection'

/**
 * The package where every user reaches it. A checkout below a folder of one's own (root's home) is bound to
 * another place for as long as this process lives.
 */
function packageForEveryone(): string {
  const root = packageFile()
  let reachable = true
  for (let folder = root; folder !== '/'; folder = dirname(folder))
    if ((statSync(folder).mode & 0o001) === 0) reachable = false
  if (reachable || process.geteuid?.() !== 0) return root
  const place = mkdtempSync(join(tmpdir(), 'virtiofsd-package-'))
  chmodSync(place, 0o755)
  execFileSync('mount', ['--bind', root, place])
  process.on('exit', () => {
    execFileSync('umount', ['-l', place])
    rmdirSync(place)
  })
  const shim = process.env.VIRTIOFSD_NATIVE
  if (shim?.startsWith(`${root}/`) === true)
    process.env.VIRTIOFSD_NATIVE = join(place, shim.slice(root.length))
  return place
}

export const PROGRAM: readonly string[] = [
  process.execPath,
  join(packageForEveryone(), 'dist', 'src', 'bin', 'virtiofsd.js'),
]
/** For what takes a fraction of a second on an idle machine. */
const LIMIT_MS = 90_000

/** A folder of one test: a share with a file in it, and a place for sockets. Removed afterwards. */
export class Place {
  readonly folder: string
  readonly share: string
  readonly socket: string
  readonly content = 'what the guest reads\n'

  constructor(t: ExecutionContext) {
    this.folder = realpathSync(mkdtempSync(join(tmpdir(), 'virtiofsd-launch-')))
    this.share = join(this.folder, 'share')
    this.socket = join(this.folder, 'vhost.sock')
    mkdirSync(this.share, { mode: 0o755 })
    writeFileSync(join(this.share, 'file'), this.content)
    t.teardown(() => rmSync(this.folder, { recursive: true, force: true }))
  }

  /** A listening socket, as launchers make it that pass a descriptor. The caller closes it. */
  listen(): number {
    const fd = native.unixListen(this.socket, 8)
    if (fd < 0) throw new Error(`listen: errno ${-fd}`)
    return fd
  }
}

export interface LaunchOptions {
  readonly cwd?: string
  /** Added to the environment. */
  readonly env?: Readonly<Record<string, string | undefined>>
  /** A listening descriptor and the number the daemon gets it as; closed here after the start. */
  readonly pass?: { readonly fd: number; readonly as: number }
  /** What stderr is: read (default), a pipe nobody reads, /dev/null, or a descriptor. */
  readonly stderr?: 'read' | 'unread' | 'null' | number
  readonly uid?: number
  /** What to run before the arguments; PROGRAM by default. */
  readonly program?: readonly string[]
}

export class Launched {
  readonly process: ChildProcess
  stderr = ''
  readonly #ended: Promise<number | NodeJS.Signals>

  constructor(t: ExecutionContext, argv: readonly string[], options: LaunchOptions = {}) {
    const [program, ...first] = options.program ?? PROGRAM
    this.process = spawn(program!, [...first, ...argv], {
      cwd: options.cwd,
      env: { ...process.env, RUST_LOG: undefined, ...options.env },
      stdio: stdio(options),
      ...(options.uid === undefined ? {} : { uid: options.uid, gid: options.uid }),
    })
    if (options.pass !== undefined) native.closeFd(options.pass.fd)
    if ((options.stderr ?? 'read') === 'read')
      this.process.stderr!.setEncoding('utf8').on('data', (text: string) => {
        this.stderr += text
      })
    let closed = false
    this.process.on('close', () => {
      closed = true
    })
    this.#ended = new Promise(done => {
      this.process.on('exit', (status, signal) => {
        void this.#drained(() => closed).then(() => done(status ?? signal!))
      })
    })
    t.teardown(async () => {
      this.process.kill('SIGKILL')
      await this.#ended
    })
  }

  get pid(): number {
    return this.process.pid!
  }

  /** After its end: all it has said was read. A process that it left behind may keep the pipe open. */
  async #drained(closed: () => boolean): Promise<void> {
    let read = -1
    while (!closed() && read !== this.stderr.length) {
      read = this.stderr.length
      await new Promise(done => setTimeout(done, 20))
      // However late the timer was: the pipe is looked at before this.
      await new Promise(done => setImmediate(done))
    }
  }

  /** Waits for the readiness line. */
  async ready(): Promise<void> {
    await this.said(READY)
  }

  async said(text: string): Promise<void> {
    let ended = false
    void this.#ended.then(() => {
      ended = true
    })
    await until(() => this.stderr.includes(text) || ended)
    if (!this.stderr.includes(text)) throw new Error(`it did not say "${text}":\n${this.stderr}`)
  }

  /** Its exit status, or the signal it died of. */
  async end(): Promise<number | NodeJS.Signals> {
    let ended: number | NodeJS.Signals | undefined
    void this.#ended.then(status => {
      ended = status
    })
    await until(() => ended !== undefined)
    return ended!
  }
}

function stdio({ pass, stderr = 'read' }: LaunchOptions): NonNullable<SpawnOptions['stdio']> {
  const own = typeof stderr === 'number' ? stderr : stderr === 'null' ? 'ignore' : 'pipe'
  const list: ('ignore' | 'pipe' | number)[] = ['ignore', 'ignore', own]
  if (pass === undefined) return list
  while (list.length < pass.as) list.push('ignore')
  return [...list, pass.fd]
}

/** Polls. Errors: it does not come true in time. */
export async function until(holds: () => boolean): Promise<void> {
  const limit = performance.now() + LIMIT_MS
  while (!holds()) {
    if (performance.now() > limit) throw new Error(`not in time: ${holds}`)
    await new Promise(done => setTimeout(done, 10))
  }
}

/** Connects as soon as somebody listens. */
export async function connect(path: string): Promise<FrontEnd> {
  let fd = -1
  await until(() => {
    if (existsSync(path)) fd = native.unixConnect(path)
    return fd >= 0
  })
  return new FrontEnd(fd)
}

/** Mounts, reads the share's file, and hangs up. Returns what was read. */
export function guestReads(front: FrontEnd): string {
  try {
    front.start()
    const client = new FuseClient(front, front.rings[1]!)
    client.init()
    const nodeid = client.lookup(1, 'file')
    if (nodeid < 0) throw new Error(`lookup: errno ${-nodeid}`)
    const fh = client.open(nodeid, 0)
    const bytes = client.read(nodeid, fh, 0, 4096)
    client.release(nodeid, fh)
    return new TextDecoder().decode(bytes)
  } finally {
    front.close()
  }
}
