/** Making, moving and removing names. */
import { Errno } from '../../../protocol/errno.js'
import {
  AT_REMOVEDIR,
  O_CREAT,
  O_EXCL,
  O_NOFOLLOW,
  O_TMPFILE,
  O_TRUNC,
  RENAME_EXCHANGE,
  S_IFDIR,
  S_IFMT,
  S_IFREG,
} from '../../../protocol/linux/constants.js'
import { statx } from '../../../protocol/linux/statx.js'
import { isDotName } from '../../../protocol/fuse/names.js'
import { EMPTY_PATH } from '../../native/context.js'
import { openedEmpty } from '../../vfs/dax.js'
import type { Outcome } from '../../vfs/filesystem.js'
import type { EntryReply, OpenReply } from '../../vfs/replies.js'
import type { Name, Request } from '../../vfs/request.js'
import { adoptFile, hostOpenFlags, open } from './data.js'
import type { HostNode } from './node.js'
import { outOfDescriptors } from './nodes.js'
import { type HostState, UNKNOWN } from './state.js'
import { STATX_WANTED } from './stat.js'
import { setxattr } from './xattrs.js'

/** Finds `name` in `parent`: node, lookup and attributes go to `entry`. */
export function lookup(host: HostState, parent: HostNode, name: Name, entry: EntryReply): Outcome {
  const kept = host.fillKeptEntry(entry, parent, name.at, name.bytes)
  if (kept !== UNKNOWN) return kept
  const dir = host.nodes.fdOf(parent)
  if (dir < 0) return dir
  const { metadata } = host
  const learns = parent.kept !== undefined
  const fault = host.statName(dir, name)
  if (fault < 0) {
    if (fault === -Errno.ENOENT) metadata.learnName(parent, name.at, name.bytes, null, learns)
    return fault
  }
  const outcome = host.fillEntry(entry, parent, name.at, name.bytes, dir, name.at)
  // `.` and `..` are no names of a node.
  if (outcome >= 0 && !isDotName(host.context.bytes, name.at, name.bytes))
    metadata.learnName(parent, name.at, name.bytes, host.nodes.get(entry.nodeid)!, learns)
  return outcome
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
  host.metadata.renew()
  const outcome = lookup(host, parent, name, entry)
  if (outcome < 0) return outcome
  const { type } = host.nodes.get(entry.nodeid)!
  const labelled = label(host, request, entry)
  if (labelled < 0) takeBack(host, parent, name, type === S_IFDIR ? AT_REMOVEDIR : 0)
  return labelled
}

/** Removes what was made by this request, which fails after all. */
function takeBack(host: HostState, parent: HostNode, name: Name, flags: number): void {
  const dir = host.nodes.fdOf(parent)
  if (dir >= 0) host.context.unlinkat(dir, name.at, flags)
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
  const wanted = hostOpenFlags(host, flags) | O_CREAT | O_EXCL | O_NOFOLLOW
  const fd = openNew(host, request, parent, name.at, wanted, mode)
  if (fd === -Errno.EEXIST && (flags & O_EXCL) === 0) {
    host.metadata.renew()
    const found = lookup(host, parent, name, entry)
    if (found < 0) return found
    const node = host.nodes.get(entry.nodeid)!
    const outcome =
      (flags & O_TRUNC) === 0
        ? open(host, node, flags, killSuid, opened)
        : openedEmpty(host.negotiated?.dax, node.nodeid, () =>
            open(host, node, flags, killSuid, opened),
          )
    if (outcome < 0) host.nodes.forget(node, 1)
    // Its size is another now.
    else if ((flags & O_TRUNC) !== 0) {
      const { fd } = host.handle(opened.fh, false)!
      if (host.context.statx(fd, EMPTY_PATH, 0, STATX_WANTED, host.statAt) >= 0)
        host.fillAttributes(entry.attr, node)
    }
    return outcome
  }
  if (fd < 0) return fd
  const outcome = adoptNew(host, request, parent, name, fd, flags, entry, opened)
  if (outcome < 0) takeBack(host, parent, name, 0)
  return outcome
}

