/**
 * Start-up: milliseconds from exec to the readiness line, processor time and resident memory then,
 * of this daemon and, alternating with it, of Rust virtiofsd. One JSON line with medians and ratios.
 *
 *   node dist/scripts/bench/startup.js [RUNS] [-- PROGRAM ARGUMENT ...]
 *
 * On a machine that does other things too, `chrt -r 1 node ...` keeps them out of the figures.
 *
 * Our daemon is PROGRAM (default: the bundle, which `npm run build` makes). PEER is Rust
 * virtiofsd's command line; without it only ours is measured. Both run with --sandbox none.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { packageFile } from '../../src/native/addon.js'
import { programFrom } from './contestants.js'

const READY = 'Waiting for vhost-user socket connection'
const READY_LIMIT_MS = 20_000
const DEFAULT_RUNS = 21
/** Kernel clock ticks of /proc/PID/stat: USER_HZ, 100 on every Linux Node runs on. */
const TICK_MS = 10

interface Sample {
  readonly readyMs: number
  /** User and system time of all threads, up to the readiness line. */
  readonly cpuMs: number
  readonly residentKib: number
  /** Resident and not shared with a file: what another daemon of the same kind costs. */
  readonly anonymousKib: number
}

const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-startup-'))
const socket = join(folder, 'vhost.sock')

async function measure(command: readonly string[]): Promise<Sample> {
  const begin = performance.now()
  const child = spawn(command[0]!, command.slice(1), { stdio: ['ignore', 'ignore', 'pipe'] })
  const ended = new Promise(done => child.on('exit', done))
  await readiness(child)
  const readyMs = performance.now() - begin
  const sample = { readyMs, ...usage(child.pid!) }
  child.kill('SIGKILL')
  await ended
  rmSync(socket, { force: true })
  rmSync(`${socket}.pid`, { force: true })
  return sample
}

function readiness(child: ChildProcess): Promise<void> {
  return new Promise((done, fail) => {
    let text = ''
    const limit = setTimeout(() => fail(new Error(`not ready in time:\n${text}`)), READY_LIMIT_MS)
    child.on('error', fail)
    child.on('exit', status => fail(new Error(`ended with status ${status}:\n${text}`)))
    child.stderr!.on('data', (part: Buffer) => {
      text += part.toString()
      if (!text.includes(READY)) return
      clearTimeout(limit)
      done()
    })
  })
}

function usage(pid: number): Omit<Sample, 'readyMs'> {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const kib = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)![1])
  // The fields after the name in brackets: utime and stime are the 14th and 15th of all.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')
  return {
    cpuMs: (Number(fields[11]) + Number(fields[12])) * TICK_MS,
    residentKib: kib('VmRSS'),
    anonymousKib: kib('RssAnon'),
  }
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!
}

function medians(samples: readonly Sample[]): Sample {
  const of = (field: keyof Sample): number =>
    Math.round(median(samples.map(sample => sample[field])) * 10) / 10
  return {
    readyMs: of('readyMs'),
    cpuMs: of('cpuMs'),
    residentKib: of('residentKib'),
    anonymousKib: of('anonymousKib'),
  }
}

async function main(): Promise<void> {
  const words = process.argv.slice(2)
  const dashes = words.indexOf('--')
  const runs = Number((dashes < 0 ? words : words.slice(0, dashes))[0] ?? DEFAULT_RUNS)
  const program =
    dashes < 0
      ? [process.execPath, packageFile('dist', 'bundle', 'bin', 'virtiofsd.js')]
      : words.slice(dashes + 1)
  const args = ['--socket-path', socket, '--shared-dir', folder, '--sandbox', 'none']
  const peer = programFrom('PEER')
  const samples: Sample[] = []
  const peerSamples: Sample[] = []
  for (let i = 0; i < runs; i++) {
    samples.push(await measure([...program, ...args]))
    if (peer !== undefined) peerSamples.push(await measure([...peer, ...args]))
  }
  const result = { bench: 'startup', runs, ours: medians(samples) }
  if (peerSamples.length === 0) {
    console.log(JSON.stringify(result))
    return
  }
  const theirs = medians(peerSamples)
  const ratio = (field: keyof Sample): number =>
    Math.round((result.ours[field] / theirs[field]) * 10) / 10
  const ratios = {
    ready: ratio('readyMs'),
    resident: ratio('residentKib'),
    anonymous: ratio('anonymousKib'),
  }
  console.log(JSON.stringify({ ...result, peer: theirs, ratios }))
}

try {
  await main()
} finally {
  rmSync(folder, { recursive: true, force: true })
}
