/** Metadata that the host back end keeps: never out of date, and answered without asking the host. */
import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { HostChanges } from '../../src/filesystems/host/host-changes.js'
import { HostFileSystem } from '../../src/filesystems/host/host-filesystem.js'
import { DEFAULT_HOST_OPTIONS } from '../../src/filesystems/host/options.js'
import { SCRATCH_AT } from '../../src/fuse/layout.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { type FuseClient, text } from '../helpers/fuse-client.js'
import { type Rig, rig } from '../helpers/rig.js'
import { Harness } from './harness.js'
import { changeAndLook, HOST_CHANGES, PROCESS_CHANGES } from './metadata-changes.js'

const getattr = (client: FuseClient, nodeid: number): DataView =>
  client.do(3, nodeid, concat(u32s(0, 0), u64(0n))).body

/** Counts calls of statx from now on. */
function statxCalls(s: Rig): () => number {
  const { context } = s
  const real = context.statx.bind(context)
  let count = 0
  context.statx = (...args) => {
    count++
    return real(...args)
  }
  return () => count
}

function warmRig(t: ExecutionContext): Rig {
  return rig(t, { keepsMetadata: true })
}

/** In these every kind of change is made; in a random one a kind that is seldom possible may be missing. */
const FULL_SEEDS = [1, 20261121]
for (const seed of [...FULL_SEEDS, Date.now() % 1_000_000]) {
  test(`a guest is never told what was true before, seed ${seed}`, t => {
    const s = warmRig(t)
    const tally = changeAndLook(s.folder, s.client(), 1500, seed, HOST_CHANGES)
    if (FULL_SEEDS.includes(seed))
      for (const kind of Object.keys(HOST_CHANGES)) t.true(tally.changes[kind]! > 0, kind)
    const { hits, nameHits } = s.fs.metadataCounters
    t.true(hits > tally.looks / 4, `${hits} answers from what is kept, ${tally.looks} looks`)
    t.true(nameHits > tally.looks / 8, `${nameHits} names from what is kept`)
  })
}

test('changes by other processes are seen as well', t => {
  const s = warmRig(t)
  const kinds = { ...PROCESS_CHANGES, create: HOST_CHANGES.create!, unlink: HOST_CHANGES.unlink! }
  const tally = changeAndLook(s.folder, s.client(), 150, 7, kinds)
  for (const kind of Object.keys(kinds)) t.true(tally.changes[kind]! > 0, kind)
})

test('where stores through mappings must show, files are asked for each time, folders are kept', t => {
  const s = rig(t, { keepsMetadata: true, host: { mappedStores: true } })
  writeFileSync(join(s.folder, 'file'), 'data')
  const client = s.client()
  const node = client.lookup(1, 'file')
  for (let i = 0; i < 30; i++) for (const each of [1, node]) getattr(client, each)
  const calls = statxCalls(s)
  getattr(client, 1)
  t.is(calls(), 0)
  getattr(client, node)
  t.is(calls(), 1)
})

test('warm LOOKUP, GETATTR, READDIRPLUS and names that are not there do not ask the host', t => {
  const s = warmRig(t)
  for (let i = 0; i < 20; i++) writeFileSync(join(s.folder, `file${i}`), 'data')
  const client = s.client()
  const fh = client.opendir(1)
  const ask = (): number => {
    const node = client.lookup(1, 'file7')
    t.true(node > 0)
    getattr(client, node)
    getattr(client, 1)
    t.is(client.lookup(1, 'nothing'), -2)
    const listed = client.readdir(1, fh, 0n, 16384, true)
    client.forget(node, 1)
    return listed.length
  }
  const first = ask()
  for (let i = 0; i < 24; i++) t.is(ask(), first)
  const calls = statxCalls(s)
  // Files are asked for again after a second all the same: one of the rounds is between.
  let asked = -1
  for (let round = 0; round < 10 && asked !== 0; round++) {
    const before = calls()
    t.is(ask(), first)
    asked = calls() - before
  }
  t.is(asked, 0)
  const before = calls()
  writeFileSync(join(s.folder, 'file7'), 'more data')
  t.is(getattr(client, client.lookup(1, 'file7')).getBigUint64(16 + 8, true), 9n)
  t.true(calls() > before)
  client.release(1, fh, true)
})

