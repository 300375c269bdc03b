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
  fuse_getattr_in,
  fuse_getxattr_in,
  fuse_getxattr_out,
  fuse_init_in,
  fuse_init_out,
  fuse_mkdir_in,
  fuse_open_in,
  fuse_open_out,
  fuse_read_in,
  fuse_release_in,
  fuse_setattr_in,
  fuse_statfs_out,
  fuse_syncfs_in,
  fuse_write_in,
  fuse_write_out,
} from '../../protocol/fuse/structs.js'
import { O_CREAT, O_RDWR, S_IFREG } from '../../protocol/linux/constants.js'
import { PAGES, type RehearsalGuest, SLOTS } from './rehearsal-guest.js'

const FUSE_MINOR = 38
const ALL = 0xffff_ffff
const PAGE = 4096
/** Files that stay, in the root and in the folder, for what looks at many: as many as fill a page of READDIRPLUS. */
const FILES = 24
/** A divisor of that. */
const MADE_AT_ONCE = 2
const FOLDER = Buffer.from('folder\0')
const ABSENT = Buffer.from('not-there\0')
const CAPABILITY = Buffer.from('security.capability\0')

/** Errors thrown: a request was not answered as it must be. */
export class RehearsalPrograms {
  requests = 0
  readonly #guest: RehearsalGuest
  readonly #strange: () => void
  /** NUL-terminated. */
  readonly #names = Array.from({ length: FILES }, (_, i) => Buffer.from(`file-${i}.txt\0`))
  #folder: number
  /** So many of the names stand for files already. */
  #made = 0
  /** Nodes of the last listing, and how many. */
  readonly #found: number[] = []
  #foundCount = 0
  /** Where the last listing goes on, as it came: the number has 64 bits. */
  #cookieLow = 0
  #cookieHigh = 0

  /** `strange`: called now and then, it makes all inodes such as nobody has seen before. */
  constructor(guest: RehearsalGuest, strange: () => void) {
    this.#guest = guest
    this.#strange = strange
    this.#init()
    this.#folder = this.#makeFolder()
    const last = this.#seek(this.#folder, this.#names[FILES - 1]!)
    if (last === 0) return
    // All are there, from a rehearsal before this one.
    this.#made = FILES
    this.#forget(last, 1)
  }

  /** A few requests; another part of the mix each time, once all files are there. */
  run(round: number): void {
    if (this.#made < FILES) {
      for (let i = 0; i < MADE_AT_ONCE; i++, this.#made++) {
        this.#make(FUSE_ROOT_ID, this.#names[this.#made]!)
        this.#make(this.#folder, this.#names[this.#made]!)
      }
      return
    }
    const parent = (round & 1) === 0 ? this.#folder : FUSE_ROOT_ID
    const name = this.#names[round % FILES]!
    switch (round & 7) {
      case 0:
        this.#find()
        break
      case 1:
        this.#makeAndRemove(parent, ABSENT)
        break
      case 2:
        this.#lookAtMany(parent)
        break
      case 3:
        this.#strange()
        this.#find()
        break
      case 4:
        this.#list(this.#folder)
        this.#forgetFound(1)
        break
      default:
        this.#look(parent, name)
    }
  }

  // --- requests: each leaves its reply at `resultAt` of the guest; an error ends the rehearsal ------------

