/**
 * The area after the names of a creating request: supplementary groups and security context.
 *
 * Source: include/uapi/linux/fuse.h: struct fuse_ext_header (7.38), whose `type` up to
 * FUSE_MAX_NR_SECCTX makes it a fuse_secctx_header with that many contexts (7.36), and FUSE_EXT_GROUPS
 * is struct fuse_supp_groups. Each extension is padded to 8 bytes. Guests from 7.36 to 7.37 send a
 * security context with `total_extlen` 0: only the end of the request says how much there is.
 */
import { Errno } from '../errno.js'
import { FUSE_EXT_GROUPS, FUSE_MAX_NR_SECCTX } from './flags.js'
import { findNul } from './names.js'
import { fuse_ext_header, fuse_secctx, fuse_supp_groups } from './structs.js'

/** What was found, as offsets into the same bytes. Reused from request to request. */
export interface Extensions {
  /** Of the first group id, a u32 each; not aligned to more than 4. */
  groupsAt: number
  /** -1: no group extension. */
  groupCount: number
  secctxNameAt: number
  /** Without the NUL; 0: no security context. */
  secctxNameBytes: number
  secctxValueAt: number
  secctxValueBytes: number
}

/** An empty result, to be filled by `readExtensions`. */
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

/** Bytes that start every extension. */
const HEADER_BYTES = fuse_ext_header.SIZE
/** NGROUPS_MAX of include/uapi/linux/limits.h: no Linux process can have more. */
const MAX_GROUPS = 65536

/**
 * Reads bytes `at` to `end` of `view` and of `bytes`, which see the same memory, into `found`; what was
 * in `found` is forgotten. Returns 0, or -EINVAL with `found` half filled, in the order met: an
 * extension shorter than its header or longer than what is left; a second one of the same kind; a
 * security context or a group list that does not fit its extension; a name that is empty or does not
 * end; 1 to 7 bytes left over. Types we do not know are skipped.
 */
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
    const size = fuse_ext_header.f.size.get(view, from)
    const type = fuse_ext_header.f.type.get(view, from)
    if (size < HEADER_BYTES || size > end - from) return -Errno.EINVAL
    const body = from + HEADER_BYTES
    const limit = from + size
    let fault = 0
    if (type <= FUSE_MAX_NR_SECCTX) fault = readSecurity(view, bytes, body, limit, type, found)
    else if (type === FUSE_EXT_GROUPS) fault = readGroups(view, body, limit, found)
    if (fault < 0) return fault
    from = limit + (-size & 7)
  }
  return from < end ? -Errno.EINVAL : 0
}

/** One context is all that Linux sends (7.2); of several the first counts and is the one checked. */
function readSecurity(
  view: DataView,
  bytes: Uint8Array,
  at: number,
  limit: number,
  count: number,
  found: Extensions,
): number {
  if (found.secctxNameBytes > 0) return -Errno.EINVAL
  if (count === 0) return 0
  if (limit - at < fuse_secctx.SIZE) return -Errno.EINVAL
  const valueBytes = fuse_secctx.f.size.get(view, at)
  const nameAt = at + fuse_secctx.SIZE
  const nul = findNul(bytes, nameAt, limit)
  if (nul <= nameAt || valueBytes > limit - nul - 1) return -Errno.EINVAL
  found.secctxNameAt = nameAt
  found.secctxNameBytes = nul - nameAt
  found.secctxValueAt = nul + 1
  found.secctxValueBytes = valueBytes
  return 0
}

function readGroups(view: DataView, at: number, limit: number, found: Extensions): number {
  if (found.groupCount >= 0 || limit - at < fuse_supp_groups.SIZE) return -Errno.EINVAL
  const count = fuse_supp_groups.f.nr_groups.get(view, at)
  const groupsAt = at + fuse_supp_groups.SIZE
  if (count > MAX_GROUPS || count * 4 > limit - groupsAt) return -Errno.EINVAL
  found.groupsAt = groupsAt
  found.groupCount = count
  return 0
}
