import test from 'ava'
import { capabilitiesText, helpText, parseOptions } from '../../src/daemon/options.js'
import { OPTION_ROWS } from '../../src/daemon/option-table.js'
import { SWITCHES, WITH_VALUE } from './options-cases.js'
import { defaults, parse, REQUIRED, refusal } from './options-helpers.js'

test('defaults', t => {
  t.deepEqual(parse(), defaults)
})

for (const { option, good, bad } of WITH_VALUE)
  test(`${option} VALUE`, t => {
    for (const [value, fields] of good) {
      t.deepEqual(parse(`${option}=${value}`), { ...defaults, ...fields }, value)
      t.deepEqual(parse(option, value), { ...defaults, ...fields }, value)
    }
    for (const [value, message] of bad ?? []) {
      t.regex(refusal([...REQUIRED, `${option}=${value}`]), message)
      if (value !== '') t.regex(refusal([...REQUIRED, option, value]), message)
    }
    t.regex(refusal([...REQUIRED, option]), new RegExp(`${option} needs a value`))
    t.regex(refusal([...REQUIRED, option, '']), new RegExp(`${option} needs a value`))
    t.regex(
      refusal([...REQUIRED, option, '--readonly']),
      new RegExp(`${option} needs a value; one that begins with "-" is written ${option}=`),
    )
  })

test('--flock, --posix-lock', t => {
  for (const [option, field] of [
    ['--flock', 'flock'],
    ['--posix-lock', 'posixLock'],
  ] as const) {
    const never = { ...defaults, cache: 'never' as const, [field]: true }
    t.deepEqual(parse('--cache=never', option), never)
    const { warnings, ...rest } = parse(option)
    t.deepEqual({ ...rest, warnings: [] }, { ...defaults, [field]: true })
    t.regex(warnings.join(), new RegExp(`^${option} with --cache=auto: .* use --cache=never`))
  }
})

test('--fd', t => {
  const expected = { ...defaults, socketPath: undefined, fd: 3 }
  t.deepEqual(parseOptions(['--shared-dir', '/share', '--fd', '3']), expected)
  t.deepEqual(parseOptions(['--shared-dir', '/share', '--fd=3']), expected)
  t.regex(refusal(['--shared-dir=/share', '--fd=three']), /--fd takes a number.*"three"/)
  t.regex(refusal(['--shared-dir=/share', '--fd=-1']), /--fd takes a number.*"-1"/)
})

/** Options whose value stands after an equals sign or nowhere. */
const MODES: readonly ('posixAcl' | 'securityLabel')[] = ['posixAcl', 'securityLabel']
for (const field of MODES) {
  const option = field === 'posixAcl' ? '--posix-acl' : '--security-label'
  test(`${option}[=MODE]`, t => {
    t.deepEqual(parse(option), { ...defaults, [field]: 'always', xattr: true })
    t.deepEqual(parse(`${option}=always`), { ...defaults, [field]: 'always', xattr: true })
    t.deepEqual(parse(`${option}=auto`), { ...defaults, [field]: 'auto', xattr: true })
    t.deepEqual(parse(option, `${option}=never`), defaults)
    t.regex(
      refusal([...REQUIRED, `${option}=maybe`]),
      new RegExp(`${option} takes one of never, auto, always, not "maybe"`),
    )
    t.regex(refusal([...REQUIRED, option, 'auto']), /"auto" is not an option/)
  })
}

test('--inode-file-handles=MODE', t => {
  const option = '--inode-file-handles'
  for (const mode of ['never', 'prefer', 'mandatory'] as const)
    t.deepEqual(parse(`${option}=${mode}`), { ...defaults, inodeFileHandles: mode })
  const old = parse(`${option}=fallback`)
  t.is(old.inodeFileHandles, 'prefer')
  t.regex(old.warnings.join(), /fallback is deprecated/)
  t.regex(refusal([...REQUIRED, option, 'never']), /after an equals sign/)
  t.regex(refusal([...REQUIRED, option]), /after an equals sign/)
  t.regex(refusal([...REQUIRED, `${option}=always`]), /takes one of never, prefer, mandatory/)
})

for (const [option, fields] of SWITCHES)
  test(option, t => {
    t.deepEqual(parse(option), { ...defaults, ...fields })
    t.deepEqual(parse(option, option), { ...defaults, ...fields })
    t.regex(refusal([...REQUIRED, `${option}=yes`]), /takes no value, not "yes"/)
  })

