/**
 * The options of the C virtiofsd, `-o key=value,word`, turned into those of today. As in the Rust
 * one, they come after all the others and so win over them; the keys are its keys.
 */
import type { GivenOptions } from './command-line.js'
import { UsageError } from './errors.js'

interface Pair {
  readonly name: string
  /** What the values were called and are called now; otherwise any value is passed on. */
  readonly values?: Readonly<Record<string, string>>
}

const PAIRS: Readonly<Record<string, Pair>> = {
  source: { name: 'shared-dir' },
  cache: {
    name: 'cache',
    values: { auto: 'auto', always: 'always', none: 'never', metadata: 'metadata' },
  },
  sandbox: { name: 'sandbox', values: { namespace: 'namespace', chroot: 'chroot' } },
  modcaps: { name: 'modcaps' },
  loglevel: {
    name: 'log-level',
    values: { debug: 'debug', info: 'info', warn: 'warn', err: 'error' },
  },
  xattrmap: { name: 'xattrmap' },
}

interface Word {
  readonly set?: string
  readonly to?: string
  readonly unset?: string
}

const WORDS: Readonly<Record<string, Word>> = {
  xattr: { set: 'xattr' },
  no_xattr: { unset: 'xattr' },
  readdirplus: { unset: 'no-readdirplus' },
  no_readdirplus: { set: 'no-readdirplus' },
  writeback: { set: 'writeback' },
  no_writeback: { unset: 'writeback' },
  allow_direct_io: { set: 'allow-direct-io' },
  no_allow_direct_io: { unset: 'allow-direct-io' },
  // The default, and --no-announce-submounts is the newer word.
  announce_submounts: {},
  killpriv_v2: { set: 'killpriv-v2', unset: 'no-killpriv-v2' },
  no_killpriv_v2: { set: 'no-killpriv-v2', unset: 'killpriv-v2' },
  posix_acl: { set: 'posix-acl', to: 'always' },
  no_posix_acl: { unset: 'posix-acl' },
  security_label: { set: 'security-label', to: 'always' },
  no_security_label: { unset: 'security-label' },
  // The Rust virtiofsd refuses these two.
  posix_lock: { set: 'posix-lock', unset: 'no-posix-lock' },
  flock: { set: 'flock', unset: 'no-flock' },
  no_posix_lock: { unset: 'posix-lock' },
  no_flock: { unset: 'flock' },
}

/** Rewrites `given`; returns what to tell the operator. Errors: UsageError. */
export function applyLegacyOptions(given: GivenOptions): string[] {
  const warnings: string[] = []
  if (given.has('f'))
    warnings.push('-f is deprecated and without effect: the daemon always stays in the foreground')
  if (given.has('o'))
    warnings.push('-o is deprecated: write --cache auto instead of -o cache=auto, and so on')
  for (const text of given.values('o')) for (const item of split(text)) applyItem(given, item)
  if (given.has('d')) {
    warnings.push('-d is deprecated: use --log-level debug')
    given.set('log-level', 'debug')
  }
  return warnings
}

/** Commas separate; two of them are one in a value (libvirt writes paths so). */
function split(text: string): string[] {
  return text
    .replaceAll(',,', '\0')
    .split(',')
    .map(item => item.replaceAll('\0', ','))
}

function applyItem(given: GivenOptions, item: string): void {
  const equals = item.indexOf('=')
  const key = equals < 0 ? item : item.slice(0, equals)
  if (equals < 0) applyWord(given, item)
  else applyPair(given, key, item.slice(equals + 1))
}

function applyWord(given: GivenOptions, item: string): void {
  if (Object.hasOwn(PAIRS, item)) throw new UsageError(`-o ${item} needs a value: ${item}=VALUE`)
  if (!Object.hasOwn(WORDS, item)) throw new UsageError(`there is no option -o ${item}; see --help`)
  const { set, to, unset } = WORDS[item]!
  if (unset !== undefined) given.unset(unset)
  if (set !== undefined) given.set(set, to)
}

function applyPair(given: GivenOptions, key: string, value: string): void {
  if (Object.hasOwn(WORDS, key)) throw new UsageError(`-o ${key} takes no value, not "${value}"`)
  if (!Object.hasOwn(PAIRS, key)) throw new UsageError(`there is no option -o ${key}; see --help`)
  const { name, values } = PAIRS[key]!
  if (value === '') throw new UsageError(`-o ${key} has an empty value`)
  if (values !== undefined && !Object.hasOwn(values, value))
    throw new UsageError(`-o ${key} takes one of ${Object.keys(values).join(', ')}, not "${value}"`)
  given.set(name, values === undefined ? value : values[value]!)
}
