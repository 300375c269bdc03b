import test from 'ava'
import fc from 'fast-check'
import { Errno } from '../../protocol/errno.js'
import { checkComponent, findNul, isDotName, printableName } from '../../protocol/fuse/names.js'
import { latin1 } from './bytes.js'

const components: ReadonlyArray<readonly [why: string, name: string, answer: number]> = [
  ['an ordinary name', 'file', 0],
  ['a name of dots that is neither . nor ..', '...', 0],
  ['a name that starts with a dot', '.git', 0],
  ['bytes that are no UTF-8', '\xff\xfe', 0],
  ['255 bytes', 'x'.repeat(255), 0],
  ['no byte at all', '', -Errno.ENOENT],
  ['256 bytes', 'x'.repeat(256), -Errno.ENAMETOOLONG],
  ['.', '.', -Errno.EINVAL],
  ['..', '..', -Errno.EINVAL],
  ['a slash', '/', -Errno.EINVAL],
  ['an inner slash', 'a/b', -Errno.EINVAL],
  ['a slash at the end', 'a/', -Errno.EINVAL],
  ['a way up', '../x', -Errno.EINVAL],
  ['256 bytes with a slash: length is looked at first', `/${'x'.repeat(255)}`, -Errno.ENAMETOOLONG],
]
for (const [why, name, answer] of components) {
  test(`a component of ${why} is answered ${answer}`, t => {
    const bytes = latin1(`??${name}/`)
    t.is(checkComponent(bytes, 2, name.length), answer)
  })
}

test('findNul agrees with indexOf on the range', t => {
  fc.assert(
    fc.property(
      fc.uint8Array({ max: 3, maxLength: 40 }),
      fc.nat(45),
      fc.nat(45),
      (bytes, at, limit) => {
        const end = Math.min(limit, bytes.length)
        const index = bytes.subarray(0, end).indexOf(0, at)
        t.is(findNul(bytes, at, end), index)
      },
    ),
  )
})

test('a NUL right behind the range is not found', t => {
  t.is(findNul(latin1('abc\0'), 0, 3), -1)
  t.is(findNul(latin1('abc\0'), 0, 4), 3)
})

test('only . and .. are dot names', t => {
  t.true(isDotName(latin1('.'), 0, 1))
  t.true(isDotName(latin1('..'), 0, 2))
  t.false(isDotName(latin1('...'), 0, 3))
  t.false(isDotName(latin1('.a'), 0, 2))
  t.false(isDotName(latin1('a'), 0, 1))
})

test('a printed name has nothing but printable ASCII, no quote, and can be read back', t => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), bytes => {
      const text = printableName(bytes, 0, bytes.length)
      t.regex(text, /^[\x20\x21\x23-\x7e]*$/)
      const back = text.replace(/\\x([0-9a-f]{2})/g, (_, code: string) =>
        String.fromCharCode(Number.parseInt(code, 16)),
      )
      t.deepEqual(latin1(back), bytes)
    }),
  )
})

test('a long name is cut with three dots', t => {
  t.is(printableName(latin1('abcdef'), 0, 6, 4), 'abcd...')
})
