/** Making, moving and removing names. */
import { Errno } from '../../../protocol/errno.js'
import {
  AT_REMOVEDIR,
  O_CREAT,
  O_EXCL,
  O_NOFOLLOW,
  O_TMPFILE,
  RENAME_EXCHANGE,
  S_IFMT,
  S_IFREG,
} from '../../../protocol/linux/constants.js'
import { EMPTY_PATH } from '../../native/context.js'
import type { Outcome } from '../../vfs/filesystem.js'
import type { EntryReply, OpenReply } from '../../vfs/replies.js'
import type { Name, Request } from '../../vfs/request.js'
import { adoptFile, hostOpenFlags, open } from './data.js'
import type { HostNode } from './nodes.js'
import type { HostState } from './state.js'
import { STATX_WANTED } from './stat.js'
import { setxattr } from './xattrs.js'

/** Finds `name` in `parent`: node, lookup and attributes go to `entry`. */
export function lookup(host: HostState, parent: HostNode, name: Name, entry: EntryReply): Outcome {
  const dir = host.nodes.fdOf(parent)
  if (dir < 0) return dir
  const fault = host.statName(dir, name)
  if (fault < 0) return fault
  host.fillEntry(entry, parent, name.at, name.bytes)
  return 0
}

/**
 * Runs `make` in the directory as the guest's caller, then looks the new name up. When labelling it
 * fails it is removed again.
 */
export function makeNode(
  host: HostState,
  request: Request,
  parent: HostNode,
  name: Name,
  entry: EntryReply,
  make: (dir: number) => number,
): Outcome {
  const dir = host.nodes.fdOf(parent)
  if (dir < 0) return dir
  const denied = host.caller.enter(request)
  if (denied < 0) return denied
  const made = make(dir)
  host.caller.leave()
  if (made < 0) return made
  const outcome = lookup(host, parent, name, entry)
  return outcome < 0 ? outcome : label(host, request, entry)
}

/** Sets the security context the guest chose for a new node. */
function label(host: HostState, request: Request, entry: EntryReply): Outcome {
  const { securityName, securityValue } = request
  if (securityName.bytes === 0) return 0
  const node = host.nodes.get(entry.nodeid)!
  const path = host.nodes.fdOf(node)
  const fault = path < 0 ? path : setxattr(host, path, securityName, securityValue, 0)
  if (fault >= 0 || fault === -Errno.EOPNOTSUPP) return 0
  host.nodes.forget(node, 1)
  return fault
}

/**
 * CREATE: makes and opens in one step. A name that appeared meanwhile is opened, unless O_EXCL; never
 * through a symbolic link.
 */
export function create(
  host: HostState,
  request: Request,
  parent: HostNode,
  name: Name,
  flags: number,
  mode: number,
  killSuid: boolean,
  entry: EntryReply,
  opened: OpenReply,
): Outcome {
  const dir = host.nodes.fdOf(parent)
  if (dir < 0) return dir
  const denied = host.caller.enter(request)
  if (denied < 0) return denied
  const wanted = hostOpenFlags(host, flags)
  const fd = host.context.openat(
    dir,
    name.at,
    wanted | O_CREAT | O_EXCL | O_NOFOLLOW,
    mode & 0o7777,
    0,
  )
  host.caller.leave()
  if (fd === -Errno.EEXIST && (flags & O_EXCL) === 0) {
    const found = lookup(host, parent, name, entry)
    if (found < 0) return found
    const node = host.nodes.get(entry.nodeid)!
    const outcome = open(host, node, flags, killSuid, opened)
    if (outcome < 0) host.nodes.forget(node, 1)
    return outcome
  }
  if (fd < 0) return fd === -Errno.EMFILE ? -Errno.ENFILE : fd
  return adoptNew(host, request, parent, name, fd, flags, entry, opened)
}

/** The node and the handle of a file just made and opened as `fd`. */
function adoptNew(
  host: HostState,
  request: Request,
  parent: HostNode | undefined,
  name: Name | undefined,
  fd: number,
  flags: number,
  entry: EntryReply,
  opened: OpenReply,
): Outcome {
  const fault = host.context.statx(fd, EMPTY_PATH, 0, STATX_WANTED, host.statAt)
  if (fault < 0) {
    host.context.close(fd)
    return fault
  }
  const node = host.nodes.adopt(host.statAt, parent, name?.at ?? 0, name?.bytes ?? 0)
  entry.nodeid = node.nodeid
  entry.generation = 0
  entry.entryValidSec = host.validSec
  entry.entryValidNsec = 0
  host.fillAttributes(entry.attr, node)
  const outcome = adoptFile(host, node, fd, flags, opened)
  if (outcome < 0) {
    host.nodes.forget(node, 1)
    return outcome
  }
  const labelled = label(host, request, entry)
  if (labelled < 0) {
    const handle = host.handles.remove(opened.fh)
    if (handle !== undefined) host.closeHandle(handle)
  }
  return labelled
}

