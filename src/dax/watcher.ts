/**
 * Watches mapped files by inotify: somebody who is not the guest may make one shorter, which he was not to do. What
 * then is between his call and our unmapping is the time in which the guest can bring its VMM down.
 * Stores into mappings of the host raise no event; they change no size either.
 */
import { readSync } from 'node:fs'
import type { Context } from '../native/context.js'
import type { Watcher } from './window.js'

/** struct inotify_event without a name: i32 wd, u32 mask, u32 cookie, u32 len. */
const EVENT_BYTES = 16
const EVENTS = 256

export class FileWatcher implements Watcher {
  /** To be watched for reading; -1 when there is no inotify. */
  readonly fd: number
  readonly #context: Context
  readonly #events = Buffer.alloc(EVENTS * EVENT_BYTES)

  constructor(context: Context) {
    this.#context = context
    this.fd = context.raw.inotifyInit()
  }

  add(fd: number): number {
    return this.fd < 0 ? -1 : this.#context.raw.inotifyAdd(this.fd, fd)
  }

  remove(id: number): void {
    this.#context.raw.inotifyRemove(this.fd, id)
  }

  /** Reads what happened: once for each watch. */
  read(changed: (id: number) => void): void {
    let bytes: number
    try {
      bytes = readSync(this.fd, this.#events)
    } catch {
      return
    }
    const ids = new Set<number>()
    for (let at = 0; at + EVENT_BYTES <= bytes; ) {
      ids.add(this.#events.readInt32LE(at))
      at += EVENT_BYTES + this.#events.readUInt32LE(at + 12)
    }
    for (const id of ids) changed(id)
  }

  close(): void {
    if (this.fd >= 0) this.#context.close(this.fd)
  }
}
