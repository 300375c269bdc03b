/** What the tests of the shim share: contexts, folders, names in the arena, child processes. */
import { spawnSync } from 'node:child_process'
import {
  closeSync,
  constants as files,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  rmSync,
} from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import type { ExecutionContext } from 'ava'
import type * as Addon from '../../src/native/addon.js'
import { type ContextOptions, native } from '../../src/native/addon.js'
import type * as Contexts from '../../src/native/context.js'
import { Context } from '../../src/native/context.js'

export const E = constants.errno
export const ROOT = process.geteuid!() === 0

/** Generous: a wait that takes this long has failed. */
export const LONG_MS = 90_000

export function makeContext(t: ExecutionContext, options: Partial<ContextOptions> = {}): Context {
  const context = new Context({ arenaBytes: 65536, maxSegments: 64, poolThreads: 1, ...options })
  t.teardown(() => context.dispose())
  return context
}

export function makeFolder(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-native-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A descriptor of Node's, closed at the end. */
export function open(t: ExecutionContext, path: string, flags: number, mode = 0o644): number {
  const fd = openSync(path, flags, mode)
  t.teardown(() => closeSync(fd))
  return fd
}

/** A descriptor that a native call made, closed at the end; the test fails when it is an error. */
export function own(t: ExecutionContext, fd: number): number {
  if (fd < 0) throw new Error(`errno ${-fd} instead of a descriptor`)
  t.teardown(() => native.closeFd(fd))
  return fd
}

export function socketPair(t: ExecutionContext): [number, number] {
  const pair = new Int32Array(2)
  if (native.socketPair(pair) !== 0) throw new Error('socketPair')
  return [own(t, pair[0]!), own(t, pair[1]!)]
}

/** Both ends of a FIFO, as non-blocking descriptors that the test closes. */
export function makePipe(context: Context, folder: string): { read: number; write: number } {
  const path = join(folder, `fifo${readdirSync(folder).length}`)
  makeFifo(context, path)
  const read = openSync(path, files.O_RDONLY | files.O_NONBLOCK)
  return { read, write: openSync(path, files.O_WRONLY | files.O_NONBLOCK) }
}

export function makeFifo(context: Context, path: string): void {
  put(context, 60000, path)
  const answer = context.mknodat(-100, 60000, 0o010600, 0, 0)
  if (answer !== 0) throw new Error(`mkfifo ${path}: errno ${-answer}`)
}

/** Puts a NUL-terminated name into the arena; returns its place. */
export function put(context: Context, at: number, name: string): number {
  const length = context.bytes.length - at
  const bytes = Buffer.from(`${name}\0`)
  if (bytes.length > length) throw new Error('the name does not fit')
  context.bytes.set(bytes, at)
  return at
}

/** The open descriptors, without the one that reads the list, and what each is of, as /proc/self/fd says. */
export function openFiles(): ReadonlyMap<string, string> {
  const found = new Map<string, string>()
  for (const fd of readdirSync('/proc/self/fd'))
    try {
      found.set(fd, readlinkSync(`/proc/self/fd/${fd}`))
    } catch {
      // Closed meanwhile, as the one of the list is.
    }
  return found
}

/** The open descriptors, without the one that reads the list. */
export function descriptors(): string[] {
  return [...openFiles().keys()]
}

/** Takes finished jobs until there are `count`, and fails after a long time. */
export function reapAll(context: Context, count: number): Map<number, number> {
  const results = new Map<number, number>()
  const until = Date.now() + LONG_MS
  while (results.size < count) {
    const token = context.reap()
    if (token >= 0) {
      if (results.has(token)) throw new Error(`token ${token} came twice`)
      results.set(token, context.reapedResult)
    } else if (Date.now() > until)
      throw new Error(`only ${results.size} of ${count} jobs came back`)
    else context.wait(1000, 0)
  }
  return results
}

// --- other processes and threads --------------------------------------------------------------------

export interface Modules {
  readonly native: typeof Addon.native
  readonly Context: typeof Contexts.Context
  readonly addon: typeof Addon
}

export const ADDON = new URL('../../src/native/addon.js', import.meta.url).href
export const CONTEXT = new URL('../../src/native/context.js', import.meta.url).href

/** Source of a module that runs `body`, which must use nothing but its parameters and globals. */
function source(body: { toString(): string }, args: unknown[]): string {
  return `
    const addon = await import(${JSON.stringify(ADDON)})
    const { Context } = await import(${JSON.stringify(CONTEXT)})
    const answer = await (${body.toString()})({ native: addon.native, Context, addon }, ...${JSON.stringify(args)})
  `
}

export interface Ended {
  /** What the body returned; undefined when it did not get that far. */
  readonly value: unknown
  readonly status: number | null
  readonly signal: string | null
  readonly stderr: string
}

/** Runs `body` in a process of its own and waits for its end. A process that takes too long is killed. */
export function inChild<A extends unknown[]>(
  body: (modules: Modules, ...args: A) => unknown,
  ...args: A
): Ended {
  return runModule(`${source(body, args)}
    process.stdout.write('answer ' + JSON.stringify(answer) + '\\n')`)
}

/** As `inChild`, without loading the shim. */
export function inBareChild<A extends unknown[]>(body: (...args: A) => unknown, ...args: A): Ended {
  return runModule(`const answer = await (${body.toString()})(...${JSON.stringify(args)})
    process.stdout.write('answer ' + JSON.stringify(answer) + '\\n')`)
}

function runModule(text: string): Ended {
  const ended = spawnSync(process.execPath, ['--input-type=module', '-e', text], {
    timeout: LONG_MS,
    killSignal: 'SIGKILL',
    encoding: 'utf8',
  })
  const line = /^answer (.*)$/m.exec(ended.stdout)
  return {
    value: line === null ? undefined : JSON.parse(line[1]!),
    status: ended.status,
    signal: ended.signal,
    stderr: ended.stderr,
  }
}

/** Runs `body` in a thread of its own. */
export async function inWorker<A extends unknown[]>(
  body: (modules: Modules, ...args: A) => unknown,
  ...args: A
): Promise<unknown> {
  const { worker, answer } = startWorker(body, ...args)
  try {
    return await answer
  } finally {
    await worker.terminate()
  }
}

export function startWorker<A extends unknown[]>(
  body: (modules: Modules, ...args: A) => unknown,
  ...args: A
): { worker: Worker; answer: Promise<unknown> } {
  const text = `${source(body, args)}
    const { parentPort } = await import('node:worker_threads')
    parentPort.postMessage(answer)`
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(text)}`))
  const answer = new Promise<unknown>((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
    worker.once('exit', () => reject(new Error('the thread ended without an answer')))
  })
  return { worker, answer }
}
