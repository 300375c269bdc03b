import test from 'ava'
import fc from 'fast-check'
import {
  availEventOffset,
  availRingBytes,
  descriptorTableBytes,
  usedEventOffset,
  usedRingBytes,
  vring_desc,
  vringNeedEvent,
} from '../../protocol/virtio/ring.js'
import { view } from './bytes.js'

test('2.7: the parts of a ring of 256 have the sizes of the table in the specification', t => {
  t.is(descriptorTableBytes(256), 16 * 256)
  t.is(availRingBytes(256, true), 6 + 2 * 256)
  t.is(usedRingBytes(256, true), 6 + 8 * 256)
  t.is(availRingBytes(256, false), 4 + 2 * 256)
  t.is(usedRingBytes(256, false), 4 + 8 * 256)
})

test('the event words are the last two bytes of their ring', t => {
  for (const size of [1, 2, 128, 32_768]) {
    t.is(usedEventOffset(size) + 2, availRingBytes(size, true))
    t.is(availEventOffset(size) + 2, usedRingBytes(size, true))
  }
})

test('2.7.5: a descriptor is address, length, flags, next', t => {
  const data = view('0010000001000000 00020000 0300 0700')
  const D = vring_desc.f
  t.is(D.addr.get(data, 0), 0x1_0000_1000)
  t.is(D.len.get(data, 0), 512)
  t.is(D.flags.get(data, 0), 3)
  t.is(D.next.get(data, 0), 7)
})

test('an event is needed when and only when the index walked past it', t => {
  const index = fc.nat(0xffff)
  fc.assert(
    fc.property(index, index, fc.nat(300), (event, old, steps) => {
      let passed = false
      for (let i = 0; i < steps; i++) if (((old + i) & 0xffff) === event) passed = true
      t.is(vringNeedEvent(event, (old + steps) & 0xffff, old), passed)
    }),
  )
})

const events: ReadonlyArray<
  readonly [why: string, event: number, now: number, old: number, need: boolean]
> = [
  ['the very next entry', 5, 6, 5, true],
  ['an entry not reached yet', 6, 6, 5, false],
  ['no progress', 5, 5, 5, false],
  ['across the wrap', 0xffff, 0, 0xffff, true],
  ['past the wrap', 0, 1, 0xfffe, true],
  ['not yet past the wrap', 1, 1, 0xfffe, false],
]
for (const [why, event, now, old, need] of events) {
  test(`event index, ${why}: ${need ? 'signal' : 'silence'}`, t => {
    t.is(vringNeedEvent(event, now, old), need)
  })
}

test('an index that does not fit 16 bits means the same', t => {
  t.true(vringNeedEvent(0x1_0005, 0x1_0006, 5))
})
