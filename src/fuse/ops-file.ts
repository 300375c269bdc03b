/** OPEN READ WRITE FLUSH RELEASE FSYNC LSEEK FALLOCATE COPY_FILE_RANGE(_64) IOCTL POLL. */
import { Errno } from '../../protocol/errno.js'
import {
  FUSE_FSYNC_FDATASYNC,
  FUSE_IOCTL_COMPAT,
  FUSE_IOCTL_UNRESTRICTED,
  FUSE_OPEN_KILL_SUIDGID,
  FUSE_WRITE_CACHE,
  FUSE_WRITE_KILL_SUIDGID,
} from '../../protocol/fuse/flags.js'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import {
  fuse_copy_file_range_in,
  fuse_copy_file_range_out,
  fuse_fallocate_in,
  fuse_flush_in,
  fuse_fsync_in,
  fuse_ioctl_in,
  fuse_ioctl_out,
  fuse_lseek_in,
  fuse_lseek_out,
  fuse_open_in,
  fuse_open_out,
  fuse_read_in,
  fuse_release_in,
  fuse_syncfs_in,
  fuse_write_in,
  fuse_write_out,
} from '../../protocol/fuse/structs.js'
import {
  FALLOC_FL_COLLAPSE_RANGE,
  FALLOC_FL_INSERT_RANGE,
  FALLOC_FL_KEEP_SIZE,
  O_ACCMODE,
  O_TRUNC,
} from '../../protocol/linux/constants.js'
import { isSafeU64 } from '../../protocol/struct.js'
import { openedEmpty } from '../vfs/dax.js'
import type { Outcome } from '../vfs/filesystem.js'
import { encodeOpen } from './encode.js'
import type { Call, OperationTable } from './operation.js'
import { OUT_HEADER_BYTES } from './request.js'

const IN_HEADER_BYTES = 40
const FLUSH_OWNER_AT = fuse_flush_in.f.lock_owner.offset

const OPEN_REPLY = {
  replyBytes: fuse_open_out.SIZE,
  encode: ({ request }: Call, _outcome: Outcome, at: number): number =>
    encodeOpen(request.context.view, at, request.opened),
} as const

function open({ fs, session, request }: Call): Outcome {
  const { view } = request.context
  const In = fuse_open_in.f
  const flags = In.flags.get(view, request.bodyAt)
  // O_RDONLY is 0; O_TRUNC changes the file whatever the rest says.
  if (fs.capabilities.readOnly && (flags & (O_ACCMODE | O_TRUNC)) !== 0) return -Errno.EROFS
  request.opened.reset()
  const killSuid = (In.open_flags.get(view, request.bodyAt) & FUSE_OPEN_KILL_SUIDGID) !== 0
  const outcome =
    (flags & O_TRUNC) === 0
      ? fs.open(request, request.nodeid, flags, killSuid, request.opened)
      : openedEmpty(session.dax, request.nodeid, () =>
          fs.open(request, request.nodeid, flags, killSuid, request.opened),
        )
  if (outcome === 0) session.opened(fs, request, request.nodeid, flags)
  return outcome
}

function release({ fs, session, request }: Call): Outcome {
  const fh = fuse_release_in.f.fh.get(request.context.view, request.bodyAt)
  session.passthrough.remove(fh)
  return fs.release(request, request.nodeid, fh)
}

function read({ fs, session, request, buffers }: Call): Outcome {
  const { view } = request.context
  const In = fuse_read_in.f
  const size = In.size.get(view, request.bodyAt)
  const offset = In.offset.get(view, request.bodyAt)
  if (!isSafeU64(offset)) return -Errno.EINVAL
  // The writable part of the chain is the only room there is: asking for more is a driver's fault.
  if (size > request.replyRoom || size > session.maxReadBytes) return -Errno.EINVAL
  const { payload } = request
  payload.first = buffers.writeFirst
  payload.count = buffers.writeCount
  payload.skip = OUT_HEADER_BYTES
  payload.bytes = size
  return fs.read(request, request.nodeid, In.fh.get(view, request.bodyAt), offset, payload)
}

