/**
 * The back-end channel: requests of ours to the front end, on the socket that SET_BACKEND_REQ_FD brought.
 * Two wire forms ask for the same: BACKEND_SHMEM_MAP and UNMAP of the specification (QEMU 11.1), and
 * FS_MAP and FS_UNMAP of older, patched front ends (Kata's QEMU).
 *
 * QEMU answers a mapping before it has carried it out, so a request without effect follows each: when
 * that one is answered, the former is done. Meanwhile QEMU itself asks on the main socket (each mapping
 * is a memory region) and waits for us: that socket is served while we wait.
 * Source: QEMU docs/interop/vhost-user.rst, and what QEMU 11.1 was seen to do.
 */
import { Errno } from '../../protocol/errno.js'
import {
  backendMessageName,
  VHOST_USER_NEED_REPLY_MASK,
  VHOST_USER_REPLY_MASK,
  VHOST_USER_VERSION,
  VhostUserBackendRequest,
} from '../../protocol/vhost-user/messages.js'
import {
  VHOST_USER_FLAG_MAP_RW,
  VhostUserFsBackendMsg,
  VhostUserFsRequest,
  VhostUserHeader,
  VhostUserMMap,
  VhostUserShared,
  VHOST_USER_FS_FLAG_MAP_R,
  VHOST_USER_FS_FLAG_MAP_W,
} from '../../protocol/vhost-user/payloads.js'
import { native } from '../native/addon.js'
import type { Context, Received } from '../native/context.js'
import type { Log } from './log.js'

/** Arena bytes a channel needs: two requests that go out together, and a reply. */
export const CHANNEL_BYTES = 1024
const REPLY_AT = 768
const REPLY_BYTES = VhostUserHeader.SIZE + 8
/** Of the event set, while a reply is waited for; nobody looks at it. */
const CHANNEL_TOKEN = 3
/** A front end that does not answer for so long is taken for broken. */
const ANSWER_LIMIT_MS = 5000
/**
 * Mappings that QEMU 11.1 carries. Each is a memory region, of which it has 512, guest memory included; one more and it
 * aborts (hw/virtio/vhost-user.c:950, `dev->mem->nregions <= VHOST_USER_MAX_RAM_SLOTS`, observed with the 512th).
 */
export const MAX_SHMEM_MAPPINGS = 480

export type WireForm = 'shmem' | 'fs-map'

/** `blocked`: there is a message that must wait until the request in hand is done. */
export type Served = 'idle' | 'blocked' | 'closed'

export class BackendChannel {
  readonly form: WireForm
  /** Requests sent, and how many of them the front end refused. */
  sent = 0
  refused = 0
  readonly #context: Context
  readonly #at: number
  readonly #serve: () => Served
  readonly #log: Log
  readonly #received: Received = { bytes: 0, fdCount: 0, truncated: false }
  readonly #limitMs: number
  #fd: number
  /** Replies that will still come to requests nobody waits for any more. */
  #stale = 0
  #have = 0

  /** Owns `fd`, non-blocking from now on. `serve` handles what is on the main socket. */
  constructor(
    context: Context,
    arenaAt: number,
    fd: number,
    form: WireForm,
    serve: () => Served,
    log: Log,
    limitMs = ANSWER_LIMIT_MS,
  ) {
    this.#context = context
    this.#at = arenaAt
    this.#fd = fd
    this.form = form
    this.#serve = serve
    this.#log = log
    this.#limitMs = limitMs
    native.setNonBlocking(fd, true)
  }

  /** Mappings there may be at once. */
  get most(): number {
    return this.form === 'shmem' ? MAX_SHMEM_MAPPINGS : Number.POSITIVE_INFINITY
  }

  get open(): boolean {
    return this.#fd >= 0
  }

  close(): void {
    if (this.#fd >= 0) native.closeFd(this.#fd)
    this.#fd = -1
  }

  /**
   * Has `bytes` bytes of `fd` from `fdOffset` on appear at `offset` of shared memory region `shmid`, writable. When it
   * answers 0 the guest sees them. Errors: EIO refused; EAGAIN the front end wants something else first, and
   * whether it is mapped is not known; EPIPE the channel is gone.
   */
  map(shmid: number, fd: number, fdOffset: number, offset: number, bytes: number): number {
    this.#context.fds[0] = fd
    if (this.form === 'fs-map') {
      const flags = VHOST_USER_FS_FLAG_MAP_R | VHOST_USER_FS_FLAG_MAP_W
      const size = this.#fsMessage(fdOffset, offset, BigInt(bytes), flags)
      return this.#ask(VhostUserFsRequest.VHOST_USER_BACKEND_FS_MAP, size, 1)
    }
    const size = this.#mapMessage(shmid, fdOffset, offset, bytes, VHOST_USER_FLAG_MAP_RW)
    return this.#ask(VhostUserBackendRequest.VHOST_USER_BACKEND_SHMEM_MAP, size, 1)
  }

  /** Ends exactly one `map`. Errors as there. */
  unmap(shmid: number, offset: number, bytes: number): number {
    if (this.form === 'fs-map') {
      const size = this.#fsMessage(0, offset, BigInt(bytes), 0n)
      return this.#ask(VhostUserFsRequest.VHOST_USER_BACKEND_FS_UNMAP, size, 0)
    }
    const size = this.#mapMessage(shmid, 0, offset, bytes, 0n)
    return this.#ask(VhostUserBackendRequest.VHOST_USER_BACKEND_SHMEM_UNMAP, size, 0)
  }

  #mapMessage(
    shmid: number,
    fdOffset: number,
    offset: number,
    bytes: number,
    flags: bigint,
  ): number {
    const at = this.#at + VhostUserHeader.SIZE
    const { view } = this.#context
    this.#context.bytes.fill(0, at, at + VhostUserMMap.SIZE)
    const Place = VhostUserMMap.f
    Place.shmid.set(view, at, shmid)
    Place.fd_offset.set(view, at, BigInt(fdOffset))
    Place.shm_offset.set(view, at, BigInt(offset))
    Place.len.set(view, at, BigInt(bytes))
    Place.flags.set(view, at, flags)
    return VhostUserMMap.SIZE
  }