test('of two that contradict each other the last one wins', t => {
  t.true(parse('--no-announce-submounts', '--announce-submounts').announceSubmounts)
  t.false(parse('--announce-submounts', '--no-announce-submounts').announceSubmounts)
  t.true(parse('--no-killpriv-v2', '--killpriv-v2').killprivV2)
  t.true(parse('--no-flock', '--flock').flock)
  t.false(parse('--flock', '--no-flock').flock)
  t.true(parse('--no-posix-lock', '--posix-lock').posixLock)
  t.false(parse('--posix-lock', '--no-posix-lock').posixLock)
  t.false(parse('--killpriv-v2', '--no-killpriv-v2').killprivV2)
  t.is(parse('--cache=never', '--cache', 'always').cache, 'always')
  t.deepEqual(parse('--modcaps=-mknod', '--modcaps=+kill').modcaps, [
    { capability: 5, action: 'add' },
  ])
})

test('lists grow', t => {
  const options = parse(
    '--uid-map=:0:1000:1:',
    '--uid-map',
    ':1:2000:9:',
    '--translate-gid=map:0:1:1',
    '--translate-gid=map:5:6:7',
  )
  t.deepEqual(options.uidMap, [
    { inside: 0, outside: 1000, count: 1 },
    { inside: 1, outside: 2000, count: 9 },
  ])
  t.deepEqual(options.translateGid, ['map:0:1:1', 'map:5:6:7'])
})

test('a pool larger than can be is cut down, and told', t => {
  const options = parse('--thread-pool-size=1024')
  t.is(options.threadPoolSize, 256)
  t.regex(options.warnings.join(), /no more than 256/)
})

test('--help, --version and --print-capabilities need nothing else', t => {
  t.is(parseOptions(['--help']), 'help')
  t.is(parseOptions(['-h']), 'help')
  t.is(parseOptions(['--version']), 'version')
  t.is(parseOptions(['-V']), 'version')
  t.is(parseOptions(['--print-capabilities']), 'print-capabilities')
  t.is(parseOptions(['--fd=3', '--help', '--nonsense']), 'help')
  t.is(parseOptions([...REQUIRED, '--print-capabilities']), 'print-capabilities')
  t.regex(refusal(['--nonsense', '--help']), /there is no option --nonsense/)
})

test('the capabilities are those of vhost-user.json', t => {
  t.deepEqual(JSON.parse(capabilitiesText()), {
    type: 'fs',
    features: [
      'separate-options',
      'posix-acl-negotiation-mode',
      'security-label-negotiation-mode',
      'migrate-precopy',
    ],
  })
})

test('the help names every option, and its lines fit', t => {
  const lines = helpText().split('\n')
  for (const { name } of OPTION_ROWS) {
    const option = name.length === 1 ? `-${name}` : `--${name}`
    t.is(
      lines.filter(line => new RegExp(`^  (-\\w, )?${option}([ [=]|$)`).test(line)).length,
      1,
      option,
    )
  }
  for (const line of lines) t.true(line.length <= 100, line)
  const own = lines.indexOf('Not in Rust virtiofsd:')
  t.true(own > 0)
  for (const name of ['num-request-queues', 'poll-us', 'node-descriptors', 'reconnect'])
    t.true(lines.findIndex(line => line.startsWith(`  --${name}`)) > own)
})

test('every option has a case here or among the legacy forms', t => {
  const tested = [
    ...WITH_VALUE.map(({ option }) => option),
    ...SWITCHES.map(([option]) => option),
    ...[
      '--fd',
      '--posix-acl',
      '--security-label',
      '--inode-file-handles',
      '--flock',
      '--posix-lock',
    ],
    // options-dax.test.ts
    ...['--dax-window', '--dax'],
    // options-coherence.test.ts
    ...['--coherence', '--version-table', '--lease-ms', '--lease-margin-ms'],
    ...['--help', '--version', '--print-capabilities', '--socket', '-o', '-d', '-f'],
  ]
  t.deepEqual(
    OPTION_ROWS.map(({ name }) => (name.length === 1 ? `-${name}` : `--${name}`)).toSorted(),
    tested.toSorted(),
  )
})
