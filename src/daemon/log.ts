/** The daemon's log, by winston: records go to one outlet, at once and without ever waiting for it. */
import { Writable } from 'node:stream'
import winston from 'winston'
import type { Log, LogLevel } from '../vhost/log.js'
import { type LogOutlet, StderrOutlet } from './log-outlets.js'
import { SyslogOutlet } from './syslog.js'

const LEVELS: Record<LogLevel, number> = { error: 0, warn: 1, info: 2, debug: 3, trace: 4 }

/** A log that drops what is below `level`; with `syslog` to the system log if there is one. */
export function makeLog(level: LogLevel | 'off', syslog: boolean): Log {
  if (level === 'off') return () => undefined
  const system = syslog ? SyslogOutlet.open() : undefined
  const stream = outletStream(system ?? new StderrOutlet())
  const transports = [new winston.transports.Stream({ stream })]
  const logger = winston.createLogger({ levels: LEVELS, level, transports })
  const log: Log = (name, message) => {
    logger.log(name, message)
  }
  if (syslog && system === undefined)
    log('warn', 'no system log at /dev/log: the log goes to stderr')
  return log
}

function outletStream(outlet: LogOutlet): Writable {
  return new Writable({
    objectMode: true,
    write(record: { level: LogLevel; message: unknown }, _encoding, done) {
      outlet.write(record.level, String(record.message))
      done()
    },
  })
}
