/** A user-mode Linux guest: a real kernel as a process, its root the host's own tree, read-only. */
import { spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { packageFile } from '../../src/native/addon.js'

export const TAG = 'lab'

/** A kernel other than the one in the cache. */
export interface UmlKernel {
  /** `[program, arguments...]`, to which the kernel's parameters are added. */
  readonly command: readonly string[]
  /** Its modules' folder, as the guest sees it. */
  readonly modules: string
  /** Where that program sees the host's root: the guest's root. */
  readonly hostRoot: string
}

export interface GuestOptions {
  readonly socketPath: string
  /** Shell text that runs in the mounted share. */
  readonly command: string
  readonly mountOptions?: string
  /** The console is this process' terminal, and a shell follows the command. */
  readonly interactive?: boolean
  readonly timeoutMs?: number
  readonly memoryMiB?: number
  /** Default: what scripts/setup put into the cache. */
  readonly uml?: UmlKernel
  /** Put before the command: taskset and the like. */
  readonly prefix?: readonly string[]
  /** Called at the start with what ends the guest at once, as a power failure does. */
  readonly onStart?: (kill: () => void) => void
  /** Called with console text as it comes. */
  readonly onOutput?: (text: string) => void
  /** Ends the guest at once. */
  readonly abort?: AbortSignal
  /** Called at the start with the guest's serial line, /dev/ttyS0 there. */
  readonly onLine?: (line: Duplex) => void
}

export interface GuestResult {
  /** The command's exit status; -1 when the guest never got so far. */
  readonly status: number
  /** What the command printed. */
  readonly output: string
  /** The whole console, for diagnosis. */
  readonly console: string
}

export function cacheFolder(): string {
  return join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'virtiofsd-ts')
}

/** Where scripts/setup put the kernel, or undefined. */
export function findUml(): { kernel: string; modules: string } | undefined {
  let folders: string[]
  try {
    folders = readdirSync(cacheFolder()).filter(name => name.startsWith('user-mode-linux_'))
  } catch {
    return undefined
  }
  const folder = folders.sort().at(-1)
  if (folder === undefined) return undefined
  const root = join(cacheFolder(), folder)
  const modules = join(root, 'usr', 'lib', 'uml', 'modules')
  return {
    kernel: join(root, 'usr', 'bin', 'linux.uml'),
    modules: join(modules, readdirSync(modules)[0]!),
  }
}

/** Guests that this process has booted: each has a name of its own. */
let guests = 0

/** Boots the guest, runs the command, waits for power-off. Errors: no kernel; the time limit passed. */
export async function runUml(options: GuestOptions): Promise<GuestResult> {
  const uml = options.uml ?? cachedKernel()
  if (uml === undefined) throw new Error('no user-mode Linux kernel: run "scripts/setup guest"')
  const lab = mkdtempSync(join(tmpdir(), 'virtiofsd-guest-'))
  writeFileSync(join(lab, 'command'), options.command)
  const args = [
    `mem=${options.memoryMiB ?? 512}M`,
    'con=null',
    'con0=fd:0,fd:1',
    `virtio_uml.device=${join(uml.hostRoot, options.socketPath)}:26:1`,
    'rootfstype=hostfs',
    `rootflags=${uml.hostRoot}`,
    'ro',
    'quiet',
    `umid=lab${process.pid}-${Date.now()}-${guests++}`,
    `init=${packageFile('scripts', 'lab', 'uml-init')}`,
    `LAB=${lab}`,
    `MODULES=${uml.modules}`,
    `TAG=${TAG}`,
  ]
  if (options.mountOptions !== undefined) args.push(`OPTIONS=${options.mountOptions}`)
  if (options.onLine !== undefined) args.push('ssl0=fd:3')
  if (options.interactive === true) args.push('SHELL_OPEN=1')
  try {
    return await boot([...(options.prefix ?? []), ...uml.command], args, options)
  } finally {
    rmSync(lab, { recursive: true, force: true })
  }
}

function cachedKernel(): UmlKernel | undefined {
  const found = findUml()
  return found && { command: [found.kernel], modules: found.modules, hostRoot: '/' }
}

function boot(
  [program, ...first]: readonly string[],
  args: readonly string[],
  options: GuestOptions,
): Promise<GuestResult> {
  const limitMs = options.timeoutMs ?? 600_000
  return new Promise((done, failed) => {
    // It goes with this process, also when that is killed.
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', program!, ...first, ...args], {
      stdio: options.interactive === true ? 'inherit' : ['ignore', 'pipe', 'pipe', 'pipe'],
      // A group of its own, so that a hung kernel's helper processes go with it.
      detached: options.interactive !== true,
      env: { ...process.env, TMPDIR: process.env.TMPDIR ?? '/tmp' },
    })
    options.onStart?.(() => killGroup(child.pid!))
    let console = ''
    const take = (text: string): void => {
      console += text
      options.onOutput?.(text)
    }
    child.stdout?.setEncoding('utf8').on('data', take)
    child.stderr?.setEncoding('utf8').on('data', take)
    const timer =
      options.interactive === true
        ? undefined
        : setTimeout(() => {
            killGroup(child.pid!)
            failed(
              new Error(
                `the guest did not finish in ${limitMs / 1000} s; its console ends:\n${console.slice(-3000)}`,
              ),
            )
          }, limitMs)
    options.abort?.addEventListener('abort', () => killGroup(child.pid!))
    options.onLine?.(child.stdio[3] as Duplex)
    child.on('error', failed)
    child.on('close', () => {
      clearTimeout(timer)
      done(parseConsole(console))
    })
  })
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // It has ended by itself.
  }
}

function parseConsole(console: string): GuestResult {
  const text = console.replaceAll('\r', '')
  const start = text.indexOf('lab: start\n')
  const end = /^lab: end (\d+)$/m.exec(text)
  if (start < 0 || end === null) return { status: -1, output: '', console: text }
  return {
    status: Number(end[1]),
    output: text.slice(start + 'lab: start\n'.length, end.index),
    console: text,
  }
}
