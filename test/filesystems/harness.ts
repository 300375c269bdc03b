/** Calls a back end directly, without rings or wire: names and buffers go through the arena as in the daemon. */
import { SCRATCH_AT, ARENA_BYTES, REPLY_AT, REQUEST_AT } from '../../src/fuse/layout.js'
import { native } from '../../src/native/addon.js'
import { Context } from '../../src/native/context.js'
import {
  type FileSystem,
  type Negotiated,
  type Outcome,
  PENDING,
} from '../../src/vfs/filesystem.js'
import {
  Attributes,
  EntryReply,
  OpenReply,
  SetAttributes,
  StatfsReply,
} from '../../src/vfs/replies.js'
import { type DirectorySink, Name, Payload, type Request, Span } from '../../src/vfs/request.js'

/** What a back end must show of itself to be tested. */
export interface TestableFileSystem extends FileSystem {
  readonly nodeCount: number
  readonly handleCount: number
  dispose(): void
}

export interface ListedEntry {
  readonly name: string
  readonly type: number
  /** Opaque, all 64 bits. */
  readonly cookie: bigint
  readonly nodeid: number
  /** Of the attributes that came with it; 0 without. */
  readonly uid: number
  readonly gid: number
}

export const GUEST = 0x10000
const GUEST_BYTES = 1 << 20
/** The second name starts here. */
const NAME2_AT = REQUEST_AT + 16384
const VALUE_AT = REQUEST_AT + 32768

class TestRequest implements Request {
  readonly begun = false
  readonly waitedMs = 0
  readonly token = -1
  readonly context: Context
  uid = process.geteuid?.() ?? 0
  gid = process.getegid?.() ?? 0
  pid = 1
  umask = 0
  groupsAt = 0
  groupCount = -1
  readonly securityName = new Name()
  readonly securityValue = new Span()
  readonly scratchAt = SCRATCH_AT
  alone = false
  /** Tokens given out and results come back. */
  readonly results = new Map<number, Outcome>()
  #next = 0

  constructor(context: Context) {
    this.context = context
  }
  spreads(): boolean {
    return false
  }
  suspend(): number {
    return this.#next++
  }
  cancel(_token: number): void {}
  complete(token: number, outcome: number): void {
    this.results.set(token, outcome)
  }
  get lastToken(): number {
    return this.#next - 1
  }
}

class ListSink implements DirectorySink {
  readonly plus: boolean
  readonly entry = new EntryReply()
  readonly found: ListedEntry[] = []
  readonly #most: number
  readonly #bytes: Uint8Array

  constructor(bytes: Uint8Array, plus: boolean, most: number) {
    this.#bytes = bytes
    this.plus = plus
    this.#most = most
  }
  fits(): boolean {
    return this.found.length < this.#most
  }
  expire(): void {}
  add(
    nameAt: number,
    nameBytes: number,
    type: number,
    _inoLow: number,
    _inoHigh: number,
    cookieLow: number,
    cookieHigh: number,
    withEntry: boolean,
  ): boolean {
    if (!this.fits()) return false
    const name = Buffer.from(this.#bytes.subarray(nameAt, nameAt + nameBytes)).toString('latin1')
    const cookie = (BigInt(cookieHigh) << 32n) | BigInt(cookieLow)
    const { nodeid, attr } = this.entry
    const known = withEntry
      ? { nodeid, uid: attr.uid, gid: attr.gid }
      : { nodeid: 0, uid: 0, gid: 0 }
    this.found.push({ name, type, cookie, ...known })
    return true
  }
}

export class Harness {
  readonly context: Context
  readonly request: TestRequest
  readonly entry = new EntryReply()
  readonly opened = new OpenReply()
  readonly attr = new Attributes()
  readonly guest: Uint8Array
  fs!: TestableFileSystem
  readonly #memoryFd: number
  readonly #name = new Name()
  readonly #name2 = new Name()
  readonly #payload = new Payload()

  constructor() {
    this.context = new Context({ arenaBytes: ARENA_BYTES, maxSegments: 64, poolThreads: 2 })
    this.#memoryFd = native.memfd('guest', GUEST_BYTES)
    this.context.raw.addRegion(
      this.#memoryFd,
      0n,
      BigInt(GUEST),
      BigInt(GUEST),
      BigInt(GUEST_BYTES),
    )
    this.guest = new Uint8Array(
      this.context.raw.mapView(BigInt(GUEST), GUEST_BYTES, 1) as ArrayBuffer,
    )
    this.request = new TestRequest(this.context)
  }

