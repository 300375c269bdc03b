/** Guest memory: regions, copies over their borders, ring views, and jobs that outlive a region. */
import { constants as files, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { native, PoolCall, RING_PLACES } from '../../src/native/addon.js'
import type { Context } from '../../src/native/context.js'
import { descriptors, E, makeContext, makeFolder, open, own, reapAll } from './support.js'

const GUEST = 0x4000_0000
const USER = 0x7f00_0000_0000n
const PAGE = 4096

function contentOf(fd: number): Buffer {
  return readFileSync(`/proc/self/fd/${fd}`)
}

function addRegion(
  context: Context,
  fd: number,
  guest: number | bigint,
  user: bigint,
  bytes: number | bigint,
  offset = 0n,
): number {
  return context.raw.addRegion(fd, offset, BigInt(guest), user, BigInt(bytes))
}

/** The lines of /proc/self/maps with a memory file of this name. */
function mappings(name: string): number {
  return readFileSync('/proc/self/maps', 'utf8').split(`/memfd:${name} `).length - 1
}

/** Two regions side by side for the guest, from two files; each byte tells its guest address. */
function twoRegions(t: ExecutionContext, context: Context): [number, number] {
  const low = own(t, native.memfd('low', 2 * PAGE))
  const high = own(t, native.memfd('high', 2 * PAGE))
  t.is(addRegion(context, high, GUEST + 2 * PAGE, USER + 0x10_0000n, 2 * PAGE), 0)
  t.is(addRegion(context, low, GUEST, USER, 2 * PAGE), 0)
  const pattern = pat(0, 4 * PAGE)
  writeFileSync(`/proc/self/fd/${low}`, pattern.subarray(0, 2 * PAGE))
  writeFileSync(`/proc/self/fd/${high}`, pattern.subarray(2 * PAGE))
  return [low, high]
}

/** What twoRegions puts at `from`... */
function pat(from: number, bytes: number): Buffer {
  return Buffer.from(Array.from({ length: bytes }, (_, i) => ((from + i) * 31) % 251))
}

// --- regions ----------------------------------------------------------------------------------------

test('addRegion: every error, and the first of several wins in the documented order', t => {
  const context = makeContext(t)
  const folder = makeFolder(t)
  const fd = own(t, native.memfd('guest', 4 * PAGE))
  const path = join(folder, 'readonly')
  writeFileSync(path, Buffer.alloc(PAGE))
  const readOnly = open(t, path, files.O_RDONLY)
  const none = 2 ** 30
  const far = USER + 0x1000_0000n
  t.is(addRegion(context, fd, GUEST, USER, PAGE), 0)

  const SAFE = 2n ** 53n - 1n
  // Each of these would be EEXIST, EOVERFLOW or EBADF otherwise.
  for (const [guest, user, bytes, offset] of [
    [BigInt(GUEST), USER, 0n, 0n],
    [0n, far, 2n ** 64n - 1n, 0n],
    [0n, far, SAFE + 1n, 0n],
    [SAFE, far, 1n, 0n],
    [SAFE + 1n, far, BigInt(PAGE), 0n],
    [2n ** 64n - BigInt(PAGE), far, BigInt(PAGE), 0n],
    [2n ** 64n - 1n, far, 2n, 0n],
    [BigInt(GUEST), 2n ** 64n - 1n, 2n, 0n],
    [BigInt(GUEST), 2n ** 64n - 1n, BigInt(PAGE), 0n],
    [BigInt(GUEST), USER, BigInt(PAGE), 2n ** 64n - BigInt(PAGE)],
    [BigInt(GUEST), USER, BigInt(PAGE), 2n ** 63n - BigInt(PAGE) + 1n],
  ] as const)
    t.is(
      context.raw.addRegion(none, offset, guest, user, bytes),
      -E.EINVAL,
      `${guest} ${user} ${bytes} ${offset}`,
    )

  for (const [guest, user, bytes] of [
    [GUEST, far, PAGE],
    [GUEST - PAGE, far, PAGE + 1],
    [GUEST + PAGE - 1, far, 1],
    [GUEST - PAGE, far, 16 * PAGE],
    [GUEST + 0x1000_0000, USER, PAGE],
    [GUEST + 0x1000_0000, USER - 1n, 2],
    [GUEST + 0x1000_0000, USER + BigInt(PAGE) - 1n, PAGE],
  ] as const)
    t.is(addRegion(context, none, guest, user, bytes), -E.EEXIST, `${guest} ${user} ${bytes}`)

  t.is(addRegion(context, fd, GUEST + PAGE, far, 4 * PAGE + 1), -E.EOVERFLOW)
  t.is(addRegion(context, fd, GUEST + PAGE, far, PAGE, BigInt(4 * PAGE)), -E.EOVERFLOW)
  t.is(addRegion(context, readOnly, GUEST + PAGE, far, PAGE + 1), -E.EOVERFLOW)
  t.is(addRegion(context, readOnly, GUEST + PAGE, far, PAGE), -E.EACCES)
  t.is(addRegion(context, none, GUEST + PAGE, far, PAGE), -E.EBADF)
  const event = own(t, native.eventFd())
  t.is(addRegion(context, event, GUEST + PAGE, far, PAGE), -E.EINVAL, 'no plain file')

  // None of it stayed; neighbours that only touch are welcome.
  t.is(addRegion(context, fd, GUEST + PAGE, USER + BigInt(PAGE), PAGE), 0)
  t.is(addRegion(context, fd, GUEST - PAGE, USER - BigInt(PAGE), PAGE), 0)
  t.is(context.raw.clearRegions(), 3)
  t.is(context.raw.clearRegions(), 0)
})

test('addRegion: wrong types throw, and no number is mistaken for an address', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('guest', PAGE))
  const add = context.raw.addRegion as (...args: unknown[]) => number
  const type = { instanceOf: TypeError }
  t.throws(() => add(fd, 0, 0n, 0n, 4096n), type)
  t.throws(() => add(fd, 0n, 0, 0n, 4096n), type)
  t.throws(() => add(fd, 0n, 0n, 0n), type)
  t.throws(() => add('3', 0n, 0n, 0n, 4096n), type)
  t.throws(() => add(fd, 0n, -1n, 0n, 4096n), type)
  t.throws(() => add(fd, 0n, 0n, 2n ** 64n, 4096n), type)
  t.is(context.raw.clearRegions(), 0)
})

