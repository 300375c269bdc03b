/** Where the log goes: stderr or the system log. Neither ever makes the daemon wait. */
import { native } from '../native/addon.js'
import type { LogLevel } from '../vhost/log.js'

export interface LogOutlet {
  /** One record; control characters in it are the outlet's business. */
  write(level: LogLevel, message: string): void
}

const STDERR = 2

/**
 * Lines on stderr. What a full pipe or a terminal nobody reads does not take is dropped and counted,
 * and the count is told as soon as there is room again. A closed stderr is fine.
 */
export class StderrOutlet implements LogOutlet {
  readonly #fd: number
  #dropped = 0
  /** A line was cut: the next one begins with a line feed. */
  #torn = false

  constructor(fd = STDERR) {
    this.#fd = fd
  }

  write(level: LogLevel, message: string): void {
    if (this.#dropped > 0 && !this.#line('warn', `${this.#dropped} log lines were dropped`)) {
      this.#dropped++
      return
    }
    this.#dropped = this.#line(level, message) ? 0 : 1
  }

  /** False when it does not fit. */
  #line(level: LogLevel, message: string): boolean {
    const stamp = new Date().toISOString()
    const begin = this.#torn ? '\n' : ''
    const line = `${begin}[${stamp} ${level.toUpperCase()} virtiofsd] ${oneRecord(message)}\n`
    const written = native.writeNow(this.#fd, line)
    const whole = written === Buffer.byteLength(line)
    if (written > 0) this.#torn = !whole
    return whole
  }
}

/**
 * A message as one record: names that guests choose are in messages, and must not look like records
 * of their own. Lines after the first are indented, other control characters are shown as such.
 */
export function oneRecord(message: string): string {
  return message
    .replaceAll('\n', '\n    ')
    .replace(/[^\n\P{Cc}]/gu, character =>
      character === '\t' ? ' ' : `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`,
    )
}
