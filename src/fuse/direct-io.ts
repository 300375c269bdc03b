/** READ and WRITE of files that go past the file system (see passthrough.ts): from the ring to a descriptor. */
import { Errno } from '../../protocol/errno.js'
import { FUSE_WRITE_KILL_SUIDGID } from '../../protocol/fuse/flags.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import {
  fuse_in_header,
  fuse_read_in,
  fuse_write_in,
  fuse_write_out,
} from '../../protocol/fuse/structs.js'
import type { Context } from '../native/context.js'
import type { FileSystem } from '../vfs/filesystem.js'
import { TWO32 } from '../vfs/generations.js'
import type { Buffers } from './buffers.js'
import { REPLY_AT, REQUEST_AT } from './layout.js'
import { type FuseRequest, OUT_HEADER_BYTES } from './request.js'
import type { FuseSession } from './session.js'

/** The request goes through the file system: it is another one, or not so simple. Nothing was done. */
export const ORDINARY = -1
/** It was done, but the guest's room for the reply is not in its memory. */
export const UNWRITABLE = -2

const IN_HEADER_BYTES = fuse_in_header.SIZE
/** An offset is a safe number when its high word is less. */
const SAFE_HIGH_WORDS = 2 ** 21

export class DirectIo {
  readonly #context: Context
  readonly #fs: FileSystem
  readonly #session: FuseSession
  readonly #request: FuseRequest

  constructor(context: Context, fs: FileSystem, session: FuseSession, request: FuseRequest) {
    this.#context = context
    this.#fs = fs
    this.#session = session
    this.#request = request
  }

  /** Carries the request out: the bytes of its reply, which is written; UNWRITABLE; or ORDINARY. */
  run(buffers: Buffers): number {
    const { view } = this.#context
    const request = this.#request
    const { opcode, bodyAt } = request
    if (opcode !== Opcode.FUSE_READ && opcode !== Opcode.FUSE_WRITE) return ORDINARY
    // fuse_read_in and fuse_write_in are of one size and begin alike: fh, offset, size.
    if (request.bodyBytes < fuse_read_in.SIZE) return ORDINARY
    const slot = this.#session.passthrough.find(view, bodyAt)
    if (slot < 0) return ORDINARY
    const high = view.getUint32(bodyAt + 12, true)
    const length = view.getUint32(REQUEST_AT, true)
    if (high >= SAFE_HIGH_WORDS || length > buffers.readBytes) return ORDINARY
    const offset = high * TWO32 + view.getUint32(bodyAt + 8, true)
    const size = view.getUint32(bodyAt + 16, true)
    view.setInt32(REPLY_AT + 4, 0, true)
    view.setUint32(REPLY_AT + 8, request.uniqueLow, true)
    view.setUint32(REPLY_AT + 12, request.uniqueHigh, true)
    return opcode === Opcode.FUSE_READ
      ? this.#read(slot, length, offset, size, buffers)
      : this.#write(slot, length, offset, size, buffers)
  }

  #read(slot: number, length: number, offset: number, size: number, at: Buffers): number {
    const { passthrough, maxReadBytes } = this.#session
    const request = this.#request
    const flags = passthrough.readFlags(slot, size)
    if (flags < 0 || length !== IN_HEADER_BYTES + fuse_read_in.SIZE) return ORDINARY
    if (size > request.replyRoom || size > maxReadBytes || request.spreads(size)) return ORDINARY
    const context = this.#context
    const fd = passthrough.fd(slot)
    const { writeFirst, writeCount } = at
    // One call for data and header: on a small read the calls into the shim are what can be saved.
    const got = context.readvAfter(
      fd,
      writeFirst,
      writeCount,
      size,
      offset,
      flags,
      REPLY_AT,
      OUT_HEADER_BYTES,
    )
    // Where only what is in memory is read, short is not yet the end; nothing more is.
    if (got > 0 && got < size && flags !== 0) {
      const from = OUT_HEADER_BYTES + got
      const end = offset + got
      const more = context.readv(fd, writeFirst, writeCount, from, size - got, end, flags)
      if (more !== 0) return ORDINARY
    }
    if (got >= 0) return OUT_HEADER_BYTES + got
    if (got === -Errno.EAGAIN) request.begun = true
    else if (got === -Errno.EOPNOTSUPP) passthrough.stopReads(slot)
    return ORDINARY
  }

  #write(slot: number, length: number, offset: number, size: number, at: Buffers): number {
    const { passthrough, dax } = this.#session
    const { view } = this.#context
    if (!passthrough.writes(slot) || dax !== undefined) return ORDINARY
    if (size > length - IN_HEADER_BYTES - fuse_write_in.SIZE) return ORDINARY
    const reply = OUT_HEADER_BYTES + fuse_write_out.SIZE
    if (at.writeBytes < reply) return ORDINARY
    const flags = fuse_write_in.f.write_flags.get(view, this.#request.bodyAt)
    if ((flags & FUSE_WRITE_KILL_SUIDGID) !== 0) return ORDINARY
    const skip = IN_HEADER_BYTES + fuse_write_in.SIZE
    const fd = passthrough.fd(slot)
    const done = this.#context.writev(fd, at.readFirst, at.readCount, skip, size, offset, 0)
    if (done < 0) return ORDINARY
    this.#fs.renew()
    view.setUint32(REPLY_AT, reply, true)
    fuse_write_out.f.size.set(view, REPLY_AT + OUT_HEADER_BYTES, done)
    fuse_write_out.f.padding.set(view, REPLY_AT + OUT_HEADER_BYTES, 0)
    const { writeFirst, writeCount } = at
    const copied = this.#context.copyOut(writeFirst, writeCount, 0, REPLY_AT, reply)
    return copied === reply ? reply : UNWRITABLE
  }
}
