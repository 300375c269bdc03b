/**
 * The daemon's side of the control socket: clients ask for the status, or to be told of changes.
 *
 * A client that does not read what it asked for costs MAX_BACKLOG_BYTES and one frame at most: further changes
 * are counted and not kept, and it is told how many. Changes are watched while anybody listens.
 */
import { createServer, type Server, type Socket } from 'node:net'
import { ControlError } from '../../protocol/control/frames.js'
import type { Change, ControlRequest, Status, Watching } from '../../protocol/control/messages.js'
import type { Log } from '../vhost/log.js'
import { encodeEvents, encodeReply, requestReader } from './codec.js'

const MAX_CLIENTS = 64
const MAX_BACKLOG_BYTES = 1_048_576
/** A client that is refused gets to read why for so long. */
const LINGER_MS = 1000

/** What the server tells of. */
export interface ControlSource {
  status(): Promise<Status>
  /** Why changes cannot be watched; '' when they can. */
  readonly eventsFault: string
  startEvents(
    changed: (changes: readonly Change[], lost: boolean) => void,
    watching: (message: Watching) => void,
  ): void
  stopEvents(): void
}

class Client {
  readonly socket: Socket
  listens = false
  /** Changes it was not told of, since it was told so; null: the kernel dropped some, too. */
  lost: number | null = 0

  constructor(socket: Socket) {
    this.socket = socket
  }

  get isSlow(): boolean {
    return this.socket.writableLength > MAX_BACKLOG_BYTES
  }

  lose(count: number | null): void {
    this.lost = this.lost === null || count === null ? null : this.lost + count
  }

  /** Tells what was lost, if anything was. */
  settle(): void {
    if (this.lost === 0) return
    this.socket.write(encodeReply({ type: 'lost', changes: this.lost }))
    this.lost = 0
  }
}

export class ControlServer {
  readonly #source: ControlSource
  readonly #log: Log
  readonly #server: Server
  readonly #clients = new Set<Client>()
  #watching: Watching | undefined
  #closed = false
  #status: Promise<Status> | undefined

  constructor(source: ControlSource, log: Log) {
    this.#source = source
    this.#log = log
    this.#server = createServer(socket => this.#accept(socket))
    this.#server.on('error', cause => log('warn', `the control socket: ${cause.message}`))
  }

  /** Serves the listening socket `fd` from now on, which is the server's then. */
  listen(fd: number): Promise<void> {
    return new Promise((done, failed) => {
      this.#server.once('error', failed)
      this.#server.listen({ fd }, () => {
        this.#server.off('error', failed)
        done()
      })
    })
  }

  get listeners(): number {
    let count = 0
    for (const { listens } of this.#clients) if (listens) count++
    return count
  }

  /** Ends every connection. The source is left as it is. */
  close(): void {
    this.#closed = true
    this.#server.close()
    for (const { socket } of this.#clients) socket.destroy()
  }

  #accept(socket: Socket): void {
    const client = new Client(socket)
    // Its going away is no fault of ours; `close` follows.
    socket.on('error', cause =>
      this.#log('debug', `a client of the control socket: ${cause.message}`),
    )
    if (this.#clients.size >= MAX_CLIENTS) {
      this.#refuse(client, `there are ${MAX_CLIENTS} clients already`)
      return
    }
    this.#clients.add(client)
    socket.on('close', () => this.#gone(client))
    socket.on('drain', () => client.settle())
    const reader = requestReader(request => this.#answer(client, request))
    socket.on('data', bytes => {
      try {
        reader.feed(bytes)
      } catch (cause) {
        if (!(cause instanceof ControlError)) throw cause
        this.#refuse(client, cause.message)
      }
    })
  }

  #gone(client: Client): void {
    this.#clients.delete(client)
    if (this.#closed || !client.listens || this.listeners > 0) return
    this.#watching = undefined
    this.#source.stopEvents()
  }

  /** Says why, and ends the connection. Nothing it sends is read any more. */
  #refuse({ socket }: Client, message: string): void {
    socket.removeAllListeners('data')
    socket.resume()
    socket.end(encodeReply({ type: 'error', message }))
    setTimeout(() => socket.destroy(), LINGER_MS).unref()
  }

  #answer(client: Client, { type }: ControlRequest): void {
    if (client.isSlow) client.socket.destroy()
    else if (type === 'status') this.#sendStatus(client)
    else this.#listen(client)
  }

  #sendStatus({ socket }: Client): void {
    // Who asks while an answer is on its way gets that one.
    this.#status ??= this.#source.status().finally(() => {
      this.#status = undefined
    })
    void this.#status.then(status => {
      if (!socket.destroyed) socket.write(encodeReply(status))
    })
  }

  #listen(client: Client): void {
    if (client.listens) return
    if (this.#source.eventsFault !== '') {
      this.#refuse(client, this.#source.eventsFault)
      return
    }
    const first = this.listeners === 0
    client.listens = true
    if (this.#watching !== undefined) client.socket.write(encodeReply(this.#watching))
    if (first)
      this.#source.startEvents(
        (changes, lost) => this.#tell(changes, lost),
        message => this.#sayWatching(message),
      )
  }

  #sayWatching(message: Watching): void {
    this.#watching = message
    const bytes = encodeReply(message)
    for (const { listens, socket } of this.#clients) if (listens) socket.write(bytes)
  }

  #tell(changes: readonly Change[], lost: boolean): void {
    if (lost) for (const client of this.#clients) if (client.listens) client.lose(null)
    const frames = encodeEvents(changes)
    for (const { bytes, count } of frames)
      for (const client of this.#clients) if (client.listens) this.#deliver(client, bytes, count)
    if (lost) for (const client of this.#clients) if (!client.isSlow) client.settle()
  }

  #deliver(client: Client, bytes: Uint8Array, count: number): void {
    if (client.isSlow) {
      client.lose(count)
      return
    }
    client.settle()
    client.socket.write(bytes)
  }
}
