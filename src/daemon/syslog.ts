/** The system log: RFC 3164 datagrams to /dev/log. */
import { Errno } from '../../protocol/errno.js'
import { native } from '../native/addon.js'
import type { LogLevel } from '../vhost/log.js'
import { type LogOutlet, oneRecord } from './log-outlets.js'

const PATH = '/dev/log'
/** LOG_DAEMON. */
const FACILITY = 3
const SEVERITY: Readonly<Record<LogLevel, number>> = {
  error: 3,
  warn: 4,
  info: 6,
  debug: 7,
  trace: 7,
}
const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']

/** Records to the system log; what it does not take at once is dropped. */
export class SyslogOutlet implements LogOutlet {
  readonly #path: string
  #fd: number
  #dropped = 0

  /** undefined when nobody listens there. */
  static open(path = PATH): SyslogOutlet | undefined {
    const fd = native.unixDatagram(path)
    return fd < 0 ? undefined : new SyslogOutlet(path, fd)
  }

  private constructor(path: string, fd: number) {
    this.#path = path
    this.#fd = fd
  }

  write(level: LogLevel, message: string): void {
    if (this.#dropped > 0 && !this.#send('warn', `${this.#dropped} log records were dropped`)) {
      this.#dropped++
      return
    }
    this.#dropped = this.#send(level, message) ? 0 : 1
  }

  #send(level: LogLevel, message: string): boolean {
    const text = datagram(level, message, new Date())
    let sent = native.writeNow(this.#fd, text)
    // The system logger was started anew.
    if (sent < 0 && sent !== -Errno.EAGAIN && this.#connectAgain())
      sent = native.writeNow(this.#fd, text)
    return sent >= 0
  }

  /** False where /dev/log is out of reach now, as in a sandbox. */
  #connectAgain(): boolean {
    const fd = native.unixDatagram(this.#path)
    if (fd < 0) return false
    native.closeFd(this.#fd)
    this.#fd = fd
    return true
  }

  close(): void {
    native.closeFd(this.#fd)
  }
}

/** RFC 3164: priority, local time without a year, tag, message. */
export function datagram(level: LogLevel, message: string, at: Date): string {
  const two = (value: number): string => String(value).padStart(2, '0')
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`
  const stamp = `${MONTHS[at.getMonth()]} ${String(at.getDate()).padStart(2)} ${time}`
  return `<${FACILITY * 8 + SEVERITY[level]}>${stamp} virtiofsd[${process.pid}]: ${oneRecord(message)}`
}
