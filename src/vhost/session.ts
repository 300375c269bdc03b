/**
 * A vhost-user session, back-end side: the state machine behind one front-end connection.
 *
 * The peer is not trusted. A message that cannot be honoured is refused: with an error reply where
 * the front end asked for one, else by closing the connection, since it would go on under a wrong
 * belief. Descriptors are closed on every path. Source: QEMU docs/interop/vhost-user.rst.
 *
 * Here messages are checked and handed out. What they do: terms.ts (features), rings.ts, memory-table.ts, migration.ts.
 */
import { errnoName } from '../../protocol/errno.js'
import {
  FRONT_END_RULES,
  type MessageRule,
  messageName,
  ProtocolFeature,
  VHOST_F_LOG_ALL,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VhostUserRequest,
} from '../../protocol/vhost-user/messages.js'
import { VhostUserConfig, VhostUserShMemConfig } from '../../protocol/vhost-user/payloads.js'
import { encodeConfig } from '../../protocol/virtio/fs.js'
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from '../../protocol/virtio/ring.js'
import { MAX_RINGS, native } from '../native/addon.js'
import type { Context } from '../native/context.js'
import { BackendChannel, type Served, type WireForm } from './backend-channel.js'
import { Connection } from './connection.js'
import type { VhostDevice } from './device.js'
import type { Log } from './log.js'
import { MAX_MEM_SLOTS, MemoryTable } from './memory-table.js'
import { Migration } from './migration.js'
import { Rings } from './rings.js'
import { Terms } from './terms.js'
import { refuse, replied, type Verdict } from './verdict.js'

export interface SessionOptions {
  /** Connected, non-blocking; closed by the caller after `close`. */
  readonly socketFd: number
  /** What config space says, 1 to 64; as many as there can be are served. */
  readonly requestQueues: number
  /** With a tag the session offers config space (and only then: QEMU 7.1 to 8.0 fails on it). */
  readonly tag?: string | undefined
  readonly log: Log
  /** The DAX window; without it the session offers none. */
  readonly window?: WindowOptions | undefined
}

export interface WindowOptions {
  readonly bytes: number
  /** CHANNEL_BYTES of the arena. */
  readonly channelAt: number
  /** Called with each channel that mappings can be asked for on, and with undefined when it goes. */
  readonly attach: (channel: BackendChannel | undefined) => void
  /** For tests: called around each look at the main socket, and the longest wait in milliseconds. */
  readonly whileWaiting?: () => void
  readonly limitMs?: number
}

/** What the front end sends while it carries out a mapping; everything else waits for the request in hand. */
const DURING_CALL: ReadonlySet<number> = new Set([
  VhostUserRequest.VHOST_USER_ADD_MEM_REG,
  VhostUserRequest.VHOST_USER_REM_MEM_REG,
  VhostUserRequest.VHOST_USER_GET_CONFIG,
  VhostUserRequest.VHOST_USER_SET_LOG_BASE,
])

const FEATURES = [
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_INDIRECT_DESC,
  VIRTIO_RING_F_EVENT_IDX,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_F_LOG_ALL,
]
/** Offered in any case. */
const PROTOCOL_FEATURES = [
  ProtocolFeature.VHOST_USER_PROTOCOL_F_MQ,
  ProtocolFeature.VHOST_USER_PROTOCOL_F_LOG_SHMFD,
  ProtocolFeature.VHOST_USER_PROTOCOL_F_REPLY_ACK,
  ProtocolFeature.VHOST_USER_PROTOCOL_F_BACKEND_REQ,
  ProtocolFeature.VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD,
  ProtocolFeature.VHOST_USER_PROTOCOL_F_RESET_DEVICE,
  ProtocolFeature.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
]

export class VhostUserSession {
  readonly connection: Connection
  /** Why the session ended, when the peer broke the protocol. */
  violation = ''

