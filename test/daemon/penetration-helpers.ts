/** A share with something beside it that no guest may reach, and the ways there. */
import {
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { type FuseClient, type FuseReply, text } from '../helpers/fuse-client.js'
import { type Launched, Place } from '../helpers/launch.js'
import { guest, type Mode, MODES, started } from './sandbox-helpers.js'

export const Op = {
  LOOKUP: 1,
  GETATTR: 3,
  SETATTR: 4,
  READLINK: 5,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  STATFS: 17,
  RELEASE: 18,
  SETXATTR: 21,
  GETXATTR: 22,
  LISTXATTR: 23,
  REMOVEXATTR: 24,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  ACCESS: 34,
  CREATE: 35,
  READDIRPLUS: 44,
  RENAME2: 45,
  TMPFILE: 51,
  STATX: 52,
} as const

export const ENOENT = -2
export const ENXIO = -6
export const EBADF = -9
export const ENOTDIR = -20
export const EINVAL = -22
export const ESTALE = -116

const O_RDWR = 0o2
const O_TRUNC = 0o1000

export interface Variant {
  readonly name: string
  readonly mode: Mode
  readonly argv: readonly string[]
}
/** Each way to hold on to inodes in each mode: descriptors and handles; names, looked up again and again. */
export const VARIANTS: readonly Variant[] = [
  'namespace, root',
  'chroot, root',
  'none, root',
].flatMap(name => {
  const mode = MODES.find(known => known.name === name)!
  return [
    { name, mode, argv: ['--xattr'] },
    {
      name: `${name}, by name`,
      mode,
      argv: ['--xattr', '--inode-file-handles=never', '--node-descriptors=64', '--cache=never'],
    },
  ]
})

const SECRET = 'the secret of the host\n'
const LONG_AGO = new Date('2001-02-03T04:05:06Z')

/**
 * A folder beside the share. Reading a file there shows in its access time, anything else in the rest.
 * (Directories have their names read by whoever looks around on the host.)
 */
export class Outside {
  readonly folder: string
  readonly inodes = new Set<bigint>()
  readonly #before: readonly string[]

  constructor(place: Place) {
    this.folder = join(place.folder, 'outside')
    mkdirSync(join(this.folder, 'sub'), { recursive: true })
    for (const name of ['canary', 'victim', 'file', 'sub/deep'])
      writeFileSync(join(this.folder, name), SECRET, { mode: 0o600 })
    for (const name of ['', 'sub']) mkdirSync(join(this.folder, name, 'empty'))
    for (const path of this.#paths()) {
      utimesSync(path, LONG_AGO, LONG_AGO)
      this.inodes.add(lstatSync(path, { bigint: true }).ino)
    }
    this.#before = this.#look()
  }

  #paths(): string[] {
    const names = ['', 'canary', 'victim', 'file', 'empty', 'sub', 'sub/deep', 'sub/empty']
    return names.map(name => join(this.folder, name))
  }

  #look(): string[] {
    return this.#paths().map(path => {
      const info = lstatSync(path, { bigint: true })
      const { ino, mode, uid, gid, nlink, size, mtimeNs, ctimeNs } = info
      const atime = info.isDirectory() ? 0n : info.atimeNs
      return [path, ino, mode, uid, gid, nlink, size, atime, mtimeNs, ctimeNs].join(' ')
    })
  }

  /** Nothing was read, changed, made or removed. */
  untouched(t: ExecutionContext): void {
    t.deepEqual(this.#look(), this.#before)
    t.deepEqual(readdirSync(this.folder).sort(), ['canary', 'empty', 'file', 'sub', 'victim'])
    t.deepEqual(readdirSync(join(this.folder, 'sub')).sort(), ['deep', 'empty'])
    t.is(readFileSync(join(this.folder, 'canary'), 'utf8'), SECRET)
  }
}

export interface Siege {
  readonly place: Place
  readonly outside: Outside
  readonly daemon: Launched
  readonly client: FuseClient
  readonly attacker: Attacker
  /** Relative and absolute ways from the share's top to the outside folder. */
  readonly ways: readonly string[]
}

