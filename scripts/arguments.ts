/** Command lines of the scripts: what a script says of itself at its head is its --help. */
import { readFileSync } from 'node:fs'
import { type ParseArgsConfig, parseArgs } from 'node:util'

const BAD_USAGE = 2

/** As `parseArgs`; with --help, and after an error, it ends the process. `url`: the script's import.meta.url. */
export function scriptArguments<T extends ParseArgsConfig>(
  url: string,
  config: T,
): ReturnType<typeof parseArgs<T>> {
  if (process.argv.includes('--help')) {
    console.log(headOf(url))
    process.exit(0)
  }
  try {
    return parseArgs(config)
  } catch (cause) {
    console.error(`${(cause as Error).message}\n\n${headOf(url)}`)
    process.exit(BAD_USAGE)
  }
}

/** The first comment of the source without its stars. */
function headOf(url: string): string {
  const source = readFileSync(new URL(url), 'utf8')
  const comment = source.slice(source.indexOf('/**') + 3, source.indexOf('*/'))
  return comment.replaceAll(/^ \* ?/gm, '').trim()
}
