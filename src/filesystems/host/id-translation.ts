/**
 * `--translate-uid`, `--translate-gid`: user and group ids that differ between guest and host, translated
 * by the daemon itself (no user namespace).
 *
 * The rules are those of virtiofsd 1.14 (README.md there, src/soft_idmap/). A range is its first id and
 * a count; the two directions are independent, an id without a rule stays as it is:
 *
 *     guest:G:H:N          guest ids G... become host ids H...
 *     host:H:G:N           host ids H... become guest ids G...
 *     map:G:H:N            both of them
 *     squash-guest:G:H:N   guest ids G... all become host id H
 *     squash-host:H:G:N    host ids H... all become guest id G
 *     forbid-guest:G:N     the guest may not use the ids G...
 *
 * Source ranges of one direction must not overlap, so the order of the rules says nothing. Any character
 * but letters, digits, `-` and `_` may stand for the colon; the word's case does not matter.
 *
 * Stricter than the peer: a target range must end before 4294967295, which chown(2) and setresuid(2)
 * take for "leave it". There such ids wrap around to 0, or go through.
 */

export class IdTranslationError extends Error {
  override readonly name = 'IdTranslationError'
}

/** Ids of 32 bits; the last one names nobody. */
const ID_LIMIT = 0xffff_ffff

/** `toHost` of an id the guest may not use. */
export const FORBIDDEN_ID = -1

interface Range {
  readonly start: number
  readonly count: number
  readonly target: number
  /** 1: target moves along; 0: every id becomes `target`. */
  readonly step: 0 | 1
  readonly rule: string
}

/** One direction: ranges in order, looked up without allocation. */
class Direction {
  readonly #starts: Float64Array
  readonly #ends: Float64Array
  readonly #targets: Float64Array
  readonly #steps: Float64Array

  /** `ranges` in ascending order, apart from each other. */
  constructor(ranges: readonly Range[]) {
    this.#starts = Float64Array.from(ranges, range => range.start)
    this.#ends = Float64Array.from(ranges, range => range.start + range.count)
    this.#targets = Float64Array.from(ranges, range => range.target)
    this.#steps = Float64Array.from(ranges, range => range.step)
  }

  get empty(): boolean {
    return this.#starts.length === 0
  }

  translate(id: number): number {
    const starts = this.#starts
    let low = 0
    let high = starts.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (starts[middle]! <= id) low = middle + 1
      else high = middle
    }
    const found = low - 1
    if (found < 0 || id >= this.#ends[found]!) return id
    return this.#targets[found]! + this.#steps[found]! * (id - starts[found]!)
  }
}

export class IdTranslation {
  readonly #guestToHost: Direction
  readonly #hostToGuest: Direction
  /** Every id is the same on both sides. */
  readonly identity: boolean

  constructor(guestToHost: Direction, hostToGuest: Direction) {
    this.#guestToHost = guestToHost
    this.#hostToGuest = hostToGuest
    this.identity = guestToHost.empty && hostToGuest.empty
  }

  /** The host's id, or FORBIDDEN_ID. */
  toHost(id: number): number {
    return this.#guestToHost.translate(id)
  }

  toGuest(id: number): number {
    return this.#hostToGuest.translate(id)
  }
}

/** Texts of all `--translate-uid` (or `--translate-gid`: `option`) given. Throws IdTranslationError. */
export function parseTranslate(rules: readonly string[], option: string): IdTranslation {
  const guest: Range[] = []
  const host: Range[] = []
  for (const rule of rules) {
    const fail: Fail = why => {
      throw new IdTranslationError(`${option} ${JSON.stringify(rule)}: ${why}`)
    }
    const { word, numbers } = split(rule, fail)
    const usage = USAGE.get(word)
    if (usage === undefined)
      fail(`type ${JSON.stringify(word)} is none of ${[...USAGE.keys()].join(', ')}`)
    else if (numbers.length !== usage.split(':').length)
      fail(`${numbers.length} numbers; wanted is ${word}:${usage}`)
    else addRanges(word, numbers, rule, fail, guest, host)
  }
  return new IdTranslation(direction(guest, 'guest', option), direction(host, 'host', option))
}

type Fail = (why: string) => never

const USAGE: ReadonlyMap<string, string> = new Map([
  ['guest', 'GUEST:HOST:COUNT'],
  ['host', 'HOST:GUEST:COUNT'],
  ['squash-guest', 'GUEST:HOST:COUNT'],
  ['squash-host', 'HOST:GUEST:COUNT'],
  ['forbid-guest', 'GUEST:COUNT'],
  ['map', 'GUEST:HOST:COUNT'],
])

const FORM =
  /^([\p{Alphabetic}\p{Nd}\p{Nl}\p{No}_-]*)([^\p{Alphabetic}\p{Nd}\p{Nl}\p{No}_-])(.*)$/su

function split(rule: string, fail: Fail): { word: string; numbers: number[] } {
  const form = FORM.exec(rule)
  if (form === null) return fail('no type followed by numbers, as in map:0:1000:1')
  const [, word, separator, rest] = form
  return {
    word: word!.toLowerCase(),
    numbers: rest!.split(separator!).map(text => {
      const id = /^\+?[0-9]+$/.test(text) ? Number(text) : Number.NaN
      return id <= ID_LIMIT
        ? id
        : fail(`${JSON.stringify(text)} is not a number from 0 to ${ID_LIMIT}`)
    }),
  }
}

function addRanges(
  word: string,
  numbers: readonly number[],
  rule: string,
  fail: Fail,
  guest: Range[],
  host: Range[],
): void {
  const count = numbers.at(-1)!
  const add = (to: Range[], start: number, target: number, step: 0 | 1): void => {
    if (count === 0) return
    if (start + count > ID_LIMIT)
      fail(`ids ${start} and ${count - 1} more end past ${ID_LIMIT - 1}`)
    if (target + step * (count - 1) >= ID_LIMIT)
      fail(`target ids from ${target} end past ${ID_LIMIT - 1}`)
    to.push({ start, count, target, step, rule })
  }
  const [first, second] = numbers as [number, number]
  if (word === 'forbid-guest') add(guest, first, FORBIDDEN_ID, 0)
  else if (word === 'squash-guest') add(guest, first, second, 0)
  else if (word === 'squash-host') add(host, first, second, 0)
  else if (word === 'host') add(host, first, second, 1)
  else add(guest, first, second, 1)
  if (word === 'map') add(host, second, first, 1)
}

function direction(ranges: readonly Range[], whose: string, option: string): Direction {
  const sorted = ranges.toSorted((a, b) => a.start - b.start)
  for (let i = 1; i < sorted.length; i++) {
    const [a, b] = [sorted[i - 1]!, sorted[i]!]
    if (a.start + a.count > b.start)
      throw new IdTranslationError(
        `${option} ${JSON.stringify(a.rule)} and ${JSON.stringify(b.rule)} both translate ${whose} id ${b.start}`,
      )
  }
  return new Direction(sorted)
}
