/** Reply bodies that several opcodes share. Each returns the bytes written at arena offset `at`. */
import { FUSE_ATTR_DAX, FUSE_ATTR_SUBMOUNT, FOPEN } from '../../protocol/fuse/flags.js'
import {
  fuse_attr,
  fuse_attr_out,
  fuse_entry_out,
  fuse_open_out,
} from '../../protocol/fuse/structs.js'
import type { Attributes, EntryReply, OpenReply } from '../vfs/replies.js'

const Attr = fuse_attr.f
const AttrOut = fuse_attr_out.f
const EntryOut = fuse_entry_out.f
const OpenOut = fuse_open_out.f

/** A device number as the kernel's new_encode_dev() packs it in 32 bits (include/linux/kdev_t.h). */
export function packDevice(major: number, minor: number): number {
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0
}
export function deviceMajor(packed: number): number {
  return (packed & 0xfff00) >>> 8
}
export function deviceMinor(packed: number): number {
  return ((packed & 0xff) | ((packed >>> 12) & 0xfff00)) >>> 0
}

/** struct fuse_attr at `at`. */
export function encodeAttr(view: DataView, at: number, attr: Attributes): number {
  view.setUint32(at, attr.inoLow, true)
  view.setUint32(at + 4, attr.inoHigh, true)
  Attr.size.set(view, at, attr.sizeBytes)
  Attr.blocks.set(view, at, attr.blocks)
  Attr.atime.set(view, at, attr.atimeSec)
  Attr.mtime.set(view, at, attr.mtimeSec)
  Attr.ctime.set(view, at, attr.ctimeSec)
  Attr.atimensec.set(view, at, attr.atimeNsec)
  Attr.mtimensec.set(view, at, attr.mtimeNsec)
  Attr.ctimensec.set(view, at, attr.ctimeNsec)
  Attr.mode.set(view, at, attr.mode)
  Attr.nlink.set(view, at, attr.nlink)
  Attr.uid.set(view, at, attr.uid)
  Attr.gid.set(view, at, attr.gid)
  Attr.rdev.set(view, at, packDevice(attr.rdevMajor, attr.rdevMinor))
  Attr.blksize.set(view, at, attr.blksize)
  Attr.flags.set(
    view,
    at,
    (attr.submount ? FUSE_ATTR_SUBMOUNT : 0) | (attr.dax ? FUSE_ATTR_DAX : 0),
  )
  return fuse_attr.SIZE
}

export function encodeAttrOut(view: DataView, at: number, attr: Attributes): number {
  AttrOut.attr_valid.set(view, at, attr.validSec)
  AttrOut.attr_valid_nsec.set(view, at, attr.validNsec)
  AttrOut.dummy.set(view, at, 0)
  encodeAttr(view, at + fuse_attr_out.SIZE - fuse_attr.SIZE, attr)
  return fuse_attr_out.SIZE
}

export function encodeEntry(view: DataView, at: number, entry: EntryReply): number {
  EntryOut.nodeid.set(view, at, entry.nodeid)
  EntryOut.generation.set(view, at, entry.generation)
  EntryOut.entry_valid.set(view, at, entry.entryValidSec)
  EntryOut.entry_valid_nsec.set(view, at, entry.entryValidNsec)
  EntryOut.attr_valid.set(view, at, entry.attr.validSec)
  EntryOut.attr_valid_nsec.set(view, at, entry.attr.validNsec)
  encodeAttr(view, at + fuse_entry_out.SIZE - fuse_attr.SIZE, entry.attr)
  return fuse_entry_out.SIZE
}

export function encodeOpen(view: DataView, at: number, opened: OpenReply): number {
  OpenOut.fh.set(view, at, opened.fh)
  let flags = 0
  if (opened.directIo) flags |= FOPEN.FOPEN_DIRECT_IO
  if (opened.keepCache) flags |= FOPEN.FOPEN_KEEP_CACHE
  if (opened.cacheDir) flags |= FOPEN.FOPEN_CACHE_DIR
  if (opened.noFlush) flags |= FOPEN.FOPEN_NOFLUSH
  if (opened.parallelDirectWrites) flags |= FOPEN.FOPEN_PARALLEL_DIRECT_WRITES
  OpenOut.open_flags.set(view, at, flags)
  // backing_id (7.40; padding before): kernel passthrough, which a virtio-fs server cannot use.
  view.setInt32(at + 12, 0, true)
  return fuse_open_out.SIZE
}
