/** --coherence, --version-table and what belongs to them. */
import test from 'ava'
import { defaults, parse, REQUIRED, refusal } from './options-helpers.js'

const STRICT = ['--coherence=strict', '--version-table=/dev/shm/table']

test('without --coherence there is none', t => {
  t.deepEqual(parse('--coherence=none'), defaults)
  t.regex(refusal([...REQUIRED, '--coherence=weak']), /--coherence takes one of none, strict/)
})

test('--coherence=strict wants a table, and has times', t => {
  t.deepEqual(parse(...STRICT), {
    ...defaults,
    coherence: 'strict',
    versionTable: '/dev/shm/table',
    leaseMs: 250,
    leaseMarginMs: 250,
  })
  const timed = parse(...STRICT, '--lease-ms', '5000', '--lease-margin-ms=0')
  t.is(timed.leaseMs, 5000)
  t.is(timed.leaseMarginMs, 0)
  t.regex(refusal([...REQUIRED, '--coherence', 'strict']), /needs --version-table PATH/)
  t.is(parse(...STRICT, '--lease-ms=0').leaseMs, 0)
  t.regex(refusal([...REQUIRED, ...STRICT, '--lease-ms=5001']), /from 0 to 5000/)
  t.regex(refusal([...REQUIRED, ...STRICT, '--lease-margin-ms=2501']), /from 0 to 2500/)
})

test('without it the others mean nothing', t => {
  for (const option of ['--version-table=/dev/shm/table', '--lease-ms=9', '--lease-margin-ms=9'])
    t.regex(refusal([...REQUIRED, option]), /has a meaning only with --coherence=strict/)
})

test('it decides what is cached', t => {
  for (const mode of ['never', 'always', 'metadata', 'Never'])
    t.regex(refusal([...REQUIRED, ...STRICT, `--cache=${mode}`]), /leave --cache out/)
  t.is(parse(...STRICT, '--cache=auto').coherence, 'strict')
  t.regex(refusal([...REQUIRED, ...STRICT, '--writeback']), /exclude each other/)
  t.is(parse(...STRICT, '--dax-window=2M', '--dax=exclusive').daxWindow, 2 << 20)
})
