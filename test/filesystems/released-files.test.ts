/** Files that the guest closed stay open for a moment, and no longer than they may. */
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { native } from '../../src/native/addon.js'
import type { FuseClient } from '../helpers/fuse-client.js'
import { openDescriptors, type Rig, rig } from '../helpers/rig.js'
import { share } from './host-share.js'

const O_RDWR = 2
const O_TRUNC = 0o1000

/** A share on a file system that is plain everywhere: tmpfs. */
function scene(t: ExecutionContext): { r: Rig; client: FuseClient; nodeid: number } {
  const folder = mkdtempSync('/dev/shm/virtiofsd-released-')
  t.teardown(() => rmSync(folder, { recursive: true }))
  const r = rig(t, { folder })
  writeFileSync(join(folder, 'f'), 'first')
  const client = r.client()
  return { r, client, nodeid: client.lookup(1, 'f') }
}

const content = (bytes: Uint8Array): string => Buffer.from(bytes).toString()

test('a file that is opened again is not opened again', t => {
  const { r, client, nodeid } = scene(t)
  const fh = client.open(nodeid, 0)
  const before = openDescriptors()
  client.release(nodeid, fh)
  t.is(r.fs.released.count, 1)
  t.is(openDescriptors(), before)
  const again = client.open(nodeid, 0)
  t.is(r.fs.released.hits, 1)
  t.is(openDescriptors(), before)
  t.is(content(client.read(nodeid, again, 0, 100)), 'first')
  const both = client.open(nodeid, 0)
  t.is(openDescriptors(), before + 1, 'a second one that is open at once has its own')
  client.release(nodeid, again)
  client.release(nodeid, both)
  t.is(r.fs.released.count, 1, 'one for a node')
  t.is(openDescriptors(), before)
})

test('it is closed in two rounds, or with its name', t => {
  const { r, client, nodeid } = scene(t)
  client.release(nodeid, client.open(nodeid, 0))
  const open = openDescriptors()
  // A whole number: with another one, 50 and 10 more are rounded apart beside a power of two.
  const now = Math.ceil(performance.now())
  t.is(r.fs.tidy(now), 50)
  t.is(r.fs.tidy(now + 10), 40)
  t.is(openDescriptors(), open)
  t.is(r.fs.tidy(now + 51), -1)
  t.is(openDescriptors(), open - 1)
  t.is(r.fs.tidy(now + 52), -1)

  client.release(nodeid, client.open(nodeid, 0))
  t.is(r.fs.released.count, 1)
  client.do(10, 1, Buffer.from('f\0'))
  t.is(r.fs.released.count, 0)

  writeFileSync(join(r.folder, 'f'), 'second')
  writeFileSync(join(r.folder, 'g'), 'third')
  const second = client.lookup(1, 'f')
  client.release(second, client.open(second, 0))
  t.is(r.fs.released.count, 1)
  const rename = Buffer.alloc(8)
  rename.writeBigUInt64LE(1n)
  client.do(12, 1, Buffer.concat([rename, Buffer.from('g\0f\0')]))
  t.is(r.fs.released.count, 0)
})

test('the device thread closes it when nothing happens', t => {
  const { r, client, nodeid } = scene(t)
  client.release(nodeid, client.open(nodeid, 0))
  t.is(r.fs.released.count, 1)
  // The sleep ends by itself.
  r.device.turn()
  t.is(r.fs.released.count, 1)
  for (let i = 0; i < 3 && r.fs.released.count > 0; i++) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 51)
    native.eventWrite(r.front.rings[1]!.kickFd)
    r.device.turn()
  }
  t.is(r.fs.released.count, 0)
})

test('a thousand files wait, and are closed some at a time, or when they are forgotten', t => {
  const folder = mkdtempSync('/dev/shm/virtiofsd-released-')
  t.teardown(() => rmSync(folder, { recursive: true }))
  // Without a device nobody tidies but this test.
  const { h, fs } = share(t, 'never', folder)
  const nodes = Array.from({ length: 1000 }, (_, i) => {
    writeFileSync(join(folder, `n${i}`), `${i}`)
    return h.lookup(1, `n${i}`)
  })
  const openAndClose = (): void => {
    for (const node of nodes) h.release(node, h.open(node, 0))
  }
  openAndClose()
  t.is(fs.released.count, 1000)
  openAndClose()
  t.is(fs.released.hits, 1000)
  t.is(fs.tidy(1000), 50)
  const left: number[] = []
  for (let again = fs.tidy(1051); again >= 0; again = fs.tidy(1051)) {
    t.is(again, 0, 'there is more to close')
    left.push(fs.released.count)
  }
  t.deepEqual(left, [872, 744, 616, 488, 360, 232, 104])
  t.is(fs.released.count, 0)

  openAndClose()
  h.forget(nodes[0]!)
  t.is(fs.released.count, 999)
  fs.destroy()
  t.is(fs.released.count, 0)
})

test('what is not plainly read-only is closed at once', t => {
  const { r, client, nodeid } = scene(t)
  client.release(nodeid, client.open(nodeid, O_RDWR))
  t.is(r.fs.released.count, 0)
  client.release(nodeid, client.open(nodeid, 0))
  client.release(nodeid, client.open(nodeid, O_TRUNC | O_RDWR))
  t.is(r.fs.released.hits, 0)
  const fh = client.open(nodeid, 0)
  t.is(r.fs.released.hits, 1)
  t.is(client.read(nodeid, fh, 0, 10).length, 0, 'it was truncated')
  client.release(nodeid, fh)
  client.destroy()
  t.is(r.fs.released.count, 0, 'nor does anything stay behind the guest')
})

test('a file that the host put in its place is another one', t => {
  const { r, client, nodeid } = scene(t)
  client.release(nodeid, client.open(nodeid, 0))
  writeFileSync(join(r.folder, 'new'), 'other')
  renameSync(join(r.folder, 'new'), join(r.folder, 'f'))
  const other = client.lookup(1, 'f')
  t.not(other, nodeid)
  const fh = client.open(other, 0)
  t.is(content(client.read(other, fh, 0, 100)), 'other')
  client.release(other, fh)
})
