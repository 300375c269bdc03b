/**
 * By hand: `node --expose-gc dist/test/filesystems/walk-by-hand.js [files [descriptors [mode]]]`
 *
 * Walks and removes a tree of 500,000 files through the whole back end with a limit of 1,024 descriptors,
 * and says how many descriptors there were at most and how much memory a known node takes.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { InodeFileHandles } from '../../src/filesystems/host/options.js'
import { native } from '../../src/native/addon.js'
import { openDescriptors, Rig } from '../helpers/rig.js'
import { getattr, makeTree, removeTree, walk } from '../helpers/tree.js'

const FILES = Number(process.argv[2] ?? 500_000)
const DESCRIPTORS = Number(process.argv[3] ?? 1024)
const MODE = (process.argv[4] ?? 'prefer') as InodeFileHandles
/** As the daemon divides them. */
const RESERVED = 320
const PER_FOLDER = 1000

let peak = 0
let peakNodes = 0
let steps = 0
function step(made: Rig): void {
  peakNodes = Math.max(peakNodes, made.fs.nodeDescriptorCount)
  if (steps++ % 2000 === 0) peak = Math.max(peak, openDescriptors())
}

function memory(): number {
  globalThis.gc!()
  globalThis.gc!()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

function timed<T>(what: string, run: () => T): T {
  const from = performance.now()
  const result = run()
  console.log(`${what}: ${((performance.now() - from) / 1000).toFixed(1)} s`)
  return result
}

const folder = mkdtempSync('/dev/shm/virtiofsd-walk-')
try {
  timed('making the files', () =>
    makeTree(join(folder, 'tree'), Math.ceil(FILES / PER_FOLDER), PER_FOLDER),
  )
  native.setNoFileLimit(DESCRIPTORS, DESCRIPTORS)
  const made = new Rig({
    host: {
      sharedDir: folder,
      nodeDescriptors: Math.max(64, Math.floor(DESCRIPTORS / 8)),
      openFiles: Math.max(16, DESCRIPTORS - RESERVED),
      inodeFileHandles: MODE,
    },
  })
  const client = made.client()
  const tree = client.lookup(1, 'tree')
  const nodeids = new Float64Array(FILES * 2)
  let known = 0
  const before = memory()
  timed('walking', () =>
    walk(client, tree, ({ nodeid }) => {
      nodeids[known++] = nodeid
      step(made)
    }),
  )
  const grown = memory() - before
  console.log(`${known} nodes known, ${(grown / known).toFixed(0)} bytes each`)
  timed('GETATTR of each', () => {
    for (let i = 0; i < known; i++) {
      step(made)
      if (getattr(client, nodeids[i]!) !== 0) throw new Error(`GETATTR ${i}`)
    }
  })
  timed('OPEN and RELEASE of each tenth', () => {
    for (let i = 0; i < known; i += 10) {
      step(made)
      const { error, body } = client.request(14, nodeids[i]!, new Uint8Array(8))!
      if (error === 0) client.release(nodeids[i]!, body.getBigUint64(0, true))
      else if (error !== -21) throw new Error(`OPEN ${i}: ${error}`)
    }
  })
  console.log(`then ${((memory() - before) / known).toFixed(0)} bytes for each node`)
  const removed = timed('removing', () =>
    removeTree(client, tree, nodeid => {
      step(made)
      client.forget(nodeid, 2)
    }),
  )
  console.log(`${removed} removed, ${readdirSync(join(folder, 'tree')).length} left`)
  console.log(`${made.fs.nodeCount} nodes left, ${made.fs.handleCount} files open`)
  console.log(`at most ${peak} descriptors in the process, ${peakNodes} of nodes`)
  client.destroy()
  made.close()
} finally {
  rmSync(folder, { recursive: true, force: true })
}
