/** The listening vhost-user socket: made at a path with its pid file, or passed by the launcher. */
import { chownSync, rmSync, statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { Errno, errnoName } from '../../protocol/errno.js'
import { native } from '../native/addon.js'
import { StartError } from './errors.js'
import { takePidFile } from './pid-file.js'

/** As large a group id as there is: the next one means "leave it" to chown. */
const MAX_GROUP_ID = 0xffff_fffe
const OWNER_ALONE = 0o077
const OWNER_AND_GROUP = 0o007
/** Launchers may connect before the daemon accepts; with --reconnect the next one waits here. */
const BACKLOG = 8

export interface Listener {
  /** Closed by the device thread, which gets it. */
  readonly fd: number
  /** Removes what was made for it, as far as it is still in reach and still ours. */
  readonly cleanUp: () => void
}

/** Makes the socket, and the pid file first. Errors: StartError. */
export function makeListener(path: string, group: string | undefined): Listener {
  const full = resolve(path)
  const groupId = group === undefined ? -1 : resolveGroup(group)
  checkFolder(path, full)
  const pidFile = `${full}.pid`
  takePidFile(pidFile)
  const removePidFile = remover(pidFile)
  try {
    removeStale(path, full, '--socket-path')
    const fd = listen(path, group === undefined ? OWNER_ALONE : OWNER_AND_GROUP)
    const removeSocket = remover(full)
    if (group !== undefined) changeGroup(full, group, groupId)
    return {
      fd,
      cleanUp: () => {
        removePidFile()
        removeSocket()
      },
    }
  } catch (cause) {
    removePidFile()
    throw cause
  }
}

/**
 * Makes a socket that nobody locks, with the permissions that `mask` leaves; `option` is what named its path.
 * Errors: StartError.
 */
export function makeSocket(path: string, option: string, mask: number): Listener {
  const full = resolve(path)
  checkFolder(path, full)
  const other = native.unixConnect(path)
  if (other >= 0) {
    native.closeFd(other)
    throw new StartError(`somebody listens on ${path}: end it or choose another ${option}`)
  }
  removeStale(path, full, option)
  const fd = listen(path, mask)
  return { fd, cleanUp: remover(full) }
}

function checkFolder(path: string, full: string): void {
  if (statSync(dirname(full), { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new StartError(
      `cannot make the socket ${path}: the directory ${dirname(full)} does not exist`,
    )
}

/** Takes descriptor `fd`. Its path belongs to the launcher and is left alone. Errors: StartError. */
export function takeListener(fd: number): Listener {
  if (native.checkListener(fd) < 0)
    throw new StartError(
      `descriptor ${fd} is not a listening UNIX stream socket: pass one with --fd`,
    )
  return { fd, cleanUp: () => undefined }
}

function removeStale(path: string, full: string, option: string): void {
  const stale = statSync(full, { throwIfNoEntry: false })
  if (stale !== undefined && !stale.isSocket())
    throw new StartError(
      `${path} exists and is not a socket: remove it or choose another ${option}`,
    )
  rmSync(full, { force: true })
}

function listen(path: string, mask: number): number {
  const before = process.umask(mask)
  const fd = native.unixListen(path, BACKLOG)
  process.umask(before)
  if (fd >= 0) return fd
  const why = fd === -Errno.ENAMETOOLONG ? 'a socket path has at most 107 bytes' : errnoName(fd)
  throw new StartError(`cannot make the socket ${path}: ${why}`)
}

function resolveGroup(group: string): number {
  const id = native.groupId(group)
  if (id >= 0) return id
  if (/^\d+$/.test(group) && Number(group) <= MAX_GROUP_ID) return Number(group)
  throw new StartError(`--socket-group: there is no group "${group}"`)
}

function changeGroup(full: string, group: string, id: number): void {
  try {
    chownSync(full, -1, id)
  } catch (cause) {
    rmSync(full, { force: true })
    throw new StartError(
      `cannot give the socket to the group ${group} (${(cause as NodeJS.ErrnoException).code}): be a member of it or root`,
    )
  }
}

/**
 * What removes the file that is at `path` now. In a sandbox the path may lead into the shared
 * directory: another file than this one is left alone.
 */
function remover(path: string): () => void {
  const made = statSync(path, { bigint: true })
  return () => {
    try {
      const there = statSync(path, { bigint: true, throwIfNoEntry: false })
      if (there?.ino === made.ino && there.dev === made.dev) rmSync(path, { force: true })
    } catch {
      // Out of reach: the next daemon replaces it.
    }
  }
}
