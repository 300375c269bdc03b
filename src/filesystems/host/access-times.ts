/** When reading changes the access time of an inode. */
import { statx } from '../../../protocol/linux/statx.js'
import type { HostMount } from './node.js'

/** relatime: an access time older than this is brought up to date. Less than the kernel's 24 hours, to be safe. */
const RELATIME_SECONDS = 23 * 3600

const F = statx.f

/** No read of the inode whose struct statx lies at `at` changes its access time. */
export function readsKeepAtime(mount: HostMount, view: DataView, at: number): boolean {
  if (mount.noAtime) return true
  if (!mount.relAtime) return false
  const sec = F.stx_atime_sec.get(view, at)
  const nsec = F.stx_atime_nsec.get(view, at)
  return (
    isBefore(F.stx_mtime_sec.get(view, at), F.stx_mtime_nsec.get(view, at), sec, nsec) &&
    isBefore(F.stx_ctime_sec.get(view, at), F.stx_ctime_nsec.get(view, at), sec, nsec) &&
    Date.now() / 1000 - sec < RELATIME_SECONDS
  )
}

function isBefore(sec: number, nsec: number, otherSec: number, otherNsec: number): boolean {
  return sec < otherSec || (sec === otherSec && nsec < otherNsec)
}