  /** The first of eight entries; a length of 0 ends them. */
  #fsMessage(fdOffset: number, offset: number, bytes: bigint, flags: bigint): number {
    const at = this.#at + VhostUserHeader.SIZE
    const { view } = this.#context
    this.#context.bytes.fill(0, at, at + VhostUserFsBackendMsg.SIZE)
    const Fs = VhostUserFsBackendMsg.f
    Fs.fd_offset0.set(view, at, BigInt(fdOffset))
    Fs.c_offset0.set(view, at, BigInt(offset))
    Fs.len0.set(view, at, bytes)
    Fs.flags0.set(view, at, flags)
    return VhostUserFsBackendMsg.SIZE
  }

  /** Sends the request whose payload is ready, and the one behind it; waits for the answers to both. */
  #ask(request: number, payloadBytes: number, fdCount: number): number {
    if (this.#fd < 0) return -Errno.EPIPE
    const first = this.#header(this.#at, request, payloadBytes)
    if (!this.#send(this.#at, first, fdCount)) return this.#broken('does not take requests')
    this.sent++
    // Every request has a reply of its own: they come in the order of the requests.
    let replies = 1
    if (this.form === 'shmem') {
      const at = this.#at + first
      const bytes = this.#header(
        at,
        VhostUserBackendRequest.VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE,
        VhostUserShared.SIZE,
      )
      // A uuid that no shared object has.
      this.#context.bytes.fill(0xfe, at + VhostUserHeader.SIZE, at + bytes)
      if (!this.#send(at, bytes, 0)) return this.#broken('does not take requests')
      replies = 2
    }
    return this.#await(request, replies)
  }

  #header(at: number, request: number, bytes: number): number {
    const { view } = this.#context
    VhostUserHeader.f.request.set(view, at, request)
    VhostUserHeader.f.flags.set(view, at, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY_MASK)
    VhostUserHeader.f.size.set(view, at, bytes)
    return VhostUserHeader.SIZE + bytes
  }

  #send(at: number, bytes: number, fdCount: number): boolean {
    return this.#context.raw.send(this.#fd, at, bytes, fdCount) === bytes
  }

  #await(request: number, replies: number): number {
    const context = this.#context
    const limit = performance.now() + this.#limitMs
    let left = replies
    let outcome = 0
    context.raw.watchFd(this.#fd, CHANNEL_TOKEN, false)
    const end = (answer: number): number => {
      if (this.#fd >= 0) context.raw.unwatchFd(this.#fd)
      return answer
    }
    for (;;) {
      const got = this.#reply()
      if (got === 'closed') return end(this.#broken('closed its end'))
      if (got === 'bad') return end(this.#broken('answers what no reply is'))
      if (got === 'reply') {
        if (this.#stale > 0) {
          this.#stale--
          continue
        }
        const expected =
          left === replies
            ? request
            : VhostUserBackendRequest.VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE
        const value = this.#value(expected)
        if (value < 0) return end(this.#broken('answers another request'))
        if (left === replies && value !== 0) {
          this.refused++
          outcome = -Errno.EIO
        }
        if (--left === 0) return end(outcome)
        continue
      }
      const served = this.#serve()
      if (served !== 'idle') {
        this.#stale += left
        return end(served === 'closed' ? -Errno.EPIPE : -Errno.EAGAIN)
      }
      const leftMs = limit - performance.now()
      if (leftMs <= 0)
        return end(
          this.#broken(`does not answer ${backendMessageName(request)} in ${this.#limitMs} ms`),
        )
      context.wait(Math.ceil(leftMs), 0)
    }
  }

  /** Takes what there is, up to one whole reply. */
  #reply(): 'reply' | 'more' | 'closed' | 'bad' {
    const context = this.#context
    const at = this.#at + REPLY_AT
    while (this.#have < REPLY_BYTES) {
      const got = context.receive(
        this.#fd,
        at + this.#have,
        REPLY_BYTES - this.#have,
        this.#received,
      )
      for (let i = 0; i < this.#received.fdCount; i++) native.closeFd(context.fds[i]!)
      if (got === -Errno.EAGAIN) return 'more'
      if (got <= 0) return 'closed'
      this.#have += got
    }
    this.#have = 0
    const { view } = context
    const flags = VhostUserHeader.f.flags.get(view, at)
    const isReply = flags === (VHOST_USER_VERSION | VHOST_USER_REPLY_MASK)
    return isReply && VhostUserHeader.f.size.get(view, at) === 8 ? 'reply' : 'bad'
  }

  /** 0: done, 1: refused, -1: it is the answer to something else. */
  #value(request: number): number {
    const at = this.#at + REPLY_AT
    const { view } = this.#context
    if (VhostUserHeader.f.request.get(view, at) !== request) return -1
    return view.getBigUint64(at + VhostUserHeader.SIZE, true) === 0n ? 0 : 1
  }

  #broken(what: string): number {
    this.#log('error', `the front end ${what} on the back-end channel: no DAX mappings any more`)
    this.#context.raw.unwatchFd(this.#fd)
    this.close()
    return -Errno.EPIPE
  }
}
