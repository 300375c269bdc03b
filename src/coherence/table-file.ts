/** The file that holds a version table: made, opened, mapped, and a guest's number taken in it. */
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  statfsSync,
  writeSync,
} from 'node:fs'
import { Errno, errnoName } from '../../protocol/errno.js'
import {
  CONDEMNED,
  DEFAULT_BUCKET_BITS,
  Header,
  HEADER_WORDS,
  MOST_GUESTS,
  tableBytes,
} from '../../protocol/version-table/layout.js'
import type { Context } from '../native/context.js'
import { VersionTable, VersionTableError } from './version-table.js'

const F_OFD_SETLK = 37
const F_WRLCK = 1
const F_UNLCK = 2
/** linux/magic.h. Elsewhere the kernel would write the table to a disk all the time. */
const TMPFS_MAGIC = 0x0102_1994
/** How long another daemon may take to write the header of a new table. */
const HEADER_LIMIT_MS = 2000
const FILL_BYTES = 1 << 20
/** What Linux calls a descriptor of the process itself: one that was handed over. */
const HANDED_OVER = /^\/(?:dev|proc\/self)\/fd\/\d+$/

/**
 * Opens the file at `path`, made if there is none (mode 0600: who lets others share the tree changes that). A memfd that
 * was handed over is `/dev/fd/N`; it is opened anew, as several daemons may have been given the same open file
 * description, of which the locks would be one owner's; N stays open.
 * For the time before the process is isolated. The descriptor is the caller's.
 * Errors thrown: those of open(2); VersionTableError when it does not lie in memory.
 */
export function openTableFile(path: string): number {
  const fd = openOrMake(path)
  const fault = !fstatSync(fd).isFile()
    ? 'it is no plain file'
    : statfsSync(`/proc/self/fd/${fd}`).type !== TMPFS_MAGIC
      ? 'it does not lie on a tmpfs: name a file in /dev/shm'
      : undefined
  if (fault === undefined) return fd
  closeSync(fd)
  throw new VersionTableError(fault)
}

/** In a folder like /dev/shm O_CREAT refuses a file of another user (fs.protected_regular): first without. */
function openOrMake(path: string): number {
  const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK } = constants
  if (HANDED_OVER.test(path)) return openSync(path, O_RDWR | O_NONBLOCK)
  const flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK
  for (;;) {
    try {
      return openSync(path, flags)
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause
    }
    try {
      return openSync(path, flags | O_CREAT | O_EXCL, 0o600)
    } catch (cause) {
      // Another daemon was first.
      if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause
    }
  }
}

/** Takes or gives back the lock on one byte of the file. 0, or -errno: EAGAIN another process has it. */
function lockByte(context: Context, fd: number, byte: number, type: number): number {
  return context.ofdLock(fd, F_OFD_SETLK, type, byte, 1, 0)
}

/**
 * Maps the table in `fd`; an empty file becomes a table of 2^`bucketBits` buckets, others keep their size.
 * The mapping lasts until `dispose` of the context. Errors thrown: VersionTableError.
 */
export function mapTable(
  context: Context,
  fd: number,
  bucketBits = DEFAULT_BUCKET_BITS,
): VersionTable {
  const until = performance.now() + HEADER_LIMIT_MS
  for (;;) {
    const fault = lockByte(context, fd, 0, F_WRLCK)
    if (fault >= 0) break
    if (fault !== -Errno.EAGAIN)
      throw new VersionTableError(`it cannot be locked (${errnoName(fault)})`)
    if (performance.now() > until)
      throw new VersionTableError('another process keeps its header locked')
    context.wait(1, 0)
  }
  try {
    if (fstatSync(fd).size === 0) ftruncateSync(fd, tableBytes(bucketBits))
    const view = context.raw.mapShared(fd, fstatSync(fd).size & ~3)
    if (typeof view === 'number')
      throw new VersionTableError(`it cannot be mapped (${errnoName(view)})`)
    const words = new Int32Array(view)
    // Whoever made it long enough may have died before he wrote the header.
    const magic = words.length > HEADER_WORDS ? Atomics.load(words, Header.magic) : undefined
    if (magic === 0 && view.byteLength === tableBytes(bucketBits)) {
      fill(fd, view.byteLength)
      VersionTable.format(words, bucketBits)
    } else if (magic === CONDEMNED)
      throw new VersionTableError(
        'it was damaged, and a daemon has given it up: end the daemons that use it and remove it',
      )
    return new VersionTable(words)
  } finally {
    lockByte(context, fd, 0, F_UNLCK)
  }
}

/**
 * Writes zeros to all of a new table, so that its memory is there: else the first lease of each page waits for some, and
 * where there is none left it ends in SIGBUS.
 */
function fill(fd: number, bytes: number): void {
  const zeros = new Uint8Array(FILL_BYTES)
  try {
    for (let at = 0; at < bytes; )
      at += writeSync(fd, zeros, 0, Math.min(zeros.length, bytes - at), at)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new VersionTableError(`there is no room for its ${bytes} bytes (${code})`)
  }
}

/**
 * A number for this daemon's guest that no other guest of the table has, for as long as `fd` is open.
 * Chance chooses where the search begins: a number just given up by a daemon that died, whose guest may still
 * cache, is then hardly ever the first. Errors thrown: VersionTableError.
 */
export function takeGuestNumber(context: Context, fd: number): number {
  const first = Math.floor(Math.random() * MOST_GUESTS)
  for (let i = 0; i < MOST_GUESTS; i++) {
    const guest = 1 + ((first + i) % MOST_GUESTS)
    const fault = lockByte(context, fd, guest, F_WRLCK)
    if (fault >= 0) return guest
    if (fault !== -Errno.EAGAIN)
      throw new VersionTableError(`it cannot be locked (${errnoName(fault)})`)
  }
  throw new VersionTableError(`all its ${MOST_GUESTS} numbers for guests are taken`)
}
