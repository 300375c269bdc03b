/** What the two sides have agreed on: feature bits, protocol features, and whether there is a dirty log. */
import {
  VHOST_F_LOG_ALL,
  VHOST_USER_F_PROTOCOL_FEATURES,
} from '../../protocol/vhost-user/messages.js'
import { VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC } from '../../protocol/virtio/ring.js'
import { refuse, type Verdict } from './verdict.js'

export const bit = (number: number): bigint => 1n << BigInt(number)

export class Terms {
  readonly offered: bigint
  readonly offeredProtocol: bigint
  /** SET_LOG_BASE brought a log. */
  hasLog = false
  #features = 0n
  #protocol = 0n

  /** Bit numbers. */
  constructor(features: readonly number[], protocol: readonly number[]) {
    const word = (numbers: readonly number[]): bigint =>
      numbers.reduce((sum, number) => sum | bit(number), 0n)
    this.offered = word(features)
    this.offeredProtocol = word(protocol)
  }

  setFeatures(wanted: bigint): Verdict {
    const surplus = wanted & ~this.offered
    if (surplus !== 0n) return refuse(`feature bits 0x${surplus.toString(16)} were not offered`)
    this.#features = wanted
    return 'done'
  }

  setProtocol(wanted: bigint): Verdict {
    const surplus = wanted & ~this.offeredProtocol
    if (surplus !== 0n)
      return refuse(`protocol feature bits 0x${surplus.toString(16)} were not offered`)
    this.#protocol = wanted
    return 'done'
  }

  /** A protocol feature was agreed on. */
  has(feature: number): boolean {
    return (this.#protocol & bit(feature)) !== 0n
  }

  get protocolFeatures(): boolean {
    return this.#accepted(VHOST_USER_F_PROTOCOL_FEATURES)
  }
  get eventIdx(): boolean {
    return this.#accepted(VIRTIO_RING_F_EVENT_IDX)
  }
  get indirect(): boolean {
    return this.#accepted(VIRTIO_RING_F_INDIRECT_DESC)
  }
  /** What is written to guest memory is to be marked in the log. */
  get logging(): boolean {
    return this.hasLog && this.#accepted(VHOST_F_LOG_ALL)
  }

  #accepted(feature: number): boolean {
    return (this.#features & bit(feature)) !== 0n
  }
}
