#!/usr/bin/env node
/** Entry point of the daemon: command line in, exit status out. */
import { readFileSync } from 'node:fs'
import { runDaemon, StartError } from '../daemon/daemon.js'
import { makeLog } from '../daemon/log.js'
import { helpText, parseOptions, UsageError } from '../daemon/options.js'
import { packageFile } from '../native/addon.js'

function version(): string {
  return (JSON.parse(readFileSync(packageFile('package.json'), 'utf8')) as { version: string })
    .version
}

async function main(): Promise<number> {
  process.title = 'virtiofsd'
  const options = parseOptions(process.argv.slice(2))
  if (options === 'help') {
    process.stdout.write(helpText())
    return 0
  }
  if (options === 'version') {
    process.stdout.write(`virtiofsd ${version()}\n`)
    return 0
  }
  return await runDaemon(options, makeLog(options.logLevel))
}

try {
  process.exitCode = await main()
} catch (cause) {
  if (!(cause instanceof UsageError || cause instanceof StartError)) throw cause
  process.stderr.write(`virtiofsd: ${cause.message}\n`)
  process.exitCode = 1
}
