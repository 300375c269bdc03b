/**
 * Framing of vhost-user messages on a stream socket: header, payload, and the descriptors that came
 * with them, until a whole message is there. Descriptors that nobody takes are closed.
 */
import { Errno } from '../../protocol/errno.js'
import {
  VHOST_USER_NEED_REPLY_MASK,
  VHOST_USER_REPLY_MASK,
  VHOST_USER_VERSION,
  VHOST_USER_VERSION_MASK,
} from '../../protocol/vhost-user/messages.js'
import { VhostUserHeader } from '../../protocol/vhost-user/payloads.js'
import { native } from '../native/addon.js'
import type { Context, Received } from '../native/context.js'

/** Longest payload of any message a virtio-fs back end takes; more is a violation. */
export const MAX_PAYLOAD_BYTES = 4096 - VhostUserHeader.SIZE

export type ReadResult = 'message' | 'more' | 'closed' | 'bad-header'

export class Connection {
  readonly fd: number
  request = 0
  needReply = false
  payloadBytes = 0
  /** Arena offset of the payload. */
  readonly payloadAt: number
  /** Descriptors of the current message; who takes one replaces it by -1. */
  readonly fds: number[] = []
  /** errno of a receive that failed, for the log. */
  fault = 0

  readonly #context: Context
  readonly #messageAt: number
  readonly #replyAt: number
  readonly #received: Received = { bytes: 0, fdCount: 0, truncated: false }
  #have = 0

  /** `arenaAt`: 8 KiB for one message in and one out. Does not own `fd`. */
  constructor(context: Context, arenaAt: number, fd: number) {
    this.fd = fd
    this.#context = context
    this.#messageAt = arenaAt
    this.#replyAt = arenaAt + 4096
    this.payloadAt = arenaAt + VhostUserHeader.SIZE
  }

  /** Takes what the socket has, up to one whole message. */
  read(): ReadResult {
    for (;;) {
      const wanted = this.#wanted()
      if (wanted < 0) return 'bad-header'
      if (this.#have === wanted) return 'message'
      const answer = this.#context.receive(
        this.fd,
        this.#messageAt + this.#have,
        wanted - this.#have,
        this.#received,
      )
      for (let i = 0; i < this.#received.fdCount; i++) this.fds.push(this.#context.fds[i]!)
      if (answer === -Errno.EAGAIN) return 'more'
      if (answer <= 0) {
        this.fault = -answer
        return 'closed'
      }
      this.#have += answer
    }
  }

  /** Bytes of the message as far as they are known: the header first. -1 for a header no message has. */
  #wanted(): number {
    if (this.#have < VhostUserHeader.SIZE) return VhostUserHeader.SIZE
    const { view } = this.#context
    const Header = VhostUserHeader.f
    const flags = Header.flags.get(view, this.#messageAt)
    this.request = Header.request.get(view, this.#messageAt)
    this.payloadBytes = Header.size.get(view, this.#messageAt)
    this.needReply = (flags & VHOST_USER_NEED_REPLY_MASK) !== 0
    if (
      (flags & VHOST_USER_VERSION_MASK) !== VHOST_USER_VERSION ||
      (flags & VHOST_USER_REPLY_MASK) !== 0
    )
      return -1
    if (this.payloadBytes > MAX_PAYLOAD_BYTES) return -1
    return VhostUserHeader.SIZE + this.payloadBytes
  }

  /** Done with the current message: closes the descriptors that are left. */
  finish(): void {
    for (const fd of this.fds) if (fd >= 0) native.closeFd(fd)
    this.fds.length = 0
    this.#have = 0
  }

  /** Takes the next descriptor of the message, or -1. The caller owns it. */
  takeFd(): number {
    const index = this.fds.findIndex(fd => fd >= 0)
    if (index < 0) return -1
    const fd = this.fds[index]!
    this.fds[index] = -1
    return fd
  }

  /** Where a reply's payload is built (at most MAX_PAYLOAD_BYTES). */
  get replyPayloadAt(): number {
    return this.#replyAt + VhostUserHeader.SIZE
  }

  /** Sends the reply to the current message: `bytes` at `replyPayloadAt`. False when the peer does not take it. */
  reply(bytes: number): boolean {
    const { view } = this.#context
    const Header = VhostUserHeader.f
    Header.request.set(view, this.#replyAt, this.request)
    Header.flags.set(view, this.#replyAt, VHOST_USER_VERSION | VHOST_USER_REPLY_MASK)
    Header.size.set(view, this.#replyAt, bytes)
    const total = VhostUserHeader.SIZE + bytes
    return this.#context.raw.send(this.fd, this.#replyAt, total, 0) === total
  }

  replyU64(value: bigint): boolean {
    this.#context.view.setBigUint64(this.replyPayloadAt, value, true)
    return this.reply(8)
  }
}
