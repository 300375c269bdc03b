/** What a vhost-user session drives. Implemented by the device thread. */

/** Which way the device's state goes: `save` at the source of a migration, `load` at its destination. */
export type StateDirection = 'save' | 'load'

/** A ring that is ready to be served. Addresses are the front end's. */
export interface RingSetup {
  /** Power of two, at most 32768. */
  readonly size: number
  readonly descUser: bigint
  readonly availUser: bigint
  readonly usedUser: bigint
  /** The avail index to take next, 16 bits. */
  readonly base: number
  /** Owned by the session; -1: the front end gave none and the ring must be polled. */
  readonly kickFd: number
  /** Owned by the session; -1: none, the guest polls. */
  readonly callFd: number
  readonly eventIdx: boolean
  readonly indirect: boolean
  /** Guest address by which what is written to the used ring is logged; -1: it is not. */
  readonly logAt: number
}

export interface VhostDevice {
  /** Starts serving a ring: 0, or -errno when its addresses do not fit guest memory. */
  ringUp(index: number, setup: RingSetup): number
  /** The call descriptor changed while the ring is up; the former one is closed after this call. */
  ringCall(index: number, callFd: number): void
  /** As `RingSetup.logAt`, of a ring that is up. */
  ringLog(index: number, logAt: number): void
  /** Stops a ring when its requests in flight are answered; returns the avail index to take next. */
  ringDown(index: number): number
  /** The guest's driver is gone; every ring is down already. */
  guestGone(): void
  /** A descriptor to be signalled after pages were logged, or -1; the former one is closed after this call. */
  logCall(fd: number): void
  /** The device's state can be carried over to another back end. */
  readonly migratable: boolean
  /**
   * Starts to write the state to `fd`, or to read it from there, up to its end; every ring is down. Takes
   * `fd` over. Returns why it cannot be, or ''.
   */
  transferState(direction: StateDirection, fd: number): string
  /** How the last transfer went: '' it is done and good, else what was wrong. */
  checkState(): string
}
