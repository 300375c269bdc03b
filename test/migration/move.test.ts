/** A guest moves from one daemon to another, both in this process, on one directory. */
import {
  linkSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { MigrationOptions } from '../../src/vfs/migration.js'
import { DEFAULT_MIGRATION_OPTIONS } from '../../src/vfs/migration.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { FuseClient, text } from '../helpers/fuse-client.js'
import { connect, loadState, move, saveState, startRings, stopRings } from '../helpers/migrate.js'
import { openDescriptors, Rig, type RigOptions } from '../helpers/rig.js'

const E = { EIO: -5, EBADF: -9, ESTALE: -116 }
const root = process.geteuid!() === 0
const GETATTR = concat(u32s(0, 0), u64(0n))
const bytes = (value: string): Uint8Array => new TextEncoder().encode(value)

interface Pair {
  readonly folder: string
  readonly from: Rig
  readonly to: Rig
  readonly client: FuseClient
}

type Options = Partial<MigrationOptions> & { readonly from?: RigOptions; readonly to?: RigOptions }

/** Two back ends; a guest of the first. Nothing may be left over afterwards. */
function pair(t: ExecutionContext, options: Options = {}): Pair {
  const { from: source = {}, to: target = {}, ...given } = options
  const migration = { ...DEFAULT_MIGRATION_OPTIONS, ...given }
  const before = openDescriptors()
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-move-'))
  const from = new Rig({ folder, ...source, host: { migration, ...source.host } })
  const to = new Rig({ folder, ...target, host: { migration, ...target.host }, start: false })
  t.teardown(() => {
    for (const rig of [from, to]) {
      rig.end()
      const left = `${rig.fs.nodeCount - 1} nodes, ${rig.fs.handleCount} handles`
      rig.close()
      if (left !== '0 nodes, 0 handles') throw new Error(`left over: ${left}`)
    }
    rmSync(folder, { recursive: true, force: true })
    const surplus = openDescriptors() - before
    if (surplus !== 0) throw new Error(`left open: ${surplus} descriptors`)
  })
  to.front.handshake()
  return { folder, from, to, client: from.client() }
}

/** The guest, going on at the destination. */
function moved(t: ExecutionContext, { from, to }: Pair): FuseClient {
  t.true(move(from, to, stopRings(from)), [...from.log, ...to.log].join('\n'))
  return new FuseClient(to.front, to.front.rings[1]!)
}

const error = (client: FuseClient, opcode: number, node: number, body: Uint8Array): number =>
  client.request(opcode, node, body)!.error
const readError = (client: FuseClient, node: number, fh: bigint): number =>
  error(client, 15, node, concat(u64(fh), u64(0n), u32s(10, 0), u64(0n), u32s(0, 0)))

for (const mode of ['find-paths', 'file-handles'] as const) {
  const can = mode === 'find-paths' || root ? test : test.skip

  can(`${mode}: open files keep reading and writing, under the same numbers`, t => {
    const p = pair(t, { mode })
    const { nodeid, fh } = p.client.create(1, 'file')
    p.client.write(nodeid, fh, 0, bytes('from the source'))
    const second = p.client.open(nodeid, 0)
    const there = moved(t, p)
    t.is(Buffer.from(there.read(nodeid, fh, 0, 100)).toString(), 'from the source')
    there.write(nodeid, fh, 5, bytes('THE'))
    t.is(Buffer.from(there.read(nodeid, second, 0, 100)).toString(), 'from THE source')
    t.is(
      error(
        there,
        16,
        nodeid,
        concat(u64(second), u64(0n), u32s(1, 0), u64(0n), u32s(0, 0), bytes('x')),
      ),
      E.EBADF,
    )
    there.release(nodeid, fh)
    there.release(nodeid, second)
    t.is(p.to.fs.handleCount, 0)
  })

  can(`${mode}: nodes are the same, deep down too, and lookup counts balance`, t => {
    const p = pair(t, { mode })
    mkdirSync(join(p.folder, 'a/b/c'), { recursive: true })
    writeFileSync(join(p.folder, 'a/b/c/file'), 'deep')
    symlinkSync('elsewhere', join(p.folder, 'a/link'))
    const { client } = p
    const a = client.lookup(1, 'a')
    const b = client.lookup(a, 'b')
    const c = client.lookup(b, 'c')
    const file = client.lookup(c, 'file')
    const link = client.lookup(a, 'link')
    for (let i = 0; i < 4; i++) client.lookup(c, 'file')
    // Directories the guest has forgotten, and still is below.
    client.forget(b, 1)
    const there = moved(t, p)
    t.is(there.do(3, file, GETATTR).body.getBigUint64(24, true), 4n, 'size')
    t.is(Buffer.from(there.do(5, link).bytes).toString(), 'elsewhere')
    t.is(there.lookup(c, 'file'), file, 'known by its inode')
    t.is(error(there, 3, b, GETATTR), E.ESTALE, 'forgotten is forgotten')
    there.forget(file, 5)
    t.is(there.do(3, file, GETATTR).error, 0, 'one is left')
    there.forget(file, 1)
    t.is(error(there, 3, file, GETATTR), E.ESTALE)
    for (const node of [link, c, a]) there.forget(node, 1)
    t.is(p.to.fs.nodeCount, 1)
    const fresh = there.lookup(1, 'a')
    t.false([a, b, c, file, link].includes(fresh), 'a number is not given out again')
  })

  can(`${mode}: open directories go on where they were`, t => {
    const p = pair(t, { mode })
    for (let i = 0; i < 40; i++) writeFileSync(join(p.folder, `entry-${i}`), '')
    const dir = p.client.opendir(1)
    const names = (raw: Uint8Array): { name: string; cookie: bigint }[] => {
      const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength)
      const found: { name: string; cookie: bigint }[] = []
      for (let at = 0; at + 24 <= raw.length; ) {
        const length = view.getUint32(at + 16, true)
        const name = Buffer.from(raw.subarray(at + 24, at + 24 + length)).toString()
        found.push({ name, cookie: view.getBigUint64(at + 8, true) })
        at += (24 + length + 7) & ~7
      }
      return found
    }
    const first = names(p.client.readdir(1, dir, 0n, 600))
    const there = moved(t, p)
    const all = first.map(entry => entry.name)
    for (let cookie = first.at(-1)!.cookie; ; ) {
      const more = names(there.readdir(1, dir, cookie, 600))
      if (more.length === 0) break
      all.push(...more.map(entry => entry.name))
      cookie = more.at(-1)!.cookie
    }
    t.is(all.length, 42)
    t.is(new Set(all).size, 42)
    there.release(1, dir, true)
  })

  can(`${mode}: what the guest renamed is found under its new name`, t => {
    const p = pair(t, { mode })
    mkdirSync(join(p.folder, 'dir'))
    const dir = p.client.lookup(1, 'dir')
    const { nodeid, fh } = p.client.create(1, 'old')
    p.client.write(nodeid, fh, 0, bytes('same'))
    p.client.do(12, 1, concat(u64(BigInt(dir)), text('old'), text('new')))
    const there = moved(t, p)
    t.is(Buffer.from(there.read(nodeid, fh, 0, 10)).toString(), 'same')
    t.is(there.lookup(dir, 'new'), nodeid)
  })

  can(`${mode}: a file that was looked up by one of two names and lost it`, t => {
    const p = pair(t, { mode })
    writeFileSync(join(p.folder, 'one'), 'linked')
    linkSync(join(p.folder, 'one'), join(p.folder, 'two'))
    const node = p.client.lookup(1, 'one')
    t.is(p.client.lookup(1, 'two'), node)
    p.client.do(10, 1, text('two'))
    const there = moved(t, p)
    t.is(there.do(3, node, GETATTR).body.getBigUint64(24, true), 6n)
  })

  can(`${mode}, confirmed paths: a file that the host has moved`, t => {
    const p = pair(t, { mode, confirmPaths: true })
    writeFileSync(join(p.folder, 'here'), 'moved')
    mkdirSync(join(p.folder, 'sub'))
    const node = p.client.lookup(1, 'here')
    const fh = p.client.open(node)
    renameSync(join(p.folder, 'here'), join(p.folder, 'sub/there'))
    writeFileSync(join(p.folder, 'here'), 'another')
    const there = moved(t, p)
    t.is(Buffer.from(there.read(node, fh, 0, 10)).toString(), 'moved')
  })

  can(`${mode}: the source goes on when the migration is cancelled`, t => {
    const p = pair(t, { mode })
    const { nodeid, fh } = p.client.create(1, 'file')
    for (let round = 0; round < 3; round++) {
      const bases = stopRings(p.from)
      t.not(saveState(p.from), undefined)
      startRings(p.from, bases)
      p.client.write(nodeid, fh, round, bytes('x'))
      t.is(p.client.lookup(1, 'file'), nodeid)
    }
    const there = moved(t, p)
    t.is(Buffer.from(there.read(nodeid, fh, 0, 10)).toString(), 'xxx')
    there.forget(nodeid, 4)
    there.release(nodeid, fh)
    t.is(p.to.fs.nodeCount, 1)
  })
}