test('a 513th region is ENOSPC, before its file is looked at', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('many', PAGE))
  const before = mappings('many')
  for (let i = 0; i < 512; i++)
    t.is(addRegion(context, fd, GUEST + i * PAGE, USER + BigInt(i * PAGE), PAGE), 0)
  const next = USER + BigInt(512 * PAGE)
  t.is(addRegion(context, 2 ** 30, GUEST + 512 * PAGE, next, PAGE), -E.ENOSPC)
  t.is(addRegion(context, fd, GUEST + 512 * PAGE, next, PAGE), -E.ENOSPC)
  t.is(addRegion(context, fd, GUEST, USER, PAGE), -E.EEXIST, 'overlap is looked for first')
  const one = [BigInt(GUEST + 7 * PAGE), USER + BigInt(7 * PAGE), BigInt(PAGE)] as const
  t.is(context.raw.removeRegion(...one), 0)
  t.is(addRegion(context, fd, GUEST + 512 * PAGE, next, PAGE), 0)
  t.is(addRegion(context, fd, GUEST + 7 * PAGE, one[1], PAGE), -E.ENOSPC)
  t.is(context.raw.clearRegions(), 512)
  t.is(mappings('many'), before, 'nothing stays mapped')
})

test('removeRegion wants exactly the three numbers of the region', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('guest', 4 * PAGE))
  t.is(addRegion(context, fd, GUEST, USER, 2 * PAGE), 0)
  const guest = BigInt(GUEST)
  const bytes = BigInt(2 * PAGE)
  for (const wrong of [
    [guest + 1n, USER, bytes],
    [guest, USER + 1n, bytes],
    [guest, USER, bytes - 1n],
    [guest, USER, 0n],
    [guest + BigInt(PAGE), USER + BigInt(PAGE), BigInt(PAGE)],
    [0n, 0n, 0n],
  ] as const)
    t.is(context.raw.removeRegion(wrong[0], wrong[1], wrong[2]), -E.ENOENT)
  t.is(context.raw.removeRegion(guest, USER, bytes), 0)
  t.is(context.raw.removeRegion(guest, USER, bytes), -E.ENOENT)
})

