/**
 * Acting as the guest's process while something is created, so that owner, group, access checks and
 * quota are its own. Only effective ids of this thread change; the guard must be left before anything
 * else is done.
 */
import { CAP_DAC_OVERRIDE } from '../../../protocol/linux/constants.js'
import type { Context } from '../../native/context.js'
import type { Request } from '../../vfs/request.js'

export class Caller {
  readonly #context: Context
  readonly #ownUid: number
  readonly #ownGid: number
  #switched = false
  /** The thread's umask as it is; it only matters while something is created. */
  #umask = 0

  constructor(context: Context) {
    this.#context = context
    this.#ownUid = process.geteuid?.() ?? 0
    this.#ownGid = process.getegid?.() ?? 0
  }

  /**
   * Takes on the caller's uid, gid, groups and umask. 0, or -errno and nothing is changed. The guest's
   * root is the daemon's own user: without privilege there is nobody else it could be.
   */
  enter(request: Request): number {
    const uid = request.uid === 0 ? this.#ownUid : request.uid
    const gid = request.gid === 0 ? this.#ownGid : request.gid
    this.#switched = uid !== this.#ownUid || gid !== this.#ownGid
    if (this.#switched) {
      const count = this.#ownUid === 0 ? request.groupCount : -1
      const fault = this.#context.setCredentials(uid, gid, request.groupsAt, count)
      if (fault < 0) {
        this.#switched = false
        return fault
      }
      // Without the caller's groups its group rights are unknown here; the guest has checked them.
      if (count < 0 && uid !== this.#ownUid)
        this.#context.setEffectiveCapability(CAP_DAC_OVERRIDE, 1)
    }
    if (request.umask !== this.#umask) {
      this.#context.umask(request.umask)
      this.#umask = request.umask
    }
    return 0
  }

  leave(): void {
    if (this.#switched) this.#context.restoreCredentials()
    this.#switched = false
  }
}
