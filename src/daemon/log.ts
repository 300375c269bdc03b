/** The daemon's log: lines on stderr, by winston. */
import winston from 'winston'
import type { Log, LogLevel } from '../vhost/session.js'

const LEVELS: Record<LogLevel, number> = { error: 0, warn: 1, info: 2, debug: 3, trace: 4 }

/** A log that drops what is below `level`. */
export function makeLog(level: LogLevel | 'off'): Log {
  if (level === 'off') return () => undefined
  const logger = winston.createLogger({
    levels: LEVELS,
    level,
    format: winston.format.combine(
      winston.format.timestamp(),
      winston.format.printf(
        ({ timestamp, level: name, message }) =>
          `[${String(timestamp)} ${name.toUpperCase()} virtiofsd] ${String(message)}`,
      ),
    ),
    transports: [new winston.transports.Console({ stderrLevels: Object.keys(LEVELS) })],
  })
  return (name, message) => {
    logger.log(name, message)
  }
}
