/** The reply of STATX: attributes with birth time and the extended flags. */
import { fuse_statx, fuse_statx_out } from '../../protocol/fuse/structs.js'
import { STATX_BASIC_STATS, STATX_BTIME } from '../../protocol/linux/statx.js'
import type { Outcome } from '../vfs/filesystem.js'
import type { Call } from './operation.js'

const Out = fuse_statx_out.f
const Stat = fuse_statx.f
const STAT_AT = fuse_statx_out.SIZE - fuse_statx.SIZE

export function encodeStatx({ request }: Call, _outcome: Outcome, at: number): number {
  const { view, bytes } = request.context
  const { attr } = request
  bytes.fill(0, at, at + fuse_statx_out.SIZE)
  Out.attr_valid.set(view, at, attr.validSec)
  Out.attr_valid_nsec.set(view, at, attr.validNsec)
  const base = at + STAT_AT
  Stat.mask.set(view, base, STATX_BASIC_STATS | (attr.hasBirth ? STATX_BTIME : 0))
  Stat.blksize.set(view, base, attr.blksize)
  Stat.attributes.set(view, base, attr.statxAttributes)
  Stat.attributes_mask.set(view, base, attr.statxAttributesMask)
  Stat.nlink.set(view, base, attr.nlink)
  Stat.uid.set(view, base, attr.uid)
  Stat.gid.set(view, base, attr.gid)
  Stat.mode.set(view, base, attr.mode)
  view.setUint32(base + Stat.ino.offset, attr.inoLow, true)
  view.setUint32(base + Stat.ino.offset + 4, attr.inoHigh, true)
  Stat.size.set(view, base, attr.sizeBytes)
  Stat.blocks.set(view, base, attr.blocks)
  Stat.atime_tv_sec.set(view, base, attr.atimeSec)
  Stat.atime_tv_nsec.set(view, base, attr.atimeNsec)
  Stat.mtime_tv_sec.set(view, base, attr.mtimeSec)
  Stat.mtime_tv_nsec.set(view, base, attr.mtimeNsec)
  Stat.ctime_tv_sec.set(view, base, attr.ctimeSec)
  Stat.ctime_tv_nsec.set(view, base, attr.ctimeNsec)
  Stat.btime_tv_sec.set(view, base, attr.hasBirth ? attr.btimeSec : 0)
  Stat.btime_tv_nsec.set(view, base, attr.hasBirth ? attr.btimeNsec : 0)
  Stat.rdev_major.set(view, base, attr.rdevMajor)
  Stat.rdev_minor.set(view, base, attr.rdevMinor)
  return fuse_statx_out.SIZE
}
