/**
 * The syntax of a command line: words in, options with their values out. What the options mean is
 * the caller's business. `node:util` parseArgs lacks optional values (`--name[=value]`) and options
 * that undo each other.
 */
import { UsageError } from './errors.js'

export interface OptionSyntax {
  /** Of one letter: `-x`; otherwise `--name`. */
  readonly name: string
  /** Another, one-letter spelling. */
  readonly short?: string
  /**
   * `none`: a switch. `word`: `--name value` or `--name=value`. `equals`: `--name=value` alone.
   * `optional`: `--name=value`, and `--name` stands for `--name=<bare>`.
   */
  readonly takes: 'none' | 'word' | 'equals' | 'optional'
  readonly bare?: string
  /** Every value counts; otherwise the last one wins. */
  readonly list?: boolean
  /** The switch that this one undoes, and the other way round by that one's row. */
  readonly undoes?: string
  /** Nothing after it is looked at. */
  readonly final?: boolean
}

/** The options that were given, by name. */
export class GivenOptions {
  readonly #values = new Map<string, string[]>()
  /** The final option that ended the reading. */
  final: string | undefined

  has(name: string): boolean {
    return this.#values.has(name)
  }

  value(name: string): string | undefined {
    return this.#values.get(name)?.at(-1)
  }

  values(name: string): readonly string[] {
    return this.#values.get(name) ?? []
  }

  set(name: string, value = ''): void {
    this.#values.set(name, [value])
  }

  append(name: string, value: string): void {
    this.#values.set(name, [...this.values(name), value])
  }

  unset(name: string): void {
    this.#values.delete(name)
  }
}

/** Reads the words after the program's name. Errors: UsageError. */
export function readCommandLine(
  words: readonly string[],
  rows: readonly OptionSyntax[],
): GivenOptions {
  return new Reader(words, rows).read()
}

class Reader {
  readonly #words: readonly string[]
  readonly #rows = new Map<string, OptionSyntax>()
  readonly #given = new GivenOptions()
  #at = 0

  constructor(words: readonly string[], rows: readonly OptionSyntax[]) {
    this.#words = words
    for (const row of rows) {
      this.#rows.set(spelling(row.name), row)
      if (row.short !== undefined) this.#rows.set(spelling(row.short), row)
    }
  }

  read(): GivenOptions {
    while (this.#given.final === undefined && this.#at < this.#words.length) {
      const word = this.#words[this.#at++]!
      if (word === '--' && this.#at === this.#words.length) break
      if (/^--./.test(word)) this.#long(word)
      else if (/^-[^-]/.test(word)) this.#letters(word)
      else throw new UsageError(`"${word}" is not an option; see --help`)
    }
    return this.#given
  }

  #long(word: string): void {
    const equals = word.indexOf('=')
    const name = equals < 0 ? word : word.slice(0, equals)
    this.#take(this.#row(name), name, equals < 0 ? undefined : word.slice(equals + 1))
  }

  /** `-df`, `-o value`, `-ovalue`, `-o=value`. */
  #letters(word: string): void {
    for (let at = 1; at < word.length; at++) {
      const name = `-${word[at]}`
      const row = this.#row(name)
      if (row.takes !== 'none') {
        const rest = word.slice(at + 1)
        this.#take(row, name, rest === '' ? undefined : rest.replace(/^=/, ''))
        return
      }
      this.#take(row, name, undefined)
    }
  }

  #row(name: string): OptionSyntax {
    const row = this.#rows.get(name)
    if (row === undefined) throw new UsageError(`there is no option ${name}; see --help`)
    return row
  }

  #take(row: OptionSyntax, name: string, attached: string | undefined): void {
    if (row.undoes !== undefined) this.#given.unset(row.undoes)
    if (row.final === true) this.#given.final = row.name
    const value = this.#valueOf(row, name, attached)
    if (row.list === true) this.#given.append(row.name, value)
    else this.#given.set(row.name, value)
  }

  #valueOf(row: OptionSyntax, name: string, attached: string | undefined): string {
    if (row.takes === 'none') {
      if (attached !== undefined) throw new UsageError(`${name} takes no value, not "${attached}"`)
      return ''
    }
    if (attached !== undefined) {
      if (attached === '') throw new UsageError(`${name} has an empty value`)
      return attached
    }
    if (row.takes === 'optional') return row.bare!
    if (row.takes === 'equals')
      throw new UsageError(`${name} takes its value after an equals sign: ${name}=VALUE`)
    const next = this.#words[this.#at]
    if (next === undefined || next === '') throw new UsageError(`${name} needs a value`)
    if (/^-./.test(next))
      throw new UsageError(
        `${name} needs a value; one that begins with "-" is written ${name}=${next}`,
      )
    this.#at++
    return next
  }
}

/** The option as it is typed. */
export function spelling(name: string): string {
  return name.length === 1 ? `-${name}` : `--${name}`
}
