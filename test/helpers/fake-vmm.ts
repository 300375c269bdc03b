/**
 * The part of a VMM that has a DAX window: it keeps the window in memory as QEMU 11.1 does, answers on the
 * back-end channel, and checks every rule that src/dax/window.ts keeps. Encoders and decoders by hand.
 */
import { fstatSync, ftruncateSync, readSync, writeSync } from 'node:fs'
import { native } from '../../src/native/addon.js'
import { Context } from '../../src/native/context.js'
import { concat, type FrontEnd, region, u32s, u64 } from './front-end.js'

const PAGE = 4096
const MAIN = { SET_BACKEND_REQ_FD: 21, ADD_MEM_REG: 37, REM_MEM_REG: 38 } as const
/** Where the window lies in guest and user addresses. */
export const WINDOW_GUEST = 0x1_0000_0000n
const WINDOW_USER = 0x7e00_0000_0000n

export interface Mapped {
  readonly fd: number
  readonly fdOffset: number
  readonly bytes: number
}

export interface VmmOptions {
  /** Sends ADD_MEM_REG and REM_MEM_REG and waits for the answers before it answers itself, as QEMU does. */
  readonly regions?: boolean
  /** The wire form of Kata's QEMU. */
  readonly legacy?: boolean
}

export class FakeVmm {
  readonly mappings = new Map<number, Mapped>()
  /** What it saw, in order: `map 0+4096`, `unmap ...`, `barrier`. */
  readonly journal: string[] = []
  /** Rules that were broken. */
  readonly faults: string[] = []
  /** Refuses the next so many mappings or unmappings. */
  refuse = 0
  /** Does not answer any more. */
  silent = false
  /** Called when a MAP came, before it is answered. */
  onMap: (fd: number) => void = () => undefined
  /** Called when an UNMAP came, before it is done. */
  onUnmap: (mapped: Mapped | undefined) => void = () => undefined
  /** Bytes sent instead of the next reply. */
  instead: Uint8Array | undefined
  readonly #front: FrontEnd
  readonly #context = new Context({ arenaBytes: 16384, maxSegments: 16, poolThreads: 1 })
  readonly #received = { bytes: 0, fdCount: 0, truncated: false }
  readonly #options: VmmOptions
  #socket = -1
  readonly #acked = new Map<number, Mapped>()
  /** The message on the main socket whose answer is waited for, and the reply that waits for it. */
  #asked = 0
  #held: Uint8Array | undefined

  constructor(front: FrontEnd, options: VmmOptions = {}) {
    this.#front = front
    this.#options = options
  }

