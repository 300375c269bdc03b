/** Decoding that several opcodes share: names, extensions, ranges. */
import { Errno } from '../../protocol/errno.js'
import { checkComponent, findNul } from '../../protocol/fuse/names.js'
import type { Name } from '../vfs/request.js'
import type { FuseRequest } from './request.js'

/**
 * Takes a NUL-terminated name at arena offset `at` into `name`; returns the offset after its NUL, or
 * `-errno`: EINVAL without NUL, then what `checkComponent` finds.
 */
export function takeComponent(request: FuseRequest, at: number, name: Name): number {
  const end = takeString(request, at, name)
  if (end < 0) return end
  const fault = checkComponent(request.context.bytes, name.at, name.bytes)
  return fault < 0 ? fault : end
}

/** As `takeComponent`, for bytes that are no path component: link targets, xattr names. */
export function takeString(request: FuseRequest, at: number, name: Name): number {
  const limit = request.bodyAt + request.bodyBytes
  const nul = findNul(request.context.bytes, at, limit)
  if (nul < 0) return -Errno.EINVAL
  name.at = at
  name.bytes = nul - at
  return nul + 1
}
