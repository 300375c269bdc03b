/** The rings of one session: what the front end says of them, and when the device serves them. */
import { errnoName } from '../../protocol/errno.js'
import {
  VHOST_USER_VRING_IDX_MASK,
  VHOST_USER_VRING_NOFD_MASK,
  VhostUserRequest,
} from '../../protocol/vhost-user/messages.js'
import {
  VHOST_VRING_F_LOG,
  vhost_vring_addr,
  vhost_vring_state,
} from '../../protocol/vhost-user/payloads.js'
import {
  VRING_AVAIL_ALIGN,
  VRING_DESC_ALIGN,
  VRING_MAX_SIZE,
  VRING_USED_ALIGN,
} from '../../protocol/virtio/ring.js'
import { MAX_RINGS } from '../native/addon.js'
import type { Context } from '../native/context.js'
import type { Connection } from './connection.js'
import type { VhostDevice } from './device.js'
import type { Log } from './log.js'
import type { Terms } from './terms.js'
import { refuse, replied, type Verdict } from './verdict.js'
import { Vring } from './vring.js'

export class Rings {
  readonly all: readonly Vring[] = Array.from({ length: MAX_RINGS }, () => new Vring())
  readonly #context: Context
  readonly #device: VhostDevice
  readonly #connection: Connection
  readonly #terms: Terms
  readonly #log: Log

  /** Messages are read from `connection`, whose current one they must be. */
  constructor(
    context: Context,
    device: VhostDevice,
    connection: Connection,
    terms: Terms,
    log: Log,
  ) {
    this.#context = context
    this.#device = device
    this.#connection = connection
    this.#terms = terms
    this.#log = log
  }

  get someUp(): boolean {
    return this.all.some(ring => ring.up)
  }

  /** SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ENABLE, GET_VRING_BASE. */
  state(): Verdict {
    const { view } = this.#context
    const at = this.#connection.payloadAt
    const index = vhost_vring_state.f.index.get(view, at)
    const num = vhost_vring_state.f.num.get(view, at)
    const ring = this.all[index]
    if (ring === undefined) return refuse(`there is no ring ${index}`)
    switch (this.#connection.request) {
      case VhostUserRequest.VHOST_USER_SET_VRING_NUM:
        if (ring.up) return refuse(`ring ${index} is running`)
        if (num < 1 || num > VRING_MAX_SIZE || (num & (num - 1)) !== 0)
          return refuse(
            `a ring of ${num} entries: it must be a power of two up to ${VRING_MAX_SIZE}`,
          )
        ring.size = num
        return 'done'
      case VhostUserRequest.VHOST_USER_SET_VRING_BASE:
        if (ring.up) return refuse(`ring ${index} is running`)
        ring.base = num & 0xffff
        return 'done'
      case VhostUserRequest.VHOST_USER_SET_VRING_ENABLE:
        if (num > 1) return refuse(`enable ${num}`)
        ring.enabled = num === 1
        return this.#follow(index)
      default:
        return this.#getVringBase(index, ring)
    }
  }

