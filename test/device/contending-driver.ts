/** What each driver thread of several-queues.test.ts does: tasks that get into each other's way, and their model. */
import { parentPort, workerData } from 'node:worker_threads'
import { Errno } from '../../protocol/errno.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import { SPREAD_BYTES } from '../../src/fuse/spreading.js'
import { native } from '../../src/native/addon.js'
import { type Ask, drive, type Task } from '../helpers/driver-thread.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { type FuseReply, text } from '../helpers/fuse-client.js'
import {
  type Account,
  BIG_BYTES,
  bigByte,
  type Order,
  record,
  SLOT_BYTES,
  SLOTS,
} from './contention.js'

const NAMES = 12
const ROOT = 1
const O_RDWR = 2
const O_CREAT_EXCL = 0o300
const RENAME_NOREPLACE = 1
const FATTR_SIZE = 8

type Work<T> = Generator<Ask, T, FuseReply>

class Contender {
  readonly #order: Order
  #state: number
  readonly #lookups = new Map<number, number>()
  names = 0
  readonly appended: number[] = []

  constructor(order: Order) {
    this.#order = order
    this.#state = order.seed * 977 + order.number * 7919 + 1
  }

  get lookups(): [number, number][] {
    return [...this.#lookups].filter(([, count]) => count > 0)
  }

  tasks(): Task[] {
    return [
      this.#namespace(),
      this.#namespace(),
      this.#append(),
      this.#append(),
      this.#slots(),
      this.#ownFile(),
      this.#bigReads(),
      this.#ownNames(),
    ]
  }

  /** mulberry32. */
  #below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let x = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) % limit
  }

  // --- requests -----------------------------------------------------------------------------------

