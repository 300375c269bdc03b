/** What is missing, what excludes what, the legacy forms, RUST_LOG, and the program's answers. */
import { spawnSync } from 'node:child_process'
import test from 'ava'
import { packageFile } from '../../src/native/addon.js'
import { defaults, parse, parseAll, REQUIRED, refusal } from './options-helpers.js'

test('what is missing is named', t => {
  t.regex(refusal([]), /--shared-dir is missing/)
  t.regex(refusal(['--socket-path=/s']), /--shared-dir is missing/)
  t.regex(refusal(['--shared-dir=/share']), /give --socket-path PATH or --fd N/)
  t.regex(refusal(['-o', 'cache=auto', '--fd=3']), /--shared-dir is missing/)
})

test('words that are no options', t => {
  t.regex(refusal([...REQUIRED, 'stray']), /"stray" is not an option/)
  t.regex(refusal([...REQUIRED, '-']), /"-" is not an option/)
  t.regex(refusal([...REQUIRED, '--', 'stray']), /"--" is not an option/)
  t.deepEqual(parse('--'), defaults)
  t.regex(refusal([...REQUIRED, '--shared']), /there is no option --shared;/)
  t.regex(refusal([...REQUIRED, '-x']), /there is no option -x;/)
  t.regex(refusal([...REQUIRED, '--daemonize']), /there is no option --daemonize/)
})

test('options that exclude each other', t => {
  const cases: readonly (readonly [string[], RegExp])[] = [
    [['--fd=3'], /--socket-path and --fd exclude each other/],
    [['--posix-acl', '--translate-uid=map:0:1:1'], /--posix-acl=always excludes --translate-uid/],
    [['--posix-acl=auto', '--translate-gid=map:0:1:1'], /--posix-acl=auto excludes/],
    [['--uid-map=:0:1:1:', '--sandbox=none'], /need --sandbox=namespace.*with none/],
    [['--gid-map=:0:1:1:', '--sandbox=chroot'], /need --sandbox=namespace.*with chroot/],
    [
      ['--migration-mode=file-handles', '--migration-confirm-paths'],
      /--migration-confirm-paths is for --migration-mode=find-paths/,
    ],
    [
      ['--migration-mode=file-handles', '--migration-verify-handles'],
      /--migration-verify-handles is for --migration-mode=find-paths/,
    ],
    [
      ['--inode-file-handles=mandatory', '--modcaps=-dac_read_search'],
      /--inode-file-handles=mandatory needs the capability/,
    ],
    [['--translate-uid=map:0:1:5', '--translate-uid=guest:4:9:1'], /both translate guest id 4/],
  ]
  for (const [words, message] of cases) t.regex(refusal([...REQUIRED, ...words]), message)
  t.regex(refusal(['--shared-dir=/s', '--fd=3', '--socket=/x']), /exclude each other/)
  t.regex(
    refusal(['--shared-dir=/s', '--fd=3', '--socket-group=kvm']),
    /--socket-group and --fd exclude each other/,
  )
  t.notThrows(() => parse('--posix-acl=never', '--translate-uid=map:0:1:1'))
  t.notThrows(() => parse('--uid-map=:0:1:1:', '--sandbox=namespace'))
  t.notThrows(() => parse('--uid-map=:0:1:1:'))
  t.notThrows(() => parse('--modcaps=-dac_read_search'))
  t.notThrows(() =>
    parse('--inode-file-handles=mandatory', '--modcaps=-dac_read_search:+dac_read_search'),
  )
})

test('--socket is the old name of --socket-path', t => {
  const old = parseAll(['--shared-dir=/share', '--socket', '/old'])
  t.is(old.socketPath, '/old')
  t.regex(old.warnings.join(), /--socket is deprecated/)
  const both = parse('--socket=/old')
  t.is(both.socketPath, '/run/vfs.sock')
  t.regex(both.warnings.join(), /--socket has no effect/)
})

test('-d and -f', t => {
  for (const words of [['-d', '-f'], ['-df'], ['-fd', '--log-level=error']]) {
    const options = parse(...words)
    t.is(options.logLevel, 'debug')
    t.deepEqual(
      options.warnings.map(text => text.slice(0, 16)),
      ['-f is deprecated', '-d is deprecated'],
    )
  }
})

test('-o in its spellings', t => {
  const expected = { ...defaults, cache: 'never', xattr: true }
  for (const words of [
    ['-o', 'cache=none,xattr'],
    ['-ocache=none,xattr'],
    ['-o=cache=none,xattr'],
    ['-o', 'cache=none', '-o', 'xattr'],
    ['-fo', 'xattr,cache=none'],
  ])
    t.deepEqual({ ...parse(...words), warnings: [] }, expected, words.join(' '))
  t.is(parse('-o', 'xattr', '-o', 'writeback').warnings.length, 1)
  t.regex(parse('-o', 'xattr').warnings.join(), /-o is deprecated/)
})