  readonly #context: Context
  readonly #device: VhostDevice
  readonly #log: Log
  readonly #config: Uint8Array | undefined
  readonly #terms: Terms
  readonly #rings: Rings
  readonly #memory: MemoryTable
  readonly #migration: Migration
  readonly #window: WindowOptions | undefined
  #backendFd = -1
  #channel: BackendChannel | undefined
  #deferred = false
  #owned = false

  constructor(context: Context, arenaAt: number, device: VhostDevice, options: SessionOptions) {
    this.#context = context
    this.#device = device
    this.#log = options.log
    this.#window = options.window
    this.connection = new Connection(context, arenaAt, options.socketFd)
    this.#config =
      options.tag === undefined ? undefined : encodeConfig(options.tag, options.requestQueues)
    this.#terms = new Terms(FEATURES, [
      ...PROTOCOL_FEATURES,
      ...(device.migratable ? [ProtocolFeature.VHOST_USER_PROTOCOL_F_DEVICE_STATE] : []),
      ...(this.#window === undefined ? [] : [ProtocolFeature.VHOST_USER_PROTOCOL_F_SHMEM]),
      ...(this.#config === undefined ? [] : [ProtocolFeature.VHOST_USER_PROTOCOL_F_CONFIG]),
    ])
    const { connection } = this
    const terms = this.#terms
    const rings = new Rings(context, device, connection, terms, options.log)
    this.#rings = rings
    this.#memory = new MemoryTable(context, connection, rings)
    this.#migration = new Migration(context, device, connection, terms, rings, options.log)
  }

  /** The socket is readable: handles every whole message there is. */
  readable(): 'open' | 'closed' {
    this.#deferred = false
    for (;;) {
      switch (this.connection.read()) {
        case 'more':
          return 'open'
        case 'closed':
          if (this.connection.fault !== 0)
            this.violation = `receiving failed: ${errnoName(this.connection.fault)}`
          return 'closed'
        case 'bad-header':
          this.violation = `a header no message has (request ${this.connection.request}, ${this.connection.payloadBytes} bytes of payload)`
          return 'closed'
        case 'message': {
          const open = this.#handle()
          this.connection.finish()
          if (!open) return 'closed'
        }
      }
    }
  }

  /** Writes to guest memory are logged, for a migration. */
  get logging(): boolean {
    return this.#terms.logging
  }

  /** Something came while a request of ours was waited for, and is left: call `readable`. */
  get deferred(): boolean {
    return this.#deferred
  }

