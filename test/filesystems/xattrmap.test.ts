import test from 'ava'
import fc from 'fast-check'
import { parseXattrMap, XattrMapError } from '../../src/filesystems/host/xattrmap.js'

const EPERM = -1
const ENOTSUP = -95

/** Both directions of a map: guest names, then host names as the guest sees them. */
function check(
  title: string,
  text: string,
  toHost: Readonly<Record<string, string | number>>,
  toGuest: Readonly<Record<string, string | undefined>>,
): void {
  test(title, t => {
    const map = parseXattrMap(text)
    for (const [name, wanted] of Object.entries(toHost)) t.is(map.toHost(name), wanted, name)
    for (const [name, wanted] of Object.entries(toGuest)) t.is(map.toGuest(name), wanted, name)
  })
}

const ALL_PREFIXED_TO_HOST = {
  'user.a': 'user.virtiofs.user.a',
  'security.selinux': 'user.virtiofs.security.selinux',
  'user.virtiofs.user.a': 'user.virtiofs.user.virtiofs.user.a',
}
const ALL_PREFIXED_TO_GUEST = {
  'user.virtiofs.trusted.t': 'trusted.t',
  'user.a': undefined,
  'security.selinux': undefined,
  // Nothing would remain.
  'user.virtiofs.': undefined,
}
const TRUSTED_TO_HOST = {
  'trusted.t': 'user.virtiofs.trusted.t',
  'user.a': 'user.a',
  'user.virtiofs.trusted.t': EPERM,
  'security.selinux': 'security.selinux',
  trusted: 'trusted',
}
const TRUSTED_TO_GUEST = {
  'user.virtiofs.trusted.t': 'trusted.t',
  'trusted.t': undefined,
  'user.a': 'user.a',
}

// The examples of doc/xattr-mapping.md of virtiofsd.
check(
  'documented: everything gets a prefix',
  ':prefix:all::user.virtiofs.::bad:all:::',
  ALL_PREFIXED_TO_HOST,
  ALL_PREFIXED_TO_GUEST,
)
check(
  'documented: everything gets a prefix, by map',
  ':map::user.virtiofs.:',
  ALL_PREFIXED_TO_HOST,
  ALL_PREFIXED_TO_GUEST,
)
check(
  'documented: trusted names get a prefix, the others pass',
  `/prefix/all/trusted./user.virtiofs./
            /bad/server//trusted./
            /bad/client/user.virtiofs.//
            /ok/all///`,
  TRUSTED_TO_HOST,
  TRUSTED_TO_GUEST,
)
check(
  'documented: trusted names get a prefix, by map',
  '/map/trusted./user.virtiofs./',
  TRUSTED_TO_HOST,
  TRUSTED_TO_GUEST,
)
check(
  'documented: security names are hidden',
  '/bad/all/security./security./\n /ok/all///',
  { 'security.selinux': EPERM, 'user.a': 'user.a' },
  { 'security.selinux': undefined, 'user.a': 'user.a' },
)
check(
  'documented: the label of the guest is kept apart',
  ':map:security.selinux:trusted.virtiofs.:',
  {
    'security.selinux': 'trusted.virtiofs.security.selinux',
    'security.capability': 'security.capability',
    'trusted.virtiofs.security.selinux': EPERM,
  },
  { 'trusted.virtiofs.security.selinux': 'security.selinux', 'security.selinux': undefined },
)
check(
  'unsupported names are refused and hidden',
  ':unsupported:all:system.:system.::ok:all:::',
  { 'system.posix_acl_access': ENOTSUP, 'user.a': 'user.a' },
  { 'system.posix_acl_access': undefined, 'user.a': 'user.a' },
)
check(
  'a rule of one scope leaves the other direction to later rules',
  ':prefix:client:trusted.:user.v.: :prefix:server::user.w.: :ok:all:::',
  { 'trusted.t': 'user.v.trusted.t', 'user.w.a': 'user.w.a' },
  { 'user.v.trusted.t': 'user.v.trusted.t', 'user.w.a': 'a' },
)
check(
  'the prefix comes off whatever follows it, also what is not under the key',
  ':prefix:all:trusted.:user.v.::ok:all:::',
  {},
  { 'user.v.user.a': 'user.a' },
)
check(
  'a name without a rule is denied and hidden',
  ':ok:client:user.::',
  { 'user.a': 'user.a', 'trusted.t': EPERM },
  { 'user.a': undefined },
)
check(
  'every rule has its own delimiter, of any character',
  '\u000b:bad:all:a:a:xokxallxuserxuserx \u{1f41f}ok\u{1f41f}all\u{1f41f}b\u{1f41f}b\u{1f41f}\t\u00a0',
  { a1: EPERM, user1: 'user1', b1: 'b1', c: EPERM },
  { a1: undefined, user1: 'user1', b1: 'b1', c: undefined },
)
check(
  'names are the UTF-8 of the text',
  ':prefix:all:user.ä:user.€.: :ok:all:::',
  {
    'user.\u00c3\u00a4': 'user.\u00e2\u0082\u00ac.user.\u00c3\u00a4',
    'user.\u00e4': 'user.\u00e4',
  },
  { 'user.\u00e2\u0082\u00ac.x': 'x' },
)