  /** Gives the back end its channel; the pump then serves this end too. */
  connect(): void {
    const pair = new Int32Array(2)
    native.socketPair(pair)
    this.#socket = pair[0]!
    native.setNonBlocking(this.#socket, true)
    this.#front.ask(MAIN.SET_BACKEND_REQ_FD, new Uint8Array(0), [pair[1]!])
    native.closeFd(pair[1]!)
  }

  close(): void {
    this.hangUp()
    for (const { fd } of this.mappings.values()) native.closeFd(fd)
    this.mappings.clear()
    this.#context.dispose()
  }

  hangUp(): void {
    if (this.#socket >= 0) native.closeFd(this.#socket)
    this.#socket = -1
  }

  /** The guest's device was reset: QEMU drops everything. */
  dropAll(): void {
    for (const { fd } of this.mappings.values()) native.closeFd(fd)
    this.mappings.clear()
  }

  /** Serves what the back end asks. */
  serve(): void {
    for (;;) {
      if (this.#socket < 0 || this.silent || !this.#answered()) return
      const held = this.#held
      this.#held = undefined
      if (held !== undefined) this.#reply(held)
      else if (!this.#one()) return
    }
  }

  #one(): boolean {
    const { view, fds } = this.#context
    const got = this.#context.receive(this.#socket, 0, 12, this.#received)
    if (got <= 0) return false
    const fd = this.#received.fdCount > 0 ? fds[0]! : -1
    if (got < 12) throw new Error('half a header on the back-end channel')
    const request = view.getUint32(0, true)
    const flags = view.getUint32(4, true)
    const size = view.getUint32(8, true)
    if (flags !== 9) this.faults.push(`flags ${flags}: version 1 and need_reply it must be`)
    if (size > 0 && this.#context.receive(this.#socket, 64, size, this.#received) !== size)
      throw new Error('half a payload on the back-end channel')
    const value =
      this.#options.legacy === true
        ? this.#legacy(request, size, fd)
        : this.#shmem(request, size, fd)
    const reply = this.instead ?? concat(u32s(request, 5, 8), u64(value))
    this.instead = undefined
    if (this.#asked === 0) this.#reply(reply)
    else this.#held = reply
    return true
  }

  #reply(reply: Uint8Array): void {
    this.#context.bytes.set(reply, 4096)
    this.#context.raw.send(this.#socket, 4096, reply.length, 0)
  }

  #shmem(request: number, size: number, fd: number): bigint {
    const { view } = this.#context
    if (request === 7) {
      if (size !== 16) this.faults.push(`a uuid of ${size} bytes`)
      this.journal.push('barrier')
      // Only now is it done, in QEMU.
      for (const [at, mapped] of this.#acked) this.mappings.set(at, mapped)
      this.#acked.clear()
      return 0n
    }
    if ((request !== 9 && request !== 10) || size !== 40) {
      this.faults.push(`request ${request} of ${size} bytes`)
      return 1n
    }
    if (view.getUint8(64) !== 0) this.faults.push(`shmid ${view.getUint8(64)}`)
    const word = (index: number): number => Number(view.getBigUint64(64 + 8 * index, true))
    if (request === 9 && word(4) !== 1) this.faults.push(`flags ${word(4)}`)
    return request === 9
      ? this.#map(fd, word(1), word(2), word(3))
      : this.#unmap(fd, word(2), word(3))
  }

  #legacy(request: number, size: number, fd: number): bigint {
    const { view } = this.#context
    if ((request !== 6 && request !== 7) || size !== 256) {
      this.faults.push(`request ${request} of ${size} bytes`)
      return 1n
    }
    const word = (array: number, index: number): number =>
      Number(view.getBigUint64(64 + 64 * array + 8 * index, true))
    for (let i = 1; i < 8; i++) if (word(2, i) !== 0) this.faults.push(`entry ${i} is in use`)
    if (request === 6 && word(3, 0) !== 3) this.faults.push(`flags ${word(3, 0)}`)
    const answer =
      request === 6
        ? this.#map(fd, word(0, 0), word(1, 0), word(2, 0))
        : this.#unmap(fd, word(1, 0), word(2, 0))
    for (const [at, mapped] of this.#acked) this.mappings.set(at, mapped)
    this.#acked.clear()
    return answer
  }

  #map(fd: number, fdOffset: number, at: number, bytes: number): bigint {
    this.journal.push(`map ${at}+${bytes}`)
    if (fd < 0) this.faults.push('a mapping without a descriptor')
    this.onMap(fd)
    if (this.refuse > 0) {
      this.refuse--
      native.closeFd(fd)
      return 1n
    }
    const problem = this.#problem(fd, fdOffset, at, bytes)
    if (problem !== '') {
      this.faults.push(problem)
      native.closeFd(fd)
      return 1n
    }
    this.#acked.set(at, { fd, fdOffset, bytes })
    if (this.#options.regions === true) this.#tell(MAIN.ADD_MEM_REG, at, bytes, fdOffset, fd)
    return 0n
  }

  /** Traps 1.5 and 1.6, as QEMU 11.1 finds them. */
  #problem(fd: number, fdOffset: number, at: number, bytes: number): string {
    const { size } = fstatSync(fd)
    if (size === 0) {
      // Trap 4: it makes the host's file longer.
      ftruncateSync(fd, fdOffset + bytes)
      return 'an empty file was mapped'
    }
    // Observed: QEMU aborts.
    if (this.mappings.size + this.#acked.size >= 500)
      return 'more than 512 memory regions: QEMU is dead'
    if (bytes === 0 || at % PAGE !== 0 || fdOffset % PAGE !== 0)
      return `${at}+${bytes} from ${fdOffset}`
    if (fdOffset + Math.ceil(bytes / PAGE) * PAGE > size)
      return `trap 2: ${fdOffset}+${bytes} of a file of ${size}`
    if (!writable(fd)) return 'trap 1: the descriptor cannot write'
    for (const [other, mapped] of [...this.mappings, ...this.#acked])
      if (at < other + mapped.bytes && other < at + bytes)
        return `${at}+${bytes} overlaps ${other}+${mapped.bytes}`
    return ''
  }

  #unmap(fd: number, at: number, bytes: number): bigint {
    this.journal.push(`unmap ${at}+${bytes}`)
    if (fd >= 0) this.faults.push('an unmapping with a descriptor')
    if (this.refuse > 0) {
      this.refuse--
      return 1n
    }
    const mapped = this.mappings.get(at)
    this.onUnmap(mapped)
    if (mapped === undefined || mapped.bytes !== bytes) return 1n
    this.mappings.delete(at)
    if (this.#options.regions === true)
      this.#tell(MAIN.REM_MEM_REG, at, bytes, mapped.fdOffset, mapped.fd)
    native.closeFd(mapped.fd)
    return 0n
  }

  /** Each mapping is a memory region: QEMU asks on the main socket and waits before it goes on. */
  #tell(request: number, at: number, bytes: number, fdOffset: number, fd: number): void {
    const place = region(
      WINDOW_GUEST + BigInt(at),
      BigInt(bytes),
      WINDOW_USER + BigInt(at),
      BigInt(fdOffset),
    )
    const fds = request === MAIN.ADD_MEM_REG ? [fd] : []
    this.#front.send(request, concat(u64(0n), place), fds, 9)
    this.#asked = request
  }

  /** False while the answer on the main socket is not there. */
  #answered(): boolean {
    if (this.#asked === 0) return true
    const { context, socket } = this.#front
    const got = context.receive(socket, 12288, 20, this.#received)
    if (got < 0) return false
    const { view } = context
    if (
      got !== 20 ||
      view.getUint32(12288, true) !== this.#asked ||
      view.getBigUint64(12300, true) !== 0n
    )
      this.faults.push(`message ${this.#asked} was not answered with 0`)
    this.#asked = 0
    return true
  }

  /** What the guest reads in the window; zeros where nothing is mapped. Throws where a VMM would die of SIGBUS. */
  read(at: number, bytes: number): Buffer {
    const out = Buffer.alloc(bytes)
    for (const [from, mapped] of this.mappings) {
      const start = Math.max(at, from)
      const end = Math.min(at + bytes, from + mapped.bytes)
      if (start >= end) continue
      const offset = mapped.fdOffset + start - from
      const size = fstatSync(mapped.fd).size
      if (offset + (end - start) > Math.ceil(size / PAGE) * PAGE)
        throw new Error('SIGBUS: the VMM is dead')
      readSync(mapped.fd, out, start - at, end - start, offset)
    }
    return out
  }

  /** A store of the guest; what lies past the end of the file in its last page goes nowhere. */
  write(at: number, data: Buffer): void {
    for (const [from, mapped] of this.mappings) {
      if (at < from || at >= from + mapped.bytes) continue
      const offset = mapped.fdOffset + at - from
      const { size } = fstatSync(mapped.fd)
      writeSync(mapped.fd, data, 0, Math.min(data.length, size - offset), offset)
      return
    }
    throw new Error(`a store into nothing at ${at}`)
  }
}

function writable(fd: number): boolean {
  try {
    // Nothing is written: only the descriptor's mode is looked at.
    writeSync(fd, new Uint8Array(0), 0, 0, 0)
    return true
  } catch {
    return false
  }
}
