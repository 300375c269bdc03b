/**
 * Who else changes what we keep of an inode: a fanotify group with a mark on each such inode, and the mount
 * table. The kernel queues an event inside the system call that makes the change, so that `pending` asked
 * afterwards always tells of it.
 *
 * Not told: stores through mappings of the file, writes by io_submit(2), chattr(1), access times, and what a network file
 * system's other clients do.
 */
import { closeSync, openSync, readSync } from 'node:fs'
import { Errno } from '../../../protocol/errno.js'
import { type ChangeSink, FAN, readEvents } from '../../../protocol/linux/fanotify.js'
import type { Context } from '../../native/context.js'

const FILE_EVENTS = FAN.MODIFY | FAN.ATTRIB | FAN.DELETE_SELF | FAN.MOVE_SELF
/** A name in the directory came, went or means another inode now. */
export const NAME_EVENTS = FAN.CREATE | FAN.DELETE | FAN.MOVED_FROM | FAN.MOVED_TO
const DIRECTORY_EVENTS = FILE_EVENTS | NAME_EVENTS | FAN.ONDIR

/** Bits of `pending`. */
export const FILES_CHANGED = 1
export const MOUNTS_CHANGED = 2

const EVENT_ROOM = 65536

export class HostChanges {
  readonly #context: Context
  readonly #group: number
  readonly #mounts: number
  readonly #events = Buffer.allocUnsafeSlow(EVENT_ROOM)

  private constructor(context: Context, group: number, mounts: number) {
    this.#context = context
    this.#group = group
    this.#mounts = mounts
  }

  /**
   * Before the process is isolated: it takes /proc, and privilege where there shall be no limits. -errno: of
   * fanotify_init(2), or there is no /proc.
   */
  static open(context: Context): HostChanges | number {
    const group = context.raw.fanotifyInit()
    if (group < 0) return group
    try {
      return new HostChanges(context, group, openSync('/proc/self/mountinfo', 'r'))
    } catch {
      context.close(group)
      return -Errno.ENOENT
    }
  }

  /** FILES_CHANGED and MOUNTS_CHANGED, for what was not told yet. */
  pending(): number {
    return this.#context.pollNow(this.#group, this.#mounts)
  }

  /** When `pending` was asked last, in milliseconds. */
  get askedMs(): number {
    return this.#context.polledUs / 1000
  }

  /** Changes of the inode behind `fd` are told from now on. 0, or -errno as of fanotify_mark(2). */
  add(fd: number, directory: boolean): number {
    return this.#context.raw.fanotifyMark(
      this.#group,
      fd,
      directory ? DIRECTORY_EVENTS : FILE_EVENTS,
      true,
    )
  }

  remove(fd: number, directory: boolean): void {
    this.#context.raw.fanotifyMark(
      this.#group,
      fd,
      directory ? DIRECTORY_EVENTS : FILE_EVENTS,
      false,
    )
  }

  clear(): void {
    this.#context.raw.fanotifyClear(this.#group)
  }

  /** Tells what is queued. */
  read(sink: ChangeSink): void {
    for (;;) {
      let bytes: number
      try {
        bytes = readSync(this.#group, this.#events)
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code !== 'EAGAIN') sink.changed(undefined, 0, 0)
        return
      }
      readEvents(this.#events, bytes, sink)
      if (bytes < EVENT_ROOM / 2) return
    }
  }

  close(): void {
    this.#context.close(this.#group)
    closeSync(this.#mounts)
  }
}