test('what is wrong is said, and where', t => {
  const wrong: Readonly<Record<string, string>> = {
    '': 'xattrmap: there is no rule',
    ' \n\u2003': 'xattrmap: there is no rule',
    ':TOMATO:a:b:':
      'xattrmap, rule 1 (character 1): type "TOMATO" is none of prefix, ok, bad, unsupported, map',
    ':Ok:all:::':
      'xattrmap, rule 1 (character 1): type "Ok" is none of prefix, ok, bad, unsupported, map',
    '/prefix/everyone///':
      'xattrmap, rule 1 (character 1): scope "everyone" is none of client, server, all',
    ' :ok:all::: :prefix:all:trusted.:user.vm.':
      'xattrmap, rule 2 (character 13): the prepend does not end with the delimiter ":"',
    ':ok:all:': 'xattrmap, rule 1 (character 1): the key does not end with the delimiter ":"',
    ':ok': 'xattrmap, rule 1 (character 1): the type does not end with the delimiter ":"',
    ':': 'xattrmap, rule 1 (character 1): the type does not end with the delimiter ":"',
    ':map:a': 'xattrmap, rule 1 (character 1): the key does not end with the delimiter ":"',
    // White space at the end is no part of the rule.
    ':ok:all:: ': 'xattrmap, rule 1 (character 1): the prepend does not end with the delimiter ":"',
    ':map::a.: :ok:all:::': 'xattrmap, rule 1 (character 1): nothing may follow a map rule',
    ':map::a.::map::b.:': 'xattrmap, rule 1 (character 1): nothing may follow a map rule',
    ':ok:all:a\0:b:': 'xattrmap, rule 1 (character 1): the key has a NUL',
  }
  for (const [text, message] of Object.entries(wrong))
    t.throws(() => parseXattrMap(text), { instanceOf: XattrMapError, message })
})

test('a map rule may be the last of several', t => {
  const map = parseXattrMap(':ok:all:user.:user.: :map::user.v.: \n')
  t.is(map.toHost('user.a'), 'user.a')
  t.is(map.toHost('trusted.t'), 'user.v.trusted.t')
})

// --- against a naive implementation ----------------------------------------------------------------

interface Rule {
  type: 'prefix' | 'ok' | 'bad' | 'unsupported' | 'map'
  scope: 'client' | 'server' | 'all'
  key: string
  prepend: string
  delimiter: string
}

