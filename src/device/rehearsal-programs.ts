/** What the guest of a rehearsal (rehearsal.ts) asks for: the mix of programs that look at, read and make files. */
import { Errno, errnoName } from '../../protocol/errno.js'
import { FATTR } from '../../protocol/fuse/flags.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import {
  FUSE_KERNEL_VERSION,
  FUSE_ROOT_ID,
  fuse_attr_out,
  fuse_create_in,
  fuse_dirent,
  fuse_entry_out,
  fuse_flush_in,
  fuse_forget_in,
  fuse_getattr_in,
  fuse_getxattr_in,
  fuse_getxattr_out,
  fuse_init_in,
  fuse_init_out,
  fuse_open_in,
  fuse_open_out,
  fuse_read_in,
  fuse_release_in,
  fuse_setattr_in,
  fuse_statfs_out,
  fuse_write_in,
  fuse_write_out,
} from '../../protocol/fuse/structs.js'
import { O_CREAT, O_RDWR, S_IFREG } from '../../protocol/linux/constants.js'
import { BODY_AT, PAGES, PAGES_AT, type RehearsalGuest, RESULT_AT } from './rehearsal-guest.js'

const FUSE_MINOR = 38
const ALL = 0xffff_ffff
const PAGE = 4096
/** Files that stay, for what looks at many. */
const FILES = 24
const ABSENT = Buffer.from('not-there\0')
const CAPABILITY = Buffer.from('security.capability\0')

/** Errors thrown: a request was not answered as it must be. */
export class RehearsalPrograms {
  requests = 0
  readonly #guest: RehearsalGuest
  /** NUL-terminated. */
  readonly #names: Uint8Array[] = []
  readonly #found: number[] = []

  constructor(guest: RehearsalGuest) {
    this.#guest = guest
    this.#init()
    for (let i = 0; i < FILES; i++) {
      this.#names.push(Buffer.from(`file-${i}.txt\0`))
      const fh = this.#create(this.#names[i]!)
      const node = fuse_entry_out.f.nodeid.get(guest.view, RESULT_AT)
      this.#write(node, fh)
      this.#release(node, fh)
      this.#forget(node)
    }
  }

  /** A few requests; another part of the mix each time. */
  run(round: number): void {
    switch (round & 7) {
      case 0:
        this.#list()
        this.#guest.rest()
        break
      case 1:
        this.#makeAndRemove(ABSENT)
        break
      default:
        this.#look(this.#names[round % FILES]!)
    }
  }

  // --- requests: each leaves its reply at RESULT_AT; an error ends the rehearsal -----