test('find-paths: an open file without a name ends the migration; the source goes on', t => {
  const p = pair(t)
  const { nodeid, fh } = p.client.create(1, 'gone')
  p.client.write(nodeid, fh, 0, bytes('still here'))
  p.client.do(10, 1, text('gone'))
  const bases = stopRings(p.from)
  t.false(move(p.from, p.to, bases))
  t.regex(p.to.log.join('\n'), /a file without a name .* is not found here: .*guest-error/)
  t.is(p.to.fs.nodeCount, 1, 'nothing stays at the destination')
  startRings(p.from, bases)
  t.is(Buffer.from(p.client.read(nodeid, fh, 0, 20)).toString(), 'still here')
})

test('find-paths, guest-error: it goes on without that file', t => {
  const p = pair(t, { onError: 'guest-error' })
  const { nodeid, fh } = p.client.create(1, 'gone')
  const kept = p.client.create(1, 'kept')
  p.client.do(10, 1, text('gone'))
  const there = moved(t, p)
  t.regex(p.to.log.join('\n'), /guest gets errors: a file without a name/)
  t.is(readError(there, nodeid, fh), E.EIO)
  t.is(error(there, 3, nodeid, GETATTR), E.ESTALE)
  t.is(error(there, 4, nodeid, concat(u32s(8, 0), u64(0n), u64(0n), new Uint8Array(64))), E.ESTALE)
  t.is(error(there, 14, nodeid, u32s(0, 0)), E.ESTALE)
  there.release(nodeid, fh)
  there.write(kept.nodeid, kept.fh, 0, bytes('fine'))
})