const part = fc.array(fc.constantFrom('a', 'b', '.'), { maxLength: 3 }).map(parts => parts.join(''))
const name = fc
  .array(fc.constantFrom('a', 'b', '.'), { minLength: 1, maxLength: 8 })
  .map(parts => parts.join(''))
const rule = fc.record<Rule>({
  type: fc.constantFrom('prefix', 'ok', 'bad', 'unsupported'),
  scope: fc.constantFrom('client', 'server', 'all'),
  key: part,
  prepend: part,
  delimiter: fc.constantFrom(':', '/', '|', '#', '+', '\u{1f41f}', '\u00a7'),
})
const space = fc.constantFrom('', '', ' ', '\n', ' \t\r\n')
const row = fc.tuple(
  fc.array(rule, { minLength: 1, maxLength: 6 }),
  fc.option(rule.map(last => ({ ...last, type: 'map' as const }))),
)

function render(rules: readonly Rule[], gap: string): string {
  return rules
    .map(({ type, scope, key, prepend, delimiter: d }) =>
      ['', type, ...(type === 'map' ? [] : [scope]), key, prepend, ''].join(d),
    )
    .join(gap)
}

function naiveToHost(rules: readonly Rule[], guest: string): string | number {
  for (const { type, scope, key, prepend } of rules) {
    if (type === 'map') {
      if (guest.startsWith(key)) return `${prepend}${guest}`
      return guest.startsWith(prepend) ? EPERM : guest
    }
    if (scope === 'server' || guest.slice(0, key.length) !== key) continue
    return { prefix: prepend + guest, ok: guest, bad: EPERM, unsupported: ENOTSUP }[type]
  }
  return EPERM
}

function naiveToGuest(rules: readonly Rule[], hostName: string): string | undefined {
  const stripped = (prepend: string): string | undefined =>
    hostName === prepend ? undefined : hostName.slice(prepend.length)
  for (const { type, scope, key, prepend } of rules) {
    if (type === 'map') {
      if (hostName.startsWith(prepend)) return stripped(prepend)
      return hostName.startsWith(key) ? undefined : hostName
    }
    if (scope === 'client' || hostName.slice(0, prepend.length) !== prepend) continue
    return { prefix: stripped(prepend), ok: hostName, bad: undefined, unsupported: undefined }[type]
  }
  return undefined
}

test('maps do what a naive reading of their rules does', t => {
  fc.assert(
    fc.property(row, space, fc.array(name), ([rules, last], gap, names) => {
      const all: Rule[] = last === null ? rules : [...rules, last]
      const map = parseXattrMap(`${gap}${render(all, gap)}${gap}`)
      for (const each of names) {
        t.is(map.toHost(each), naiveToHost(all, each))
        t.is(map.toGuest(each), naiveToGuest(all, each))
      }
    }),
    { numRuns: 2000 },
  )
})

test('a map rule brings every name back that it lets through, and hides the place it keeps them', t => {
  fc.assert(
    fc.property(part, name, name, (key, prepend, guest) => {
      const map = parseXattrMap(
        render([{ type: 'map', scope: 'all', key, prepend, delimiter: ':' }], ''),
      )
      const host = map.toHost(guest)
      if (typeof host === 'string') t.is(map.toGuest(host), guest)
      else t.true(guest.startsWith(prepend))
    }),
    { numRuns: 2000 },
  )
})

test('any text either parses or throws XattrMapError', t => {
  const piece = fc.constantFrom(
    ':',
    '/',
    ' ',
    '\n',
    '\0',
    'ok',
    'bad',
    'map',
    'prefix',
    'all',
    'user.',
    'é',
  )
  const text = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.array(piece, { maxLength: 30 }).map(pieces => pieces.join('')),
  )
  fc.assert(
    fc.property(text, each => {
      try {
        t.true(parseXattrMap(each).rules.length > 0)
      } catch (error) {
        t.true(error instanceof XattrMapError)
      }
    }),
    { numRuns: 5000 },
  )
})