test('the look for changes is one for each batch, not one for each request', t => {
  const s = warmRig(t)
  writeFileSync(join(s.folder, 'file'), 'data')
  const client = s.client()
  const node = client.lookup(1, 'file')
  for (let i = 0; i < 20; i++) getattr(client, node)
  const { looks } = s.fs.metadataCounters
  for (let i = 0; i < 5; i++) {
    s.fs.renew()
    getattr(client, node)
  }
  t.is(s.fs.metadataCounters.looks - looks, 5)
})

test('nothing is looked for while nothing is kept that could answer', t => {
  const s = warmRig(t)
  const client = s.client()
  for (let i = 0; i < 50; i++) writeFileSync(join(s.folder, `file${i}`), '')
  // The directory has a mark from here on, and a change of it is pending.
  while (s.fs.metadataCounters.kept === 0) client.lookup(1, 'nothing')
  writeFileSync(join(s.folder, 'one more'), '')
  const { looks } = s.fs.metadataCounters
  const nodes = Array.from({ length: 50 }, (_, i) => client.lookup(1, `file${i}`))
  t.is(s.fs.metadataCounters.looks, looks)
  // Their names are kept, what they are is not.
  for (let i = 0; i < 50; i++) t.is(client.lookup(1, `file${i}`), nodes[i]!)
  t.is(s.fs.metadataCounters.looks, looks)
  // What was learned before the change was told is unknown after it, and right.
  renameSync(join(s.folder, 'file7'), join(s.folder, 'file8'))
  t.is(client.lookup(1, 'file7'), -2)
  t.is(client.lookup(1, 'file8'), nodes[7]!)
  t.is(client.lookup(1, 'file9'), nodes[9]!)
})

test('a name that was kept as missing can be made by the next request of the same batch', t => {
  const s = warmRig(t)
  const client = s.client()
  writeFileSync(join(s.folder, 'file'), '')
  const file = client.lookup(1, 'file')
  const names = ['directory', 'link', 'file made by the host']
  for (let i = 0; i < 20; i++) for (const name of names) t.is(client.lookup(1, name), -2)
  // As within a batch: no look for changes but those that the back end takes care of itself.
  s.fs.renew = () => undefined
  for (const name of names) t.is(client.lookup(1, name), -2)
  client.do(9, 1, concat(u32s(0o755, 0), text('directory')))
  client.do(13, 1, concat(u64(BigInt(file)), text('link')))
  writeFileSync(join(s.folder, 'file made by the host'), '')
  t.is(client.create(1, 'file made by the host').nodeid > 0, true)
})

test('what changes more often than it is asked for is watched no more', t => {
  const s = warmRig(t)
  const path = join(s.folder, 'busy')
  writeFileSync(path, '')
  const client = s.client()
  const node = client.lookup(1, 'busy')
  for (let i = 0; i < 15; i++) getattr(client, node)
  const watched = s.fs.metadataCounters.kept
  t.true(watched > 0)
  for (let i = 1; i < 40; i++) {
    writeFileSync(path, 'x'.repeat(i))
    t.is(getattr(client, node).getBigUint64(16 + 8, true), BigInt(i))
  }
  t.is(s.fs.metadataCounters.kept, watched - 1)
})

test('no more inodes are watched than was said', t => {
  const s = rig(t, { keepsMetadata: true, host: { keptInodes: 16 } })
  for (let i = 0; i < 100; i++) writeFileSync(join(s.folder, `f${i}`), `${i}`)
  const client = s.client()
  const random = Array.from({ length: 4000 }, (_, i) => (i * 7919) % 100)
  for (const i of random) {
    const node = client.lookup(1, `f${i}`)
    t.is(getattr(client, node).getBigUint64(16 + 8, true), BigInt(`${i}`.length))
    client.forget(node, 1)
  }
  t.true(s.fs.metadataCounters.kept <= 16)
})