test('guest-error: below a directory that is gone everything is, and it is found anew by name', t => {
  const p = pair(t, { onError: 'guest-error' })
  mkdirSync(join(p.folder, 'dir'))
  writeFileSync(join(p.folder, 'dir/file'), 'x')
  const dir = p.client.lookup(1, 'dir')
  const file = p.client.lookup(dir, 'file')
  const list = p.client.opendir(dir)
  const bases = stopRings(p.from)
  const state = saveState(p.from)!
  rmSync(join(p.folder, 'dir'), { recursive: true })
  t.true(loadState(p.to, state))
  connect(p.from, p.to, bases)
  const there = new FuseClient(p.to.front, p.to.front.rings[1]!)
  t.is(there.lookup(dir, 'file'), E.ESTALE)
  t.is(error(there, 3, file, GETATTR), E.ESTALE)
  t.is(error(there, 28, dir, concat(u64(list), u64(0n), u32s(4096, 0), u64(0n), u32s(0, 0))), E.EIO)
  mkdirSync(join(p.folder, 'dir'))
  const anew = there.lookup(1, 'dir')
  t.not(anew, dir)
  t.is(there.do(3, anew, GETATTR).error, 0)
})

const rootTest = root ? test : test.skip
rootTest('file-handles: an open file without a name goes along', t => {
  const p = pair(t, { mode: 'file-handles' })
  const { nodeid, fh } = p.client.create(1, 'gone')
  p.client.write(nodeid, fh, 0, bytes('still here'))
  p.client.do(10, 1, text('gone'))
  const there = moved(t, p)
  t.is(Buffer.from(there.read(nodeid, fh, 0, 20)).toString(), 'still here')
  there.write(nodeid, fh, 0, bytes('STILL'))
  t.is(
    Buffer.from(p.to.fs.handleCount === 1 ? there.read(nodeid, fh, 0, 20) : []).toString(),
    'STILL here',
  )
})

