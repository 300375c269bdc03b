/**
 * The environment variable RUST_LOG, as the crate env_logger reads it: directives with commas
 * between, `LEVEL`, `TARGET` or `TARGET=LEVEL`, then perhaps `/REGEX`. A target is the beginning of
 * a module's name; the longest that fits decides. All of this daemon is the module `virtiofsd`.
 */
import { LOG_LEVELS, type LogThreshold } from './log-levels.js'

const MODULE = 'virtiofsd'

/** The level it sets for this daemon (undefined: none), and what it asks for in vain. */
export function readRustLog(text: string): {
  level: LogThreshold | undefined
  warnings: readonly string[]
} {
  const warnings: string[] = []
  const slash = text.indexOf('/')
  if (slash >= 0) warnings.push(`RUST_LOG: the filter ${text.slice(slash)} is not supported`)
  let level: LogThreshold | undefined
  let best = -1
  const directives = (slash < 0 ? text : text.slice(0, slash)).split(',')
  for (const directive of directives.map(part => part.trim()).filter(part => part !== '')) {
    const [target, found] = readDirective(directive)
    if (found === undefined) warnings.push(`RUST_LOG: "${directive}" names no level: ignored`)
    else if (MODULE.startsWith(target) && target.length >= best) {
      best = target.length
      level = found
    }
  }
  return { level, warnings }
}

function readDirective(directive: string): [target: string, level: LogThreshold | undefined] {
  const [first, second, ...rest] = directive.split('=').map(part => part.trim()) as [
    string,
    ...string[],
  ]
  if (second === undefined) {
    const level = levelOf(first)
    return level === undefined ? [first, 'trace'] : ['', level]
  }
  if (rest.length > 0) return [first, undefined]
  return [first, second === '' ? 'trace' : levelOf(second)]
}

function levelOf(text: string): LogThreshold | undefined {
  return LOG_LEVELS.find(level => level === text.toLowerCase())
}