  #getVringBase(index: number, ring: Vring): Verdict {
    this.#down(index)
    ring.started = false
    ring.setFd('kickFd', -1)
    const { view } = this.#context
    vhost_vring_state.f.index.set(view, this.#connection.replyPayloadAt, index)
    vhost_vring_state.f.num.set(view, this.#connection.replyPayloadAt, ring.base)
    return replied(this.#connection.reply(vhost_vring_state.SIZE))
  }

  /** SET_VRING_ADDR. */
  setAddress(): Verdict {
    const { view } = this.#context
    const at = this.#connection.payloadAt
    const Addr = vhost_vring_addr.f
    const index = Addr.index.get(view, at)
    const ring = this.all[index]
    if (ring === undefined) return refuse(`there is no ring ${index}`)
    const logsUsed = (Addr.flags.get(view, at) & (1 << VHOST_VRING_F_LOG)) !== 0
    // Without the flag the address means nothing (user-mode Linux sends all ones).
    const logAt = logsUsed ? Addr.log_guest_addr.get(view, at) : 0n
    if (logAt > BigInt(Number.MAX_SAFE_INTEGER)) return refuse(`ring ${index} is logged nowhere`)
    const desc = Addr.desc_user_addr.get(view, at)
    const avail = Addr.avail_user_addr.get(view, at)
    const used = Addr.used_user_addr.get(view, at)
    if (
      desc % BigInt(VRING_DESC_ALIGN) !== 0n ||
      avail % BigInt(VRING_AVAIL_ALIGN) !== 0n ||
      used % BigInt(VRING_USED_ALIGN) !== 0n
    )
      return refuse(`ring ${index} is not aligned`)
    ring.logsUsed = logsUsed
    ring.logAt = Number(logAt)
    const same =
      ring.hasAddress &&
      ring.descUser === desc &&
      ring.availUser === avail &&
      ring.usedUser === used
    if (same) {
      if (ring.up) this.#device.ringLog(index, this.#logAt(ring))
      return 'done'
    }
    this.#down(index)
    ring.descUser = desc
    ring.availUser = avail
    ring.usedUser = used
    ring.hasAddress = true
    return this.#follow(index)
  }

  /** SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR. */
  setDescriptor(): Verdict {
    const word = this.#context.view.getBigUint64(this.#connection.payloadAt, true)
    const index = Number(word & BigInt(VHOST_USER_VRING_IDX_MASK))
    const noFd = (word & BigInt(VHOST_USER_VRING_NOFD_MASK)) !== 0n
    const ring = this.all[index]
    if (ring === undefined) return refuse(`there is no ring ${index}`)
    if (noFd !== (this.#connection.fds.length === 0))
      return refuse(
        noFd ? 'a descriptor came though none was announced' : 'its descriptor is missing',
      )
    const fd = noFd ? -1 : this.#connection.takeFd()
    switch (this.#connection.request) {
      case VhostUserRequest.VHOST_USER_SET_VRING_CALL:
        if (ring.up) this.#device.ringCall(index, fd)
        ring.setFd('callFd', fd)
        return 'done'
      case VhostUserRequest.VHOST_USER_SET_VRING_ERR:
        ring.setFd('errFd', fd)
        return 'done'
      default:
        this.#down(index)
        ring.setFd('kickFd', fd)
        ring.started = true
        // Without protocol features there is no SET_VRING_ENABLE: a kick descriptor is all it takes.
        if (!this.#terms.protocolFeatures) ring.enabled = true
        return this.#follow(index)
    }
  }

  /** Brings a ring up or down as what is known of it says. */
  #follow(index: number): Verdict {
    const ring = this.all[index]!
    if (!ring.ready) {
      this.#down(index)
      return 'done'
    }
    const fault = this.#up(index)
    return fault < 0
      ? refuse(`ring ${index} does not lie in guest memory (${errnoName(fault)})`)
      : 'done'
  }

  #up(index: number): number {
    const ring = this.all[index]!
    if (ring.up) return 0
    const answer = this.#device.ringUp(index, {
      size: ring.size,
      descUser: ring.descUser,
      availUser: ring.availUser,
      usedUser: ring.usedUser,
      base: ring.base,
      kickFd: ring.kickFd,
      callFd: ring.callFd,
      eventIdx: this.#terms.eventIdx,
      indirect: this.#terms.indirect,
      logAt: this.#logAt(ring),
    })
    if (answer >= 0) {
      ring.up = true
      this.#log('debug', `ring ${index} is up: ${ring.size} entries, from ${ring.base}`)
    }
    return answer
  }

  #down(index: number): void {
    const ring = this.all[index]!
    if (!ring.up) return
    ring.up = false
    ring.base = this.#device.ringDown(index)
    this.#log('debug', `ring ${index} is down at ${ring.base}`)
  }

  /** Stops every ring; what is known of it stays. */
  allDown(): void {
    for (const index of this.all.keys()) this.#down(index)
  }

  #logAt(ring: Vring): number {
    return this.#terms.logging && ring.logsUsed ? ring.logAt : -1
  }

  /** Logging was turned on or off; rings that are up go on. */
  followLog(): void {
    for (const [index, ring] of this.all.entries())
      if (ring.up) this.#device.ringLog(index, this.#logAt(ring))
  }

  /** A ring that runs and lies in these front-end addresses, or -1. */
  within(user: bigint, bytes: bigint): number {
    return this.all.findIndex(
      ring =>
        ring.up &&
        [ring.descUser, ring.availUser, ring.usedUser].some(
          address => address >= user && address < user + bytes,
        ),
    )
  }

  /** RESET_DEVICE: they are down, and begin anew. */
  resetAll(): void {
    this.allDown()
    for (const ring of this.all) {
      ring.started = false
      ring.enabled = false
      ring.base = 0
      ring.setFd('kickFd', -1)
    }
  }

  /** Rings that run are taken down around `change` and go on where they were. */
  whileDown(change: () => Verdict): Verdict {
    const running = this.all.map(ring => ring.up)
    this.allDown()
    const verdict = change()
    for (const [index, wasUp] of running.entries()) {
      if (!wasUp) continue
      const fault = this.#up(index)
      if (fault < 0 && verdict === 'done')
        return refuse(`ring ${index} does not lie in the new memory (${errnoName(fault)})`)
    }
    return verdict
  }
}