/** Makes and opens a file in `parent` as the guest's caller: its descriptor, or -errno. */
function openNew(
  host: HostState,
  request: Request,
  parent: HostNode,
  nameAt: number,
  flags: number,
  mode: number,
): number {
  // Before anything is made.
  if (host.full) return -Errno.ENFILE
  const dir = host.nodes.fdOf(parent)
  if (dir < 0) return dir
  const make = (): number => {
    const denied = host.caller.enter(request)
    if (denied < 0) return denied
    const fd = host.context.openat(dir, nameAt, flags, mode & 0o7777, 0)
    host.caller.leave()
    return fd
  }
  let fd = make()
  if (outOfDescriptors(fd) && host.nodes.relieve(parent)) fd = make()
  return fd === -Errno.EMFILE ? -Errno.ENFILE : fd
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
  const known = host.fillEntry(entry, parent, name?.at ?? 0, name?.bytes ?? 0, fd, EMPTY_PATH)
  if (known < 0) {
    host.context.close(fd)
    return known
  }
  const node = host.nodes.get(entry.nodeid)!
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
  // The directory itself by ".": O_TMPFILE makes the file in the directory it opens.
  const at = host.scratchAt
  host.context.bytes[at] = 0x2e
  host.context.bytes[at + 1] = 0
  // O_EXCL of the guest means "never to be linked".
  const wanted = (hostOpenFlags(host, flags) | O_TMPFILE | (flags & O_EXCL)) >>> 0
  const fd = openNew(host, request, parent, at, wanted, mode)
  return fd < 0 ? fd : adoptNew(host, request, undefined, undefined, fd, flags, entry, opened)
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
  const { nodes } = host
  const unreachable = nodes.both(node, parent)
  if (unreachable < 0) return unreachable
  const fault = host.context.linkat(nodes.first, nodes.second, name.at)
  if (fault < 0) return fault
  host.metadata.renew()
  return lookup(host, parent, name, entry)
}

/** A node that is only known by `name`, which is about to go, is opened; undefined where there is none. */
function pinName(host: HostState, parent: HostNode, dir: number, name: Name): HostNode | undefined {
  const node = knownNode(host, dir, name)
  if (node === undefined || node.nameless) return undefined
  host.released.drop(node)
  const links = statx.f.stx_nlink.get(host.context.view, host.statAt)
  if (links > 1 && node.type !== S_IFDIR && !host.nodes.isNamed(node, parent, name.at, name.bytes))
    return undefined
  host.nodes.pin(node)
  return node
}

export function unlink(host: HostState, parent: HostNode, name: Name, directory: boolean): Outcome {
  const { nodes } = host
  let dir = nodes.fdOf(parent)
  if (dir < 0) return dir
  const pinned = pinName(host, parent, dir, name)
  dir = nodes.fdOf(parent)
  const outcome = dir < 0 ? dir : host.context.unlinkat(dir, name.at, directory ? AT_REMOVEDIR : 0)
  if (outcome < 0 && pinned !== undefined) nodes.unpin(pinned)
  return outcome
}

export function rename(
  host: HostState,
  parent: HostNode,
  name: Name,
  newParent: HostNode,
  newName: Name,
  flags: number,
): Outcome {
  const { nodes } = host
  let unreachable = nodes.both(parent, newParent)
  if (unreachable < 0) return unreachable
  const moved = knownNode(host, nodes.first, name)
  const exchange = (flags & RENAME_EXCHANGE) !== 0
  const replaced = exchange
    ? knownNode(host, nodes.second, newName)
    : pinName(host, newParent, nodes.second, newName)
  unreachable = nodes.both(parent, newParent)
  const outcome =
    unreachable < 0
      ? unreachable
      : host.context.renameat2(nodes.first, name.at, nodes.second, newName.at, flags)
  if (outcome < 0) {
    if (replaced !== undefined && !exchange) nodes.unpin(replaced)
    return outcome
  }
  if (moved !== undefined) nodes.setName(moved, newParent, newName.at, newName.bytes)
  if (replaced !== undefined && exchange) nodes.setName(replaced, parent, name.at, name.bytes)
  return 0
}

function knownNode(host: HostState, dir: number, name: Name): HostNode | undefined {
  return host.statName(dir, name) < 0 ? undefined : host.nodes.find(host.statAt)
}
