/** How the layers below the daemon say something to the operator. */
export type LogLevel = 'error' | 'warn' | 'info' | 'debug' | 'trace'
export type Log = (level: LogLevel, message: string) => void
