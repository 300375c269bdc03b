/**
 * Extended attributes: names as `--xattrmap` has them, POSIX ACLs only where they were agreed on.
 *
 * Without ACL support in the session the guest does not enforce what an ACL says, so their names are
 * refused with ENOTSUP and left out of listings, as Rust virtiofsd does.
 */
import { Errno } from '../../../protocol/errno.js'
import type { Outcome } from '../../vfs/filesystem.js'
import type { Name, Span } from '../../vfs/request.js'
import { ENTRIES_AT, ENTRIES_BYTES, NAME_AT } from './scratch.js'
import type { HostState } from './state.js'

/** XATTR_NAME_MAX of include/uapi/linux/limits.h. */
const MAX_NAME_BYTES = 255
const ACL_NAMES: readonly Uint8Array[] = [
  'system.posix_acl_access',
  'system.posix_acl_default',
].map(name => new TextEncoder().encode(name))

function isAcl(arena: Uint8Array, at: number, bytes: number): boolean {
  for (const name of ACL_NAMES)
    if (name.length === bytes && name.every((byte, i) => arena[at + i] === byte)) return true
  return false
}

/** Arena offset of the host's name for `name`, good until the next name is placed; or -errno. */
export function hostName(host: HostState, name: Name): number {
  const { bytes } = host.context
  if (host.aclHidden && isAcl(bytes, name.at, name.bytes)) return -Errno.ENOTSUP
  if (host.xattrMap === undefined) return name.at
  const mapped = host.xattrMap.toHost(name.key(bytes))
  if (typeof mapped === 'number') return mapped
  if (mapped.length > MAX_NAME_BYTES) return -Errno.ERANGE
  const at = host.scratchAt + NAME_AT
  for (let i = 0; i < mapped.length; i++) bytes[at + i] = mapped.charCodeAt(i)
  bytes[at + mapped.length] = 0
  return at
}

export function getxattr(host: HostState, path: number, name: Name, out: Span): Outcome {
  const at = hostName(host, name)
  // What the map denies is, to a reader, not there.
  if (at < 0) return at === -Errno.EPERM ? -Errno.ENODATA : at
  return host.context.getxattr(path, at, out.at, out.bytes)
}

export function setxattr(
  host: HostState,
  path: number,
  name: Name,
  value: Span,
  flags: number,
): Outcome {
  const at = hostName(host, name)
  return at < 0 ? at : host.context.setxattr(path, at, value.at, value.bytes, flags)
}

export function removexattr(host: HostState, path: number, name: Name): Outcome {
  const at = hostName(host, name)
  return at < 0 ? at : host.context.removexattr(path, at)
}

/** The guest's names; with room for 0 bytes how much they take, exactly. */
export function listxattr(host: HostState, path: number, out: Span): Outcome {
  const { context } = host
  if (host.xattrMap === undefined && !host.aclHidden)
    return context.listxattr(path, out.at, out.bytes)
  // 64 KiB is the most a list can take (XATTR_LIST_MAX). Names only get shorter: it is done in place.
  const { bytes } = context
  const from = host.scratchAt + ENTRIES_AT
  const listed = context.listxattr(path, from, ENTRIES_BYTES)
  if (listed < 0) return listed
  let kept = 0
  for (let at = from; at < from + listed; ) {
    const end = bytes.indexOf(0, at)
    const shown = shownBytes(host, at, end - at)
    if (shown > 0) {
      bytes.copyWithin(from + kept, end - shown, end + 1)
      kept += shown + 1
    }
    at = end + 1
  }
  if (out.bytes === 0) return kept
  if (kept > out.bytes) return -Errno.ERANGE
  bytes.copyWithin(out.at, from, from + kept)
  return kept
}

/** How much of the end of the host's name is the guest's name; 0 where it is hidden. */
function shownBytes(host: HostState, at: number, length: number): number {
  const { bytes } = host.context
  let shown = length
  if (host.xattrMap !== undefined) {
    let text = ''
    for (let i = at; i < at + length; i++) text += String.fromCharCode(bytes[i]!)
    shown = host.xattrMap.toGuest(text)?.length ?? 0
  }
  return host.aclHidden && isAcl(bytes, at + length - shown, shown) ? 0 : shown
}