test('a region takes no ownership of its descriptor and leaves none behind', t => {
  const context = makeContext(t)
  const before = descriptors()
  const fd = native.memfd('given', PAGE)
  t.is(addRegion(context, fd, GUEST, USER, PAGE), 0)
  t.is(native.closeFd(fd), 0)
  t.deepEqual(descriptors(), before)
  context.segments.set([GUEST, PAGE])
  context.bytes.fill(9, 0, PAGE)
  t.is(context.copyOut(0, 1, 0, 0, PAGE), PAGE)
  t.is(context.copyIn(0, 1, 0, PAGE, PAGE), PAGE)
  t.is(context.bytes[2 * PAGE - 1], 9)
  t.is(mappings('given'), 1)
  t.is(context.raw.removeRegion(BigInt(GUEST), USER, BigInt(PAGE)), 0)
  t.is(mappings('given'), 0)
  t.is(context.copyOut(0, 1, 0, 0, PAGE), -E.EFAULT)
})

test('a region begins at its offset in the file', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('guest', 4 * PAGE))
  writeFileSync(`/proc/self/fd/${fd}`, pat(0, 4 * PAGE))
  t.is(addRegion(context, fd, GUEST, USER, PAGE, BigInt(2 * PAGE)), 0)
  context.segments.set([GUEST, PAGE])
  t.is(context.copyIn(0, 1, 0, 0, PAGE), PAGE)
  t.deepEqual(Buffer.from(context.bytes.subarray(0, PAGE)), pat(2 * PAGE, PAGE))
})

// --- copies -----------------------------------------------------------------------------------------

test('copies cross from one region into the next', t => {
  const context = makeContext(t)
  const [low, high] = twoRegions(t, context)
  // One segment over the border, one within each region.
  context.segments.set([GUEST + 100, 10, GUEST + 2 * PAGE - 50, 100, GUEST + 3 * PAGE, 20])
  const all = Buffer.concat([pat(100, 10), pat(2 * PAGE - 50, 100), pat(3 * PAGE, 20)])
  t.is(context.copyIn(0, 3, 0, 0, 1000), 130)
  t.deepEqual(Buffer.from(context.bytes.subarray(0, 130)), all)
  t.is(context.bytes[130], 0)

  for (const [skip, bytes] of [
    [0, 1],
    [9, 2],
    [10, 50],
    [10, 51],
    [59, 3],
    [60, 1],
    [109, 21],
    [110, 20],
    [129, 1],
    [129, 2],
    [130, 5],
    [1000, 5],
    [5, 0],
  ] as const) {
    context.bytes.fill(0xee, 0, 1000)
    const expected = all.subarray(skip, skip + bytes)
    t.is(context.copyIn(0, 3, skip, 0, bytes), expected.length, `${bytes} after ${skip}`)
    t.deepEqual(Buffer.from(context.bytes.subarray(0, expected.length)), expected)
    t.is(context.bytes[expected.length], 0xee)
  }
  t.is(context.copyIn(1, 1, 0, 0, 1000), 100)
  t.is(context.copyIn(2, 1, 0, 0, 1000), 20)
  t.is(context.copyIn(0, 0, 0, 0, 1000), 0)

  // And out: only what belongs to the segments changes.
  context.bytes.set(Buffer.alloc(130, 0xcc))
  t.is(context.copyOut(0, 3, 5, 0, 130), 125)
  const wanted = pat(0, 4 * PAGE)
  wanted.fill(0xcc, 105, 110)
  wanted.fill(0xcc, 2 * PAGE - 50, 2 * PAGE + 50)
  wanted.fill(0xcc, 3 * PAGE, 3 * PAGE + 20)
  t.deepEqual(Buffer.concat([contentOf(low), contentOf(high)]), wanted)
})