/** A daemon on a share with the usual things in it, and a guest that means harm. */
export async function besiege(
  t: ExecutionContext,
  variant: Variant,
  prepare: (place: Place, outside: Outside) => void = () => undefined,
): Promise<Siege> {
  const place = new Place(t)
  const outside = new Outside(place)
  mkdirSync(join(place.share, 'dir', 'sub'), { recursive: true })
  for (const name of ['canary', 'victim', 'dir/canary', 'dir/victim', 'dir/file', 'dir/sub/deep'])
    writeFileSync(join(place.share, name), 'inside\n')
  linkSync(join(place.share, 'canary'), join(place.share, 'hard'))
  const ways = ['../outside', outside.folder, `/proc/self/root${outside.folder}`]
  for (const [i, way] of ways.entries()) symlinkSync(way, join(place.share, `way-${i}`))
  prepare(place, outside)
  const daemon = await started(t, place, variant.mode, variant.argv)
  const client = await guest(t, place)
  return { place, outside, daemon, client, ways, attacker: new Attacker(t, client, outside) }
}

/** After the attack: nothing happened outside, and the daemon serves. */
export function held(t: ExecutionContext, { outside, daemon, client, attacker }: Siege): void {
  outside.untouched(t)
  t.is(daemon.process.exitCode, null, daemon.stderr)
  client.do(Op.GETATTR, 1, u32s(0, 0, 0, 0))
  t.true(attacker.answered > 0, 'nothing was tried')
}

/** Requests whose answers are looked at for things from outside. */
export class Attacker {
  /** Requests that succeeded, and all of them. */
  succeeded = 0
  answered = 0
  readonly #t: ExecutionContext
  readonly #client: FuseClient
  readonly #outside: Outside

  constructor(t: ExecutionContext, client: FuseClient, outside: Outside) {
    this.#t = t
    this.#client = client
    this.#outside = outside
  }

  ask(opcode: number, nodeid: number | bigint, body?: Uint8Array): FuseReply {
    const reply = this.#client.request(opcode, nodeid, body)
    if (reply === undefined) throw new Error(`opcode ${opcode}: no reply`)
    this.answered++
    if (reply.error === 0) this.succeeded++
    if (Buffer.from(reply.bytes).includes(SECRET.slice(0, 12)))
      this.#t.fail(`opcode ${opcode}: the answer has the secret`)
    return reply
  }