function write({ fs, session, request, buffers }: Call): Outcome {
  const { view } = request.context
  const In = fuse_write_in.f
  const size = In.size.get(view, request.bodyAt)
  const offset = In.offset.get(view, request.bodyAt)
  if (!isSafeU64(offset)) return -Errno.EFBIG
  if (size > request.bodyTotalBytes - fuse_write_in.SIZE) return -Errno.EINVAL
  const { payload } = request
  payload.first = buffers.readFirst
  payload.count = buffers.readCount
  payload.skip = IN_HEADER_BYTES + fuse_write_in.SIZE
  payload.bytes = size
  const unmappable = session.dax?.beforeGrowth(request.nodeid, offset + size) ?? 0
  if (unmappable < 0) return unmappable
  const flags = In.write_flags.get(view, request.bodyAt)
  const killSuid = (flags & FUSE_WRITE_KILL_SUIDGID) !== 0
  const fromCache = (flags & FUSE_WRITE_CACHE) !== 0
  return fs.write(
    request,
    request.nodeid,
    In.fh.get(view, request.bodyAt),
    offset,
    payload,
    killSuid,
    fromCache,
  )
}

function encodeWritten({ request }: Call, outcome: Outcome, at: number): number {
  fuse_write_out.f.size.set(request.context.view, at, outcome)
  fuse_write_out.f.padding.set(request.context.view, at, 0)
  return fuse_write_out.SIZE
}

function fsync({ fs, request }: Call): Outcome {
  const { view } = request.context
  const dataOnly =
    (fuse_fsync_in.f.fsync_flags.get(view, request.bodyAt) & FUSE_FSYNC_FDATASYNC) !== 0
  return fs.fsync(request, request.nodeid, fuse_fsync_in.f.fh.get(view, request.bodyAt), dataOnly)
}

function lseek({ fs, request }: Call): Outcome {
  const { view } = request.context
  const In = fuse_lseek_in.f
  const offset = In.offset.get(view, request.bodyAt)
  if (!isSafeU64(offset)) return -Errno.EINVAL
  const fh = In.fh.get(view, request.bodyAt)
  return fs.lseek(request, request.nodeid, fh, offset, In.whence.get(view, request.bodyAt))
}

function fallocate({ fs, session, request }: Call): Outcome {
  const { view } = request.context
  const In = fuse_fallocate_in.f
  const offset = In.offset.get(view, request.bodyAt)
  const length = In.length.get(view, request.bodyAt)
  if (length === 0) return -Errno.EINVAL
  if (!isSafeU64(offset) || !isSafeU64(length) || !isSafeU64(offset + length)) return -Errno.EFBIG
  const fh = In.fh.get(view, request.bodyAt)
  const mode = In.mode.get(view, request.bodyAt)
  // They move data under the mappings, and out of the file; no guest of Linux asks.
  if (
    session.dax !== undefined &&
    (mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) !== 0
  )
    return -Errno.EOPNOTSUPP
  if (session.dax !== undefined && (mode & FALLOC_FL_KEEP_SIZE) === 0) {
    const unmappable = session.dax.beforeGrowth(request.nodeid, offset + length)
    if (unmappable < 0) return unmappable
  }
  return fs.fallocate(request, request.nodeid, fh, offset, length, mode)
}

/** A reply of COPY_FILE_RANGE counts 32 bits, so no more is copied for one request (a whole page less than 4 GiB). */
const MAX_COPY_32 = 0xffff_f000

function copyFileRange({ fs, session, request }: Call, limit: number): Outcome {
  const { view } = request.context
  const In = fuse_copy_file_range_in.f
  const at = request.bodyAt
  const offsetIn = In.off_in.get(view, at)
  const offsetOut = In.off_out.get(view, at)
  if (In.flags.get(view, at) !== 0 || view.getUint32(at + In.flags.offset + 4, true) !== 0)
    return -Errno.EINVAL
  if (!isSafeU64(offsetIn) || !isSafeU64(offsetOut)) return -Errno.EINVAL
  const length = Math.min(In.len.get(view, at), limit)
  const fhIn = In.fh_in.get(view, at)
  const fhOut = In.fh_out.get(view, at)
  const nodeidOut = In.nodeid_out.get(view, at)
  const unmappable = session.dax?.beforeGrowth(nodeidOut, offsetOut + length) ?? 0
  if (unmappable < 0) return unmappable
  return fs.copyFileRange(
    request,
    request.nodeid,
    fhIn,
    offsetIn,
    nodeidOut,
    fhOut,
    offsetOut,
    length,
  )
}

