/** Files mapped by several processes: what is refused, what is shared, what is left after the end. */
import { ftruncateSync } from 'node:fs'
import test from 'ava'
import { native } from '../../src/native/addon.js'
import { E, makeContext, makeFolder, makePipe, own } from './support.js'

test('two mappings of a file are one memory, until their context ends', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('shared', 8192))
  const [one, other] = [0, 1].map(() => context.raw.mapShared(fd, 8192) as ArrayBuffer)
  const words = new Int32Array(one!)
  Atomics.store(words, 2047, 7)
  t.is(Atomics.load(new Int32Array(other!), 2047), 7)
  context.dispose()
  t.is(one!.byteLength, 0)
  t.is(words.length, 0)
  t.is(context.raw.mapShared(fd, 8192), -E.EBADF)
})

test('what cannot be mapped is refused', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('shared', 4096))
  t.is(context.raw.mapShared(-1, 4096), -E.EBADF)
  t.is(context.raw.mapShared(fd, 4097), -E.EOVERFLOW)
  for (const bytes of [0, -1, 1.5, 2 ** 32, Number.NaN])
    t.is(context.raw.mapShared(fd, bytes), -E.EINVAL, `${bytes}`)
  t.is(context.raw.mapShared(makePipe(context, makeFolder(t)).read, 4096), -E.EINVAL)
  t.throws(() => context.raw.mapShared('x' as never, 4096), { instanceOf: TypeError })
})

test('a file cut short turns into zero bytes of this process alone', t => {
  const context = makeContext(t)
  const fd = own(t, native.memfd('shared', 8192))
  const words = new Int32Array(context.raw.mapShared(fd, 8192) as ArrayBuffer)
  words[0] = 7
  ftruncateSync(fd, 0)
  t.is(Atomics.load(words, 1024), 0)
  t.is(words[0], 0)
  words[0] = 9
  ftruncateSync(fd, 4096)
  t.is(new Int32Array(context.raw.mapShared(fd, 4096) as ArrayBuffer)[0], 0)
})