test('a copy up to the last byte works, one more is EFAULT and writes nothing', t => {
  const context = makeContext(t)
  const [, high] = twoRegions(t, context)
  const before = contentOf(high)
  context.segments.set([GUEST + 4 * PAGE - 10, 10, GUEST + 4 * PAGE - 10, 11])
  t.is(context.copyIn(0, 1, 0, 0, 100), 10)
  t.deepEqual(Buffer.from(context.bytes.subarray(0, 10)), pat(4 * PAGE - 10, 10))
  context.bytes.fill(0x11, 0, 100)
  t.is(context.copyOut(1, 1, 0, 0, 11), -E.EFAULT)
  t.deepEqual(contentOf(high), before)
  t.is(context.copyOut(1, 1, 0, 0, 10), 10, 'what is not asked for does not matter')
  t.is(context.copyIn(1, 1, 0, 0, 11), -E.EFAULT)
  // The arena's end, too.
  t.is(context.copyIn(0, 1, 0, 65526, 10), 10)
  t.is(context.copyIn(0, 1, 0, 65527, 10), -E.EFAULT)
  t.is(context.copyIn(0, 1, 0, 65536, 0), 0)
})

test('readv and writev move file data to and from segments of two regions', t => {
  const context = makeContext(t)
  const [low, high] = twoRegions(t, context)
  const folder = makeFolder(t)
  const file = open(t, join(folder, 'file'), files.O_RDWR | files.O_CREAT)
  context.segments.set([GUEST + 2 * PAGE - 8, 16, GUEST, 4])
  t.is(context.writev(file, 0, 2, 4, 100, 3, 0), 16)
  const written = Buffer.concat([pat(2 * PAGE - 4, 12), pat(0, 4)])
  t.deepEqual(readFileSync(join(folder, 'file')), Buffer.concat([Buffer.alloc(3), written]))

  writeFileSync(join(folder, 'file'), 'abcdefghijklmnopqrst')
  t.is(context.readv(file, 0, 2, 0, 100, 1, 0), 19, 'the end of the file')
  t.is(contentOf(low).toString('latin1', 2 * PAGE - 8), 'bcdefghi')
  t.is(contentOf(high).toString('latin1', 0, 8), 'jklmnopq')
  t.is(contentOf(low).toString('latin1', 0, 3), 'rst')
  t.is(contentOf(low)[3], pat(3, 1)[0])
  t.is(context.readv(file, 0, 2, 0, 5, 0, 0), 5)
  t.is(context.readv(file, 0, 2, 0, 5, 20, 0), 0)
  t.is(context.readv(file, 0, 2, 0, 0, 0, 0), 0)
  t.is(context.readv(file, 0, 1, 0, 5, 0, 0x4000_0000), -E.EOPNOTSUPP, 'no such RWF_ flag')
  const readOnly = open(t, join(folder, 'file'), files.O_RDONLY)
  t.is(context.writev(readOnly, 0, 1, 0, 5, 0, 0), -E.EBADF)
})

test('a list of more segments than the kernel takes at once is moved whole', t => {
  const context = makeContext(t, { maxSegments: 5000 })
  const memory = own(t, native.memfd('guest', 16384))
  t.is(addRegion(context, memory, GUEST, USER, 16384), 0)
  const content = pat(0, 16384)
  writeFileSync(`/proc/self/fd/${memory}`, content)
  // Every third byte, so that no two segments can be joined.
  for (let i = 0; i < 5000; i++) context.segments.set([GUEST + i * 3, 1], i * 2)
  const file = own(t, native.memfd('file', 0))
  t.is(context.writev(file, 0, 5000, 0, 5000, 0, 0), 5000)
  const thirds = Buffer.from(Array.from({ length: 5000 }, (_, i) => content[i * 3]!))
  t.deepEqual(contentOf(file), thirds)
  writeFileSync(`/proc/self/fd/${file}`, Buffer.alloc(5000, 0xaa))
  t.is(context.readv(file, 0, 5000, 0, 9999, 0, 0), 5000)
  for (let i = 0; i < 5000; i++) content[i * 3] = 0xaa
  t.deepEqual(contentOf(memory), content)
})

// --- views ------------------------------------------------------------------------------------------

