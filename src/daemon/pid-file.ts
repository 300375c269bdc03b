/**
 * The pid file beside the socket, as Rust virtiofsd keeps it: the process id as text, locked with
 * flock(2) for as long as the process lives. Launchers wait for it and read whom to signal.
 */
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  writeSync,
} from 'node:fs'
import { Errno, errnoName } from '../../protocol/errno.js'
import { native } from '../native/addon.js'
import { StartError } from './errors.js'

/** Others may replace the file while we lock it, but not for ever. */
const TRIES = 100

/** Writes and locks it; the lock ends with the process. Errors: StartError. */
export function takePidFile(path: string): void {
  for (let i = 0; i < TRIES; i++) {
    const fd = openPidFile(path)
    const fault = native.lockFile(fd)
    if (fault === -Errno.EAGAIN) throw new StartError(`${path} is locked by ${holder(path)}`)
    if (fault < 0) throw new StartError(`cannot lock the pid file ${path}: ${errnoName(fault)}`)
    if (isStill(path, fd)) {
      ftruncateSync(fd)
      writeSync(fd, `${process.pid}\n`)
      return
    }
    closeSync(fd)
  }
  throw new StartError(`the pid file ${path} is being replaced again and again`)
}

function openPidFile(path: string): number {
  const { O_WRONLY, O_CREAT, O_NOFOLLOW } = constants
  try {
    return openSync(path, O_WRONLY | O_CREAT | O_NOFOLLOW, 0o600)
  } catch (cause) {
    throw new StartError(
      `cannot write the pid file ${path}: ${(cause as NodeJS.ErrnoException).code}`,
    )
  }
}

function holder(path: string): string {
  const pid = readFileSync(path, 'utf8').trim()
  return `a daemon that is running${pid === '' ? '' : ` (process ${pid})`}: end it or choose another --socket-path`
}

/** Whether the file we locked is the one that is there now. */
function isStill(path: string, fd: number): boolean {
  const ours = fstatSync(fd, { bigint: true })
  const there = statSync(path, { bigint: true, throwIfNoEntry: false })
  return there !== undefined && there.ino === ours.ino && there.dev === ours.dev
}
