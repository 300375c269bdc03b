#!/usr/bin/env node
/** `virtiofsctl`: talks to a running daemon by its control socket. */
import { parseArgs } from 'node:util'
import type { ControlReply } from '../../protocol/control/messages.js'
import { ControlClient } from '../control/client.js'
import { changeLine, replyJson, statusText } from '../control/text.js'
import { version } from '../daemon/version.js'

const HELP = `virtiofsctl: talks to a running virtiofsd.

Usage: virtiofsctl --socket PATH events [--json]
       virtiofsctl --socket PATH status [--json]

events  prints changes in the shared directory as they come, until it is interrupted
status  prints what the daemon says of itself

  --socket PATH   what virtiofsd was given as --control-socket
  --json          one JSON object a line
  --help          show this text
  --version       show the version

A line of events has five fields with a tab between them:
  who        guest (through this daemon) or other (the host, another guest)
  what       create, delete, rename, modify, attrib; lost: changes were not told, look anew at everything
  which      directory, or file: anything else
  path       relative to the shared directory, which is "." itself
  new path   of a rename
A "-" stands for a place outside the shared directory, or one that is not watched. What is not printable in a
path, and the backslash, is written \\xNN, byte by byte; printf '%b' turns it back.

With --json a change is {"type":"change", "kind", "isDirectory", "by", "path"}, and "to" of a rename. A path that
is not UTF-8 has its bytes in "pathBase64" or "toBase64". Other lines: {"type":"watching", "directories",
"unwatched"} when all is watched, {"type":"lost", "changes"} with how many, or null.

An event says where to look, not what is there by now. Equal changes of 50 ms are told as one.
Exit status: 0; 1 the daemon is not there, refuses or ends; 2 the command line is wrong.
`

function main(): number | Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      socket: { type: 'string' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
      version: { type: 'boolean', short: 'V', default: false },
    },
  })
  if (values.help) process.stdout.write(HELP)
  else if (values.version) process.stdout.write(`virtiofsctl ${version()}\n`)
  else if (values.socket === undefined) return misused('give --socket PATH')
  else if (positionals.length !== 1) return misused('give one command: events or status')
  else if (positionals[0] === 'events') return events(values.socket, values.json)
  else if (positionals[0] === 'status') return status(values.socket, values.json)
  else return misused(`there is no command "${positionals[0]}": events or status`)
  return 0
}

function misused(what: string): number {
  say(`${what}; see --help`)
  return 2
}

function say(what: string): void {
  process.stderr.write(`virtiofsctl: ${what}\n`)
}

/** Until the daemon ends. */
async function events(path: string, json: boolean): Promise<number> {
  let refused = false
  const client = new ControlClient(path, 'events', reply => {
    if (reply.type === 'error') refused = true
    const text = json ? replyJson(reply) : lines(reply)
    if (text !== '' && !process.stdout.write(text)) client.pause()
  })
  process.stdout.on('drain', () => client.resume())
  // Who read us has gone.
  process.stdout.on('error', () => process.exit(0))
  const fault = await client.ended
  if (!refused) say(fault === undefined ? 'the daemon has ended' : `${path}: ${fault.message}`)
  return 1
}

function lines(reply: ControlReply): string {
  switch (reply.type) {
    case 'events':
      return reply.events.map(changeLine).join('')
    case 'lost':
      say(
        reply.changes === null
          ? 'changes were lost: look anew'
          : `${reply.changes} changes were lost, as they were not read fast enough: look anew`,
      )
      return '-\tlost\t-\t.\n'
    case 'watching':
      say(`watching ${reply.directories} directories`)
      if (reply.unwatched > 0) say(`${reply.unwatched} directories cannot be watched`)
      return ''
    case 'error':
      say(reply.message)
      return ''
    default:
      return ''
  }
}

async function status(path: string, json: boolean): Promise<number> {
  let answer: ControlReply | undefined
  const client = new ControlClient(path, 'status', reply => {
    answer = reply
    client.close()
  })
  const fault = await client.ended
  if (answer?.type === 'status') {
    process.stdout.write(json ? replyJson(answer) : statusText(answer))
    return 0
  }
  say(answer?.type === 'error' ? answer.message : `${path}: ${fault?.message ?? 'no answer'}`)
  return 1
}

try {
  void Promise.resolve(main()).then(status => {
    process.exitCode = status
  })
} catch (cause) {
  if ((cause as NodeJS.ErrnoException).code?.startsWith('ERR_PARSE_ARGS') !== true) throw cause
  process.exitCode = misused((cause as Error).message)
}
