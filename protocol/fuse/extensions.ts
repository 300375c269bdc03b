/**
 * The extension area after the names of a creating request: supplementary groups and security context.
 *
 * Source: include/uapi/linux/fuse.h: struct fuse_ext_header {u32 size; u32 type} (7.38), where a type
 * up to FUSE_MAX_NR_SECCTX is fuse_secctx_header's count of contexts (7.36), and FUSE_EXT_GROUPS is
 * struct fuse_supp_groups {u32 nr_groups; u32 groups[]}. Each extension is padded to 8 bytes.
 */
import { Errno } from '../errno.js'
import { FUSE_EXT_GROUPS, FUSE_MAX_NR_SECCTX } from './flags.js'
import { findNul } from './names.js'

/** Offsets into the same bytes; -1 or 0 bytes for what was not there. Reused between requests. */
export interface Extensions {
  groupsAt: number
  /** -1: no group extension. */
  groupCount: number
  secctxNameAt: number
  secctxNameBytes: number
  secctxValueAt: number
  secctxValueBytes: number
}

export function newExtensions(): Extensions {
  return {
    groupsAt: 0,
    groupCount: -1,
    secctxNameAt: 0,
    secctxNameBytes: 0,
    secctxValueAt: 0,
    secctxValueBytes: 0,
  }
}

const HEADER_BYTES = 8
/** NGROUPS_MAX. */
const MAX_GROUPS = 65536

/** Reads `[at, end)` into `found`. 0, or -EINVAL when sizes do not fit what is there. Unknown types are skipped. */
export function readExtensions(
  view: DataView,
  bytes: Uint8Array,
  at: number,
  end: number,
  found: Extensions,
): number {
  found.groupCount = -1
  found.secctxNameBytes = 0
  found.secctxValueBytes = 0
  let from = at
  while (end - from >= HEADER_BYTES) {
    const size = view.getUint32(from, true)
    const type = view.getUint32(from + 4, true)
    if (size < HEADER_BYTES || size > end - from) return -Errno.EINVAL
    const body = from + HEADER_BYTES
    const limit = from + size
    let fault = 0
    if (type <= FUSE_MAX_NR_SECCTX) fault = readSecurity(view, bytes, body, limit, type, found)
    else if (type === FUSE_EXT_GROUPS) fault = readGroups(view, body, limit, found)
    if (fault < 0) return fault
    from += (size + 7) & ~7
  }
  return 0
}

/** One context is all a guest sends today; of several the first counts. */
function readSecurity(
  view: DataView,
  bytes: Uint8Array,
  at: number,
  limit: number,
  count: number,
  found: Extensions,
): number {
  if (count === 0) return 0
  if (limit - at < 8) return -Errno.EINVAL
  const valueBytes = view.getUint32(at, true)
  const nameAt = at + 8
  const nul = findNul(bytes, nameAt, limit)
  if (nul < 0 || valueBytes > limit - nul - 1) return -Errno.EINVAL
  found.secctxNameAt = nameAt
  found.secctxNameBytes = nul - nameAt
  found.secctxValueAt = nul + 1
  found.secctxValueBytes = valueBytes
  return 0
}

function readGroups(view: DataView, at: number, limit: number, found: Extensions): number {
  if (limit - at < 4) return -Errno.EINVAL
  const count = view.getUint32(at, true)
  if (count > MAX_GROUPS || count * 4 > limit - at - 4) return -Errno.EINVAL
  found.groupsAt = at + 4
  found.groupCount = count
  return 0
}
