#!/usr/bin/env node
/** Entry point of the daemon: command line in, exit status out. */
import { readFileSync } from 'node:fs'
import { StartError, UsageError } from '../daemon/errors.js'
import { capabilitiesText, helpText, parseOptions } from '../daemon/options.js'

function version(): string {
  const text = readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

async function main(): Promise<number> {
  process.title = 'virtiofsd'
  const options = parseOptions(process.argv.slice(2), process.env)
  if (options === 'help') process.stdout.write(helpText())
  else if (options === 'version') process.stdout.write(`virtiofsd ${version()}\n`)
  else if (options === 'print-capabilities') process.stdout.write(capabilitiesText())
  else {
    // The rest of the program is not loaded for the answers above.
    const { makeLog } = await import('../daemon/log.js')
    const { runDaemon } = await import('../daemon/daemon.js')
    return await runDaemon(options, makeLog(options.logLevel))
  }
  return 0
}

try {
  process.exitCode = await main()
} catch (cause) {
  if (!(cause instanceof UsageError || cause instanceof StartError)) throw cause
  process.stderr.write(`virtiofsd: ${cause.message}\n`)
  process.exitCode = cause instanceof UsageError ? 2 : 1
}