rootTest('file-handles: a file that the host has moved is found by its handle', t => {
  const p = pair(t, { mode: 'file-handles' })
  writeFileSync(join(p.folder, 'here'), 'moved')
  const node = p.client.lookup(1, 'here')
  const bases = stopRings(p.from)
  const state = saveState(p.from)!
  renameSync(join(p.folder, 'here'), join(p.folder, 'there'))
  writeFileSync(join(p.folder, 'here'), 'another')
  t.true(loadState(p.to, state), p.to.log.join('\n'))
  connect(p.from, p.to, bases)
  const there = new FuseClient(p.to.front, p.to.front.rings[1]!)
  const fh = there.open(node)
  t.is(Buffer.from(there.read(node, fh, 0, 10)).toString(), 'moved')
})

rootTest('file-handles: a file that was moved out of the share is not', t => {
  const p = pair(t, { mode: 'file-handles', onError: 'guest-error' })
  const outside = mkdtempSync(join(tmpdir(), 'virtiofsd-outside-'))
  t.teardown(() => rmSync(outside, { recursive: true }))
  writeFileSync(join(p.folder, 'here'), 'secret by now')
  mkdirSync(join(p.folder, 'dir'))
  const node = p.client.lookup(1, 'here')
  const dir = p.client.lookup(1, 'dir')
  const bases = stopRings(p.from)
  const state = saveState(p.from)!
  renameSync(join(p.folder, 'here'), join(outside, 'here'))
  renameSync(join(p.folder, 'dir'), join(outside, 'dir'))
  t.true(loadState(p.to, state))
  connect(p.from, p.to, bases)
  const there = new FuseClient(p.to.front, p.to.front.rings[1]!)
  t.is(error(there, 14, node, u32s(0, 0)), E.ESTALE)
  t.is(error(there, 27, dir, u32s(0, 0)), E.ESTALE)
})

for (const verifyHandles of [false, true])
  test(`find-paths${verifyHandles ? ', verified handles' : ''}: a file that was replaced ${verifyHandles ? 'is noticed' : 'is taken for the old one'}`, t => {
    const p = pair(t, { verifyHandles, onError: 'guest-error' })
    writeFileSync(join(p.folder, 'file'), 'old')
    const node = p.client.lookup(1, 'file')
    const bases = stopRings(p.from)
    const state = saveState(p.from)!
    renameSync(join(p.folder, 'file'), join(p.folder, 'aside'))
    writeFileSync(join(p.folder, 'file'), 'new one')
    t.true(loadState(p.to, state))
    connect(p.from, p.to, bases)
    const there = new FuseClient(p.to.front, p.to.front.rings[1]!)
    t.is(error(there, 3, node, GETATTR), verifyHandles ? E.ESTALE : 0)
  })

test('find-paths: another kind of file under the name is never taken for it', t => {
  const p = pair(t, { onError: 'guest-error' })
  writeFileSync(join(p.folder, 'file'), 'old')
  const node = p.client.lookup(1, 'file')
  const bases = stopRings(p.from)
  const state = saveState(p.from)!
  rmSync(join(p.folder, 'file'))
  symlinkSync('/etc/passwd', join(p.folder, 'file'))
  t.true(loadState(p.to, state))
  connect(p.from, p.to, bases)
  const there = new FuseClient(p.to.front, p.to.front.rings[1]!)
  t.is(error(there, 14, node, u32s(0, 0)), E.ESTALE)
})

