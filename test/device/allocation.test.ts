/**
 * Nothing is allocated for a request in steady state: no garbage, no collections, no steps in the latency. Counted
 * in bytes and collections, not in time. By hand with more: ALLOCATION_REQUESTS=10000000.
 */
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { PerformanceObserver } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { wherePossible } from '../../src/fuse/passthrough.js'
import { Context } from '../../src/native/context.js'
import { HOT_KINDS, HotRequests } from '../helpers/hot-requests.js'
import { rig } from '../helpers/rig.js'

/** Of each kind; more by hand. */
const REQUESTS = Number(process.env.ALLOCATION_REQUESTS ?? 200_000)
/** Enough that everything hot is compiled by the best compiler: what it inlines it does not allocate. */
const WARM_UP = 150_000
/** A number above 2^30 that leaves optimised code is 16 bytes: less than one for each request. */
const MOST_BYTES_PER_REQUEST = 2
/** New space is a megabyte at the least: what is allowed above fills it so often, and the runtime once or twice. */
const MOST_COLLECTIONS = 2 + Math.ceil((REQUESTS * MOST_BYTES_PER_REQUEST) / 2 ** 20)
/** The heap may grow by so much in the long run: tables of the runtime. */
const MOST_GROWTH_PER_REQUEST = 0.5
/**
 * Looks at one kind, until one finds nothing. The compiler works on a thread of its own, and on a busy machine (or
 * with sanitizers) it is done when it gets a CPU: until then boxes and feedback are allocated. What a request
 * allocates it allocates in every look.
 */
const MOST_LOOKS = 6

interface Mode {
  readonly what: string
  readonly keepsMetadata: boolean
  readonly passthrough: typeof wherePossible | undefined
  readonly leases?: boolean
}

const modes: readonly Mode[] = [
  { what: 'as a daemon is by default', keepsMetadata: true, passthrough: wherePossible },
  {
    what: 'with nothing kept, past the file system',
    keepsMetadata: false,
    passthrough: wherePossible,
  },
  {
    what: 'with nothing kept, through the file system',
    keepsMetadata: false,
    passthrough: undefined,
  },
  { what: 'under leases', keepsMetadata: true, passthrough: wherePossible, leases: true },
]

for (const { what, keepsMetadata, passthrough, leases } of modes)
  test(`${REQUESTS} requests of each kind allocate nothing, ${what}`, async t => {
    // Until then no other test that hangs is noticed either.
    t.timeout(600_000 * Math.max(1, REQUESTS / 200_000))
    const collect = globalThis.gc
    if (collect === undefined) throw new Error('run with --expose-gc')
    const folder = mkdtempSync('/dev/shm/virtiofsd-allocation-')
    t.teardown(() => rmSync(folder, { recursive: true }))
    const tableFd = openSync(join(folder, 'table'), 'w+')
    t.teardown(() => closeSync(tableFd))
    const clock = new Context({ arenaBytes: 65536, maxSegments: 64, poolThreads: 1 })
    t.teardown(() => clock.dispose())
    // The daemon's own clock, on a host that has not been up for long.
    const clockOffsetMs = Math.floor(clock.nowUs() / 1000)
    const coherence = leases === true && {
      coherence: { tableFd, leaseMs: 250, marginMs: 250, clockOffsetMs },
    }
    const options = { folder, keepsMetadata, fuse: { passthrough }, ...coherence }
    const hot = new HotRequests(rig(t, options))
    let collections = 0
    const observer = new PerformanceObserver(list => {
      collections += list.getEntries().length
    })
    observer.observe({ entryTypes: ['gc'] })
    for (const kind of HOT_KINDS) {
      const ask = hot.prepare(kind)
      ask(WARM_UP)
      for (let look = 1; ; look++) {
        collect()
        // Collections asked for are told of in a later turn.
        await sleep(10)
        collections = 0
        const before = process.memoryUsage().heapUsed
        const asked = ask(REQUESTS)
        const after = process.memoryUsage().heapUsed
        await sleep(10)
        const happened = collections
        collect()
        const grown = (process.memoryUsage().heapUsed - before) / asked
        // Without a collection between them, what is used more is what was allocated.
        const allocated = (after - before) / asked
        t.log(
          `${kind}: ${allocated.toFixed(2)} bytes a request, ${happened} collections, kept ${grown.toFixed(2)}`,
        )
        // Under leases the answer is an entry without a node.
        const wanted = kind === 'lookup of nothing' && leases !== true ? -2 : 0
        t.deepEqual([...new Set(hot.errors())], [wanted], kind)
        const clean =
          allocated <= MOST_BYTES_PER_REQUEST &&
          happened <= MOST_COLLECTIONS &&
          grown <= MOST_GROWTH_PER_REQUEST
        if (clean) break
        if (look === MOST_LOOKS) {
          t.fail(`${kind}: something is allocated in each of ${MOST_LOOKS} looks, see above`)
          break
        }
      }
    }
    observer.disconnect()
    hot.end()
  })