test('where more changes than the kernel queues, all is asked for again', t => {
  const limit = Number(readFileSync('/proc/sys/fs/fanotify/max_queued_events', 'utf8'))
  const folder = mkdtempSync('/dev/shm/virtiofsd-queue-')
  t.teardown(() => rmSync(folder, { recursive: true }))
  // Changes of one inode are one event.
  const names = Array.from({ length: Math.min(limit, 16384) + 500 }, (_, i) => `f${i}`)
  for (const name of names) writeFileSync(join(folder, name), '')
  // Without rings: it is asked a quarter of a million times.
  const h = new Harness()
  const changes = HostChanges.open(h.context)
  if (typeof changes === 'number') throw new Error(`fanotify: ${changes}`)
  const options = { ...DEFAULT_HOST_OPTIONS, sharedDir: folder }
  const fs = new HostFileSystem(h.context, SCRATCH_AT, options, changes)
  t.is(fs.start(), 0)
  h.start(fs)
  t.teardown(() => {
    h.close()
    changes.close()
  })
  const nodes = names.map(name => h.lookup(1, name))
  for (let round = 0; round < 13; round++) for (const node of nodes) h.getattr(node)
  t.true(fs.metadataCounters.kept >= names.length)
  const before = fs.metadataCounters.events
  for (const name of names) utimesSync(join(folder, name), 7, 7)
  fs.renew()
  t.true(nodes.every(node => h.stat(node).mtimeSec === 7))
  const events = fs.metadataCounters.events - before
  t.true(events > 0 && events <= limit + 1, `${events} events were queued`)
})

test('a directory that takes the place of another is found', t => {
  const s = warmRig(t)
  for (const name of ['old', 'new']) {
    mkdirSync(join(s.folder, name))
    writeFileSync(join(s.folder, name, 'which'), name)
  }
  const client = s.client()
  const size = (): bigint => {
    const dir = client.lookup(1, 'old')
    const file = client.lookup(dir, 'which')
    const { body } = client.do(3, file, concat(u32s(0, 0), u64(0n)))
    return body.getBigUint64(16, true)
  }
  const inode = size()
  for (let i = 0; i < 20; i++) t.is(size(), inode)
  renameSync(join(s.folder, 'old'), join(s.folder, 'away'))
  renameSync(join(s.folder, 'new'), join(s.folder, 'old'))
  t.not(size(), inode)
})

test('what is mounted over a name later is found', t => {
  const s = warmRig(t)
  for (const name of ['place', 'other']) mkdirSync(join(s.folder, name))
  writeFileSync(join(s.folder, 'other', 'here'), '')
  const client = s.client()
  const looked = (): number => client.lookup(client.lookup(1, 'place'), 'here')
  for (let i = 0; i < 20; i++) t.is(looked(), -2)
  const place = join(s.folder, 'place')
  execFileSync('mount', ['--bind', join(s.folder, 'other'), place])
  try {
    t.true(looked() > 0)
  } finally {
    execFileSync('umount', ['--lazy', place])
  }
  t.is(looked(), -2)
})

test('the guest keeps its pages of a file that nobody else has changed since it opened it', t => {
  const s = warmRig(t)
  const path = join(s.folder, 'file')
  writeFileSync(path, 'data')
  const client = s.client()
  const node = client.lookup(1, 'file')
  /** FOPEN_KEEP_CACHE. */
  const keeps = (flags = 0, use?: (fh: bigint) => void): boolean => {
    getattr(client, node)
    const { body } = client.do(14, node, u32s(flags, 0))
    const fh = body.getBigUint64(0, true)
    client.read(node, fh, 0, 4096)
    use?.(fh)
    client.release(node, fh)
    return (body.getUint32(8, true) & 2) !== 0
  }
  const warm = (): void => {
    for (let i = 0; i < 20; i++) keeps()
    t.true(keeps())
  }
  warm()
  writeFileSync(path, 'DATA')
  t.false(keeps(), 'the host wrote')
  warm()
  truncateSync(path, 2)
  t.false(keeps(), 'the host truncated')
  warm()
  // Times as before the change do not hide it.
  const { mtime, atime } = statSync(path)
  appendFileSync(path, 'x')
  utimesSync(path, atime, mtime)
  t.false(keeps(), 'with the old times')
  warm()
  keeps(2, fh => client.write(node, fh, 0, new Uint8Array([1])))
  warm()
})

test('after UNMOUNT and INIT nothing is kept', t => {
  const s = warmRig(t)
  writeFileSync(join(s.folder, 'file'), 'data')
  const client = s.client()
  for (let i = 0; i < 20; i++) client.lookup(1, 'file')
  t.true(s.fs.metadataCounters.kept > 0)
  client.destroy()
  t.is(s.fs.metadataCounters.kept, 0)
  client.init()
  t.true(client.lookup(1, 'file') > 0)
})
