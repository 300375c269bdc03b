/** `--log-level trace`: a line for each request and reply. */
import { printReply, printRequest } from '../../protocol/fuse/print.js'
import type { ServerTrace } from '../fuse/server.js'
import type { Log } from '../vhost/log.js'

export function tracer(log: Log): ServerTrace {
  return {
    request: (view, at, length) => log('trace', printRequest(view, at, at + length)),
    reply: (opcode, view, at, length) => log('trace', printReply(view, at, at + length, opcode)),
  }
}