test('mapView: EFAULT outside one region, EINVAL for alignment and sizes that are none', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('guest', 4 * PAGE))
  t.is(addRegion(context, fd, GUEST, USER, 2 * PAGE), 0)
  t.is(addRegion(context, fd, GUEST + 2 * PAGE, USER + BigInt(2 * PAGE), PAGE), 0)
  const view = (user: bigint, bytes: number, alignment: number): number | string => {
    const answer = context.raw.mapView(user, bytes, alignment)
    return typeof answer === 'number' ? answer : `${answer.byteLength} bytes`
  }
  t.is(view(USER, 2 * PAGE, 4096), `${2 * PAGE} bytes`)
  t.is(view(USER + 2n, 100, 2), '100 bytes')
  t.is(view(USER + BigInt(2 * PAGE) - 1n, 1, 1), '1 bytes')
  for (const [user, bytes] of [
    [USER, 2 * PAGE + 1],
    [USER + BigInt(2 * PAGE) - 1n, 2],
    [USER - 1n, 2],
    [USER - 1n, 1],
    [USER + BigInt(3 * PAGE), 1],
    [BigInt(GUEST), 16],
    [0n, 1],
    [2n ** 64n - 1n, 4096],
    [USER, 2 ** 32 - 1],
  ] as const)
    t.is(view(user, bytes, 1), -E.EFAULT, `${user}, ${bytes} bytes`)
  for (const [offset, alignment] of [
    [1n, 2],
    [2n, 4],
    [8n, 16],
    [16n, 4096],
    [3n, 2],
  ] as const)
    t.is(view(USER + offset, 64, alignment), -E.EINVAL, `${offset} at ${alignment}`)
  for (const bytes of [0, -1, 0.5, Number.NaN, Infinity, 2 ** 32, 2 ** 53])
    t.is(view(USER, bytes, 1), -E.EINVAL, `${bytes} bytes`)
  for (const alignment of [0, -1, 0.5, Number.NaN, Infinity, 8192])
    t.is(view(USER, 64, alignment), -E.EINVAL, `alignment ${alignment}`)
})

test('a view shows the same bytes as the copies, until it is unmapped', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('guest', PAGE))
  t.is(addRegion(context, fd, GUEST, USER, PAGE), 0)
  const buffer = context.raw.mapView(USER + 16n, 64, 16) as ArrayBuffer
  const twin = context.raw.mapView(USER + 16n, 64, 16) as ArrayBuffer
  const bytes = new Uint8Array(buffer)
  bytes[0] = 42
  context.segments.set([GUEST + 16, 1])
  t.is(context.copyIn(0, 1, 0, 0, 1), 1)
  t.is(context.bytes[0], 42)
  context.raw.unmapView(buffer)
  t.is(buffer.byteLength, 0)
  t.is(bytes.length, 0)
  t.is(Object.keys(bytes).length, 0)
  t.is(new Uint8Array(twin)[0], 42, 'the other view stays')
  context.raw.unmapView(buffer)
  context.raw.unmapView(new ArrayBuffer(8))
  context.raw.unmapView(context.raw.arena)
  t.is(context.raw.arena.byteLength, 65536, 'a buffer that is no view is left alone')
  t.is(twin.byteLength, 64)
})

test('views are detached with their region, with all regions, and with the context', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('viewed', 4 * PAGE))
  const user = (i: number): bigint => USER + BigInt(i * PAGE)
  for (let i = 0; i < 4; i++) t.is(addRegion(context, fd, GUEST + i * PAGE, user(i), PAGE), 0)
  const views = [0, 1, 2, 3].map(i => context.raw.mapView(user(i), PAGE, 1) as ArrayBuffer)
  const second = context.raw.mapView(user(1) + 8n, 8, 1) as ArrayBuffer
  const lengths = (): number[] => views.map(view => view.byteLength)
  t.is(context.raw.removeRegion(BigInt(GUEST + PAGE), user(1), BigInt(PAGE)), 0)
  t.deepEqual(lengths(), [PAGE, 0, PAGE, PAGE])
  t.is(second.byteLength, 0)
  t.is(context.raw.clearRegions(), 3)
  t.deepEqual(lengths(), [0, 0, 0, 0])
  t.is(mappings('viewed'), 0)

  t.is(addRegion(context, fd, GUEST, USER, PAGE), 0)
  const last = context.raw.mapView(USER, PAGE, 1) as ArrayBuffer
  t.is(last.byteLength, PAGE)
  context.dispose()
  t.is(last.byteLength, 0)
  t.is(mappings('viewed'), 0)
  t.is(context.raw.mapView(USER, PAGE, 1), -E.EBADF)
  t.is(addRegion(context, fd, GUEST, USER, PAGE), -E.EBADF)
  t.is(context.raw.removeRegion(BigInt(GUEST), USER, BigInt(PAGE)), -E.EBADF)
  t.is(context.raw.clearRegions(), -E.EBADF)
})

