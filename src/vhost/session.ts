/**
 * A vhost-user session, back-end side: the state machine behind one front-end connection.
 *
 * The peer is not trusted. A message that cannot be honoured is refused: with an error reply where
 * the front end asked for one, else by closing the connection, since it would go on under a wrong
 * belief. Descriptors are closed on every path. Source: QEMU docs/interop/vhost-user.rst.
 */
import { errnoName } from '../../protocol/errno.js'
import {
  FRONT_END_RULES,
  type MessageRule,
  messageName,
  ProtocolFeature,
  VHOST_F_LOG_ALL,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_MEMORY_BASELINE_NREGIONS,
  VHOST_USER_VRING_IDX_MASK,
  VHOST_USER_VRING_NOFD_MASK,
  VhostUserRequest,
} from '../../protocol/vhost-user/messages.js'
import {
  VHOST_TRANSFER_STATE_DIRECTION_LOAD,
  VHOST_TRANSFER_STATE_DIRECTION_SAVE,
  VHOST_TRANSFER_STATE_PHASE_STOPPED,
  VHOST_VRING_F_LOG,
  VhostUserConfig,
  VhostUserLog,
  VhostUserMemory,
  VhostUserMemoryRegion,
  VhostUserMemRegMsg,
  VhostUserShMemConfig,
  VhostUserTransferDeviceState,
  vhost_vring_addr,
  vhost_vring_state,
} from '../../protocol/vhost-user/payloads.js'
import { encodeConfig } from '../../protocol/virtio/fs.js'
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
  VRING_AVAIL_ALIGN,
  VRING_DESC_ALIGN,
  VRING_MAX_SIZE,
  VRING_USED_ALIGN,
} from '../../protocol/virtio/ring.js'
import { MAX_RINGS, native } from '../native/addon.js'
import type { Context } from '../native/context.js'
import { BackendChannel, type Served, type WireForm } from './backend-channel.js'
import { Connection } from './connection.js'
import type { StateDirection, VhostDevice } from './device.js'
import type { Log } from './log.js'
import { Vring } from './vring.js'

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

const bit = (number: number): bigint => 1n << BigInt(number)
/** Regions QEMU may add one by one; its own ceiling is the same. */
const MAX_MEM_SLOTS = 509n

/** What the front end sends while it carries out a mapping; everything else waits for the request in hand. */
const DURING_CALL: ReadonlySet<number> = new Set([
  VhostUserRequest.VHOST_USER_ADD_MEM_REG,
  VhostUserRequest.VHOST_USER_REM_MEM_REG,
  VhostUserRequest.VHOST_USER_GET_CONFIG,
  VhostUserRequest.VHOST_USER_SET_LOG_BASE,
])

/** What a handler says: done (reply if asked), replied already, or why the message is refused. */
type Verdict = 'done' | 'replied' | { readonly refuse: string }
const refuse = (reason: string): Verdict => ({ refuse: reason })

function stateDirection(word: number): StateDirection | undefined {
  if (word === VHOST_TRANSFER_STATE_DIRECTION_SAVE) return 'save'
  return word === VHOST_TRANSFER_STATE_DIRECTION_LOAD ? 'load' : undefined
}

export class VhostUserSession {
  readonly connection: Connection
  readonly rings: readonly Vring[]
  /** Why the session ended, when the peer broke the protocol. */
  violation = ''

  readonly #context: Context
  readonly #device: VhostDevice
  readonly #log: Log
  readonly #config: Uint8Array | undefined
  readonly #offered: bigint
  readonly #offeredProtocol: bigint
  #features = 0n
  #protocol = 0n
  readonly #window: WindowOptions | undefined
  #backendFd = -1
  #channel: BackendChannel | undefined
  #deferred = false
  #logFd = -1
  #hasLog = false
  #owned = false

