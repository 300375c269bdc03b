/**
 * What `virtiofsctl` prints. A change is a line of five fields with a tab between them: who (guest, other), what,
 * what kind of thing (directory, file: anything else), path, and the new path of a rename. '-' stands for a
 * place that is not watched.
 */
import type { Change, ControlReply, Status } from '../../protocol/control/messages.js'

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
/** Control and format characters: a name must not move the cursor, or look like another. */
const UNSAFE = /[\p{C}\p{Zl}\p{Zp}\\]/gu

/** A path as text; undefined when its bytes are none. */
function textOf(path: Uint8Array): string | undefined {
  try {
    return decoder.decode(path)
  } catch {
    return undefined
  }
}

function escaped(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes)
    text +=
      byte < 0x20 || byte >= 0x7f || byte === 0x5c
        ? `\\x${byte.toString(16).padStart(2, '0')}`
        : String.fromCharCode(byte)
  return text
}

/**
 * A path on one line; the share itself is '.'. What is not printable, and the backslash, stands as \xNN, byte by byte, as
 * `printf %b` reads it. A path that is '-' is './-'.
 */
export function printablePath(path: Uint8Array | undefined): string {
  if (path === undefined) return '-'
  if (path.length === 0) return '.'
  const text = textOf(path)
  if (text === '-') return './-'
  if (text === undefined) return escaped(path)
  return text.replace(UNSAFE, character => escaped(new TextEncoder().encode(character)))
}

export function changeLine(change: Change): string {
  const { kind, isDirectory, byGuest, path, to } = change
  const fields = [
    byGuest ? 'guest' : 'other',
    kind,
    isDirectory ? 'directory' : 'file',
    printablePath(path),
  ]
  if (kind === 'rename') fields.push(printablePath(to))
  return `${fields.join('\t')}\n`
}

/** A path that is no text comes as base64 of its bytes, too, under a name of its own. */
function jsonPath(name: string, path: Uint8Array | undefined): Record<string, string | null> {
  if (path === undefined) return { [name]: null }
  const text = textOf(path)
  if (text !== undefined) return { [name]: text }
  const bytes = Buffer.from(path)
  return { [name]: bytes.toString(), [`${name}Base64`]: bytes.toString('base64') }
}

/** One line of JSON for each change, or other message. */
export function replyJson(reply: ControlReply): string {
  const values =
    reply.type === 'events'
      ? reply.events.map(({ kind, isDirectory, byGuest, path, to }) => ({
          type: 'change',
          kind,
          isDirectory,
          by: byGuest ? 'guest' : 'other',
          ...jsonPath('path', path),
          ...(kind === 'rename' ? jsonPath('to', to) : {}),
        }))
      : [reply]
  return values.map(value => `${JSON.stringify(value)}\n`).join('')
}

/** As lines for people. */
export function statusText(status: Status): string {
  const { version, pid, uptimeSeconds, frontEnd, listeners, eventsFault } = status
  const rows: (readonly [string, string])[] = [
    ['version', version],
    ['process', String(pid)],
    ['up', `${uptimeSeconds} s`],
    ['front end', frontEnd],
    ['told of changes', eventsFault === '' ? `${listeners} clients` : eventsFault],
    ...Object.entries(status.counters).map(([name, value]) => [name, String(value)] as const),
    ...Object.entries(status.requests).map(
      ([name, [taken, failed]]) =>
        [name, failed === 0 ? String(taken) : `${taken}, ${failed} of them failed`] as const,
    ),
  ]
  return rows.map(([name, value]) => `${name.padEnd(24)}${value}\n`).join('')
}
