/** --dax-window and --dax. */
import test from 'ava'
import { defaults, parse, REQUIRED, refusal } from './options-helpers.js'

test('without --dax-window there is no window, and --dax wants one', t => {
  t.is(parse().daxWindow, undefined)
  t.is(parse().dax, 'never')
  t.deepEqual(parse('--dax=never'), defaults)
  for (const policy of ['sealed', 'exclusive', 'always'])
    t.regex(refusal([...REQUIRED, `--dax=${policy}`]), /needs a window: give --dax-window SIZE/)
})

test('--dax-window SIZE', t => {
  const sizes: [text: string, bytes: number][] = [
    ['2M', 2 ** 21],
    ['2097152', 2 ** 21],
    ['64MiB', 2 ** 26],
    ['4096k', 2 ** 22],
    ['8G', 2 ** 33],
    ['8g', 2 ** 33],
    ['1T', 2 ** 40],
  ]
  for (const [text, bytes] of sizes)
    t.is(parse('--dax=exclusive', `--dax-window=${text}`).daxWindow, bytes, text)
  for (const text of ['1M', '3M', '5M', '0', '-1', '8X', 'G', '1.5G', '2M2', '128T'])
    t.regex(refusal([...REQUIRED, `--dax-window=${text}`]), /takes a power of two from 2M on/, text)
})

test('the default is the safe one, which says that it maps nothing of a host directory', t => {
  const options = parse('--dax-window=2M')
  t.is(options.dax, 'sealed')
  t.regex(options.warnings.join(), /maps no file of a host directory/)
  t.deepEqual(parse('--dax-window=512M', '--dax=always').warnings, [])
  t.regex(parse('--dax-window=8G', '--dax=always').warnings.join(), /512M is safe/)
  t.is(parse('--dax-window=2M', '--dax=never').daxWindow, undefined)
})

test('--dax takes one of four, and no read-only share', t => {
  t.regex(
    refusal([...REQUIRED, '--dax-window=2M', '--dax=yes']),
    /--dax takes one of never, sealed/,
  )
  t.regex(refusal([...REQUIRED, '--dax-window=2M', '--readonly']), /exclude each other/)
})