  constructor(context: Context, arenaAt: number, device: VhostDevice, options: SessionOptions) {
    this.#context = context
    this.#device = device
    this.#log = options.log
    this.#window = options.window
    this.connection = new Connection(context, arenaAt, options.socketFd)
    this.rings = Array.from({ length: MAX_RINGS }, () => new Vring())
    this.#config =
      options.tag === undefined ? undefined : encodeConfig(options.tag, options.requestQueues)
    this.#offered =
      bit(VIRTIO_F_VERSION_1) |
      bit(VIRTIO_RING_F_INDIRECT_DESC) |
      bit(VIRTIO_RING_F_EVENT_IDX) |
      bit(VHOST_USER_F_PROTOCOL_FEATURES) |
      bit(VHOST_F_LOG_ALL)
    const protocol = [
      ProtocolFeature.VHOST_USER_PROTOCOL_F_MQ,
      ProtocolFeature.VHOST_USER_PROTOCOL_F_LOG_SHMFD,
      ProtocolFeature.VHOST_USER_PROTOCOL_F_REPLY_ACK,
      ProtocolFeature.VHOST_USER_PROTOCOL_F_BACKEND_REQ,
      ProtocolFeature.VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD,
      ProtocolFeature.VHOST_USER_PROTOCOL_F_RESET_DEVICE,
      ProtocolFeature.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
      ...(device.migratable ? [ProtocolFeature.VHOST_USER_PROTOCOL_F_DEVICE_STATE] : []),
      ...(this.#window === undefined ? [] : [ProtocolFeature.VHOST_USER_PROTOCOL_F_SHMEM]),
      ...(this.#config === undefined ? [] : [ProtocolFeature.VHOST_USER_PROTOCOL_F_CONFIG]),
    ]
    this.#offeredProtocol = protocol.reduce((word, number) => word | bit(number), 0n)
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
    this.#allDown()
    for (const ring of this.rings) ring.reset()
    this.connection.finish()
    this.#setBackendChannel(-1)
    this.#setLogFd(-1)
    this.#device.guestGone()
    this.#context.raw.clearRegions()
    this.#context.raw.setDirtyLog(-1, 0n, 0n)
    this.#hasLog = false
  }

  #has(feature: number): boolean {
    return (this.#protocol & bit(feature)) !== 0n
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
      connection.needReply && this.#has(ProtocolFeature.VHOST_USER_PROTOCOL_F_REPLY_ACK)
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
    if (rule.gate >= 0 && !this.#has(rule.gate))
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
        return this.#answer(this.#offered)
      case VhostUserRequest.VHOST_USER_SET_FEATURES:
        return this.#setFeatures()
      case VhostUserRequest.VHOST_USER_GET_PROTOCOL_FEATURES:
        return this.#answer(this.#offeredProtocol)
      case VhostUserRequest.VHOST_USER_SET_PROTOCOL_FEATURES:
        return this.#setProtocolFeatures()
      case VhostUserRequest.VHOST_USER_SET_OWNER:
        if (this.#owned) return refuse('the session has an owner already')
        this.#owned = true
        return 'done'
      case VhostUserRequest.VHOST_USER_RESET_OWNER:
      case VhostUserRequest.VHOST_USER_RESET_DEVICE:
        return this.#reset()
      case VhostUserRequest.VHOST_USER_GET_QUEUE_NUM:
        return this.#answer(BigInt(this.rings.length))
      case VhostUserRequest.VHOST_USER_GET_MAX_MEM_SLOTS:
        return this.#answer(MAX_MEM_SLOTS)
      case VhostUserRequest.VHOST_USER_SET_MEM_TABLE:
        return this.#setMemTable()
      case VhostUserRequest.VHOST_USER_ADD_MEM_REG:
        return this.#addMemReg()
      case VhostUserRequest.VHOST_USER_REM_MEM_REG:
        return this.#removeMemReg()
      case VhostUserRequest.VHOST_USER_SET_VRING_NUM:
      case VhostUserRequest.VHOST_USER_SET_VRING_BASE:
      case VhostUserRequest.VHOST_USER_SET_VRING_ENABLE:
      case VhostUserRequest.VHOST_USER_GET_VRING_BASE:
        return this.#vringState()
      case VhostUserRequest.VHOST_USER_SET_VRING_ADDR:
        return this.#setVringAddr()
      case VhostUserRequest.VHOST_USER_SET_VRING_KICK:
      case VhostUserRequest.VHOST_USER_SET_VRING_CALL:
      case VhostUserRequest.VHOST_USER_SET_VRING_ERR:
        return this.#setVringFd()
      case VhostUserRequest.VHOST_USER_SET_BACKEND_REQ_FD:
        this.#setBackendChannel(this.connection.takeFd())
        return 'done'
      case VhostUserRequest.VHOST_USER_SET_LOG_BASE:
        return this.#setLogBase()
      case VhostUserRequest.VHOST_USER_SET_LOG_FD:
        this.#setLogFd(this.connection.takeFd())
        return 'done'
      case VhostUserRequest.VHOST_USER_SET_DEVICE_STATE_FD:
        return this.#setDeviceStateFd()
      case VhostUserRequest.VHOST_USER_CHECK_DEVICE_STATE:
        return this.#checkDeviceState()
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
    return this.connection.replyU64(value)
      ? 'replied'
      : refuse('the front end does not take the reply')
  }

  #u64(): bigint {
    return this.#context.view.getBigUint64(this.connection.payloadAt, true)
  }

  #setFeatures(): Verdict {
    const wanted = this.#u64()
    const surplus = wanted & ~this.#offered
    if (surplus !== 0n) return refuse(`feature bits 0x${surplus.toString(16)} were not offered`)
    this.#features = wanted
    return this.#followLog()
  }

  #setProtocolFeatures(): Verdict {
    const wanted = this.#u64()
    const surplus = wanted & ~this.#offeredProtocol
    if (surplus !== 0n)
      return refuse(`protocol feature bits 0x${surplus.toString(16)} were not offered`)
    this.#protocol = wanted
    return 'done'
  }

  #setBackendChannel(fd: number): void {
    this.#window?.attach(undefined)
    this.#channel?.close()
    this.#channel = undefined
    if (this.#backendFd >= 0) native.closeFd(this.#backendFd)
    this.#backendFd = -1
    if (fd < 0) return
    if (this.#window === undefined || !this.#has(ProtocolFeature.VHOST_USER_PROTOCOL_F_REPLY_ACK)) {
      this.#backendFd = fd
      return
    }
    // Front ends before SHMEM that have a window take descriptors here; others show the guest none.
    const form: WireForm = this.#has(ProtocolFeature.VHOST_USER_PROTOCOL_F_SHMEM)
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
    return this.connection.reply(VhostUserShMemConfig.SIZE)
      ? 'replied'
      : refuse('the front end does not take the reply')
  }

  #reset(): Verdict {
    this.#allDown()
    for (const ring of this.rings) {
      ring.started = false
      ring.enabled = false
      ring.base = 0
      ring.setFd('kickFd', -1)
    }
    this.#device.guestGone()
    return 'done'
  }