export function tmpfile(
  host: HostState,
  request: Request,
  parent: HostNode,
  flags: number,
  mode: number,
  entry: EntryReply,
  opened: OpenReply,
): Outcome {
  const dir = host.nodes.fdOf(parent)
  if (dir < 0) return dir
  const denied = host.caller.enter(request)
  if (denied < 0) return denied
  // The directory itself by ".": O_TMPFILE makes the file in the directory it opens.
  const at = host.scratchAt
  host.context.bytes[at] = 0x2e
  host.context.bytes[at + 1] = 0
  // O_EXCL of the guest means "never to be linked".
  const wanted = (hostOpenFlags(host, flags) | O_TMPFILE | (flags & O_EXCL)) >>> 0
  const fd = host.context.openat(dir, at, wanted, mode & 0o7777, 0)
  host.caller.leave()
  if (fd < 0) return fd === -Errno.EMFILE ? -Errno.ENFILE : fd
  return adoptNew(host, request, undefined, undefined, fd, flags, entry, opened)
}

export function mknod(
  host: HostState,
  request: Request,
  parent: HostNode,
  name: Name,
  mode: number,
  major: number,
  minor: number,
  entry: EntryReply,
): Outcome {
  // A mode without a type means a regular file, as in mknod(2).
  const typed = (mode & S_IFMT) === 0 ? mode | S_IFREG : mode
  return makeNode(host, request, parent, name, entry, dir =>
    host.context.mknodat(dir, name.at, typed, major, minor),
  )
}

export function link(
  host: HostState,
  node: HostNode,
  parent: HostNode,
  name: Name,
  entry: EntryReply,
): Outcome {
  // A path descriptor: an open file's may be opened O_EXCL|O_TMPFILE or be closed under us.
  const path = host.nodes.fdOf(node)
  if (path < 0) return path
  const dir = host.nodes.fdOf(parent)
  if (dir < 0) return dir
  const fault = host.context.linkat(path, dir, name.at)
  if (fault < 0) return fault
  const outcome = lookup(host, parent, name, entry)
  if (outcome >= 0) host.nodes.unpin(host.nodes.get(entry.nodeid)!)
  return outcome
}

/** The node of `name`, if the guest knows it, is opened before its name goes. */
function pinName(host: HostState, dir: number, name: Name): HostNode | undefined {
  if (host.statName(dir, name) < 0) return undefined
  const node = host.nodes.find(host.statAt)
  if (node !== undefined) host.nodes.pin(node)
  return node
}

export function unlink(host: HostState, parent: HostNode, name: Name, directory: boolean): Outcome {
  const dir = host.nodes.fdOf(parent)
  if (dir < 0) return dir
  pinName(host, dir, name)
  return host.context.unlinkat(host.nodes.fdOf(parent), name.at, directory ? AT_REMOVEDIR : 0)
}

export function rename(
  host: HostState,
  parent: HostNode,
  name: Name,
  newParent: HostNode,
  newName: Name,
  flags: number,
): Outcome {
  const oldDir = host.nodes.fdOf(parent)
  if (oldDir < 0) return oldDir
  let newDir = host.nodes.fdOf(newParent)
  if (newDir < 0) return newDir
  const moved = knownNode(host, oldDir, name)
  let replaced: HostNode | undefined
  if ((flags & RENAME_EXCHANGE) !== 0) replaced = knownNode(host, newDir, newName)
  else pinName(host, newDir, newName)
  newDir = host.nodes.fdOf(newParent)
  const outcome = host.context.renameat2(
    host.nodes.fdOf(parent),
    name.at,
    newDir,
    newName.at,
    flags,
  )
  if (outcome < 0) return outcome
  const { bytes } = host.context
  if (moved !== undefined) host.nodes.setName(moved, newParent, bytes, newName.at, newName.bytes)
  if (replaced !== undefined) host.nodes.setName(replaced, parent, bytes, name.at, name.bytes)
  return 0
}

function knownNode(host: HostState, dir: number, name: Name): HostNode | undefined {
  return host.statName(dir, name) < 0 ? undefined : host.nodes.find(host.statAt)
}
