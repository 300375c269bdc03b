import type { LogLevel } from '../vhost/log.js'

/** The least important level that is logged, or none at all. */
export type LogThreshold = LogLevel | 'off'

export const LOG_LEVELS: readonly LogThreshold[] = [
  'error',
  'warn',
  'info',
  'debug',
  'trace',
  'off',
]