  #send(
    opcode: number,
    nodeid: number,
    bodyBytes: number,
    nameBytes: number,
    resultBytes: number,
    sent = 0,
    received = 0,
  ): void {
    this.requests++
    const error = this.#guest.request(
      opcode,
      nodeid,
      bodyBytes,
      nameBytes,
      resultBytes,
      sent,
      received,
    )
    if (error !== 0) throw new Error(`opcode ${opcode}: ${errnoName(error)}`)
  }

  #init(): void {
    const { view } = this.#guest
    const In = fuse_init_in.f
    this.#clear(fuse_init_in.SIZE)
    In.major.set(view, BODY_AT, FUSE_KERNEL_VERSION)
    In.minor.set(view, BODY_AT, FUSE_MINOR)
    In.flags.set(view, BODY_AT, ALL)
    this.#send(Opcode.FUSE_INIT, 0, fuse_init_in.SIZE, 0, fuse_init_out.SIZE)
  }

  #clear(bytes: number): void {
    this.#guest.bytes.fill(0, BODY_AT, BODY_AT + bytes)
  }

  #named(opcode: number, name: Uint8Array, result = fuse_entry_out.SIZE): void {
    this.#guest.bytes.set(name, BODY_AT)
    this.#send(opcode, FUSE_ROOT_ID, 0, name.length, result)
  }

  /** The answer is ENOENT, or an entry without a node where the guest may cache that. */
  #lookAtNothing(): void {
    const { view, bytes } = this.#guest
    bytes.set(ABSENT, BODY_AT)
    this.requests++
    const bytesOut = fuse_entry_out.SIZE
    const error = this.#guest.request(Opcode.FUSE_LOOKUP, FUSE_ROOT_ID, 0, ABSENT.length, bytesOut)
    if (error === -Errno.ENOENT) return
    if (error !== 0 || fuse_entry_out.f.nodeid.get(view, RESULT_AT) !== 0)
      throw new Error(`a name that is not there: ${errnoName(error)}`)
  }

  #create(name: Uint8Array): number {
    const { view, bytes } = this.#guest
    const In = fuse_create_in.f
    this.#clear(fuse_create_in.SIZE)
    In.flags.set(view, BODY_AT, O_RDWR | O_CREAT)
    In.mode.set(view, BODY_AT, S_IFREG | 0o644)
    bytes.set(name, BODY_AT + fuse_create_in.SIZE)
    this.#send(
      Opcode.FUSE_CREATE,
      FUSE_ROOT_ID,
      fuse_create_in.SIZE,
      name.length,
      fuse_entry_out.SIZE + fuse_open_out.SIZE,
    )
    return fuse_open_out.f.fh.get(view, RESULT_AT + fuse_entry_out.SIZE)
  }

  #open(opcode: number, node: number, flags: number): number {
    const { view } = this.#guest
    fuse_open_in.f.flags.set(view, BODY_AT, flags)
    fuse_open_in.f.open_flags.set(view, BODY_AT, 0)
    this.#send(opcode, node, fuse_open_in.SIZE, 0, fuse_open_out.SIZE)
    return fuse_open_out.f.fh.get(view, RESULT_AT)
  }

  #release(node: number, fh: number, opcode: number = Opcode.FUSE_RELEASE): void {
    this.#clear(fuse_release_in.SIZE)
    fuse_release_in.f.fh.set(this.#guest.view, BODY_AT, fh)
    this.#send(opcode, node, fuse_release_in.SIZE, 0, 0)
  }

  #flush(node: number, fh: number): void {
    this.#clear(fuse_flush_in.SIZE)
    fuse_flush_in.f.fh.set(this.#guest.view, BODY_AT, fh)
    this.requests++
    // ENOSYS tells the guest not to send it again.
    this.#guest.request(Opcode.FUSE_FLUSH, node, fuse_flush_in.SIZE, 0, 0)
  }

  #write(node: number, fh: number): void {
    const { view } = this.#guest
    const In = fuse_write_in.f
    this.#clear(fuse_write_in.SIZE)
    In.fh.set(view, BODY_AT, fh)
    In.size.set(view, BODY_AT, PAGE)
    In.flags.set(view, BODY_AT, O_RDWR)
    this.#send(Opcode.FUSE_WRITE, node, fuse_write_in.SIZE, 0, fuse_write_out.SIZE, 1)
  }

  #read(opcode: number, node: number, fh: number, offset: number, pages: number): void {
    const { view } = this.#guest
    const In = fuse_read_in.f
    this.#clear(fuse_read_in.SIZE)
    In.fh.set(view, BODY_AT, fh)
    In.offset.set(view, BODY_AT, offset)
    In.size.set(view, BODY_AT, pages * PAGE)
    this.#send(opcode, node, fuse_read_in.SIZE, 0, 0, 0, pages)
  }

  #getattr(node: number): void {
    this.#clear(fuse_getattr_in.SIZE)
    this.#send(Opcode.FUSE_GETATTR, node, fuse_getattr_in.SIZE, 0, fuse_attr_out.SIZE)
  }

  #setattr(node: number): void {
    this.#clear(fuse_setattr_in.SIZE)
    fuse_setattr_in.f.valid.set(this.#guest.view, BODY_AT, FATTR.FATTR_MODE)
    fuse_setattr_in.f.mode.set(this.#guest.view, BODY_AT, S_IFREG | 0o644)
    this.#send(Opcode.FUSE_SETATTR, node, fuse_setattr_in.SIZE, 0, fuse_attr_out.SIZE)
  }

  /** Before each first write the kernel asks for it. */
  #getxattr(node: number): void {
    this.#clear(fuse_getxattr_in.SIZE)
    this.#guest.bytes.set(CAPABILITY, BODY_AT + fuse_getxattr_in.SIZE)
    this.requests++
    // ENODATA; ENOSYS where there are no attributes.
    this.#guest.request(
      Opcode.FUSE_GETXATTR,
      node,
      fuse_getxattr_in.SIZE,
      CAPABILITY.length,
      fuse_getxattr_out.SIZE,
    )
  }

  #forget(node: number): void {
    fuse_forget_in.f.nlookup.set(this.#guest.view, BODY_AT, 1)
    this.requests++
    this.#guest.request(Opcode.FUSE_FORGET, node, fuse_forget_in.SIZE, 0, 0)
  }

  // --- what programs do ------------------------------------------------------------------------------

  #look(name: Uint8Array): void {
    this.#lookAtNothing()
    this.#named(Opcode.FUSE_LOOKUP, name)
    const node = fuse_entry_out.f.nodeid.get(this.#guest.view, RESULT_AT)
    this.#getattr(node)
    this.#getxattr(node)
    const fh = this.#open(Opcode.FUSE_OPEN, node, O_RDWR)
    this.#read(Opcode.FUSE_READ, node, fh, 0, 1)
    this.#write(node, fh)
    this.#flush(node, fh)
    this.#release(node, fh)
    this.#forget(node)
  }

  #list(): void {
    const fh = this.#open(Opcode.FUSE_OPENDIR, FUSE_ROOT_ID, 0)
    this.#read(Opcode.FUSE_READDIRPLUS, FUSE_ROOT_ID, fh, 0, PAGES)
    const found = this.#entries()
    this.#release(FUSE_ROOT_ID, fh, Opcode.FUSE_RELEASEDIR)
    for (let i = 0; i < found; i++) this.#forget(this.#found[i]!)
  }

  /** Notes the nodes in a reply of READDIRPLUS, each of which was a lookup, in #found. Returns how many. */
  #entries(): number {
    const { view, replyBytes } = this.#guest
    let count = 0
    for (let at = PAGES_AT; at < PAGES_AT + replyBytes; ) {
      const node = fuse_entry_out.f.nodeid.get(view, at)
      // "." and ".." have none.
      if (node !== 0) this.#found[count++] = node
      at += fuse_entry_out.SIZE
      at += (fuse_dirent.SIZE + fuse_dirent.f.namelen.get(view, at) + 7) & ~7
    }
    return count
  }

  #makeAndRemove(name: Uint8Array): void {
    const { view } = this.#guest
    const fh = this.#create(name)
    const node = fuse_entry_out.f.nodeid.get(view, RESULT_AT)
    this.#write(node, fh)
    this.#setattr(node)
    this.#release(node, fh)
    this.#named(Opcode.FUSE_UNLINK, name, 0)
    this.#forget(node)
    this.#send(Opcode.FUSE_STATFS, FUSE_ROOT_ID, 0, 0, fuse_statfs_out.SIZE)
  }
}