test('views that last are not detached with their region, and keep it mapped', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('lasting', PAGE))
  t.is(context.raw.addRegion(fd, 0n, BigInt(GUEST), USER, BigInt(PAGE), true), 0)
  const view = new Uint8Array(context.raw.mapView(USER, PAGE, 1) as ArrayBuffer)
  const other = context.raw.mapView(USER, PAGE, 1) as ArrayBuffer
  view[0] = 7
  context.raw.unmapView(other)
  t.is(other.byteLength, PAGE)
  t.is(context.raw.removeRegion(BigInt(GUEST), USER, BigInt(PAGE)), 0)
  t.is(view.length, PAGE)
  t.is(view[0], 7)
  t.is(mappings('lasting'), 1)
  t.is(context.raw.mapView(USER, PAGE, 1), -E.EFAULT)
  context.dispose()
  t.is(view[0], 7)
})

test('a view that JavaScript forgot is no harm when its region goes', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('forgotten', PAGE))
  t.is(addRegion(context, fd, GUEST, USER, PAGE), 0)
  for (let i = 0; i < 1000; i++) t.not(typeof context.raw.mapView(USER, PAGE, 1), 'number')
  globalThis.gc!()
  t.is(context.raw.removeRegion(BigInt(GUEST), USER, BigInt(PAGE)), 0)
  t.is(mappings('forgotten'), 0)
})

test('watchRing: only views of four bytes or more, and only as many rings as there are places', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('guest', PAGE))
  t.is(addRegion(context, fd, GUEST, USER, PAGE), 0)
  const view = context.raw.mapView(USER, 64, 2) as ArrayBuffer
  const short = context.raw.mapView(USER, 3, 1) as ArrayBuffer
  t.is(context.raw.watchRing(0, view), 0)
  t.is(context.raw.watchRing(64, view), 0)
  for (const ring of [-1, RING_PLACES, 0.5, Number.NaN, 2 ** 31, Infinity])
    t.is(context.raw.watchRing(ring, view), -E.EINVAL, `ring ${ring}`)
  t.is(context.raw.watchRing(0, short), -E.EINVAL)
  t.is(context.raw.watchRing(0, new ArrayBuffer(64)), -E.EINVAL)
  t.is(context.raw.watchRing(0, context.raw.arena), -E.EINVAL)
  context.raw.unmapView(view)
  t.is(context.raw.watchRing(0, view), -E.EINVAL, 'a detached view')
  t.is(context.raw.watchRing(0, null), 0)
})

// --- a file that its owner cuts short ---------------------------------------------------------------

test('memory whose file was cut short reads as zeros, then is EFAULT; other regions stay', t => {
  const context = makeContext(t)
  const torn = native.memfd('torn', 4 * PAGE)
  const whole = own(t, native.memfd('whole', PAGE))
  t.is(addRegion(context, torn, GUEST, USER, 4 * PAGE), 0)
  t.is(addRegion(context, whole, GUEST + 4 * PAGE, USER + BigInt(4 * PAGE), PAGE), 0)
  const view = new Uint8Array(context.raw.mapView(USER, 4 * PAGE, 1) as ArrayBuffer)
  view.fill(1)
  context.segments.set([GUEST + 3 * PAGE, 10, GUEST + 4 * PAGE, 10])
  context.bytes.fill(0xee, 0, 10)
  t.is(context.ftruncate(torn, 0), 0)
  const first = context.copyIn(0, 1, 0, 0, 10)
  t.true(first === 10 || first === -E.EFAULT, `${first}`)
  if (first === 10) t.deepEqual([...new Set(context.bytes.subarray(0, 10))], [0])
  t.is(context.copyIn(0, 1, 0, 0, 10), -E.EFAULT)
  t.is(context.copyOut(0, 1, 0, 0, 10), -E.EFAULT)
  t.is(context.submit(PoolCall.readv, 1, whole, 0, 1, 0, 10, 0, 0), -E.EFAULT)
  t.is(view[5], 0)
  view[5] = 1
  t.is(context.copyIn(1, 1, 0, 0, 10), 10)
  t.is(context.raw.removeRegion(BigInt(GUEST), USER, BigInt(4 * PAGE)), 0)
  t.is(mappings('torn'), 0)
  t.is(native.closeFd(torn), 0)
  // The same addresses with whole memory work again.
  t.is(addRegion(context, whole, GUEST + 3 * PAGE, USER, PAGE), 0)
  t.is(context.copyOut(0, 1, 0, 0, 10), 10)
})