  /** Makes the file system known and starts it as INIT would. */
  start(fs: TestableFileSystem, changed: Partial<Negotiated> = {}): void {
    this.fs = fs
    fs.init({
      minor: 45,
      posixAcl: false,
      killpriv: true,
      writeback: false,
      submounts: false,
      dontMask: true,
      createSuppGroup: false,
      securityContext: false,
      maxWriteBytes: 1 << 20,
      ...changed,
    })
  }

  close(): void {
    this.fs.dispose()
    this.context.dispose()
    native.closeFd(this.#memoryFd)
  }

  name(text: string): Name {
    return place(this.context, this.#name, REQUEST_AT, text)
  }
  name2(text: string): Name {
    return place(this.context, this.#name2, NAME2_AT, text)
  }

  /** Waits for a pending outcome. */
  settle(outcome: Outcome): Outcome {
    if (outcome !== PENDING) return outcome
    const token = this.request.lastToken
    for (;;) {
      const known = this.request.results.get(token)
      if (known !== undefined) return known
      const reaped = this.context.reap()
      if (reaped >= 0) this.request.results.set(reaped, this.context.reapedResult)
      else this.context.wait(1000, 0)
    }
  }

  // --- operations in ordinary words; numbers below 0 are -errno -----------------------------------

  lookup(parent: number, name: string): number {
    return this.#nodeid(this.fs.lookup(this.request, parent, this.name(name), this.entry))
  }
  #nodeid(outcome: Outcome): number {
    return outcome < 0 ? outcome : this.entry.nodeid
  }
  mkdir(parent: number, name: string, mode = 0o755): number {
    return this.#nodeid(this.fs.mkdir(this.request, parent, this.name(name), mode, this.entry))
  }
  mknod(parent: number, name: string, mode: number, major = 0, minor = 0): number {
    return this.#nodeid(
      this.fs.mknod(this.request, parent, this.name(name), mode, major, minor, this.entry),
    )
  }
  symlink(parent: number, name: string, target: string): number {
    return this.#nodeid(
      this.fs.symlink(this.request, parent, this.name(name), this.name2(target), this.entry),
    )
  }
  link(nodeid: number, parent: number, name: string): number {
    return this.#nodeid(this.fs.link(this.request, nodeid, parent, this.name(name), this.entry))
  }
  unlink(parent: number, name: string): Outcome {
    return this.fs.unlink(this.request, parent, this.name(name))
  }
  rmdir(parent: number, name: string): Outcome {
    return this.fs.rmdir(this.request, parent, this.name(name))
  }
  rename(parent: number, name: string, newParent: number, newName: string, flags = 0): Outcome {
    return this.fs.rename(
      this.request,
      parent,
      this.name(name),
      newParent,
      this.name2(newName),
      flags,
    )
  }
  forget(nodeid: number, count = 1): void {
    this.fs.forget(nodeid, count)
  }
  create(
    parent: number,
    name: string,
    mode = 0o644,
    flags = 0o102,
  ): { nodeid: number; fh: number } {
    this.opened.reset()
    const outcome = this.fs.create(
      this.request,
      parent,
      this.name(name),
      flags,
      mode,
      false,
      this.entry,
      this.opened,
    )
    return outcome < 0
      ? { nodeid: outcome, fh: -1 }
      : { nodeid: this.entry.nodeid, fh: this.opened.fh }
  }
  open(nodeid: number, flags = 2, killSuid = false): number {
    this.opened.reset()
    const outcome = this.fs.open(this.request, nodeid, flags, killSuid, this.opened)
    return outcome < 0 ? outcome : this.opened.fh
  }
  release(nodeid: number, fh: number): Outcome {
    return this.fs.release(this.request, nodeid, fh)
  }
  write(
    nodeid: number,
    fh: number,
    offset: number,
    data: Uint8Array | string,
    killSuid = false,
  ): Outcome {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data
    this.guest.set(bytes)
    return this.settle(
      this.fs.write(this.request, nodeid, fh, offset, this.#buffers(bytes.length), killSuid, false),
    )
  }
  read(nodeid: number, fh: number, offset: number, bytes: number): Uint8Array | number {
    const done = this.settle(this.fs.read(this.request, nodeid, fh, offset, this.#buffers(bytes)))
    return done < 0 ? done : this.guest.slice(0, done)
  }
  readText(nodeid: number, fh: number, offset = 0, bytes = 4096): string {
    const done = this.read(nodeid, fh, offset, bytes)
    return typeof done === 'number' ? `errno ${-done}` : Buffer.from(done).toString()
  }
  /** `bytes` of guest memory in two pieces. */
  #buffers(bytes: number): Payload {
    const first = Math.floor(bytes / 3)
    this.context.segments.set([GUEST, first, GUEST + first, bytes - first])
    const payload = this.#payload
    payload.first = 0
    payload.count = 2
    payload.skip = 0
    payload.bytes = bytes
    return payload
  }
  getattr(nodeid: number, fh = -1): Attributes | number {
    const outcome = this.fs.getattr(this.request, nodeid, fh, this.attr)
    return outcome < 0 ? outcome : this.attr
  }
  /** Attributes of a node that must be there. */
  stat(nodeid: number): Attributes {
    const attr = this.getattr(nodeid)
    if (typeof attr === 'number') throw new Error(`getattr: errno ${-attr}`)
    return attr
  }
  setattr(nodeid: number, change: Partial<SetAttributes>, fh = -1): Outcome {
    return this.fs.setattr(
      this.request,
      nodeid,
      fh,
      Object.assign(new SetAttributes(), change),
      this.attr,
    )
  }
  readlink(nodeid: number, room = 4096): string | number {
    const out = this.#out(room)
    const outcome = this.fs.readlink(this.request, nodeid, out)
    return outcome < 0 ? outcome : this.#text(out.at, outcome)
  }
  #out(bytes: number): Span {
    const out = new Span()
    out.at = REPLY_AT
    out.bytes = bytes
    return out
  }
  #text(at: number, bytes: number): string {
    return Buffer.from(this.context.bytes.subarray(at, at + bytes)).toString('latin1')
  }
  opendir(nodeid: number): number {
    this.opened.reset()
    const outcome = this.fs.opendir(this.request, nodeid, 0, this.opened)
    return outcome < 0 ? outcome : this.opened.fh
  }
  /** One READDIR of at most `most` entries after `cookie`. */
  readdirOnce(
    nodeid: number,
    fh: number,
    cookie: bigint,
    most: number,
    plus = false,
  ): ListedEntry[] | number {
    const sink = new ListSink(this.context.bytes, plus, most)
    const low = Number(cookie & 0xffff_ffffn)
    const outcome = this.fs.readdir(this.request, nodeid, fh, low, Number(cookie >> 32n), sink)
    return outcome < 0 ? outcome : sink.found
  }
  /** Names of a directory but `.` and `..`, `step` entries a call, sorted. */
  list(nodeid: number, step = 1000): string[] {
    const fh = this.opendir(nodeid)
    const names: string[] = []
    let cookie = 0n
    for (;;) {
      const found = this.readdirOnce(nodeid, fh, cookie, step)
      if (typeof found === 'number') throw new Error(`readdir: errno ${-found}`)
      if (found.length === 0) break
      names.push(...found.map(({ name }) => name))
      cookie = found.at(-1)!.cookie
    }
    this.fs.releasedir(this.request, nodeid, fh)
    return names.filter(name => name !== '.' && name !== '..').sort()
  }
  setxattr(nodeid: number, name: string, value: string, flags = 0): Outcome {
    const span = new Span()
    span.at = VALUE_AT
    span.bytes = value.length
    this.context.bytes.set(Buffer.from(value, 'latin1'), VALUE_AT)
    return this.fs.setxattr(this.request, nodeid, this.name(name), span, flags, false)
  }
  getxattr(nodeid: number, name: string, room = 1024): string | number {
    const out = this.#out(room)
    const outcome = this.fs.getxattr(this.request, nodeid, this.name(name), out)
    return outcome < 0 || room === 0 ? outcome : this.#text(out.at, outcome)
  }
  listxattr(nodeid: number, room = 1024): string[] | number {
    const out = this.#out(room)
    const outcome = this.fs.listxattr(this.request, nodeid, out)
    return outcome < 0 || room === 0
      ? outcome
      : this.#text(out.at, outcome).split('\0').slice(0, -1).sort()
  }
  removexattr(nodeid: number, name: string): Outcome {
    return this.fs.removexattr(this.request, nodeid, this.name(name))
  }
  statfs(): StatfsReply {
    const reply = new StatfsReply()
    this.fs.statfs(this.request, 1, reply)
    return reply
  }
}

function place(context: Context, name: Name, at: number, text: string): Name {
  const bytes = Buffer.from(text, 'latin1')
  context.bytes.set(bytes, at)
  context.bytes[at + bytes.length] = 0
  name.at = at
  name.bytes = bytes.length
  return name
}
