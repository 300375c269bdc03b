/** struct statx in the arena as attributes for the guest. */
import {
  STATX_BASIC_STATS,
  STATX_BTIME,
  STATX_MNT_ID,
  statx,
} from '../../../protocol/linux/statx.js'
import type { Attributes } from '../../vfs/replies.js'

/** What is asked of the host each time: everything of stat(2), birth time and the mount. */
export const STATX_WANTED = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID

const F = statx.f

/** Fills everything but `submount`, `dax` and the time limits. */
export function readAttributes(view: DataView, at: number, attr: Attributes): void {
  attr.inoLow = view.getUint32(at + F.stx_ino.offset, true)
  attr.inoHigh = view.getUint32(at + F.stx_ino.offset + 4, true)
  attr.sizeBytes = F.stx_size.get(view, at)
  attr.blocks = F.stx_blocks.get(view, at)
  attr.atimeSec = F.stx_atime_sec.get(view, at)
  attr.atimeNsec = F.stx_atime_nsec.get(view, at)
  attr.mtimeSec = F.stx_mtime_sec.get(view, at)
  attr.mtimeNsec = F.stx_mtime_nsec.get(view, at)
  attr.ctimeSec = F.stx_ctime_sec.get(view, at)
  attr.ctimeNsec = F.stx_ctime_nsec.get(view, at)
  attr.hasBirth = (F.stx_mask.get(view, at) & STATX_BTIME) !== 0
  attr.btimeSec = F.stx_btime_sec.get(view, at)
  attr.btimeNsec = F.stx_btime_nsec.get(view, at)
  attr.mode = F.stx_mode.get(view, at)
  attr.nlink = F.stx_nlink.get(view, at)
  attr.uid = F.stx_uid.get(view, at)
  attr.gid = F.stx_gid.get(view, at)
  attr.rdevMajor = F.stx_rdev_major.get(view, at)
  attr.rdevMinor = F.stx_rdev_minor.get(view, at)
  attr.blksize = F.stx_blksize.get(view, at)
  attr.statxAttributes = F.stx_attributes.get(view, at)
  attr.statxAttributesMask = F.stx_attributes_mask.get(view, at)
}