  /** Handles what the front end asks while we wait for it on the back-end channel. */
  #serveDuringCall(): Served {
    this.#window?.whileWaiting?.()
    for (;;) {
      const got = this.connection.read()
      if (got === 'more') {
        this.#window?.whileWaiting?.()
        return 'idle'
      }
      if (got === 'message' && DURING_CALL.has(this.connection.request)) {
        const open = this.#handle()
        this.connection.finish()
        if (open) continue
      }
      this.#deferred = true
      return got === 'message' ? 'blocked' : 'closed'
    }
  }

  /** Brings every ring down and lets go of memory and descriptors. The socket stays the caller's. */
  close(): void {
    this.#rings.allDown()
    for (const ring of this.#rings.all) ring.reset()
    this.connection.finish()
    this.#setBackendChannel(-1)
    this.#device.guestGone()
    this.#context.raw.clearRegions()
    this.#migration.close()
  }

  /** False when the connection cannot go on. */
  #handle(): boolean {
    const { connection } = this
    const rule = FRONT_END_RULES[connection.request]
    const name = messageName(connection.request)
    this.#log(
      'trace',
      `vhost-user ${name}: ${connection.payloadBytes} bytes, ${connection.fds.length} fds`,
    )
    const verdict = this.#checkRule(rule) ?? this.#dispatch()
    if (verdict === 'replied') return true
    const hasReply = rule !== undefined && rule.replyBytes >= 0
    const acknowledge =
      connection.needReply && this.#terms.has(ProtocolFeature.VHOST_USER_PROTOCOL_F_REPLY_ACK)
    if (verdict === 'done') {
      if (!acknowledge || hasReply) return true
      return connection.replyU64(0n) || this.#broken(name, 'the front end does not take the reply')
    }
    if (acknowledge && !hasReply) {
      this.#log('warn', `vhost-user ${name} refused: ${verdict.refuse}`)
      return connection.replyU64(1n) || this.#broken(name, 'the front end does not take the reply')
    }
    return this.#broken(name, verdict.refuse)
  }

  #broken(name: string, why: string): false {
    this.violation = `${name}: ${why}`
    return false
  }

  #checkRule(rule: MessageRule | undefined): Verdict | undefined {
    const { connection } = this
    if (rule === undefined) return refuse('no such message')
    if (rule.gate >= 0 && !this.#terms.has(rule.gate))
      return refuse('its protocol feature was not negotiated')
    if (connection.payloadBytes < rule.minBytes || connection.payloadBytes > rule.maxBytes)
      return refuse(`${connection.payloadBytes} bytes of payload instead of ${rule.minBytes}`)
    const fds = connection.fds.length
    if (fds < rule.minFds || fds > rule.maxFds) return refuse(`${fds} descriptors came with it`)
    return undefined
  }

  #dispatch(): Verdict {
    switch (this.connection.request) {
      case VhostUserRequest.VHOST_USER_GET_FEATURES:
        return this.#answer(this.#terms.offered)
      case VhostUserRequest.VHOST_USER_SET_FEATURES:
        return this.#setFeatures()
      case VhostUserRequest.VHOST_USER_GET_PROTOCOL_FEATURES:
        return this.#answer(this.#terms.offeredProtocol)
      case VhostUserRequest.VHOST_USER_SET_PROTOCOL_FEATURES:
        return this.#terms.setProtocol(this.#u64())
      case VhostUserRequest.VHOST_USER_SET_OWNER:
        if (this.#owned) return refuse('the session has an owner already')
        this.#owned = true
        return 'done'
      case VhostUserRequest.VHOST_USER_RESET_OWNER:
      case VhostUserRequest.VHOST_USER_RESET_DEVICE:
        return this.#reset()
      case VhostUserRequest.VHOST_USER_GET_QUEUE_NUM:
        return this.#answer(BigInt(MAX_RINGS))
      case VhostUserRequest.VHOST_USER_GET_MAX_MEM_SLOTS:
        return this.#answer(MAX_MEM_SLOTS)
      case VhostUserRequest.VHOST_USER_SET_MEM_TABLE:
        return this.#memory.set()
      case VhostUserRequest.VHOST_USER_ADD_MEM_REG:
        return this.#memory.add()
      case VhostUserRequest.VHOST_USER_REM_MEM_REG:
        return this.#memory.remove()
      case VhostUserRequest.VHOST_USER_SET_VRING_NUM:
      case VhostUserRequest.VHOST_USER_SET_VRING_BASE:
      case VhostUserRequest.VHOST_USER_SET_VRING_ENABLE:
      case VhostUserRequest.VHOST_USER_GET_VRING_BASE:
        return this.#rings.state()
      case VhostUserRequest.VHOST_USER_SET_VRING_ADDR:
        return this.#rings.setAddress()
      case VhostUserRequest.VHOST_USER_SET_VRING_KICK:
      case VhostUserRequest.VHOST_USER_SET_VRING_CALL:
      case VhostUserRequest.VHOST_USER_SET_VRING_ERR:
        return this.#rings.setDescriptor()
      case VhostUserRequest.VHOST_USER_SET_BACKEND_REQ_FD:
        this.#setBackendChannel(this.connection.takeFd())
        return 'done'
      case VhostUserRequest.VHOST_USER_SET_LOG_BASE:
        return this.#migration.setLogBase()
      case VhostUserRequest.VHOST_USER_SET_LOG_FD:
        this.#migration.setLogFd(this.connection.takeFd())
        return 'done'
      case VhostUserRequest.VHOST_USER_SET_DEVICE_STATE_FD:
        return this.#migration.setDeviceStateFd()
      case VhostUserRequest.VHOST_USER_CHECK_DEVICE_STATE:
        return this.#migration.checkDeviceState()
      case VhostUserRequest.VHOST_USER_GET_SHMEM_CONFIG:
        return this.#getShmemConfig()
      case VhostUserRequest.VHOST_USER_GET_CONFIG:
        return this.#getConfig()
      case VhostUserRequest.VHOST_USER_SET_CONFIG:
        return refuse('the config space of virtio-fs is read-only')
      default:
        return refuse('not served')
    }
  }

  #answer(value: bigint): Verdict {
    return replied(this.connection.replyU64(value))
  }

  #u64(): bigint {
    return this.#context.view.getBigUint64(this.connection.payloadAt, true)
  }

  #setFeatures(): Verdict {
    const verdict = this.#terms.setFeatures(this.#u64())
    if (verdict === 'done') this.#migration.follow()
    return verdict
  }

  #setBackendChannel(fd: number): void {
    this.#window?.attach(undefined)
    this.#channel?.close()
    this.#channel = undefined
    if (this.#backendFd >= 0) native.closeFd(this.#backendFd)
    this.#backendFd = -1
    if (fd < 0) return
    if (
      this.#window === undefined ||
      !this.#terms.has(ProtocolFeature.VHOST_USER_PROTOCOL_F_REPLY_ACK)
    ) {
      this.#backendFd = fd
      return
    }
    // Front ends before SHMEM that have a window take descriptors here; others show the guest none.
    const form: WireForm = this.#terms.has(ProtocolFeature.VHOST_USER_PROTOCOL_F_SHMEM)
      ? 'shmem'
      : 'fs-map'
    const serve = () => this.#serveDuringCall()
    const { channelAt, attach, limitMs } = this.#window
    this.#channel = new BackendChannel(
      this.#context,
      channelAt,
      fd,
      form,
      serve,
      this.#log,
      limitMs,
    )
    attach(this.#channel)
  }

  /** Asked once: the window has the size it has. */
  #getShmemConfig(): Verdict {
    const { view, bytes } = this.#context
    const at = this.connection.replyPayloadAt
    bytes.fill(0, at, at + VhostUserShMemConfig.SIZE)
    const Config = VhostUserShMemConfig.f
    Config.nregions.set(view, at, 1)
    // VIRTIO_FS_SHMCAP_ID_CACHE.
    Config.memory_sizes0.set(view, at, BigInt(this.#window!.bytes))
    return replied(this.connection.reply(VhostUserShMemConfig.SIZE))
  }

  #reset(): Verdict {
    this.#rings.resetAll()
    this.#device.guestGone()
    return 'done'
  }

  // --- config space -------------------------------------------------------------------------------

  /** The reply repeats the request's size, whatever part of it config space covers: user-mode Linux asks so. */
  #getConfig(): Verdict {
    const { view, bytes } = this.#context
    const { connection } = this
    const Config = VhostUserConfig.f
    const offset = Config.offset.get(view, connection.payloadAt)
    const size = Config.size.get(view, connection.payloadAt)
    if (size !== connection.payloadBytes - VhostUserConfig.SIZE)
      return refuse(`${size} bytes of config in a payload of ${connection.payloadBytes}`)
    const at = connection.replyPayloadAt
    Config.offset.set(view, at, offset)
    Config.size.set(view, at, size)
    Config.flags.set(view, at, Config.flags.get(view, connection.payloadAt))
    for (let i = 0; i < size; i++)
      bytes[at + VhostUserConfig.SIZE + i] = this.#config?.[offset + i] ?? 0
    return replied(connection.reply(connection.payloadBytes))
  }
}
