/** What the front end has said of one ring so far. */
import { native } from '../native/addon.js'

export class Vring {
  size = 0
  descUser = 0n
  availUser = 0n
  usedUser = 0n
  hasAddress = false
  /** VHOST_VRING_F_LOG: writes to the used ring are to be logged, at this guest address. */
  logsUsed = false
  logAt = 0
  base = 0
  kickFd = -1
  /** SET_VRING_KICK came, with or without a descriptor: the ring is started. */
  started = false
  callFd = -1
  errFd = -1
  enabled = false
  /** The device serves it. */
  up = false

  /** Everything the device needs is known and the ring is to run. */
  get ready(): boolean {
    return this.size > 0 && this.hasAddress && this.started && this.enabled
  }

  /** Replaces a descriptor and closes the former one. */
  setFd(which: 'kickFd' | 'callFd' | 'errFd', fd: number): void {
    const former = this[which]
    this[which] = fd
    if (former >= 0) native.closeFd(former)
  }

  /** As after a reset: nothing known, no descriptor held. The ring must be down. */
  reset(): void {
    this.setFd('kickFd', -1)
    this.setFd('callFd', -1)
    this.setFd('errFd', -1)
    this.size = 0
    this.hasAddress = false
    this.logsUsed = false
    this.base = 0
    this.started = false
    this.enabled = false
  }
}