test('verified handles: another directory is not the share of the source; without them it may be a copy', t => {
  const copy = mkdtempSync(join(tmpdir(), 'virtiofsd-copy-'))
  t.teardown(() => rmSync(copy, { recursive: true }))
  for (const verifyHandles of [true, false]) {
    const p = pair(t, { verifyHandles, to: { folder: copy } })
    for (const folder of [p.folder, copy]) writeFileSync(join(folder, 'file'), 'content')
    const node = p.client.lookup(1, 'file')
    if (verifyHandles) {
      t.false(move(p.from, p.to, stopRings(p.from)))
      t.regex(p.to.log.join('\n'), /not the one of the source/)
    } else {
      const there = moved(t, p)
      t.is(there.do(3, node, GETATTR).body.getBigUint64(24, true), 7n)
    }
  }
})

test('what was negotiated goes along; a destination that has it off says so', t => {
  const p = pair(t, { from: { fuse: { writeback: true } }, to: { fuse: { writeback: false } } })
  t.false(move(p.from, p.to, stopRings(p.from)))
  t.regex(p.to.log.join('\n'), /FUSE_WRITEBACK_CACHE/)
  const q = pair(t, { from: { fuse: { writeback: true } }, to: { fuse: { writeback: true } } })
  const { nodeid, fh } = q.client.create(1, 'file', 0o644, 0o101)
  const there = moved(t, q)
  t.is(there.read(nodeid, fh, 0, 10).length, 0, 'a write-only file can be read, for dirty pages')
})

test('locks of the host do not go along: a guest that has some stays, and moves when it has none', t => {
  const host = { posixLocks: true }
  const p = pair(t, { from: { host }, to: { host } })
  const { nodeid, fh } = p.client.create(1, 'file')
  const lock = (type: number): Uint8Array =>
    concat(u64(fh), u64(1n), u64(0n), u64(9n), u32s(type, 1), u32s(0, 0))
  p.client.do(32, nodeid, lock(1))
  const bases = stopRings(p.from)
  t.false(move(p.from, p.to, bases))
  t.regex(p.from.log.join('\n'), /the guest holds locks on files \(1; .* move it when/)
  startRings(p.from, bases)
  p.client.do(32, nodeid, lock(2))
  moved(t, p).release(nodeid, fh)
})

test('a guest that was offered locks moves to no daemon that offers none', t => {
  const p = pair(t, { from: { host: { posixLocks: true, flockLocks: true } } })
  t.false(move(p.from, p.to, stopRings(p.from)))
  t.regex(p.to.log.join('\n'), /FUSE_POSIX_LOCKS, FUSE_FLOCK_LOCKS/)
})

test('--readonly at the destination: files open for writing are not found there', t => {
  const p = pair(t, { onError: 'guest-error', to: { host: { readOnly: true } } })
  const { nodeid, fh } = p.client.create(1, 'file')
  const reading = p.client.open(nodeid, 0)
  const there = moved(t, p)
  t.is(there.read(nodeid, reading, 0, 10).length, 0)
  t.is(readError(there, nodeid, fh), E.EIO)
})

test('a guest that has not mounted yet moves too, and mounts there', t => {
  const p = pair(t)
  p.client.destroy()
  const there = moved(t, p)
  there.init()
  there.create(1, 'file')
  t.pass()
})

test('a state of many nodes crosses the pipe in many pieces', t => {
  const p = pair(t)
  mkdirSync(join(p.folder, 'many'))
  for (let i = 0; i < 5000; i++) writeFileSync(join(p.folder, `many/${'n'.repeat(40)}-${i}`), '')
  const many = p.client.lookup(1, 'many')
  const nodes = Array.from({ length: 5000 }, (_, i) =>
    p.client.lookup(many, `${'n'.repeat(40)}-${i}`),
  )
  const there = moved(t, p)
  t.is(p.to.fs.nodeCount, 5002)
  for (const node of nodes.filter((_, i) => i % 97 === 0)) t.is(there.do(3, node, GETATTR).error, 0)
})