test('a ring view of a file that was cut short is read without harm', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('torn-ring', PAGE))
  t.is(addRegion(context, fd, GUEST, USER, PAGE), 0)
  const view = context.raw.mapView(USER, 64, 2) as ArrayBuffer
  t.is(context.raw.watchRing(0, view), 0)
  context.lastAvail[0] = 0
  t.is(context.ftruncate(fd, 0), 0)
  t.is(context.wait(0, 1000), 0)
  t.deepEqual([...new Set(new Uint8Array(view))], [0])
})

test('a system call into memory that was cut short fails and does not end the process', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('torn-io', 2 * PAGE))
  const file = own(t, native.memfd('file', PAGE))
  t.is(addRegion(context, fd, GUEST, USER, 2 * PAGE), 0)
  t.is(context.ftruncate(fd, PAGE), 0)
  context.segments.set([GUEST + PAGE, 100])
  t.is(context.readv(file, 0, 1, 0, 100, 0, 0), -E.EFAULT)
  t.is(context.writev(file, 0, 1, 0, 100, 0, 0), -E.EFAULT)
  t.is(context.submit(PoolCall.readv, 1, file, 0, 1, 0, 100, 0, 0), 0)
  t.deepEqual([...reapAll(context, 1)], [[1, -E.EFAULT]])
})

// --- jobs -------------------------------------------------------------------------------------------

/** Makes the only pool thread wait, for a lock, until the function it answers is called. */
function blockPool(t: ExecutionContext, context: Context, token: number): () => void {
  const path = join(makeFolder(t), 'lock')
  writeFileSync(path, '')
  const holder = open(t, path, files.O_RDWR)
  const waiter = open(t, path, files.O_RDWR)
  t.is(context.flock(holder, 2), 0)
  const release = (): void => void context.flock(holder, 8)
  // Whatever the test does, the pool must not stay blocked.
  t.teardown(release)
  t.is(context.submit(PoolCall.flock, token, waiter, 2), 0)
  return release
}

for (const way of ['removeRegion', 'clearRegions'] as const)
  test(`jobs in flight keep their mapping after ${way}`, t => {
    const context = makeContext(t)
    const memory = own(t, native.memfd(way, 4 * PAGE))
    const file = own(t, native.memfd('file', 0))
    writeFileSync(`/proc/self/fd/${file}`, 'hello, guest')
    const copy = own(t, native.memfd('copy', 0))
    t.is(addRegion(context, memory, GUEST, USER, PAGE), 0)
    t.is(addRegion(context, memory, GUEST + PAGE, USER + BigInt(PAGE), PAGE, BigInt(PAGE)), 0)
    writeFileSync(`/proc/self/fd/${memory}`, pat(0, 4 * PAGE))
    const release = blockPool(t, context, 1)
    context.segments.set([GUEST + PAGE - 6, 12])
    t.is(context.submit(PoolCall.writev, 3, copy, 0, 1, 0, 12, 0, 0), 0)
    t.is(context.submit(PoolCall.readv, 2, file, 0, 1, 0, 12, 0, 0), 0)
    // What JavaScript does with the segments after this is no business of the jobs.
    context.segments.fill(0)
    if (way === 'clearRegions') t.is(context.raw.clearRegions(), 2)
    else
      for (const i of [0, PAGE])
        t.is(context.raw.removeRegion(BigInt(GUEST + i), USER + BigInt(i), BigInt(PAGE)), 0)
    t.is(context.reap(), -1)
    t.is(mappings(way), 2, 'both regions are still mapped')
    release()
    t.deepEqual(
      [...reapAll(context, 3)].sort(),
      [
        [1, 0],
        [2, 12],
        [3, 12],
      ],
      'and the jobs ended well',
    )
    t.is(contentOf(memory).toString('latin1', PAGE - 6, PAGE + 6), 'hello, guest')
    t.deepEqual(contentOf(copy), pat(PAGE - 6, 12))
    t.is(mappings(way), 0, 'unmapped when the last job is done')
  })
