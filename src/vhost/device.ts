/** What a vhost-user session drives. Implemented by the device thread. */

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
}

export interface VhostDevice {
  /** Starts serving a ring: 0, or -errno when its addresses do not fit guest memory. */
  ringUp(index: number, setup: RingSetup): number
  /** The call descriptor changed while the ring is up; the former one is closed after this call. */
  ringCall(index: number, callFd: number): void
  /** Stops a ring when its requests in flight are answered; returns the avail index to take next. */
  ringDown(index: number): number
  /** The guest's driver is gone; every ring is down already. */
  guestGone(): void
}