function ioctl({ fs, request }: Call): Outcome {
  const { view } = request.context
  const In = fuse_ioctl_in.f
  const flags = In.flags.get(view, request.bodyAt)
  // Unrestricted ioctls name guest addresses of the caller; 32-bit callers pass other layouts.
  if ((flags & (FUSE_IOCTL_UNRESTRICTED | FUSE_IOCTL_COMPAT)) !== 0) return -Errno.ENOTTY
  const inBytes = In.in_size.get(view, request.bodyAt)
  const outBytes = In.out_size.get(view, request.bodyAt)
  if (inBytes > request.bodyBytes - fuse_ioctl_in.SIZE) return -Errno.EINVAL
  if (fuse_ioctl_out.SIZE + outBytes > request.replyCapacity) return -Errno.EINVAL
  request.input.at = request.bodyAt + fuse_ioctl_in.SIZE
  request.input.bytes = inBytes
  request.output.at = request.replyAt + fuse_ioctl_out.SIZE
  request.output.bytes = outBytes
  const fh = In.fh.get(view, request.bodyAt)
  return fs.ioctl(
    request,
    request.nodeid,
    fh,
    In.cmd.get(view, request.bodyAt),
    request.input,
    request.output,
  )
}

function encodeIoctl({ request }: Call, outcome: Outcome, at: number): number {
  const { view } = request.context
  fuse_ioctl_out.f.result.set(view, at, 0)
  fuse_ioctl_out.f.flags.set(view, at, 0)
  fuse_ioctl_out.f.in_iovs.set(view, at, 0)
  fuse_ioctl_out.f.out_iovs.set(view, at, 0)
  return fuse_ioctl_out.SIZE + outcome
}

export const fileOperations: OperationTable = {
  [Opcode.FUSE_OPEN]: {
    minBody: fuse_open_in.SIZE,
    run: open,
    ...OPEN_REPLY,
    undo: ({ fs, session, request }) => {
      session.passthrough.remove(request.opened.fh)
      fs.release(request, request.nodeid, request.opened.fh)
    },
  },
  [Opcode.FUSE_READ]: { minBody: fuse_read_in.SIZE, replyBytes: 0, run: read, payloadReply: true },
  [Opcode.FUSE_WRITE]: {
    minBody: fuse_write_in.SIZE,
    replyBytes: fuse_write_out.SIZE,
    writes: true,
    run: write,
    encode: encodeWritten,
  },
  [Opcode.FUSE_FLUSH]: {
    minBody: fuse_flush_in.SIZE,
    replyBytes: 0,
    run: ({ fs, request }) =>
      fs.flush(
        request,
        request.nodeid,
        fuse_flush_in.f.fh.get(request.context.view, request.bodyAt),
        request.context.view.getUint32(request.bodyAt + FLUSH_OWNER_AT, true),
        request.context.view.getUint32(request.bodyAt + FLUSH_OWNER_AT + 4, true),
      ),
  },
  [Opcode.FUSE_RELEASE]: {
    minBody: fuse_release_in.SIZE,
    replyBytes: 0,
    run: release,
  },
  [Opcode.FUSE_FSYNC]: { minBody: fuse_fsync_in.SIZE, replyBytes: 0, run: fsync },
  [Opcode.FUSE_SYNCFS]: {
    minBody: fuse_syncfs_in.SIZE,
    replyBytes: 0,
    run: ({ fs, request }) => fs.syncfs(request, request.nodeid),
  },
  [Opcode.FUSE_LSEEK]: {
    minBody: fuse_lseek_in.SIZE,
    replyBytes: fuse_lseek_out.SIZE,
    run: lseek,
    encode({ request }, outcome, at) {
      fuse_lseek_out.f.offset.set(request.context.view, at, outcome)
      return fuse_lseek_out.SIZE
    },
  },
  [Opcode.FUSE_FALLOCATE]: {
    minBody: fuse_fallocate_in.SIZE,
    replyBytes: 0,
    writes: true,
    run: fallocate,
  },
  [Opcode.FUSE_COPY_FILE_RANGE]: {
    minBody: fuse_copy_file_range_in.SIZE,
    replyBytes: fuse_write_out.SIZE,
    writes: true,
    run: call => copyFileRange(call, MAX_COPY_32),
    encode: encodeWritten,
  },
  [Opcode.FUSE_COPY_FILE_RANGE_64]: {
    minBody: fuse_copy_file_range_in.SIZE,
    replyBytes: fuse_copy_file_range_out.SIZE,
    writes: true,
    run: call => copyFileRange(call, Number.MAX_SAFE_INTEGER),
    encode({ request }, outcome, at) {
      fuse_copy_file_range_out.f.bytes_copied.set(request.context.view, at, outcome)
      return fuse_copy_file_range_out.SIZE
    },
  },
  [Opcode.FUSE_IOCTL]: {
    minBody: fuse_ioctl_in.SIZE,
    replyBytes: fuse_ioctl_out.SIZE,
    run: ioctl,
    encode: encodeIoctl,
  },
}
