/**
 * Several contexts in several threads at once, each with its own pool, on one process' descriptors, memory
 * guards and signal handlers. What the sanitizer for threads is for: scripts/with-sanitizers --threads.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { E, makeFolder, type Modules, ROOT, startWorker } from './support.js'

const THREADS = 4
const ROUNDS = 6
const JOBS = 60

interface Sum {
  jobs: number
  wrong: string[]
  torn: number
}

/** The life of a device thread, several times over. Everything in here runs in a worker. */
function live(
  { addon, native, Context }: Modules,
  me: number,
  folder: string,
  rounds: number,
  jobs: number,
  asRoot: boolean,
): Sum {
  const { openSync, closeSync, ftruncateSync, writeFileSync, readFileSync } =
    process.getBuiltinModule('node:fs')
  const { PoolCall } = addon
  const GUEST = 0x10_0000
  const PAGE = 4096
  const REGION = 16 * PAGE
  const sum: Sum = { jobs: 0, wrong: [], torn: 0 }
  const expect = (what: string, is: unknown, wanted: unknown): void => {
    if (is !== wanted) sum.wrong.push(`thread ${me}: ${what}: ${is}, not ${wanted}`)
  }
  for (let round = 0; round < rounds; round++) {
    const context = new Context({ arenaBytes: 65536, maxSegments: 64, poolThreads: 4 })
    const memory = native.memfd('guest', REGION)
    const add = (): number =>
      context.raw.addRegion(memory, 0n, BigInt(GUEST), 0x7f00_0000_0000n, BigInt(REGION))
    expect('addRegion', add(), 0)
    const shared = openSync(`${folder}/shared`, 'r+')
    // Each job writes the page of its own in the file that all threads share.
    const seen = new Set<number>()
    const reap = (): void => {
      for (let token = context.reap(); token >= 0; token = context.reap()) {
        if (seen.has(token)) sum.wrong.push(`thread ${me}: job ${token} came back twice`)
        seen.add(token)
        expect(`job ${token}`, context.reapedResult, PAGE)
      }
    }
    const bytes = new Uint8Array(REGION)
    for (let page = 0; page < 16; page++)
      bytes.fill(me * 16 + page + 1, page * PAGE, page * PAGE + PAGE)
    writeFileSync(`/proc/self/fd/${memory}`, bytes)
    for (let job = 0; job < jobs; job++) {
      const page = job % 16
      context.segments.set([GUEST + page * PAGE, PAGE])
      // Whom the guest's caller is says nothing about the pool's threads, which may begin now.
      const acts = asRoot && job % 7 === 0
      if (acts) expect('setCredentials', context.setCredentials(1000 + me, 1000, 0, 0), 0)
      const answer = context.submit(
        PoolCall.writev,
        job,
        shared,
        0,
        1,
        0,
        PAGE,
        (me * 16 + page) * PAGE,
        0,
      )
      if (acts) expect('restoreCredentials', context.restoreCredentials(), 0)
      expect('submit', answer, 0)
      // The memory of what is under way stays mapped without its region.
      if (job % 20 === 19) {
        expect('clearRegions', context.raw.clearRegions(), 1)
        expect('addRegion again', add(), 0)
      }
      if (job % 3 === 0) context.wait(job % 2, job % 5 === 0 ? 20 : 0)
      reap()
    }
    const until = Date.now() + 90_000
    while (seen.size < jobs && Date.now() < until) {
      context.wait(100, 0)
      reap()
    }
    expect('jobs that came back', seen.size, jobs)
    sum.jobs += seen.size
    const file = readFileSync(`${folder}/shared`)
    for (let page = 0; page < 16; page++)
      expect(`page ${page}`, file[(me * 16 + page) * PAGE + 5], me * 16 + page + 1)
    // Waits of their own threads, which end while others are interrupted.
    const free = openSync(`${folder}/free-${me}`, 'r+')
    for (let i = 0; i < 100; i++) {
      expect('submitAlone', context.submitAlone(PoolCall.flock, 5000 + i, free, 2), 0)
      for (let waits = 0, token = -1; token < 0 && waits < 1000; waits++) {
        context.wait(100, 0)
        expect('interrupt of another', context.interrupt(4999, 0), 0)
        token = context.reap()
        if (token >= 0) expect('token', token, 5000 + i)
      }
    }
    closeSync(free)
    // Memory that its owner cuts short, while others map and unmap theirs.
    ftruncateSync(memory, 0)
    expect('copyIn of torn memory', context.copyIn(0, 1, 0, 0, 8), 8)
    expect('copyIn after that', context.copyIn(0, 1, 0, 0, 8), -14)
    sum.torn++
    // The end, with a job that hangs until a signal wakes it.
    const holder = openSync(`${folder}/lock-${me}`, 'r+')
    const waiter = openSync(`${folder}/lock-${me}`, 'r+')
    if (round === rounds - 1) {
      expect('flock', context.flock(holder, 2), 0)
      expect('submit of a lock', context.submit(PoolCall.flock, 1, waiter, 2), 0)
    }
    for (let i = 0; i < 20; i++) context.submit(PoolCall.fsync, i, shared, 0)
    context.dispose()
    expect('after dispose', context.reap(), -9)
    for (const fd of [holder, waiter, shared]) closeSync(fd)
    native.closeFd(memory)
  }
  return sum
}

test('contexts live and end side by side in several threads', async t => {
  t.timeout(300_000)
  const folder = makeFolder(t)
  writeFileSync(join(folder, 'shared'), new Uint8Array(THREADS * 16 * 4096))
  for (let i = 0; i < THREADS; i++) {
    writeFileSync(join(folder, `lock-${i}`), '')
    writeFileSync(join(folder, `free-${i}`), '')
  }
  t.is(E.EFAULT, 14)
  t.is(E.EBADF, 9)
  const workers = Array.from({ length: THREADS }, (_, i) =>
    startWorker(live, i, folder, ROUNDS, JOBS, ROOT),
  )
  const sums = (await Promise.all(workers.map(({ answer }) => answer))) as Sum[]
  await Promise.all(workers.map(({ worker }) => worker.terminate()))
  t.deepEqual(
    sums,
    Array.from({ length: THREADS }, () => ({ jobs: ROUNDS * JOBS, wrong: [], torn: ROUNDS })),
  )
})
