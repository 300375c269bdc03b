/** The creation context that follows the names of MKNOD, MKDIR, SYMLINK, CREATE and TMPFILE. */
import { type Extensions, newExtensions, readExtensions } from '../../protocol/fuse/extensions.js'
import type { Call } from './operation.js'

const found: Extensions = newExtensions()

/** Reads supplementary groups and security context from arena offset `at` to the end of the body. 0, or -EINVAL. */
export function takeExtensions({ session, request }: Call, at: number): number {
  const end = request.bodyAt + request.bodyBytes
  if (at >= end || (!session.securityContext && !session.createSuppGroup)) return 0
  const { view, bytes } = request.context
  const fault = readExtensions(view, bytes, at, end, found)
  if (fault < 0) return fault
  if (session.createSuppGroup && found.groupCount >= 0) {
    request.groupsAt = found.groupsAt
    request.groupCount = found.groupCount
  }
  if (session.securityContext) {
    request.securityName.at = found.secctxNameAt
    request.securityName.bytes = found.secctxNameBytes
    request.securityValue.at = found.secctxValueAt
    request.securityValue.bytes = found.secctxValueBytes
  }
  return 0
}
