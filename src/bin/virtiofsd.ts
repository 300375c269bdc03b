#!/usr/bin/env node
/** Entry point of the daemon: command line in, exit status out. */
import type { DaemonOptions } from '../daemon/daemon-options.js'
import { StartError, UsageError } from '../daemon/errors.js'
import { version } from '../daemon/version.js'
import { capabilitiesText, helpText, parseOptions } from '../daemon/options.js'

async function main(): Promise<number> {
  process.title = 'virtiofsd'
  const options = parseOptions(process.argv.slice(2), process.env)
  if (options === 'help') process.stdout.write(helpText())
  else if (options === 'version') process.stdout.write(`virtiofsd ${version()}\n`)
  else if (options === 'print-capabilities') process.stdout.write(capabilitiesText())
  else return await serve(options)
  return 0
}

/** The rest of the program is loaded here: not for the answers above, and while the thread starts. */
async function serve(options: DaemonOptions): Promise<number> {
  const { DeviceThread } = await import('../daemon/device-thread.js')
  // Reads that would block need a thread; 0 means no more of them than that.
  const device = new DeviceThread({
    poolThreads: Math.max(1, options.threadPoolSize),
    watchesChanges: options.metadataCache > 0,
  })
  const { makeLog } = await import('../daemon/log.js')
  const { runDaemon } = await import('../daemon/daemon.js')
  const log = makeLog(options.logLevel, options.syslog)
  try {
    return await runDaemon(options, device, log)
  } catch (cause) {
    if (!(cause instanceof StartError)) throw cause
    log('error', cause.message)
    return 1
  }
}

// Until it is known: a daemon that ends by itself has failed.
process.exitCode = 1
main().then(
  status => {
    process.exitCode = status
  },
  (cause: unknown) => {
    if (!(cause instanceof UsageError)) throw cause
    process.stderr.write(`virtiofsd: ${cause.message}\n`)
    process.exitCode = 2
  },
)
