/** What a migration asks of a back end: the log of dirtied pages, and the device's state. */
import { errnoName } from '../../protocol/errno.js'
import { ProtocolFeature, VHOST_USER_VRING_NOFD_MASK } from '../../protocol/vhost-user/messages.js'
import {
  VHOST_TRANSFER_STATE_DIRECTION_LOAD,
  VHOST_TRANSFER_STATE_DIRECTION_SAVE,
  VHOST_TRANSFER_STATE_PHASE_STOPPED,
  VhostUserLog,
  VhostUserTransferDeviceState,
} from '../../protocol/vhost-user/payloads.js'
import { native } from '../native/addon.js'
import type { Context } from '../native/context.js'
import type { Connection } from './connection.js'
import type { StateDirection, VhostDevice } from './device.js'
import type { Log } from './log.js'
import type { Rings } from './rings.js'
import type { Terms } from './terms.js'
import { refuse, replied, type Verdict } from './verdict.js'

function stateDirection(word: number): StateDirection | undefined {
  if (word === VHOST_TRANSFER_STATE_DIRECTION_SAVE) return 'save'
  return word === VHOST_TRANSFER_STATE_DIRECTION_LOAD ? 'load' : undefined
}

export class Migration {
  readonly #context: Context
  readonly #device: VhostDevice
  readonly #connection: Connection
  readonly #terms: Terms
  readonly #rings: Rings
  readonly #log: Log
  #logFd = -1

  constructor(
    context: Context,
    device: VhostDevice,
    connection: Connection,
    terms: Terms,
    rings: Rings,
    log: Log,
  ) {
    this.#context = context
    this.#device = device
    this.#connection = connection
    this.#terms = terms
    this.#rings = rings
    this.#log = log
  }

  /** Lets go of the log. */
  close(): void {
    this.setLogFd(-1)
    this.#context.raw.setDirtyLog(-1, 0n, 0n)
    this.#terms.hasLog = false
  }

  #answer(value: bigint): Verdict {
    return replied(this.#connection.replyU64(value))
  }

  /** Turns logging on or off as features and log say; rings that are up go on. */
  follow(): void {
    this.#context.raw.enableDirtyLog(this.#terms.logging)
    this.#rings.followLog()
  }

  /**
   * SET_LOG_BASE. Has a reply whether or not one is asked for. There is no way to say in it that the log cannot be
   * mapped, and without it the destination's memory would be wrong in silence: the connection ends.
   */
  setLogBase(): Verdict {
    if (!this.#terms.has(ProtocolFeature.VHOST_USER_PROTOCOL_F_LOG_SHMFD))
      return refuse('its protocol feature was not negotiated')
    const connection = this.#connection
    if (connection.payloadBytes !== VhostUserLog.SIZE)
      return refuse(`${connection.payloadBytes} bytes of payload instead of ${VhostUserLog.SIZE}`)
    const fd = connection.takeFd()
    if (fd < 0) return refuse('its descriptor is missing')
    const { view, raw } = this.#context
    const fault = raw.setDirtyLog(
      fd,
      VhostUserLog.f.mmap_offset.get(view, connection.payloadAt),
      VhostUserLog.f.mmap_size.get(view, connection.payloadAt),
    )
    native.closeFd(fd)
    if (fault < 0) return refuse(`the dirty log cannot be mapped (${errnoName(fault)})`)
    this.#terms.hasLog = true
    this.follow()
    return this.#answer(0n)
  }

  /** SET_LOG_FD, or -1 for none. */
  setLogFd(fd: number): void {
    this.#device.logCall(fd)
    if (this.#logFd >= 0) native.closeFd(this.#logFd)
    this.#logFd = fd
  }

  /** SET_DEVICE_STATE_FD. The reply's low byte says whether it was refused, the bit above that no descriptor comes back. */
  setDeviceStateFd(): Verdict {
    const why = this.#transferState(this.#connection.takeFd())
    if (why === '') return this.#answer(BigInt(VHOST_USER_VRING_NOFD_MASK))
    this.#log('error', `the device's state is not transferred: ${why}`)
    return this.#answer(BigInt(VHOST_USER_VRING_NOFD_MASK) | 1n)
  }

  #transferState(fd: number): string {
    const { view } = this.#context
    const at = this.#connection.payloadAt
    const direction = stateDirection(VhostUserTransferDeviceState.f.direction.get(view, at))
    const phase = VhostUserTransferDeviceState.f.phase.get(view, at)
    let why = ''
    if (direction === undefined) why = 'a direction that the protocol does not have'
    else if (phase !== VHOST_TRANSFER_STATE_PHASE_STOPPED)
      why = `phase ${phase}: it is done when everything is stopped`
    else if (this.#rings.someUp) why = 'a ring is running'
    else return this.#device.transferState(direction, fd)
    native.closeFd(fd)
    return why
  }

  /** CHECK_DEVICE_STATE. */
  checkDeviceState(): Verdict {
    const why = this.#device.checkState()
    if (why !== '') this.#log('error', `the device's state did not get across: ${why}`)
    return this.#answer(why === '' ? 0n : 1n)
  }
}
