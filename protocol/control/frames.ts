/**
 * The control socket's framing: a message is its length (u32, little endian) and a msgpack value. What a
 * message may say is in messages.ts.
 *
 * Bytes are looked over before a decoder sees them: a few bytes of msgpack can claim gigabytes, nest without
 * end, or name types of their own.
 */

export const FRAME_HEAD_BYTES = 4
/** Longest message of a client. */
export const MAX_REQUEST_BYTES = 4096
/** Longest message of the daemon. */
export const MAX_REPLY_BYTES = 262_144

const MAX_DEPTH = 4

/** The peer sent what the protocol does not have. */
export class ControlError extends Error {}

/** Puts the length before `body`. Errors: ControlError it is longer than `most`. */
export function frame(body: Uint8Array, most: number): Uint8Array {
  if (body.length > most) throw new ControlError(`a message of ${body.length} bytes`)
  const bytes = new Uint8Array(FRAME_HEAD_BYTES + body.length)
  new DataView(bytes.buffer).setUint32(0, body.length, true)
  bytes.set(body, FRAME_HEAD_BYTES)
  return bytes
}

/** Takes the stream apart, in whatever pieces it comes. */
export class FrameReader {
  readonly #most: number
  readonly #take: (body: Uint8Array) => void
  #parts: Uint8Array[] = []
  #have = 0

  /** `take` gets each body, of at most `most` bytes, well-formed as `checkShape` has it. */
  constructor(most: number, take: (body: Uint8Array) => void) {
    this.#most = most
    this.#take = take
  }

  /** Bytes of a message that is not whole yet. */
  get unfinished(): number {
    return this.#have
  }

  /** Errors: ControlError; what `take` throws. Of no use afterwards. */
  feed(bytes: Uint8Array): void {
    this.#parts.push(bytes)
    this.#have += bytes.length
    let all = this.#have >= FRAME_HEAD_BYTES ? this.#joined() : undefined
    let at = 0
    while (all !== undefined && all.length - at >= FRAME_HEAD_BYTES) {
      const length = new DataView(all.buffer, all.byteOffset + at).getUint32(0, true)
      if (length < 1 || length > this.#most)
        throw new ControlError(`a message of ${length} bytes: 1 to ${this.#most} are possible`)
      if (all.length - at < FRAME_HEAD_BYTES + length) break
      const body = all.subarray(at + FRAME_HEAD_BYTES, at + FRAME_HEAD_BYTES + length)
      at += FRAME_HEAD_BYTES + length
      checkShape(body)
      this.#take(body)
    }
    if (at > 0 && all !== undefined) {
      all = all.slice(at)
      this.#parts = all.length > 0 ? [all] : []
      this.#have = all.length
    }
  }

  #joined(): Uint8Array {
    if (this.#parts.length === 1) return this.#parts[0]!
    const all = new Uint8Array(this.#have)
    let at = 0
    for (const part of this.#parts) {
      all.set(part, at)
      at += part.length
    }
    this.#parts = [all]
    return all
  }
}

/** How many bytes the length of a string, byte string, array or map takes, by the type's byte. */
const LENGTHS = new Map([
  [0xc4, 1],
  [0xc5, 2],
  [0xc6, 4],
  [0xd9, 1],
  [0xda, 2],
  [0xdb, 4],
  [0xdc, 2],
  [0xdd, 4],
  [0xde, 2],
  [0xdf, 4],
])
/** Bytes after the byte of a type of fixed size: nil, booleans, numbers. */
const FIXED = new Map([
  [0xc0, 0],
  [0xc2, 0],
  [0xc3, 0],
  [0xca, 4],
  [0xcb, 8],
  [0xcc, 1],
  [0xcd, 2],
  [0xce, 4],
  [0xcf, 8],
  [0xd0, 1],
  [0xd1, 2],
  [0xd2, 4],
  [0xd3, 8],
])

/**
 * Exactly one msgpack value without types of its own, MAX_DEPTH deep at most, whose arrays, maps and strings
 * are really there. Errors: ControlError.
 */
export function checkShape(body: Uint8Array): void {
  const end = skipValue(body, 0, MAX_DEPTH)
  if (end !== body.length) throw new ControlError('a message that is longer than its value')
}

function skipValue(body: Uint8Array, start: number, depth: number): number {
  const type = body[start]
  if (type === undefined) throw new ControlError('a message that is cut off')
  let at = start + 1
  if (type < 0x80 || type >= 0xe0) return at
  const fixed = FIXED.get(type)
  if (fixed !== undefined) return at + fixed
  let count: number
  if (type < 0x90) return skipValues(body, at, (type - 0x80) * 2, depth)
  if (type < 0xa0) return skipValues(body, at, type - 0x90, depth)
  if (type < 0xc0) count = type - 0xa0
  else {
    const width = LENGTHS.get(type)
    if (width === undefined) throw new ControlError(`a value of type ${type}`)
    if (at + width > body.length) throw new ControlError('a message that is cut off')
    count = 0
    for (let i = 0; i < width; i++) count = count * 256 + body[at++]!
    if (type >= 0xde) return skipValues(body, at, count * 2, depth)
    if (type >= 0xdc) return skipValues(body, at, count, depth)
  }
  if (at + count > body.length) throw new ControlError('a message that is cut off')
  return at + count
}

function skipValues(body: Uint8Array, start: number, count: number, depth: number): number {
  if (depth === 0) throw new ControlError('a message that is nested too deep')
  // Each takes a byte at least.
  if (count > body.length - start) throw new ControlError('a message that is cut off')
  let at = start
  for (let i = 0; i < count; i++) at = skipValue(body, at, depth - 1)
  return at
}
