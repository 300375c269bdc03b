/** A client of a daemon's control socket. */
import { connect, type Socket } from 'node:net'
import { ControlError } from '../../protocol/control/frames.js'
import type { ControlReply, RequestType } from '../../protocol/control/messages.js'
import { encodeRequest, replyReader } from './codec.js'

export class ControlClient {
  readonly #socket: Socket
  /** When the connection has ended: why, or undefined when the daemon just closed it. */
  readonly ended: Promise<Error | undefined>

  /** Connects and asks; `take` gets what the daemon says, until the connection ends. */
  constructor(path: string, type: RequestType, take: (reply: ControlReply) => void) {
    const socket = connect(path)
    this.#socket = socket
    let fault: Error | undefined
    const reader = replyReader(take)
    socket.on('data', bytes => {
      try {
        reader.feed(bytes)
      } catch (cause) {
        if (!(cause instanceof ControlError)) throw cause
        socket.destroy(cause)
      }
    })
    socket.on('error', cause => {
      fault = cause
    })
    this.ended = new Promise(done => {
      socket.on('close', () => done(fault))
    })
    socket.write(encodeRequest(type))
  }

  /** Reads nothing until `resume`: the daemon then counts what it cannot tell. */
  pause(): void {
    this.#socket.pause()
  }

  resume(): void {
    this.#socket.resume()
  }

  close(): void {
    this.#socket.destroy()
  }
}
