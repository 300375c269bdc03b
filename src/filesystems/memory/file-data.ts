/**
 * The bytes of one regular file: a memfd, made when the first byte or hole comes, given back when the
 * file is empty again. Data goes between guest memory and memfd in the shim; it never enters JavaScript.
 */
import { Errno } from '../../../protocol/errno.js'
import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
} from '../../../protocol/linux/constants.js'
import type { Context } from '../../native/context.js'
import type { Outcome } from '../../vfs/filesystem.js'
import type { Payload } from '../../vfs/request.js'
import { Extents } from './extents.js'
import type { Space } from './space.js'

/** What is accounted at once. */
export const PAGE_BYTES = 4096
/** Sizes and offsets are plain numbers: exact below 2^53. */
export const MAX_FILE_BYTES = Number.MAX_SAFE_INTEGER
/** One copy holds up the ring for some milliseconds at most; the guest asks for the rest. */
const MAX_COPY_BYTES = 16 * 1024 * 1024

export class FileData {
  sizeBytes = 0
  readonly #context: Context
  readonly #space: Space
  #fd = -1
  readonly #extents = new Extents()

  constructor(context: Context, space: Space) {
    this.#context = context
    this.#space = space
  }

  /** Memory behind the file, holes left out. */
  get allocatedBytes(): number {
    return this.#extents.bytes
  }

  /** The descriptor, or -ENFILE when the process has none left. */
  #open(): number {
    if (this.#fd >= 0) return this.#fd
    const fd = this.#context.memfdCreate()
    if (fd < 0) return fd === -Errno.EMFILE ? -Errno.ENFILE : fd
    this.#fd = fd
    return fd
  }

  /** -ENOSPC when the pages of [start, end) do not fit any more. */
  #roomFor(start: number, end: number): number {
    const growth = this.#extents.missing(pageStart(start), pageEnd(end))
    return growth > 0 && growth > this.#space.freeBytes ? -Errno.ENOSPC : 0
  }

  /** [start, end) was written or reserved. */
  #grown(start: number, end: number): void {
    this.#space.bytes += this.#extents.add(pageStart(start), pageEnd(end))
  }

  /** The whole pages within [start, end) were given back. */
  #shrunk(start: number, end: number): void {
    this.#space.bytes -= this.#extents.remove(pageEnd(start), pageStart(end))
  }

  read({ first, count, skip, bytes }: Payload, offset: number): Outcome {
    if (this.#fd < 0 || offset >= this.sizeBytes) return 0
    return this.#context.readv(this.#fd, first, count, skip, bytes, offset, 0)
  }

  /** Errors: EFBIG; ENOSPC; ENFILE; EFAULT. */
  write({ first, count, skip, bytes }: Payload, offset: number): Outcome {
    if (bytes === 0) return 0
    if (bytes > MAX_FILE_BYTES - offset) return -Errno.EFBIG
    const full = this.#roomFor(offset, offset + bytes)
    if (full < 0) return full
    const fd = this.#open()
    if (fd < 0) return fd
    const done = this.#context.writev(fd, first, count, skip, bytes, offset, 0)
    if (done <= 0) return done
    this.#grown(offset, offset + done)
    this.sizeBytes = Math.max(this.sizeBytes, offset + done)
    return done
  }

  /** Errors: EFBIG; ENFILE. */
  truncate(sizeBytes: number): Outcome {
    if (sizeBytes === this.sizeBytes) return 0
    if (sizeBytes > MAX_FILE_BYTES) return -Errno.EFBIG
    if (sizeBytes === 0) {
      this.dispose()
      return 0
    }
    const fd = this.#open()
    if (fd < 0) return fd
    const fault = this.#context.ftruncate(fd, sizeBytes)
    if (fault < 0) return fault
    if (sizeBytes < this.sizeBytes) this.#shrunk(sizeBytes, Infinity)
    this.sizeBytes = sizeBytes
    return 0
  }

  /**
   * fallocate(2): plain, PUNCH_HOLE and ZERO_RANGE. Errors: EOPNOTSUPP other modes; EFBIG; ENOSPC; ENFILE.
   */
  allocate(mode: number, offset: number, length: number): Outcome {
    const keepSize = (mode & FALLOC_FL_KEEP_SIZE) !== 0
    const what = mode & ~FALLOC_FL_KEEP_SIZE
    if (what !== 0 && what !== FALLOC_FL_ZERO_RANGE && what !== FALLOC_FL_PUNCH_HOLE)
      return -Errno.EOPNOTSUPP
    if (what === FALLOC_FL_PUNCH_HOLE && !keepSize) return -Errno.EOPNOTSUPP
    if (length > MAX_FILE_BYTES - offset) return -Errno.EFBIG
    if (what === FALLOC_FL_PUNCH_HOLE) return this.#punch(offset, length)
    const end = offset + length
    const full = this.#roomFor(offset, end)
    if (full < 0) return full
    const fd = this.#open()
    if (fd < 0) return fd
    // A memfd knows no ZERO_RANGE: a hole that is filled again is the same.
    if (what === FALLOC_FL_ZERO_RANGE) this.#punch(offset, length)
    const fault = this.#context.fallocate(fd, mode & FALLOC_FL_KEEP_SIZE, offset, length)
    if (fault < 0) return fault
    this.#grown(offset, end)
    if (!keepSize) this.sizeBytes = Math.max(this.sizeBytes, end)
    return 0
  }

  #punch(offset: number, length: number): Outcome {
    if (this.#fd < 0) return 0
    const mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    const fault = this.#context.fallocate(this.#fd, mode, offset, length)
    if (fault < 0) return fault
    this.#shrunk(offset, offset + length)
    return 0
  }

  /** SEEK_DATA or SEEK_HOLE from `offset`. Errors: ENXIO at or past the end, or no data behind it. */
  seek(offset: number, whence: number): Outcome {
    if (this.#fd < 0 || offset >= this.sizeBytes) return -Errno.ENXIO
    return this.#context.lseek(this.#fd, offset, whence)
  }

  /**
   * Copies to `target`, which may be this file. Returns the bytes copied, which may be fewer than asked.
   * Errors: EFBIG; EINVAL the ranges overlap; ENOSPC; ENFILE.
   */
  copyTo(target: FileData, offset: number, targetOffset: number, length: number): Outcome {
    const left = Math.min(length, this.sizeBytes - offset)
    if (left <= 0) return 0
    if (left > MAX_FILE_BYTES - targetOffset) return -Errno.EFBIG
    if (target === this && targetOffset + left > offset && targetOffset < offset + left)
      return -Errno.EINVAL
    const bytes = Math.min(left, MAX_COPY_BYTES)
    const full = target.#roomFor(targetOffset, targetOffset + bytes)
    if (full < 0) return full
    const fd = target.#open()
    if (fd < 0) return fd
    const done = this.#context.copyFileRange(this.#fd, offset, fd, targetOffset, bytes)
    if (done <= 0) return done
    target.#grown(targetOffset, targetOffset + done)
    target.sizeBytes = Math.max(target.sizeBytes, targetOffset + done)
    return done
  }

  /** Gives everything back: the file is empty. */
  dispose(): void {
    if (this.#fd >= 0) this.#context.close(this.#fd)
    this.#fd = -1
    this.#space.bytes -= this.#extents.remove(0, Infinity)
    this.sizeBytes = 0
  }
}

function pageStart(offset: number): number {
  return offset - (offset % PAGE_BYTES)
}
function pageEnd(offset: number): number {
  return offset === Infinity ? offset : pageStart(offset + PAGE_BYTES - 1)
}
