/** Bytes for tests, written without the code under test. */

/** A view of the bytes in `hex`; spaces and line ends do not count. */
export function view(hex: string): DataView {
  const digits = hex.replace(/\s+/g, '')
  const bytes = new Uint8Array(digits.length / 2)
  for (let i = 0; i < bytes.length; i++)
    bytes[i] = Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16)
  return new DataView(bytes.buffer)
}

/** The bytes of a view, in hex. */
export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

/** Bytes of a text, without NUL; each character is one byte. */
export function latin1(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, 'latin1'))
}

/** Little-endian words one behind the other: [bytes, value]. */
export function words(
  ...list: ReadonlyArray<readonly [bytes: 1 | 2 | 4 | 8, value: number | bigint]>
) {
  const out: number[] = []
  for (const [bytes, value] of list) {
    let rest = BigInt.asUintN(64, BigInt(value))
    for (let i = 0; i < bytes; i++, rest >>= 8n) out.push(Number(rest & 0xffn))
  }
  return Uint8Array.from(out)
}

/** Pieces joined, as one view. */
export function join(...pieces: readonly Uint8Array[]): DataView {
  const bytes = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const piece of pieces) {
    bytes.set(piece, at)
    at += piece.length
  }
  return new DataView(bytes.buffer)
}

/** Zeroes. */
export function zeroes(length: number): Uint8Array {
  return new Uint8Array(length)
}

/** fuse_in_header by hand; `len` is that of header and body unless given. */
export function request(
  opcode: number,
  body: Uint8Array,
  { unique = 12n, nodeid = 1n, uid = 0, gid = 0, pid = 42, len = 40 + body.length } = {},
): DataView {
  const header = words(
    [4, len],
    [4, opcode],
    [8, unique],
    [8, nodeid],
    [4, uid],
    [4, gid],
    [4, pid],
    [4, 0],
  )
  return join(header, body)
}

/** fuse_out_header by hand. */
export function reply(
  error: number,
  body: Uint8Array = zeroes(0),
  { unique = 12n, len = 16 + body.length } = {},
): DataView {
  return join(words([4, len], [4, error], [8, unique]), body)
}