  /** nodeid, or -errno. */
  entry(opcode: number, nodeid: number | bigint, body: Uint8Array): number {
    const { error, body: entry } = this.ask(opcode, nodeid, body)
    if (error < 0) return error
    if (this.#outside.inodes.has(entry.getBigUint64(40, true)))
      this.#t.fail(`opcode ${opcode}: an inode from outside`)
    return Number(entry.getBigUint64(0, true))
  }

  lookup(parent: number | bigint, name: string): number {
    return this.entry(Op.LOOKUP, parent, text(name))
  }
  forget(nodeid: number): void {
    if (nodeid > 1) this.#client.forget(nodeid, 1)
  }

  /** CREATE; the file is closed again. */
  create(parent: number, name: string, flags: number): number {
    const reply = this.ask(Op.CREATE, parent, concat(u32s(flags, 0o100666, 0, 0), text(name)))
    if (reply.error < 0) return reply.error
    if (this.#outside.inodes.has(reply.body.getBigUint64(40, true)))
      this.#t.fail('CREATE: an inode from outside')
    const nodeid = Number(reply.body.getBigUint64(0, true))
    this.readAndClose(nodeid, reply.body.getBigUint64(128, true))
    return nodeid
  }

  readAndClose(nodeid: number, fh: bigint): void {
    this.ask(Op.READ, nodeid, concat(u64(fh), u64(0n), u32s(100, 0), u64(0n), u32s(0, 0)))
    this.#client.request(
      16,
      nodeid,
      concat(u64(fh), u64(0n), u32s(4, 0), u64(0n), u32s(0, 0), text('bad')),
    )
    this.#client.release(nodeid, fh)
  }

  /** Whatever can be asked of a node without a name; nothing of it may change what it does not stand for. */
  useNode(nodeid: number): void {
    this.ask(Op.GETATTR, nodeid, u32s(0, 0, 0, 0))
    this.ask(Op.READLINK, nodeid)
    this.ask(Op.ACCESS, nodeid, u32s(4, 0))
    this.ask(Op.STATFS, nodeid)
    this.ask(Op.SETATTR, nodeid, setattr(1, 0o777)) // mode
    this.ask(Op.SETATTR, nodeid, setattr(2 | 4, 0)) // uid, gid
    this.ask(Op.SETATTR, nodeid, setattr(8, 0)) // size
    this.ask(Op.SETATTR, nodeid, setattr(16 | 32 | 128 | 256, 0)) // times, now
    this.ask(Op.SETXATTR, nodeid, concat(u32s(1, 0, 0, 0), text('user.bad'), text('')))
    this.ask(Op.SETXATTR, nodeid, concat(u32s(1, 0, 0, 0), text('trusted.bad'), text('')))
    this.ask(Op.GETXATTR, nodeid, concat(u32s(100, 0), text('user.bad')))
    this.ask(Op.LISTXATTR, nodeid, u32s(100, 0))
    this.ask(Op.REMOVEXATTR, nodeid, text('user.bad'))
    for (const flags of [0, O_RDWR | O_TRUNC]) {
      const opened = this.ask(Op.OPEN, nodeid, u32s(flags, 0))
      if (opened.error === 0) this.readAndClose(nodeid, opened.body.getBigUint64(0, true))
    }
  }

  /** Whatever can be done in a directory with the names that stand outside, too. */
  useDirectory(nodeid: number): void {
    for (const name of ['canary', 'sub', 'file']) this.forget(this.lookup(nodeid, name))
    this.forget(this.create(nodeid, 'new', 0o102))
    this.forget(this.create(nodeid, 'victim', O_RDWR | O_TRUNC))
    this.forget(this.entry(Op.MKDIR, nodeid, concat(u32s(0o777, 0), text('made'))))
    this.forget(this.entry(Op.SYMLINK, nodeid, concat(text('symlink'), text('/'))))
    this.forget(this.entry(Op.MKNOD, nodeid, concat(u32s(0o100666, 0, 0, 0), text('node'))))
    const canary = this.lookup(1, 'canary')
    if (canary > 0)
      this.forget(this.entry(Op.LINK, nodeid, concat(u64(BigInt(canary)), text('linked'))))
    this.forget(canary)
    this.ask(Op.RENAME, nodeid, concat(u64(1n), text('new'), text('brought')))
    this.ask(Op.RENAME, 1, concat(u64(BigInt(nodeid)), text('brought'), text('moved')))
    this.ask(Op.RENAME2, nodeid, concat(u64(1n), u32s(2, 0), text('victim'), text('victim')))
    for (const name of ['victim', 'new', 'symlink', 'node', 'linked', 'moved'])
      this.ask(Op.UNLINK, nodeid, text(name))
    for (const name of ['made', 'empty']) this.ask(Op.RMDIR, nodeid, text(name))
    const opened = this.ask(Op.OPENDIR, nodeid, u32s(0, 0))
    if (opened.error === 0) {
      const fh = opened.body.getBigUint64(0, true)
      const from = concat(u64(fh), u64(0n), u32s(4000, 0), u64(0n), u32s(0, 0))
      for (const opcode of [Op.READDIR, Op.READDIRPLUS]) {
        const { bytes } = this.ask(opcode, nodeid, from)
        const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
        for (let at = 0; at + 8 <= bytes.length; at += 8)
          if (this.#outside.inodes.has(words.getBigUint64(at, true)))
            this.#t.fail(`opcode ${opcode}: an inode from outside`)
      }
      this.#client.release(nodeid, fh, true)
    }
  }
}

/** struct fuse_setattr_in with these `valid` bits; `mode` is the only value that is not 0. */
export function setattr(valid: number, mode: number): Uint8Array {
  const body = new Uint8Array(88)
  const view = new DataView(body.buffer)
  view.setUint32(0, valid, true)
  view.setUint32(68, mode, true)
  return body
}

/** The daemon has nothing of the host's open but what it needs. */
export function openPaths(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap(fd => {
    try {
      return [readlinkSync(`/proc/${pid}/fd/${fd}`)]
    } catch {
      return []
    }
  })
}

/** Device and inode of a directory, through any link. */
export function identity(path: string): string {
  const { dev, ino } = statSync(path, { bigint: true })
  return `${dev}:${ino}`
}
