/** A tree of more files than there are descriptors, under a real limit: walked, opened, removed. */
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { native } from '../../src/native/addon.js'
import { openDescriptors, type Rig, rig } from '../helpers/rig.js'
import { getattr, makeTree, removeTree, walk } from '../helpers/tree.js'
import type { InodeFileHandles } from '../../src/filesystems/host/options.js'

const FOLDERS = 100
const FILES = 200
const NODES = 40
const OPEN_FILES = 60
/** Every this many steps the process's descriptors are counted. */
const COUNT_EVERY = 250
const ENFILE = -23

function limitDescriptors(t: ExecutionContext, limit: number): void {
  const limits = new Float64Array(2)
  native.getNoFileLimit(limits)
  native.setNoFileLimit(limit, limits[1]!)
  t.teardown(() => native.setNoFileLimit(limits[0]!, limits[1]!))
}

interface Counted {
  readonly folder: string
  readonly made: Rig
  readonly step: () => void
  peak: number
  peakNodes: number
}

function counted(t: ExecutionContext, inodeFileHandles: InodeFileHandles): Counted {
  const folder = mkdtempSync(
    join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'virtiofsd-walk-'),
  )
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  makeTree(join(folder, 'tree'), FOLDERS, FILES)
  const made = rig(t, {
    host: { sharedDir: folder, nodeDescriptors: NODES, openFiles: OPEN_FILES, inodeFileHandles },
  })
  limitDescriptors(t, 256)
  let steps = 0
  const counts: Counted = {
    folder,
    made,
    peak: 0,
    peakNodes: 0,
    step() {
      counts.peakNodes = Math.max(counts.peakNodes, made.fs.nodeDescriptorCount)
      if (steps++ % COUNT_EVERY === 0) counts.peak = Math.max(counts.peak, openDescriptors())
    },
  }
  return counts
}

for (const mode of ['never', 'prefer'] as const)
  test(`20,000 files are walked and removed with 256 descriptors (file handles: ${mode})`, t => {
    const counts = counted(t, mode)
    const { made, step } = counts
    const before = openDescriptors()
    const client = made.client()
    const tree = client.lookup(1, 'tree')
    const known: number[] = []
    let files = 0
    walk(client, tree, ({ nodeid, directory }) => {
      step()
      known.push(nodeid)
      if (!directory && files++ % 20 === 0) client.release(nodeid, client.open(nodeid, 0))
    })
    t.is(files, FOLDERS * FILES)
    t.is(made.fs.nodeCount, known.length + 2)
    for (const nodeid of known) {
      step()
      if (getattr(client, nodeid) !== 0) return t.fail(`GETATTR of ${nodeid}`)
    }
    const removed = removeTree(client, tree, nodeid => {
      step()
      client.forget(nodeid, 2)
    })
    t.is(removed, known.length)
    client.do(11, 1, Buffer.from('tree\0'))
    client.forget(tree, 1)
    t.is(made.fs.nodeCount, 1)
    t.true(counts.peakNodes <= NODES + 2, `${counts.peakNodes} descriptors of nodes`)
    // Besides those of nodes there is one open directory for each level.
    t.true(counts.peak - before <= NODES + 16, `${counts.peak - before} more than before`)
    t.log(`at most ${counts.peak} descriptors, ${counts.peakNodes} of nodes`)
    client.destroy()
  })

test('a guest that never forgets what it removed has no more descriptors for it', t => {
  const counts = counted(t, 'prefer')
  const { made, step } = counts
  const client = made.client()
  const tree = client.lookup(1, 'tree')
  const kept: number[] = []
  removeTree(client, tree, nodeid => {
    step()
    kept.push(nodeid)
  })
  t.true(counts.peakNodes <= NODES + 2, `${counts.peakNodes} descriptors of nodes`)
  t.is(getattr(client, kept.at(-1)!), 0, 'what went last is still there')
  t.is(getattr(client, kept[0]!), -116, 'what went first is not')
  t.deepEqual(readdirSync(join(counts.folder, 'tree')), [])
  client.destroy()
})

test('open files take the place of nodes, and stop at their own limit', t => {
  const counts = counted(t, 'prefer')
  const { made, step } = counts
  const client = made.client()
  const tree = client.lookup(1, 'tree')
  const files: number[] = []
  walk(client, tree, ({ nodeid, directory }) => {
    if (!directory && files.length < 200) files.push(nodeid)
  })
  const open: { nodeid: number; fh: bigint }[] = []
  for (const nodeid of files.slice(0, OPEN_FILES)) {
    open.push({ nodeid, fh: client.open(nodeid) })
    step()
    t.true(made.fs.nodeDescriptorCount <= Math.max(OPEN_FILES - open.length, 16) + 2)
  }
  const refused = client.request(14, files[OPEN_FILES]!, new Uint8Array(8))
  t.is(refused!.error, ENFILE)
  t.is(client.request(27, tree, new Uint8Array(8))!.error, ENFILE)
  const body = Buffer.alloc(16 + 6)
  body.writeUInt32LE(0o102, 0)
  body.writeUInt32LE(0o100644, 4)
  body.write('extra\0', 16)
  t.is(client.request(35, tree, body)!.error, ENFILE)
  t.is(client.lookup(tree, 'extra'), -2, 'what is refused is not made')
  for (const { nodeid, fh } of open) client.release(nodeid, fh)
  client.release(files[OPEN_FILES]!, client.open(files[OPEN_FILES]!))
  client.destroy()
})

test('others use up the descriptors: nodes give theirs up, and the guest sees no error', t => {
  const counts = counted(t, 'prefer')
  const { made } = counts
  const client = made.client()
  const tree = client.lookup(1, 'tree')
  const files: number[] = []
  walk(client, tree, ({ nodeid, directory }) => {
    if (!directory) files.push(nodeid)
  })
  // The nodes have what they may have; the rest is taken by somebody else.
  for (let i = 0; i < 100; i++) client.release(files[i * 100]!, client.open(files[i * 100]!, 0))
  const taken: number[] = []
  for (let fd = 0; fd >= 0; fd = native.eventFd()) if (fd > 0) taken.push(fd)
  try {
    const held: { nodeid: number; fh: bigint }[] = []
    for (let i = 0; i < 20; i++) {
      const nodeid = files[i * 700 + 3]!
      held.push({ nodeid, fh: client.open(nodeid, 0) })
      if (i % 4 === 0) {
        const { nodeid: made, fh } = client.create(tree, `made${i}`)
        held.push({ nodeid: made, fh })
      }
      if (i % 5 === 0) client.release(tree, client.opendir(tree), true)
    }
    for (const { nodeid, fh } of held) client.release(nodeid, fh)
  } finally {
    for (const fd of taken) native.closeFd(fd)
  }
  t.is(made.fs.handleCount, 0)
  client.destroy()
})