  // --- memory -------------------------------------------------------------------------------------

  /** Rings that run are taken down around `change` and go on where they were. */
  #withRingsDown(change: () => Verdict): Verdict {
    const running = this.rings.map(ring => ring.up)
    this.#allDown()
    const verdict = change()
    for (const [index, wasUp] of running.entries()) {
      if (!wasUp) continue
      const fault = this.#up(index)
      if (fault < 0 && verdict === 'done')
        return refuse(`ring ${index} does not lie in the new memory (${errnoName(fault)})`)
    }
    return verdict
  }

  #setMemTable(): Verdict {
    const { connection } = this
    const { view } = this.#context
    const count = VhostUserMemory.f.nregions.get(view, connection.payloadAt)
    if (count > VHOST_MEMORY_BASELINE_NREGIONS || count !== connection.fds.length)
      return refuse(`${count} regions with ${connection.fds.length} descriptors`)
    // User-mode Linux 6.1 sends room for more regions than it names.
    if (connection.payloadBytes < VhostUserMemory.SIZE + count * VhostUserMemoryRegion.SIZE)
      return refuse(`${count} regions in ${connection.payloadBytes} bytes`)
    return this.#withRingsDown(() => {
      this.#context.raw.clearRegions()
      for (let i = 0; i < count; i++) {
        const at = connection.payloadAt + VhostUserMemory.SIZE + i * VhostUserMemoryRegion.SIZE
        const fault = this.#mapRegion(at)
        if (fault < 0) {
          this.#context.raw.clearRegions()
          return refuse(`region ${i} cannot be mapped (${errnoName(fault)})`)
        }
      }
      return 'done'
    })
  }

  /** Maps the region described at `at` with the next descriptor of the message. */
  #mapRegion(at: number): number {
    const { view, raw } = this.#context
    const Region = VhostUserMemoryRegion.f
    const fd = this.connection.takeFd()
    const answer = raw.addRegion(
      fd,
      Region.mmap_offset.get(view, at),
      Region.guest_phys_addr.get(view, at),
      Region.userspace_addr.get(view, at),
      Region.memory_size.get(view, at),
    )
    native.closeFd(fd)
    return answer
  }

  #addMemReg(): Verdict {
    const fault = this.#mapRegion(
      this.connection.payloadAt + VhostUserMemRegMsg.f.guest_phys_addr.offset,
    )
    return fault < 0 ? refuse(`the region cannot be mapped (${errnoName(fault)})`) : 'done'
  }

  #removeMemReg(): Verdict {
    const { view, raw } = this.#context
    const at = this.connection.payloadAt
    const Msg = VhostUserMemRegMsg.f
    const user = Msg.userspace_addr.get(view, at)
    const bytes = Msg.memory_size.get(view, at)
    for (const [index, ring] of this.rings.entries()) {
      if (!ring.up) continue
      for (const address of [ring.descUser, ring.availUser, ring.usedUser])
        if (address >= user && address < user + bytes)
          return refuse(`ring ${index} lies in the region`)
    }
    const fault = raw.removeRegion(Msg.guest_phys_addr.get(view, at), user, bytes)
    return fault < 0 ? refuse('no such region') : 'done'
  }

  // --- rings --------------------------------------------------------------------------------------

  #vringState(): Verdict {
    const { view } = this.#context
    const at = this.connection.payloadAt
    const index = vhost_vring_state.f.index.get(view, at)
    const num = vhost_vring_state.f.num.get(view, at)
    const ring = this.rings[index]
    if (ring === undefined) return refuse(`there is no ring ${index}`)
    switch (this.connection.request) {
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
    vhost_vring_state.f.index.set(view, this.connection.replyPayloadAt, index)
    vhost_vring_state.f.num.set(view, this.connection.replyPayloadAt, ring.base)
    return this.connection.reply(vhost_vring_state.SIZE)
      ? 'replied'
      : refuse('the front end does not take the reply')
  }

  #setVringAddr(): Verdict {
    const { view } = this.#context
    const at = this.connection.payloadAt
    const Addr = vhost_vring_addr.f
    const index = Addr.index.get(view, at)
    const ring = this.rings[index]
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
      if (ring.up) this.#device.ringLog(index, this.#ringLogAt(ring))
      return 'done'
    }
    this.#down(index)
    ring.descUser = desc
    ring.availUser = avail
    ring.usedUser = used
    ring.hasAddress = true
    return this.#follow(index)
  }

  #setVringFd(): Verdict {
    const word = this.#u64()
    const index = Number(word & BigInt(VHOST_USER_VRING_IDX_MASK))
    const noFd = (word & BigInt(VHOST_USER_VRING_NOFD_MASK)) !== 0n
    const ring = this.rings[index]
    if (ring === undefined) return refuse(`there is no ring ${index}`)
    if (noFd !== (this.connection.fds.length === 0))
      return refuse(
        noFd ? 'a descriptor came though none was announced' : 'its descriptor is missing',
      )
    const fd = noFd ? -1 : this.connection.takeFd()
    switch (this.connection.request) {
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
        if ((this.#features & bit(VHOST_USER_F_PROTOCOL_FEATURES)) === 0n) ring.enabled = true
        return this.#follow(index)
    }
  }

  /** Brings a ring up or down as what is known of it says. */
  #follow(index: number): Verdict {
    const ring = this.rings[index]!
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
    const ring = this.rings[index]!
    if (ring.up) return 0
    const answer = this.#device.ringUp(index, {
      size: ring.size,
      descUser: ring.descUser,
      availUser: ring.availUser,
      usedUser: ring.usedUser,
      base: ring.base,
      kickFd: ring.kickFd,
      callFd: ring.callFd,
      eventIdx: (this.#features & bit(VIRTIO_RING_F_EVENT_IDX)) !== 0n,
      indirect: (this.#features & bit(VIRTIO_RING_F_INDIRECT_DESC)) !== 0n,
      logAt: this.#ringLogAt(ring),
    })
    if (answer >= 0) {
      ring.up = true
      this.#log('debug', `ring ${index} is up: ${ring.size} entries, from ${ring.base}`)
    }
    return answer
  }

  #down(index: number): void {
    const ring = this.rings[index]!
    if (!ring.up) return
    ring.up = false
    ring.base = this.#device.ringDown(index)
    this.#log('debug', `ring ${index} is down at ${ring.base}`)
  }

  #allDown(): void {
    for (const index of this.rings.keys()) this.#down(index)
  }

  // --- migration ----------------------------------------------------------------------------------

  get #logging(): boolean {
    return this.#hasLog && (this.#features & bit(VHOST_F_LOG_ALL)) !== 0n
  }

  #ringLogAt(ring: Vring): number {
    return this.#logging && ring.logsUsed ? ring.logAt : -1
  }

  /** Turns logging on or off as features and log say; rings that are up go on. */
  #followLog(): Verdict {
    const on = this.#logging
    this.#context.raw.enableDirtyLog(on)
    for (const [index, ring] of this.rings.entries())
      if (ring.up) this.#device.ringLog(index, this.#ringLogAt(ring))
    return 'done'
  }

  /**
   * Has a reply whether or not one is asked for. There is no way to say in it that the log cannot be
   * mapped, and without it the destination's memory would be wrong in silence: the connection ends.
   */
  #setLogBase(): Verdict {
    if (!this.#has(ProtocolFeature.VHOST_USER_PROTOCOL_F_LOG_SHMFD))
      return refuse('its protocol feature was not negotiated')
    const { connection } = this
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
    this.#hasLog = true
    this.#followLog()
    return this.#answer(0n)
  }

  #setLogFd(fd: number): void {
    this.#device.logCall(fd)
    if (this.#logFd >= 0) native.closeFd(this.#logFd)
    this.#logFd = fd
  }

  /** The reply's low byte says whether it was refused, the bit above that no descriptor comes back. */
  #setDeviceStateFd(): Verdict {
    const why = this.#transferState(this.connection.takeFd())
    if (why === '') return this.#answer(BigInt(VHOST_USER_VRING_NOFD_MASK))
    this.#log('error', `the device's state is not transferred: ${why}`)
    return this.#answer(BigInt(VHOST_USER_VRING_NOFD_MASK) | 1n)
  }

  #transferState(fd: number): string {
    const { view } = this.#context
    const at = this.connection.payloadAt
    const direction = stateDirection(VhostUserTransferDeviceState.f.direction.get(view, at))
    const phase = VhostUserTransferDeviceState.f.phase.get(view, at)
    let why = ''
    if (direction === undefined) why = 'a direction that the protocol does not have'
    else if (phase !== VHOST_TRANSFER_STATE_PHASE_STOPPED)
      why = `phase ${phase}: it is done when everything is stopped`
    else if (this.rings.some(ring => ring.up)) why = 'a ring is running'
    else return this.#device.transferState(direction, fd)
    native.closeFd(fd)
    return why
  }

  #checkDeviceState(): Verdict {
    const why = this.#device.checkState()
    if (why !== '') this.#log('error', `the device's state did not get across: ${why}`)
    return this.#answer(why === '' ? 0n : 1n)
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
    return connection.reply(connection.payloadBytes)
      ? 'replied'
      : refuse('the front end does not take the reply')
  }
}
