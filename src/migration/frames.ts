/**
 * The stream of a migrated state: eight bytes of magic, then records. A record is its length (u32), a
 * checksum of the length and what follows (CRC-32, chained over the stream so far, so that none is lost or moved), and
 * a flat msgpack array of numbers and byte strings.
 *
 * The bytes are looked over before msgpackr sees them: a few bytes of msgpack can claim gigabytes, nest
 * without end, or name types of its own. Only whole numbers and byte strings that are really there pass.
 */
import { crc32 } from 'node:zlib'
import { Packr } from 'msgpackr/pack'
import { Unpackr } from 'msgpackr/unpack'
import { MAX_RECORD_BYTES, MAX_STATE_BYTES, MigrationError } from './limits.js'

export const MAGIC = Buffer.from('VFSDTS\r\n', 'latin1')
const HEAD_BYTES = 8
const MAX_FIELDS = 15

/** What a record is made of. */
export type Field = number | string
export type Record = readonly Field[]

const PACKR_OPTIONS = { useRecords: false, moreTypes: false, structuredClone: false } as const
const packr = new Packr(PACKR_OPTIONS)
const unpackr = new Unpackr({ ...PACKR_OPTIONS, useFloat32: 0, int64AsType: 'number' })

/** Makes the stream: `start`, then records. */
export class FrameWriter {
  #crc = 0
  #total = 0

  start(): Buffer {
    this.#crc = crc32(MAGIC)
    this.#total = MAGIC.length
    return MAGIC
  }

  /** Strings are bytes as characters 0 to 255. Errors: MigrationError the stream is too long. */
  record(fields: Record): Buffer {
    const body = packr.pack(
      fields.map(field => (typeof field === 'string' ? Buffer.from(field, 'latin1') : field)),
    )
    if (body.length > MAX_RECORD_BYTES)
      throw new MigrationError('a record of the state is too long')
    const frame = Buffer.allocUnsafe(HEAD_BYTES + body.length)
    frame.writeUInt32LE(body.length, 0)
    frame.set(body, HEAD_BYTES)
    this.#crc = crc32(frame.subarray(HEAD_BYTES), crc32(frame.subarray(0, 4), this.#crc))
    frame.writeUInt32LE(this.#crc, 4)
    this.#total += frame.length
    if (this.#total > MAX_STATE_BYTES)
      throw new MigrationError(`the state passes ${MAX_STATE_BYTES} bytes`)
    return frame
  }
}

/** Takes the stream apart, in whatever pieces it comes. */
export class FrameReader {
  readonly #take: (record: Record) => void
  readonly #rest = Buffer.alloc(HEAD_BYTES + MAX_RECORD_BYTES)
  #have = 0
  #crc = 0
  #total = 0
  #started = false

  constructor(take: (record: Record) => void) {
    this.#take = take
  }

  /** Bytes of a record that is not whole yet. */
  get unfinished(): boolean {
    return this.#have > 0 || !this.#started
  }

  /** Errors: MigrationError; what `take` throws. */
  feed(bytes: Uint8Array): void {
    this.#total += bytes.length
    if (this.#total > MAX_STATE_BYTES)
      throw new MigrationError(`the state passes ${MAX_STATE_BYTES} bytes`)
    let at = 0
    while (at < bytes.length) {
      const part = bytes.subarray(at, at + this.#wanted() - this.#have)
      this.#rest.set(part, this.#have)
      this.#have += part.length
      at += part.length
      if (this.#have === this.#wanted()) this.#whole()
    }
  }

  /** Bytes of magic or record as far as they are known. */
  #wanted(): number {
    if (!this.#started) return MAGIC.length
    if (this.#have < HEAD_BYTES) return HEAD_BYTES
    const bytes = this.#rest.readUInt32LE(0)
    if (bytes < 1 || bytes > MAX_RECORD_BYTES)
      throw new MigrationError(`a record of ${bytes} bytes: this is no state, or a broken one`)
    return HEAD_BYTES + bytes
  }

  #whole(): void {
    if (!this.#started) {
      if (MAGIC.compare(this.#rest, 0, MAGIC.length) !== 0)
        throw new MigrationError('this is not the state of a virtiofsd-ts')
      this.#started = true
      this.#crc = crc32(MAGIC)
      this.#have = 0
      return
    }
    if (this.#have <= HEAD_BYTES) return
    const body = this.#rest.subarray(HEAD_BYTES, this.#have)
    this.#crc = crc32(body, crc32(this.#rest.subarray(0, 4), this.#crc))
    if (this.#crc !== this.#rest.readUInt32LE(4))
      throw new MigrationError('a record does not have the checksum it should: the state is broken')
    this.#have = 0
    this.#take(unpack(body))
  }
}

function unpack(body: Buffer): Record {
  checkShape(body)
  const fields = unpackr.unpack(body) as (number | Buffer)[]
  return fields.map(field => (typeof field === 'number' ? field : field.toString('latin1')))
}

/** Bytes after the type byte of what is allowed in a record; -1: a length of so many bytes follows (below). */
const NUMBERS = new Map<number, number>([
  [0xcb, 8],
  [0xcc, 1],
  [0xcd, 2],
  [0xce, 4],
])

/** A msgpack array of at most MAX_FIELDS numbers and byte strings, exactly as long as `body`. */
function checkShape(body: Buffer): void {
  const fields = body[0]! - 0x90
  if (fields < 1 || fields > MAX_FIELDS) throw new MigrationError('a record is not a short array')
  let at = 1
  for (let i = 0; i < fields; i++) {
    const type = body[at++]
    if (type === undefined) break
    if (type < 0x80) continue
    const bytes = NUMBERS.get(type)
    if (bytes !== undefined) at += bytes
    else if (type === 0xc4 && at < body.length) at += 1 + body[at]!
    else if (type === 0xc5 && at + 1 < body.length) at += 2 + body.readUInt16BE(at)
    else throw new MigrationError(`a record holds what does not belong there (type ${type})`)
  }
  if (at !== body.length) throw new MigrationError('the fields of a record do not fill it')
}
