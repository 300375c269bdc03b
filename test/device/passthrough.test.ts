/** READ and WRITE past the file system: what goes that way, what must not, and that nobody can tell the difference. */
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { type PassthroughPolicy, wherePossible } from '../../src/fuse/passthrough.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import type { FuseClient } from '../helpers/fuse-client.js'
import { type Rig, rig } from '../helpers/rig.js'

const FUSE_READ = 15
const FUSE_WRITE = 16
const EBADF = -9
const O_RDONLY = 0
const O_WRONLY = 1
const O_RDWR = 2
const O_DSYNC = 0o10000
const KILL_SUIDGID = 4

interface Scene {
  readonly r: Rig
  readonly client: FuseClient
  /** READs and WRITEs that the file system saw. */
  readonly seen: { reads: number; writes: number }
}

function scene(t: ExecutionContext, passthrough?: PassthroughPolicy, parent = '/dev/shm'): Scene {
  const folder = mkdtempSync(join(parent, 'virtiofsd-passthrough-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const r = rig(t, { folder, fuse: { passthrough } })
  const seen = { reads: 0, writes: 0 }
  const { read, write } = r.fs
  r.fs.read = (...args) => {
    seen.reads++
    return read.apply(r.fs, args)
  }
  r.fs.write = (...args) => {
    seen.writes++
    return write.apply(r.fs, args)
  }
  return { r, client: r.client(), seen }
}

function readBody(fh: bigint, offset: bigint, size: number): Uint8Array {
  return concat(u64(fh), u64(offset), u32s(size, 0), u64(0n), u32s(0, 0))
}

function writeBody(fh: bigint, offset: bigint, data: Uint8Array, flags = 0): Uint8Array {
  return concat(u64(fh), u64(offset), u32s(data.length, flags), u64(0n), u32s(0, 0), data)
}

test('the policy says which files, once for each OPEN', t => {
  const asked: unknown[] = []
  const { r, client, seen } = scene(t, file => {
    const { fs, nodeid, flags, uid } = file
    asked.push([fs === r.fs, nodeid, file.path(), flags, uid])
    return file.path() === '/sub/direct'
  })
  mkdirSync(join(r.folder, 'sub'))
  for (const name of ['direct', 'other']) writeFileSync(join(r.folder, 'sub', name), 'text')
  const sub = client.lookup(1, 'sub')
  const nodes = ['direct', 'other'].map(name => client.lookup(sub, name))
  const handles = nodes.map(nodeid => client.open(nodeid, O_RDWR))
  t.deepEqual(asked, [
    [true, nodes[0], '/sub/direct', O_RDWR, 0],
    [true, nodes[1], '/sub/other', O_RDWR, 0],
  ])
  for (const i of [0, 1]) {
    t.is(client.write(nodes[i]!, handles[i]!, 4, Buffer.from(' more')), 5)
    t.is(Buffer.from(client.read(nodes[i]!, handles[i]!, 0, 100)).toString(), 'text more')
    t.deepEqual(seen, { reads: i, writes: i })
  }
  t.is(r.server.requests[FUSE_READ], 2, 'both are counted')
  t.is(r.server.requests[FUSE_WRITE], 2)
  for (const i of [0, 1]) client.release(nodes[i]!, handles[i]!)
})

test('without a policy none goes that way', t => {
  const { r, client, seen } = scene(t)
  const { nodeid, fh } = create(client)
  client.write(nodeid, fh, 0, Buffer.from('x'))
  t.is(seen.writes, 1)
  t.is(r.server.session.passthrough.size, 0)
  client.release(nodeid, fh)
})

function create(client: FuseClient): { nodeid: number; fh: bigint } {
  client.create(1, 'new', 0o644, 0o102)
  const nodeid = client.lookup(1, 'new')
  return { nodeid, fh: client.open(nodeid, O_RDWR) }
}

test('what is closed is gone: after RELEASE, DESTROY, INIT, and for a number that comes again', t => {
  const { r, client, seen } = scene(t, wherePossible)
  writeFileSync(join(r.folder, 'f'), 'text')
  const { passthrough } = r.server.session
  const nodeid = client.lookup(1, 'f')
  const first = client.open(nodeid, O_RDONLY)
  client.release(nodeid, first)
  t.is(passthrough.size, 0)
  const second = client.open(nodeid, O_RDONLY)
  t.is(second & 0xffff_ffffn, first & 0xffff_ffffn, 'the same place')
  t.is(client.request(FUSE_READ, nodeid, readBody(first, 0n, 10))!.error, EBADF)
  t.is(seen.reads, 1)
  t.is(client.request(FUSE_READ, nodeid, readBody(second + (1n << 53n), 0n, 10))!.error, EBADF)
  t.is(client.request(FUSE_READ, nodeid, readBody(1_000_000n, 0n, 10))!.error, EBADF)
  t.is(client.read(nodeid, second, 0, 10).length, 4)
  t.is(passthrough.size, 1)
  client.destroy()
  t.is(passthrough.size, 0)
  client.init()
  t.is(client.request(FUSE_READ, nodeid, readBody(second, 0n, 10))!.error, EBADF)
  const again = client.lookup(1, 'f')
  client.open(again, O_RDONLY)
  t.is(passthrough.size, 1)
  client.init()
  t.is(passthrough.size, 0)
})

test('writes that need more than a descriptor go the ordinary way', t => {
  const { r, client, seen } = scene(t, wherePossible)
  writeFileSync(join(r.folder, 'f'), 'text')
  const nodeid = client.lookup(1, 'f')
  const fh = client.open(nodeid, O_RDWR)
  chmodSync(join(r.folder, 'f'), 0o6755)
  const answer = client.request(
    FUSE_WRITE,
    nodeid,
    writeBody(fh, 0n, Buffer.from('T'), KILL_SUIDGID),
  )
  t.is(answer!.error, 0)
  t.is(seen.writes, 1)
  t.is(statSync(join(r.folder, 'f')).mode & 0o7777, 0o755)
  client.release(nodeid, fh)
  const slow = client.open(nodeid, O_RDWR | O_DSYNC)
  t.is(client.write(nodeid, slow, 0, Buffer.from('t')), 1)
  t.is(seen.writes, 2)
  t.is(client.read(nodeid, slow, 0, 1).length, 1)
  t.is(seen.reads, 0)
  client.release(nodeid, slow)
})

test('with file capabilities under another name writes go the ordinary way', t => {
  const folder = mkdtempSync('/dev/shm/virtiofsd-passthrough-')
  t.teardown(() => rmSync(folder, { recursive: true }))
  writeFileSync(join(folder, 'f'), 'text')
  const xattrmap = ':map::user.virtiofsd.:'
  const r = rig(t, { folder, host: { xattrmap }, fuse: { passthrough: wherePossible } })
  const client = r.client()
  const nodeid = client.lookup(1, 'f')
  const fh = client.open(nodeid, O_RDWR)
  const { passthrough } = r.server.session
  t.is(passthrough.size, 1)
  t.false(passthrough.writes(Number(fh & 0xffff_ffffn)))
  client.release(nodeid, fh)
})

test('replies and files are the same as without it', t => {
  for (const parent of ['/dev/shm', tmpdir()]) {
    const scenes = [scene(t, wherePossible, parent), scene(t, undefined, parent)]
    const guests = scenes.map(({ client, r }) => ({ client, folder: r.folder, ...create(client) }))
    const written = guests.map(({ client, nodeid }) => client.open(nodeid, O_WRONLY))
    const offset = fc.oneof(
      fc.bigInt(0n, 20_000n),
      fc.constantFrom(2n ** 53n - 1n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 64n - 1n),
    )
    const act = fc.record({
      reads: fc.boolean(),
      offset,
      size: fc.oneof(fc.nat(5000), fc.constantFrom(0, 4096, 0xffff_ffff)),
      writeOnly: fc.boolean(),
      cut: fc.constantFrom(0, 0, 0, 1, 40),
    })
    fc.assert(
      fc.property(fc.array(act, { maxLength: 20 }), acts => {
        for (const { reads, offset, size, writeOnly, cut } of acts) {
          const answers = guests.map(({ client, nodeid, fh }, i) => {
            const used = writeOnly ? written[i]! : fh
            const body = reads
              ? readBody(used, offset, size)
              : writeBody(
                  used,
                  offset < 2n ** 53n ? offset % 65536n : offset,
                  new Uint8Array(Math.min(size, 8000)).fill(size),
                )
            const reply = client.request(
              reads ? FUSE_READ : FUSE_WRITE,
              nodeid,
              body.subarray(0, body.length - cut),
            )
            return reply === undefined
              ? undefined
              : [reply.error, Buffer.from(reply.bytes).toString('hex')]
          })
          t.deepEqual(answers[0], answers[1])
        }
        const [one, other] = guests.map(({ folder }) => readFileSync(join(folder, 'new')))
        t.true(one!.equals(other!))
      }),
      { numRuns: 60 },
    )
    t.true(scenes[0]!.seen.reads < scenes[1]!.seen.reads)
    t.true(scenes[0]!.seen.writes < scenes[1]!.seen.writes)
    // Each rig counts the descriptors of both.
    for (const { client } of guests) client.destroy()
  }
})
