/**
 * A guest that caches as Linux does: attributes and names until their timeouts end, counted from when it
 * takes the reply; data until it is told to drop it (fs/fuse/dir.c, inode.c, file.c). One request at a time.
 */
import { closeSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import { openTableFile } from '../../src/coherence/table-file.js'
import { wherePossible } from '../../src/fuse/passthrough.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { type FuseClient, type FuseReply, text } from '../helpers/fuse-client.js'
import { Rig } from '../helpers/rig.js'

/** The clock of guests and leases: real time, unless a test drives it. */
export type Clock = () => number

export interface Times {
  readonly nowMs?: Clock
  readonly pause?: (ms: number) => void
  readonly leaseMs: number
  readonly marginMs: number
  readonly quietMs: number
}

/** What stat(2) tells, as far as tests look. */
export interface Stat {
  readonly size: number
  readonly mtime: number
  readonly mtimeNsec: number
  readonly mode: number
  readonly nlink: number
  readonly ino: number
}

const ATTR = { size: 8, mtime: 32, mtimeNsec: 52, mode: 60, nlink: 64 } as const

export function statOf(body: DataView, at: number): Stat {
  return {
    size: Number(body.getBigUint64(at + ATTR.size, true)),
    mtime: Number(body.getBigInt64(at + ATTR.mtime, true)),
    mtimeNsec: body.getUint32(at + ATTR.mtimeNsec, true),
    mode: body.getUint32(at + ATTR.mode, true),
    nlink: body.getUint32(at + ATTR.nlink, true),
    ino: Number(body.getBigUint64(at, true)),
  }
}

function milliseconds(body: DataView, secondsAt: number, nsecAt: number): number {
  return Number(body.getBigUint64(secondsAt, true)) * 1000 + body.getUint32(nsecAt, true) / 1e6
}

/** Of a reply with fuse_entry_out at `at`. */
export function entryOf(body: DataView, at = 0) {
  return {
    nodeid: Number(body.getBigUint64(at, true)),
    entryMs: milliseconds(body, at + 16, at + 32),
    attrMs: milliseconds(body, at + 24, at + 36),
    stat: statOf(body, at + 40),
  }
}

export function attrOf(body: DataView) {
  return { attrMs: milliseconds(body, 0, 8), stat: statOf(body, 16) }
}

export const Fattr = { mode: 1, size: 8, mtime: 32 } as const

export function setattrBody(valid: number, values: Partial<Stat>): Uint8Array {
  const body = new Uint8Array(88)
  const view = new DataView(body.buffer)
  view.setUint32(0, valid, true)
  view.setBigUint64(16, BigInt(values.size ?? 0), true)
  view.setBigInt64(40, BigInt(values.mtime ?? 0), true)
  view.setUint32(60, values.mtimeNsec ?? 0, true)
  view.setUint32(68, values.mode ?? 0, true)
  return body
}

export function writeBody(fh: bigint, offset: number, data: Uint8Array): Uint8Array {
  return concat(u64(fh), u64(BigInt(offset)), u32s(data.length, 0), u64(0n), u32s(0, 0), data)
}

interface Cached<T> {
  value: T
  untilMs: number
}

export class MockGuest {
  readonly rig: Rig
  readonly #nowMs: Clock
  readonly client: FuseClient
  readonly attributes = new Map<number, Cached<Stat>>()
  /** By name in the root; undefined: there is no such name. */
  readonly names = new Map<string, Cached<number | undefined>>()
  /** Requests not sent, as the answer was cached. */
  hits = 0
  #take: ((reply: FuseReply) => void) | undefined
  #takeAtMs = 0
  #lateMs = 0
  #reply: FuseReply | undefined

  constructor(rig: Rig, nowMs: Clock = () => performance.now()) {
    this.rig = rig
    this.#nowMs = nowMs
    this.client = rig.client()
  }

  get busy(): boolean {
    return this.#take !== undefined
  }

  /** Sends a request; `take` gets the reply when `poll` finds it, `lateMs` after it came. */
  start(
    opcode: number,
    nodeid: number,
    body: Uint8Array,
    take: (reply: FuseReply) => void,
    lateMs = 0,
  ): void {
    if (this.busy) throw new Error('one request at a time')
    this.client.send(opcode, nodeid, body)
    this.#take = take
    this.#lateMs = lateMs
  }

  poll(): void {
    if (this.#take === undefined) {
      this.rig.pump()
      return
    }
    if (this.#reply === undefined) {
      this.#reply = this.client.take()
      if (this.#reply === undefined) return
      this.#takeAtMs = this.#nowMs() + this.#lateMs
    }
    if (this.#nowMs() < this.#takeAtMs) return
    const take = this.#take
    const reply = this.#reply
    this.#take = undefined
    this.#reply = undefined
    take(reply)
  }

  keepAttributes(nodeid: number, ms: number, stat: Stat): void {
    if (ms === 0) this.attributes.delete(nodeid)
    else this.attributes.set(nodeid, { value: stat, untilMs: this.#nowMs() + ms })
  }

  cachedAttributes(nodeid: number): Stat | undefined {
    const cached = this.attributes.get(nodeid)
    return cached !== undefined && this.#nowMs() < cached.untilMs ? cached.value : undefined
  }

  keepName(name: string, ms: number, nodeid: number | undefined): void {
    if (ms === 0) this.names.delete(name)
    else this.names.set(name, { value: nodeid, untilMs: this.#nowMs() + ms })
  }

  cachedName(name: string): Cached<number | undefined> | undefined {
    const cached = this.names.get(name)
    return cached !== undefined && this.#nowMs() < cached.untilMs ? cached : undefined
  }

  /** The reply of LOOKUP, as the kernel takes it. */
  tookLookup(name: string, reply: FuseReply): number | undefined {
    if (reply.error !== 0) {
      this.names.delete(name)
      return undefined
    }
    const entry = entryOf(reply.body)
    const nodeid = entry.nodeid === 0 ? undefined : entry.nodeid
    this.keepName(name, entry.entryMs, nodeid)
    if (nodeid !== undefined) this.keepAttributes(nodeid, entry.attrMs, entry.stat)
    return nodeid
  }

  // --- the same, waited for ----------------------------------------------------------------------------

  lookup(name: string) {
    const reply = this.client.request(Opcode.FUSE_LOOKUP, 1, text(name))!
    this.tookLookup(name, reply)
    return { error: reply.error, ...(reply.error === 0 ? entryOf(reply.body) : NO_ENTRY) }
  }

  getattr(nodeid: number) {
    return attrOf(this.client.do(Opcode.FUSE_GETATTR, nodeid, concat(u32s(0, 0), u64(0n))).body)
  }

  setattr(nodeid: number, valid: number, values: Partial<Stat>) {
    return attrOf(this.client.do(Opcode.FUSE_SETATTR, nodeid, setattrBody(valid, values)).body)
  }

  /** open(2): handle, and whether the guest may keep the pages it has. */
  open(nodeid: number, flags = 2): { fh: bigint; keepCache: boolean } {
    const { body } = this.client.do(Opcode.FUSE_OPEN, nodeid, u32s(flags, 0))
    return { fh: body.getBigUint64(0, true), keepCache: (body.getUint32(8, true) & 2) !== 0 }
  }
}

const NO_ENTRY = { nodeid: 0, entryMs: 0, attrMs: 0, stat: undefined }

/** `count` guests, a daemon of its own each, on one directory and one table. Gone with the test. `prepare`: before. */
export function mockGuests(
  t: ExecutionContext,
  count: number,
  times: Times,
  prepare?: (folder: string) => void,
): { folder: string; table: string; guests: MockGuest[] } {
  const home = mkdtempSync('/dev/shm/virtiofsd-coherence-')
  const folder = mkdtempSync(join(home, 'share-'))
  const table = join(home, 'table')
  t.teardown(() => rmSync(home, { recursive: true }))
  prepare?.(folder)
  const fds: number[] = []
  const guests = Array.from({ length: count }, () => {
    const tableFd = openTableFile(table)
    fds.push(tableFd)
    return new MockGuest(
      new Rig({
        folder,
        keepsMetadata: true,
        fuse: { passthrough: wherePossible },
        coherence: { tableFd, ...times },
      }),
      times.nowMs,
    )
  })
  t.teardown(() => {
    for (const guest of guests) guest.rig.close()
    for (const fd of fds) closeSync(fd)
  })
  return { folder, table, guests }
}
