/**
 * Several queues at once, each driven by a thread of its own, on the same files and folders: every request
 * is answered once and on its queue, no kick or signal is lost, and what all of them did adds up.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import test, { type ExecutionContext } from 'ava'
import { wherePossible } from '../../src/fuse/passthrough.js'
import { native } from '../../src/native/addon.js'
import { TASK_BYTES } from '../helpers/driver-thread.js'
import { BUFFERS_AT, MEMORY_BYTES } from '../helpers/front-end.js'
import { type Rig, rig } from '../helpers/rig.js'
import {
  type Account,
  BIG_BYTES,
  bigByte,
  type Order,
  record,
  SLOT_BYTES,
  SLOTS,
} from './contention.js'

const DONE = 9
const TASKS = 8
/** Rounds of each task; more by hand. */
const ROUNDS = Number(process.env.CONTENTION_ROUNDS ?? 150)

/** Runs `drivers` threads on a ring each, behind the client's, and serves them from this thread, to their ends. */
async function contend(r: Rig, drivers: number, seed: number): Promise<Account[]> {
  const doneFd = native.eventFd()
  r.context.raw.watchFd(doneFd, DONE, false)
  const accounts: Account[] = []
  const workers = Array.from({ length: drivers }, (_, number) => {
    const order: Order = {
      place: {
        ...r.front.rings[2 + number]!.place,
        memoryFd: r.front.memoryFd,
        memoryBytes: MEMORY_BYTES,
        buffersAt: BUFFERS_AT + 0x40_0000 + number * TASKS * TASK_BYTES,
      },
      number,
      drivers,
      seed,
      rounds: ROUNDS,
      doneFd,
    }
    const worker = new Worker(new URL('./contending-driver.js', import.meta.url), {
      workerData: order,
    })
    worker.once('message', (account: Account) => {
      accounts[number] = account
    })
    return worker
  })
  const ended = Promise.all(
    workers.map(worker => new Promise(resolve => worker.once('exit', resolve))),
  )
  // As the device thread: it sleeps where there is nothing to do.
  for (let done = 0; done < drivers; ) {
    const ready = r.device.turn()
    for (let i = 0; i < ready; i++)
      if (r.context.ready[i] === DONE) done += native.eventRead(doneFd, 0)
  }
  await ended
  r.context.raw.unwatchFd(doneFd)
  native.closeFd(doneFd)
  return accounts
}

/** The records in `log`: each whole, and once. */
function checkLog(t: ExecutionContext, log: Uint8Array, accounts: readonly Account[]): void {
  const view = new DataView(log.buffer, log.byteOffset, log.length)
  const seen = accounts.map(() => new Set<number>())
  let at = 0
  while (at < log.length) {
    const [bytes, driver, number] = [0, 4, 8].map(i => view.getUint32(at + i, true)) as [
      number,
      number,
      number,
    ]
    if (accounts[driver]?.appended[number] !== bytes || seen[driver]!.has(number))
      throw new Error(`record ${number} of ${driver}, ${bytes} bytes, at ${at}`)
    seen[driver]!.add(number)
    if (Buffer.compare(log.subarray(at, at + bytes), record(driver, number, bytes)) !== 0)
      throw new Error(`record ${number} of ${driver} was torn`)
    at += bytes
  }
  for (const [driver, { appended }] of accounts.entries())
    t.is(seen[driver]!.size, appended.length, `records of ${driver}`)
}

for (const [drivers, keepsMetadata, helpers, passthrough] of [
  [4, false, 0, undefined],
  [4, true, 3, wherePossible],
  [2, false, 1, undefined],
] as const) {
  const runs = !keepsMetadata || process.geteuid?.() === 0 ? test : test.skip
  runs(
    `${drivers} queues at once add up${keepsMetadata ? ', with metadata kept' : ''}, ${helpers} threads that help`,
    async t => {
      t.timeout(300_000)
      const r = rig(t, { queues: drivers + 2, keepsMetadata, helpers, fuse: { passthrough } })
      mkdirSync(join(r.folder, 'shared'))
      writeFileSync(join(r.folder, 'log'), '')
      writeFileSync(join(r.folder, 'slots'), new Uint8Array(drivers * SLOTS * SLOT_BYTES))
      writeFileSync(
        join(r.folder, 'big'),
        Uint8Array.from({ length: BIG_BYTES }, (_, i) => bigByte(i)),
      )
      const client = r.client()
      const accounts = await contend(r, drivers, 20261121)
      t.deepEqual(
        accounts.map(account => account.fault),
        Array.from({ length: drivers }, () => ''),
      )
      t.deepEqual(r.log, [])
      t.is(r.server.pendingCount, 0)
      t.is(r.server.spreadCount, 0)
      t.is(r.server.spreadTotal > 0, helpers > 0)
      const answered = accounts.reduce((sum, { requests }) => sum + requests, 0)
      // INIT is the one beside them.
      t.is(r.device.counters.requests, answered + 1)
      t.true(answered > drivers * TASKS * ROUNDS)

      // What each was told it made or removed is all that happened.
      const names = readdirSync(join(r.folder, 'shared'))
      t.is(
        names.length,
        accounts.reduce((sum, account) => sum + account.names, 0),
      )
      for (const name of names) t.true(client.lookup(client.lookup(1, 'shared'), name) > 0, name)
      checkLog(t, readFileSync(join(r.folder, 'log')), accounts)

      // Lookups balance: a node is there while one is left, and goes with the last.
      t.is(r.fs.handleCount, 0)
      const lookups = new Map<number, number>()
      for (const account of accounts)
        for (const [node, count] of account.lookups)
          lookups.set(node, (lookups.get(node) ?? 0) + count)
      const shared = client.lookup(1, 'shared')
      const add = (node: number, count: number): void =>
        void lookups.set(node, (lookups.get(node) ?? 0) + count)
      add(shared, names.length + 1)
      for (const name of names) add(client.lookup(shared, name), 2)
      t.is(r.fs.nodeCount - 1, lookups.size)
      for (const [node, count] of lookups) if (count > 1) client.forget(node, count - 1)
      t.is(r.fs.nodeCount - 1, lookups.size)
      for (const node of lookups.keys()) client.forget(node, 1)
      t.is(r.fs.nodeCount, 1)
      rmSync(r.folder, { recursive: true })
      mkdirSync(r.folder)
    },
  )
}