  /** Returns the reply's error. */
  #ask(...request: Parameters<RehearsalGuest['put']>): number {
    this.requests++
    this.#guest.put(...request)
    this.#guest.serve()
    return this.#guest.error
  }

  /** As `#ask`, of what must not fail. */
  #send(...request: Parameters<RehearsalGuest['put']>): void {
    const error = this.#ask(...request)
    if (error !== 0) throw new Error(`opcode ${request[0]}: ${errnoName(error)}`)
  }

  #init(): void {
    const { view } = this.#guest
    const In = fuse_init_in.f
    this.#clear(fuse_init_in.SIZE)
    In.major.set(view, this.#guest.bodyAt, FUSE_KERNEL_VERSION)
    In.minor.set(view, this.#guest.bodyAt, FUSE_MINOR)
    In.flags.set(view, this.#guest.bodyAt, ALL)
    this.#send(Opcode.FUSE_INIT, 0, fuse_init_in.SIZE, 0, fuse_init_out.SIZE)
  }

  #clear(bytes: number): void {
    this.#guest.bytes.fill(0, this.#guest.bodyAt, this.#guest.bodyAt + bytes)
  }

  /** What `name` stands for; 0: nothing, which is ENOENT, or an entry without a node where the guest may cache that. */
  #seek(parent: number, name: Uint8Array): number {
    const { view, bytes } = this.#guest
    bytes.set(name, this.#guest.bodyAt)
    const error = this.#ask(Opcode.FUSE_LOOKUP, parent, 0, name.length, fuse_entry_out.SIZE)
    if (error === -Errno.ENOENT) return 0
    if (error !== 0) throw new Error(`LOOKUP: ${errnoName(error)}`)
    return fuse_entry_out.f.nodeid.get(view, this.#guest.resultAt)
  }

  #makeFolder(): number {
    const there = this.#seek(FUSE_ROOT_ID, FOLDER)
    if (there !== 0) return there
    const { view, bytes } = this.#guest
    this.#clear(fuse_mkdir_in.SIZE)
    fuse_mkdir_in.f.mode.set(view, this.#guest.bodyAt, 0o755)
    bytes.set(FOLDER, this.#guest.bodyAt + fuse_mkdir_in.SIZE)
    this.#send(
      Opcode.FUSE_MKDIR,
      FUSE_ROOT_ID,
      fuse_mkdir_in.SIZE,
      FOLDER.length,
      fuse_entry_out.SIZE,
    )
    return fuse_entry_out.f.nodeid.get(view, this.#guest.resultAt)
  }

  #create(parent: number, name: Uint8Array): number {
    const { view, bytes } = this.#guest
    const In = fuse_create_in.f
    this.#clear(fuse_create_in.SIZE)
    In.flags.set(view, this.#guest.bodyAt, O_RDWR | O_CREAT)
    In.mode.set(view, this.#guest.bodyAt, S_IFREG | 0o644)
    bytes.set(name, this.#guest.bodyAt + fuse_create_in.SIZE)
    this.#send(
      Opcode.FUSE_CREATE,
      parent,
      fuse_create_in.SIZE,
      name.length,
      fuse_entry_out.SIZE + fuse_open_out.SIZE,
    )
    return fuse_open_out.f.fh.get(view, this.#guest.resultAt + fuse_entry_out.SIZE)
  }

  #unlink(parent: number, name: Uint8Array): void {
    this.#guest.bytes.set(name, this.#guest.bodyAt)
    this.#send(Opcode.FUSE_UNLINK, parent, 0, name.length, 0)
  }

  #make(parent: number, name: Uint8Array): void {
    const fh = this.#create(parent, name)
    const node = fuse_entry_out.f.nodeid.get(this.#guest.view, this.#guest.resultAt)
    this.#write(node, fh)
    this.#release(node, fh)
    this.#forget(node, 1)
  }

  #open(opcode: number, node: number, flags: number): number {
    const { view } = this.#guest
    fuse_open_in.f.flags.set(view, this.#guest.bodyAt, flags)
    fuse_open_in.f.open_flags.set(view, this.#guest.bodyAt, 0)
    this.#send(opcode, node, fuse_open_in.SIZE, 0, fuse_open_out.SIZE)
    return fuse_open_out.f.fh.get(view, this.#guest.resultAt)
  }

  #release(node: number, fh: number, opcode: number = Opcode.FUSE_RELEASE): void {
    this.#clear(fuse_release_in.SIZE)
    fuse_release_in.f.fh.set(this.#guest.view, this.#guest.bodyAt, fh)
    this.#send(opcode, node, fuse_release_in.SIZE, 0, 0)
  }

  #flush(node: number, fh: number): void {
    this.#clear(fuse_flush_in.SIZE)
    fuse_flush_in.f.fh.set(this.#guest.view, this.#guest.bodyAt, fh)
    // ENOSYS tells the guest not to send it again.
    this.#ask(Opcode.FUSE_FLUSH, node, fuse_flush_in.SIZE, 0, 0)
  }

  #write(node: number, fh: number): void {
    const { view } = this.#guest
    const In = fuse_write_in.f
    this.#clear(fuse_write_in.SIZE)
    In.fh.set(view, this.#guest.bodyAt, fh)
    In.size.set(view, this.#guest.bodyAt, PAGE)
    In.flags.set(view, this.#guest.bodyAt, O_RDWR)
    this.#send(Opcode.FUSE_WRITE, node, fuse_write_in.SIZE, 0, fuse_write_out.SIZE, 1)
  }

  #read(opcode: number, node: number, fh: number, pages: number, low = 0, high = 0): void {
    const { view } = this.#guest
    const In = fuse_read_in.f
    this.#clear(fuse_read_in.SIZE)
    In.fh.set(view, this.#guest.bodyAt, fh)
    view.setUint32(this.#guest.bodyAt + In.offset.offset, low, true)
    view.setUint32(this.#guest.bodyAt + In.offset.offset + 4, high, true)
    In.size.set(view, this.#guest.bodyAt, pages * PAGE)
    this.#send(opcode, node, fuse_read_in.SIZE, 0, 0, 0, pages)
  }

  #getattr(node: number): void {
    this.#clear(fuse_getattr_in.SIZE)
    this.#send(Opcode.FUSE_GETATTR, node, fuse_getattr_in.SIZE, 0, fuse_attr_out.SIZE)
  }

  #setattr(node: number): void {
    this.#clear(fuse_setattr_in.SIZE)
    fuse_setattr_in.f.valid.set(this.#guest.view, this.#guest.bodyAt, FATTR.FATTR_MODE)
    fuse_setattr_in.f.mode.set(this.#guest.view, this.#guest.bodyAt, S_IFREG | 0o644)
    this.#send(Opcode.FUSE_SETATTR, node, fuse_setattr_in.SIZE, 0, fuse_attr_out.SIZE)
  }

  /** Before each first write the kernel asks for it. */
  #getxattr(node: number): void {
    this.#clear(fuse_getxattr_in.SIZE)
    this.#guest.bytes.set(CAPABILITY, this.#guest.bodyAt + fuse_getxattr_in.SIZE)
    // ENODATA; ENOSYS where there are no attributes.
    this.#ask(
      Opcode.FUSE_GETXATTR,
      node,
      fuse_getxattr_in.SIZE,
      CAPABILITY.length,
      fuse_getxattr_out.SIZE,
    )
  }

  #forget(node: number, lookups: number): void {
    this.requests++
    this.#guest.forget(node, lookups)
    this.#guest.serve()
  }

  /** The nodes of the last listing, which had as many `lookups` each; many at a time, as when memory is short. */
  #forgetFound(lookups: number): void {
    const guest = this.#guest
    for (let i = 0; i < this.#foundCount; ) {
      for (guest.slot = 0; guest.slot < SLOTS && i < this.#foundCount; guest.slot++, i++) {
        this.requests++
        guest.forget(this.#found[i]!, lookups)
      }
      guest.slot = 0
      guest.serve()
    }
  }

  // --- what programs do ------------------------------------------------------------------------------

  #look(parent: number, name: Uint8Array): void {
    this.#seek(parent, ABSENT)
    const node = this.#seek(parent, name)
    this.#getattr(node)
    this.#getxattr(node)
    const fh = this.#open(Opcode.FUSE_OPEN, node, O_RDWR)
    this.#read(Opcode.FUSE_READ, node, fh, PAGES)
    this.#write(node, fh)
    this.#flush(node, fh)
    this.#release(node, fh)
    this.#forget(node, 1)
  }

  /** Several tasks at once. */
  #lookAtMany(parent: number): void {
    const guest = this.#guest
    this.#foundCount = SLOTS
    for (guest.slot = 0; guest.slot < SLOTS; guest.slot++) {
      const name = this.#names[guest.slot]!
      guest.bytes.set(name, guest.bodyAt)
      this.requests++
      guest.put(Opcode.FUSE_LOOKUP, parent, 0, name.length, fuse_entry_out.SIZE)
    }
    guest.serve()
    for (guest.slot = 0; guest.slot < SLOTS; guest.slot++)
      this.#found[guest.slot] = fuse_entry_out.f.nodeid.get(guest.view, guest.resultAt)
    guest.slot = 0
    this.#forgetFound(1)
  }

  /** Twice: the second time the inodes are known. */
  #find(): void {
    this.#getattr(FUSE_ROOT_ID)
    for (const dir of [this.#folder, FUSE_ROOT_ID]) {
      this.#list(dir)
      this.#list(dir)
      this.#forgetFound(2)
    }
    // All that is known of the folder goes, too.
    this.#forget(this.#folder, 1)
    this.#folder = this.#seek(FUSE_ROOT_ID, FOLDER)
  }

  /** As Linux lists: names beyond the first page come without attributes, unless somebody has asked for those. */
  #list(dir: number): void {
    const fh = this.#open(Opcode.FUSE_OPENDIR, dir, 0)
    this.#foundCount = 0
    this.#read(Opcode.FUSE_READDIRPLUS, dir, fh, 1)
    this.#entries()
    do this.#read(Opcode.FUSE_READDIR, dir, fh, 1, this.#cookieLow, this.#cookieHigh)
    while (this.#moreNames())
    this.#release(dir, fh, Opcode.FUSE_RELEASEDIR)
  }

  /** Notes the nodes in a reply of READDIRPLUS, each of which was a lookup. */
  #entries(): void {
    const { view, replyBytes, pagesAt } = this.#guest
    for (let at = pagesAt; at < pagesAt + replyBytes; ) {
      const node = fuse_entry_out.f.nodeid.get(view, at)
      // "." and ".." have none.
      if (node !== 0) this.#found[this.#foundCount++] = node
      at += fuse_entry_out.SIZE
      at = this.#dirent(at)
    }
  }

  /** Reads a reply of READDIR. False: it was the end. */
  #moreNames(): boolean {
    const { replyBytes, pagesAt } = this.#guest
    for (let at = pagesAt; at < pagesAt + replyBytes; ) at = this.#dirent(at)
    return replyBytes > 0
  }

  /** Notes where it goes on after this one; returns where the next one lies. */
  #dirent(at: number): number {
    const { view } = this.#guest
    const cookieAt = at + fuse_dirent.f.off.offset
    this.#cookieLow = view.getUint32(cookieAt, true)
    this.#cookieHigh = view.getUint32(cookieAt + 4, true)
    return at + ((fuse_dirent.SIZE + fuse_dirent.f.namelen.get(view, at) + 7) & ~7)
  }

  #makeAndRemove(parent: number, name: Uint8Array): void {
    const { view } = this.#guest
    const fh = this.#create(parent, name)
    const node = fuse_entry_out.f.nodeid.get(view, this.#guest.resultAt)
    this.#write(node, fh)
    this.#setattr(node)
    this.#release(node, fh)
    this.#unlink(parent, name)
    this.#forget(node, 1)
    this.#send(Opcode.FUSE_STATFS, FUSE_ROOT_ID, 0, 0, fuse_statfs_out.SIZE)
    // What a thread of the pool does is answered later: so are reads of files that are not in memory.
    this.#clear(fuse_syncfs_in.SIZE)
    this.#send(Opcode.FUSE_SYNCFS, FUSE_ROOT_ID, fuse_syncfs_in.SIZE, 0, 0)
  }
}
