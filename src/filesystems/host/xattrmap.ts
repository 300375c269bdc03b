/**
 * `--xattrmap`: how names of extended attributes differ between guest and host.
 *
 * The language is that of virtiofsd 1.14 (doc/xattr-mapping.md there, src/passthrough/xattrmap.rs).
 * A map is a row of rules with ASCII white space around them or nothing between:
 *
 *     :type:scope:key:prepend:        :map:key:prepend:
 *
 * The first character of a rule is its delimiter, whatever it is. The first rule that matches decides:
 * a name from the guest matches when it starts with `key` (scope client or all), a name from the host
 * when it starts with `prepend` (scope server or all).
 *
 * Nothing demands a rule that matches every name. The peer panics at a name without a rule; here such a
 * name is treated as by `bad`.
 *
 * Names are bytes, held in strings of characters 0 to 255. Keys are the UTF-8 of the text (the peer
 * keeps the low byte of each character, which is the same for ASCII).
 */
import { Errno } from '../../../protocol/errno.js'

export type XattrRuleType = 'prefix' | 'ok' | 'bad' | 'unsupported'

export interface XattrRule {
  readonly type: XattrRuleType
  readonly client: boolean
  readonly server: boolean
  /** Bytes as characters 0 to 255, and so is `prepend`. */
  readonly key: string
  readonly prepend: string
}

export class XattrMapError extends Error {
  override readonly name = 'XattrMapError'
}

export class XattrMap {
  readonly rules: readonly XattrRule[]

  constructor(rules: readonly XattrRule[]) {
    this.rules = rules
  }

  /** The host's name for `name` of the guest; -EPERM where denied, -ENOTSUP where unsupported. */
  toHost(name: string): string | number {
    for (const { type, client, key, prepend } of this.rules) {
      if (!client || !name.startsWith(key)) continue
      if (type === 'ok') return name
      if (type === 'prefix') return prepend + name
      return type === 'unsupported' ? -Errno.ENOTSUP : -Errno.EPERM
    }
    return -Errno.EPERM
  }

  /** The guest's name for `hostName` in a listing; undefined where the guest must not see it. */
  toGuest(hostName: string): string | undefined {
    for (const { type, server, prepend } of this.rules) {
      if (!server || !hostName.startsWith(prepend)) continue
      if (type === 'ok') return hostName
      // Nothing remains of a name that is the prefix itself: such a name does not exist.
      if (type === 'prefix') return hostName.slice(prepend.length) || undefined
      return undefined
    }
    return undefined
  }
}

const TYPES = ['prefix', 'ok', 'bad', 'unsupported', 'map'] as const
const SCOPES = ['client', 'server', 'all'] as const

/** White space that may stand before the first rule and after the last (Unicode's, as in the peer). */
const OUTER_SPACE = /^\p{White_Space}+|\p{White_Space}+$/gu
/** White space between rules; any other character starts a rule. */
const INNER_SPACE = /[\t\n\f\r ]/

/** Reads the text of `--xattrmap`. Throws XattrMapError, with rule and character counted from 1. */
export function parseXattrMap(text: string): XattrMap {
  const reader = new Reader(text)
  const rules: XattrRule[] = []
  while (reader.nextRule()) {
    const type = reader.choice('type', TYPES)
    if (type === 'map') {
      rules.push(...expandMap(reader.name('key'), reader.name('prepend')))
      if (!reader.atEnd) reader.fail('nothing may follow a map rule')
      continue
    }
    const scope = reader.choice('scope', SCOPES)
    rules.push({
      type,
      client: scope !== 'server',
      server: scope !== 'client',
      key: reader.name('key'),
      prepend: reader.name('prepend'),
    })
  }
  if (rules.length === 0) throw new XattrMapError('xattrmap: there is no rule')
  return new XattrMap(rules)
}

/** What `map` stands for. */
function expandMap(key: string, prepend: string): XattrRule[] {
  const both = { client: true, server: true }
  const prefix: XattrRule = { ...both, type: 'prefix', key, prepend }
  const rest = { ...both, key: '', prepend: '' }
  if (key === '') return [prefix, { ...rest, type: 'bad' }]
  // Neither the host's own names under `key` nor the place where the guest's are kept are reachable.
  const guard: XattrRule = { ...both, type: 'bad', key: prepend, prepend: key }
  return [prefix, guard, { ...rest, type: 'ok' }]
}

class Reader {
  /** By code point: a delimiter may be any character. */
  readonly #text: readonly string[]
  readonly #end: number
  #at: number
  #rule = 0
  #ruleAt = 0
  #delimiter = ''

  constructor(text: string) {
    this.#text = Array.from(text)
    this.#at = Array.from(/^\p{White_Space}*/u.exec(text)![0]).length
    this.#end = this.#at + Array.from(text.replace(OUTER_SPACE, '')).length
  }

  get atEnd(): boolean {
    return this.#at >= this.#end
  }

  /** Goes to the next rule and takes its delimiter; false at the end. */
  nextRule(): boolean {
    while (!this.atEnd && INNER_SPACE.test(this.#text[this.#at]!)) this.#at++
    if (this.atEnd) return false
    this.#rule++
    this.#ruleAt = this.#at
    this.#delimiter = this.#text[this.#at++]!
    return true
  }

  #field(what: string): string {
    const end = this.#text.indexOf(this.#delimiter, this.#at)
    if (end < 0 || end >= this.#end)
      this.fail(`the ${what} does not end with the delimiter ${JSON.stringify(this.#delimiter)}`)
    const field = this.#text.slice(this.#at, end).join('')
    this.#at = end + 1
    return field
  }

  choice<T extends string>(what: string, choices: readonly T[]): T {
    const field = this.#field(what)
    const found = choices.find(choice => choice === field)
    return found ?? this.fail(`${what} ${JSON.stringify(field)} is none of ${choices.join(', ')}`)
  }

  name(what: string): string {
    const field = this.#field(what)
    if (field.includes('\0')) this.fail(`the ${what} has a NUL`)
    return Array.from(new TextEncoder().encode(field), byte => String.fromCharCode(byte)).join('')
  }

  fail(why: string): never {
    throw new XattrMapError(`xattrmap, rule ${this.#rule} (character ${this.#ruleAt + 1}): ${why}`)
  }
}
