/** What one owner has locked, against a byte-by-byte model. */
import test from 'ava'
import fc from 'fast-check'
import { type HeldRange, LockRanges } from '../../src/filesystems/host/lock-ranges.js'

const F_RDLCK = 0
const F_WRLCK = 1
const F_UNLCK = 2

const BYTES = 12
/** The last byte of the model stands for all that follow. */
const real = (end: number): number => (end === BYTES - 1 ? Number.POSITIVE_INFINITY : end)

const operation = fc.record({
  from: fc.integer({ min: 0, max: BYTES - 1 }),
  to: fc.integer({ min: 0, max: BYTES - 1 }),
  type: fc.constantFrom(F_RDLCK, F_WRLCK, F_UNLCK),
})

/** The model as ranges: the longest there are. */
function ranges(model: readonly number[]): HeldRange[] {
  const found: HeldRange[] = []
  for (let start = 0; start < BYTES; ) {
    const type = model[start]!
    let end = start
    while (end + 1 < BYTES && model[end + 1] === type) end++
    if (type !== F_UNLCK) found.push({ start, end: real(end), type })
    start = end + 1
  }
  return found
}

test('any sequence of locks comes to the same ranges and conflicts', t => {
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 40 }), operations => {
      const model = Array<number>(BYTES).fill(F_UNLCK)
      const under = new LockRanges()
      for (const { from, to, type } of operations) {
        const start = Math.min(from, to)
        const end = Math.max(from, to)
        under.set(start, real(end), type)
        model.fill(type, start, end + 1)
        t.deepEqual(under.held, ranges(model))
        for (const wanted of [F_RDLCK, F_WRLCK])
          t.deepEqual(
            under.conflict(start, real(end), wanted),
            ranges(model).find(
              one =>
                one.start <= end &&
                one.end >= start &&
                (wanted === F_WRLCK || one.type === F_WRLCK),
            ),
          )
      }
    }),
    { numRuns: 500 },
  )
})
