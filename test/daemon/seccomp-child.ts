/**
 * A process under the filter that tries system calls: started by seccomp.test.ts, which says what by JSON
 * in its first argument. It prints one line of JSON, if it lives.
 */
import { writeSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { native } from '../../src/native/addon.js'
import { seccompProgram, thisMachine } from '../../src/daemon/seccomp.js'

/** test/daemon/seccomp-probe.c. */
interface Probe {
  /** Answer or -errno; undefined when the filter trapped it. */
  call(number: number, ...args: number[]): number | undefined
  /** The same on a thread that was there before the filter. */
  callOnThread(number: number, ...args: number[]): number | undefined
  /** getpid by the 32-bit gate of x86. */
  callOldGate(): number | undefined
  startThread(): void
  catchTraps(): void
}

export type Where = 'main' | 'worker' | 'thread' | 'pool'
export interface Call {
  readonly number: number
  readonly args: readonly number[]
}
export interface Work {
  readonly probe: string
  readonly action: 'kill' | 'log' | 'trap'
  readonly catchTraps: boolean
  readonly where: Where
  readonly calls: readonly Call[]
  readonly oldGate: boolean
  /** Ordinary work first. */
  readonly busy: boolean
}
/** null: trapped. */
export type Answers = readonly (number | null)[]

function perform(work: Work, probe: Probe): Answers {
  if (work.oldGate) return [probe.callOldGate() ?? null]
  const call = work.where === 'thread' ? probe.callOnThread : probe.call
  return work.calls.map(({ number, args }) => call(number, ...args) ?? null)
}

async function keepBusy(): Promise<void> {
  for (let i = 0; i < 20; i++) {
    const garbage = Array.from({ length: 50_000 }, (_, n) => ({ n, text: `${n}` }))
    if (garbage.length === 0) throw new Error('optimised away')
    await new Promise(done => setTimeout(done, 1))
  }
  globalThis.gc?.()
  const worker = new Worker('require("node:worker_threads").parentPort.postMessage(1)', {
    eval: true,
  })
  await new Promise((done, failed) => {
    worker.on('exit', done)
    worker.on('error', failed)
  })
}

async function main(work: Work): Promise<void> {
  const probe = createRequire(import.meta.url)(work.probe) as Probe
  probe.startThread()
  if (work.catchTraps) probe.catchTraps()
  const worker =
    work.where === 'worker' ? new Worker(new URL(import.meta.url), { workerData: work }) : undefined
  if (worker !== undefined) await new Promise(done => worker.once('message', done))
  // The threads of libuv's pool start with the first job.
  await mkdir('/tmp', { recursive: true })
  const fault = native.installFilter(seccompProgram(thisMachine()!, work.action, process.pid))
  if (fault < 0) throw new Error(`installFilter: errno ${-fault}`)
  if (work.busy) await keepBusy()
  let answers: Answers
  if (worker !== undefined) {
    worker.postMessage('go')
    answers = await new Promise(done => worker.once('message', done))
  } else if (work.where === 'pool') {
    // mkdir(2), by a thread of the pool; mkdirat(2) is what the daemon uses.
    const outcome = await mkdir('/nonexistent/x').catch(({ errno }: { errno: number }) => errno)
    answers = [Number(outcome ?? 0)]
  } else answers = perform(work, probe)
  writeSync(1, `${JSON.stringify(answers)}\n`)
  await worker?.terminate()
}

if (isMainThread) await main(JSON.parse(process.argv[2]!) as Work)
else {
  const work = workerData as Work
  const probe = createRequire(import.meta.url)(work.probe) as Probe
  parentPort!.once('message', () => parentPort!.postMessage(perform(work, probe)))
  parentPort!.postMessage('loaded')
}