const LEGACY: readonly (readonly [string, readonly string[], Partial<typeof defaults>])[] = [
  ['source=/else', [], { sharedDir: '/else' }],
  ['source=/a=b', [], { sharedDir: '/a=b' }],
  ['source=/a,,b,,,,c,xattr', [], { sharedDir: '/a,b,,c', xattr: true }],
  ['cache=auto', ['--cache=never'], {}],
  ['cache=always', [], { cache: 'always' }],
  ['cache=none', [], { cache: 'never' }],
  ['cache=metadata', [], { cache: 'metadata' }],
  ['sandbox=namespace', [], { sandbox: 'namespace' }],
  ['sandbox=chroot', ['--sandbox=none'], { sandbox: 'chroot' }],
  ['modcaps=+kill:-chown', [], { modcaps: parse('--modcaps=+kill:-chown').modcaps }],
  ['loglevel=debug', [], { logLevel: 'debug' }],
  ['loglevel=info', ['--log-level=off'], {}],
  ['loglevel=warn', [], { logLevel: 'warn' }],
  ['loglevel=err', [], { logLevel: 'error' }],
  ['xattrmap=:map::user.x.:', [], { xattrmap: ':map::user.x.:', xattr: true }],
  ['xattr', [], { xattr: true }],
  ['no_xattr', ['--xattr'], {}],
  ['readdirplus', ['--no-readdirplus'], {}],
  ['no_readdirplus', [], { readdirplus: false }],
  ['writeback', [], { writeback: true }],
  ['no_writeback', ['--writeback'], {}],
  ['allow_direct_io', [], { allowDirectIo: true }],
  ['no_allow_direct_io', ['--allow-direct-io'], {}],
  ['announce_submounts', [], {}],
  ['announce_submounts', ['--no-announce-submounts'], { announceSubmounts: false }],
  ['killpriv_v2', ['--no-killpriv-v2'], {}],
  ['no_killpriv_v2', ['--killpriv-v2'], { killprivV2: false }],
  ['posix_acl', [], { posixAcl: 'always', xattr: true }],
  ['no_posix_acl', ['--posix-acl'], {}],
  ['security_label', [], { securityLabel: 'always', xattr: true }],
  ['no_security_label', ['--security-label=auto'], {}],
  ['no_posix_lock', [], {}],
  ['no_flock', [], {}],
  ['flock', [], { flock: true }],
  ['posix_lock', ['--no-posix-lock'], { posixLock: true }],
  ['no_flock', ['--flock'], { flock: false }],
]

for (const [text, others, fields] of LEGACY)
  test(`-o ${text} ${others.join(' ')}`, t => {
    const expected = { ...defaults, ...fields }
    t.deepEqual({ ...parse('-o', text, ...others), warnings: [] }, expected)
    t.deepEqual({ ...parse(...others, '-o', text), warnings: [] }, expected)
  })

test('-o that is refused', t => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ['flock=on', /-o flock takes no value/],
    ['cache=never', /-o cache takes one of auto, always, none, metadata, not "never"/],
    ['sandbox=none', /-o sandbox takes one of namespace, chroot, not "none"/],
    ['loglevel=trace', /-o loglevel takes one of debug, info, warn, err, not "trace"/],
    ['xattrmap=bad', /xattrmap, rule 1/],
    ['modcaps=chown', /--modcaps takes/],
    ['cache', /-o cache needs a value/],
    ['source=', /-o source has an empty value/],
    ['xattr=on', /-o xattr takes no value, not "on"/],
    ['timeout=5', /there is no option -o timeout/],
    ['allow_root', /there is no option -o allow_root/],
    ['constructor', /there is no option -o constructor/],
    ['xattr,', /there is no option -o ;/],
  ]
  for (const [text, message] of cases) t.regex(refusal([...REQUIRED, '-o', text]), message)
})

test('RUST_LOG', t => {
  const cases: Readonly<Record<string, string>> = {
    '': 'info',
    ERROR: 'error',
    debug: 'debug',
    off: 'off',
    'virtiofsd=debug': 'debug',
    'virtiofsd=debug,vhost=trace': 'debug',
    'warn,virtiofsd=trace': 'trace',
    'virtiofsd=trace,warn': 'trace',
    'virtiofsd=trace,virtiofsd=warn': 'warn',
    'virtio=error': 'error',
    virtiofsd: 'trace',
    'virtiofsd=': 'trace',
    'vhost=trace': 'info',
    'virtiofsd::server=trace': 'info',
  }
  for (const [text, level] of Object.entries(cases))
    t.deepEqual(parseAll(REQUIRED, { RUST_LOG: text }), { ...defaults, logLevel: level }, text)
  const given = [...REQUIRED, '--log-level=warn']
  t.is(parseAll(given, { RUST_LOG: 'trace' }).logLevel, 'warn')
  t.is(parseAll([...REQUIRED, '-d'], { RUST_LOG: 'error' }).logLevel, 'debug')
  const typo = parseAll(REQUIRED, { RUST_LOG: 'virtiofsd=loud,warn' })
  t.is(typo.logLevel, 'warn')
  t.regex(typo.warnings.join(), /"virtiofsd=loud" names no level/)
  const filter = parseAll(REQUIRED, { RUST_LOG: 'debug/open' })
  t.is(filter.logLevel, 'debug')
  t.regex(filter.warnings.join(), /the filter \/open is not supported/)
})

test('the program answers without a daemon', t => {
  const run = (...words: string[]) =>
    spawnSync(process.execPath, [packageFile('dist', 'src', 'bin', 'virtiofsd.js'), ...words], {
      encoding: 'utf8',
      // Nothing native is loaded for these answers.
      env: { ...process.env, VIRTIOFSD_NATIVE: '/nonexistent' },
    })
  const version = run('--version')
  t.regex(version.stdout, /^virtiofsd \d+\.\d+\.\d+\n$/)
  t.is(version.status, 0)
  const help = run('--help')
  t.regex(help.stdout, /--readonly/)
  t.is(help.status, 0)
  const capabilities = run('--print-capabilities')
  t.is((JSON.parse(capabilities.stdout) as { type: string }).type, 'fs')
  t.is(capabilities.status, 0)
  const wrong = run('--cache=maybe', '--shared-dir=/', '--fd=3')
  t.regex(wrong.stderr, /^virtiofsd: --cache takes one of/)
  t.is(wrong.status, 2)
})