  *#ask(
    opcode: number,
    nodeid: number,
    body: Uint8Array,
    allowed: readonly number[] = [],
    room = 4112,
  ): Work<FuseReply> {
    const reply = yield { opcode, nodeid, body, room }
    if (reply.error !== 0 && !allowed.includes(-reply.error))
      throw new Error(`driver ${this.#order.number}: opcode ${opcode} answers ${reply.error}`)
    return reply
  }

  /** One that answers a fuse_entry_out: the nodeid, whose lookup is noted; 0 where it fails as it may. */
  *#entry(
    opcode: number,
    nodeid: number,
    body: Uint8Array,
    allowed: readonly number[],
  ): Work<number> {
    const reply = yield* this.#ask(opcode, nodeid, body, allowed)
    if (reply.error !== 0) return 0
    const granted = Number(reply.body.getBigUint64(0, true))
    if (granted !== 0) this.#lookups.set(granted, (this.#lookups.get(granted) ?? 0) + 1)
    return granted
  }

  *#lookup(parent: number, name: string): Work<number> {
    return yield* this.#entry(Opcode.FUSE_LOOKUP, parent, text(name), [Errno.ENOENT])
  }

  /** Gives back one lookup that the caller was granted. */
  *#forget(nodeid: number): Work<void> {
    yield { opcode: Opcode.FUSE_FORGET, nodeid, body: u64(1n), room: 0 }
    this.#lookups.set(nodeid, this.#lookups.get(nodeid)! - 1)
  }

  *#open(nodeid: number, flags: number): Work<bigint> {
    const reply = yield* this.#ask(Opcode.FUSE_OPEN, nodeid, u32s(flags, 0))
    return reply.body.getBigUint64(0, true)
  }

  *#release(nodeid: number, fh: bigint, opcode: number = Opcode.FUSE_RELEASE): Work<void> {
    yield* this.#ask(opcode, nodeid, concat(u64(fh), u32s(0, 0), u64(0n)))
  }

  *#read(nodeid: number, fh: bigint, offset: number, size: number): Work<Uint8Array> {
    const body = concat(u64(fh), u64(BigInt(offset)), u32s(size, 0), u64(0n), u32s(0, 0))
    return (yield* this.#ask(Opcode.FUSE_READ, nodeid, body, [], 16 + size)).bytes
  }

  *#write(nodeid: number, fh: bigint, offset: number, data: Uint8Array): Work<void> {
    const head = concat(u64(fh), u64(BigInt(offset)), u32s(data.length, 0), u64(0n), u32s(0, 0))
    const reply = yield* this.#ask(Opcode.FUSE_WRITE, nodeid, concat(head, data))
    const written = reply.body.getUint32(0, true)
    if (written !== data.length) throw new Error(`${written} of ${data.length} bytes were written`)
  }

  *#size(nodeid: number): Work<number> {
    const reply = yield* this.#ask(Opcode.FUSE_GETATTR, nodeid, concat(u32s(0, 0), u64(0n)))
    return Number(reply.body.getBigUint64(16 + 8, true))
  }

  // --- tasks --------------------------------------------------------------------------------------

  /** Names that every driver makes, moves and removes. */
  *#namespace(): Task {
    const folder = yield* this.#lookup(ROOT, 'shared')
    const { ENOENT, EEXIST, EISDIR, ENOTDIR, ESTALE, EPERM } = Errno
    for (let round = 0; round < this.#order.rounds; round++) {
      const name = `n${this.#below(NAMES)}`
      let node = 0
      switch (this.#below(10)) {
        case 0: {
          const body = concat(u32s(O_RDWR | O_CREAT_EXCL, 0o100644, 0, 0), text(name))
          const reply = yield* this.#ask(Opcode.FUSE_CREATE, folder, body, [EEXIST])
          if (reply.error !== 0) break
          this.names++
          node = Number(reply.body.getBigUint64(0, true))
          this.#lookups.set(node, (this.#lookups.get(node) ?? 0) + 1)
          yield* this.#release(node, reply.body.getBigUint64(128, true))
          break
        }
        case 1: {
          const reply = yield* this.#ask(Opcode.FUSE_UNLINK, folder, text(name), [ENOENT, EISDIR])
          if (reply.error === 0) this.names--
          break
        }
        case 2: {
          const body = concat(u32s(0o755, 0), text(name))
          node = yield* this.#entry(Opcode.FUSE_MKDIR, folder, body, [EEXIST])
          if (node !== 0) this.names++
          break
        }
        case 3: {
          const reply = yield* this.#ask(Opcode.FUSE_RMDIR, folder, text(name), [ENOENT, ENOTDIR])
          if (reply.error === 0) this.names--
          break
        }
        case 4: {
          const body = concat(text(name), text('nowhere'))
          node = yield* this.#entry(Opcode.FUSE_SYMLINK, folder, body, [EEXIST])
          if (node !== 0) this.names++
          break
        }
        case 5: {
          const of = yield* this.#lookup(folder, `n${this.#below(NAMES)}`)
          if (of === 0) break
          const body = concat(u64(BigInt(of)), text(name))
          const allowed = [EEXIST, ENOENT, ESTALE, EPERM]
          node = yield* this.#entry(Opcode.FUSE_LINK, folder, body, allowed)
          if (node !== 0) this.names++
          yield* this.#forget(of)
          break
        }
        case 6: {
          const flags = concat(u64(BigInt(folder)), u32s(RENAME_NOREPLACE, 0))
          const body = concat(flags, text(name), text(`n${this.#below(NAMES)}`))
          yield* this.#ask(Opcode.FUSE_RENAME2, folder, body, [ENOENT, EEXIST])
          break
        }
        case 7:
          yield* this.#list(folder)
          break
        default:
          node = yield* this.#lookup(folder, name)
          if (node === 0) break
          yield* this.#ask(Opcode.FUSE_GETATTR, node, concat(u32s(0, 0), u64(0n)), [ENOENT, ESTALE])
      }
      if (node !== 0 && this.#below(3) > 0) yield* this.#forget(node)
    }
  }

  /** READDIRPLUS of all of it: every entry but . and .. is a lookup. */
  *#list(folder: number): Work<void> {
    const opened = yield* this.#ask(Opcode.FUSE_OPENDIR, folder, u32s(0, 0))
    const fh = opened.body.getBigUint64(0, true)
    for (let cookie = 0n; ; ) {
      const body = concat(u64(fh), u64(cookie), u32s(1024, 0), u64(0n), u32s(0, 0))
      const { bytes, body: view } = yield* this.#ask(Opcode.FUSE_READDIRPLUS, folder, body)
      if (bytes.length === 0) break
      for (let at = 0; at < bytes.length; ) {
        const node = Number(view.getBigUint64(at, true))
        cookie = view.getBigUint64(at + 136, true)
        const nameBytes = view.getUint32(at + 144, true)
        const name = new TextDecoder().decode(bytes.subarray(at + 152, at + 152 + nameBytes))
        if (node !== 0 && name !== '.' && name !== '..')
          this.#lookups.set(node, (this.#lookups.get(node) ?? 0) + 1)
        at += (152 + nameBytes + 7) & ~7
      }
    }
    yield* this.#release(folder, fh, Opcode.FUSE_RELEASEDIR)
  }

  /** Records that every driver appends to one file. */
  *#append(): Task {
    const node = yield* this.#lookup(ROOT, 'log')
    const fh = yield* this.#open(node, O_RDWR | 0o2000)
    for (let round = 0; round < this.#order.rounds; round++) {
      const bytes = 16 + this.#below(400)
      const number = this.appended.push(bytes) - 1
      yield* this.#write(node, fh, 0, record(this.#order.number, number, bytes))
      if (this.#below(8) === 0)
        yield* this.#ask(Opcode.FUSE_FSYNC, node, concat(u64(fh), u32s(1, 0)))
    }
    yield* this.#release(node, fh)
  }

  /** Pages of one file, some this driver's own: what it wrote last is there; the others hold theirs. */
  *#slots(): Task {
    const { number, drivers, rounds } = this.#order
    const node = yield* this.#lookup(ROOT, 'slots')
    const fh = yield* this.#open(node, O_RDWR)
    const last = new Uint8Array(SLOTS)
    for (let round = 0; round < rounds; round++) {
      const slot = this.#below(SLOTS)
      const at = (driver: number): number => (driver * SLOTS + slot) * SLOT_BYTES
      const page = new Uint8Array(SLOT_BYTES).fill(number + 1)
      last[slot] = round & 0xff
      for (let i = 1; i < SLOT_BYTES; i += 2) page[i] = last[slot]!
      yield* this.#write(node, fh, at(number), page)
      const back = yield* this.#read(node, fh, at(number), SLOT_BYTES)
      if (back.length !== SLOT_BYTES || back.some((byte, i) => byte !== page[i]))
        throw new Error(`driver ${number}: slot ${slot} is not what was written last`)
      const other = this.#below(drivers)
      const theirs = yield* this.#read(node, fh, at(other), SLOT_BYTES)
      if (theirs.some((byte, i) => i % 2 === 0 && byte !== other + 1 && byte !== 0))
        throw new Error(`driver ${number}: slot ${slot} of ${other} has somebody else's bytes`)
    }
    yield* this.#release(node, fh)
  }

  /** A file that nobody else touches: sizes and contents are the model's. */
  *#ownFile(): Task {
    const { number, rounds } = this.#order
    const made = concat(u32s(O_RDWR | O_CREAT_EXCL, 0o100644, 0, 0), text(`own-${number}`))
    const { body } = yield* this.#ask(Opcode.FUSE_CREATE, ROOT, made)
    const node = Number(body.getBigUint64(0, true))
    const fh = body.getBigUint64(128, true)
    this.#lookups.set(node, 1)
    let model = new Uint8Array(0)
    const resize = (bytes: number): void => {
      const next = new Uint8Array(bytes)
      next.set(model.subarray(0, bytes))
      model = next
    }
    for (let round = 0; round < rounds; round++) {
      const what = this.#below(4)
      if (what === 0) {
        resize(this.#below(20_000))
        const body = new Uint8Array(88)
        body.set(concat(u32s(FATTR_SIZE, 0), u64(0n), u64(BigInt(model.length))))
        yield* this.#ask(Opcode.FUSE_SETATTR, node, body)
      } else if (what === 1) {
        const data = new Uint8Array(1 + this.#below(5000)).fill(round)
        const offset = this.#below(15_000)
        if (model.length < offset + data.length) resize(offset + data.length)
        model.set(data, offset)
        yield* this.#write(node, fh, offset, data)
      } else if (what === 2) {
        const size = yield* this.#size(node)
        if (size !== model.length)
          throw new Error(`driver ${number}: ${size} bytes, not ${model.length}`)
      } else {
        const all = yield* this.#read(node, fh, 0, 24_000)
        if (all.length !== model.length || all.some((byte, i) => byte !== model[i]))
          throw new Error(`driver ${number}: its file has other contents`)
      }
    }
    yield* this.#release(node, fh)
  }

  *#bigReads(): Task {
    const node = yield* this.#lookup(ROOT, 'big')
    const fh = yield* this.#open(node, 0)
    for (let round = 0; round < this.#order.rounds; round++) {
      const offset = this.#below(BIG_BYTES)
      const size = this.#below(2) === 0 ? SPREAD_BYTES : 1 + this.#below(0x2_0000)
      const data = yield* this.#read(node, fh, offset, size)
      if (data.length !== Math.min(size, BIG_BYTES - offset)) throw new Error('a short read')
      for (let i = 0; i < data.length; i += 509)
        if (data[i] !== bigByte(offset + i)) throw new Error(`big: byte ${offset + i} is wrong`)
    }
    yield* this.#release(node, fh)
  }

  /** Names of this driver's own, in the folder of all: there after CREATE, gone after UNLINK. */
  *#ownNames(): Task {
    const folder = yield* this.#lookup(ROOT, 'shared')
    for (let round = 0; round < this.#order.rounds; round++) {
      const name = `own-${this.#order.number}-${this.#below(4)}`
      if ((yield* this.#lookup(folder, name)) !== 0) throw new Error(`${name} is there too early`)
      const body = concat(u32s(0o100600, 0, 0, 0), text(name))
      const made = yield* this.#entry(Opcode.FUSE_MKNOD, folder, body, [])
      const found = yield* this.#lookup(folder, name)
      if (found !== made) throw new Error(`${name} is node ${found}, not ${made}`)
      yield* this.#ask(Opcode.FUSE_UNLINK, folder, text(name))
      yield* this.#forget(made)
      yield* this.#forget(made)
    }
  }
}

const order = workerData as Order
const contender = new Contender(order)
const account: Account = { fault: '', requests: 0, lookups: [], names: 0, appended: [] }
try {
  account.requests = drive(order.place, contender.tasks())
} catch (error) {
  account.fault = error instanceof Error ? (error.stack ?? error.message) : String(error)
}
account.lookups = contender.lookups
account.names = contender.names
account.appended = contender.appended
parentPort!.postMessage(account)
native.eventWrite(order.doneFd)
