/**
 * Acting as the guest's process while something is created, so that owner, group, access checks and
 * quota are its own. Only effective ids of this thread change; the guard must be left before anything
 * else is done.
 */
import { Errno } from '../../../protocol/errno.js'
import { CAP_DAC_OVERRIDE } from '../../../protocol/linux/constants.js'
import type { Context } from '../../native/context.js'
import type { Request } from '../../vfs/request.js'
import { FORBIDDEN_ID, type IdTranslation } from './id-translation.js'
import { ENTRIES_AT, ENTRIES_BYTES } from './scratch.js'

export class Caller {
  readonly #context: Context
  readonly #ownUid: number
  readonly #ownGid: number
  #switched = false
  /** The thread's umask as it is; it only matters while something is created. */
  #umask = 0
  readonly #uids: IdTranslation | undefined
  readonly #gids: IdTranslation | undefined
  readonly #groupsAt: number

  constructor(
    context: Context,
    scratchAt: number,
    uids: IdTranslation | undefined,
    gids: IdTranslation | undefined,
  ) {
    this.#context = context
    this.#uids = uids
    this.#gids = gids
    this.#groupsAt = scratchAt + ENTRIES_AT
    this.#ownUid = process.geteuid?.() ?? 0
    this.#ownGid = process.getegid?.() ?? 0
  }

  /**
   * Takes on the caller's uid, gid, groups and umask, translated. 0, or -errno and nothing is changed:
   * -EPERM for an id the guest may not use. Root is the daemon's own user: without privilege there is
   * nobody else it could be.
   */
  enter(request: Request): number {
    const hostUid = this.#uids === undefined ? request.uid : this.#uids.toHost(request.uid)
    const hostGid = this.#gids === undefined ? request.gid : this.#gids.toHost(request.gid)
    if (hostUid === FORBIDDEN_ID || hostGid === FORBIDDEN_ID) return -Errno.EPERM
    let { groupsAt } = request
    if (this.#gids !== undefined && request.groupCount > 0) {
      const fault = this.#translateGroups(this.#gids, groupsAt, request.groupCount)
      if (fault < 0) return fault
      groupsAt = this.#groupsAt
    }
    const uid = hostUid === 0 ? this.#ownUid : hostUid
    const gid = hostGid === 0 ? this.#ownGid : hostGid
    this.#switched = uid !== this.#ownUid || gid !== this.#ownGid
    if (this.#switched) {
      const count = this.#ownUid === 0 ? request.groupCount : -1
      const fault = this.#context.setCredentials(uid, gid, groupsAt, count)
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

  /** Writes the host's ids of the groups to `#groupsAt`. 0 or -errno. */
  #translateGroups(gids: IdTranslation, at: number, count: number): number {
    if (count * 4 > ENTRIES_BYTES) return -Errno.EINVAL
    const { view } = this.#context
    for (let i = 0; i < count; i++) {
      const gid = gids.toHost(view.getUint32(at + i * 4, true))
      if (gid === FORBIDDEN_ID) return -Errno.EPERM
      view.setUint32(this.#groupsAt + i * 4, gid, true)
    }
    return 0
  }

  leave(): void {
    if (this.#switched) this.#context.restoreCredentials()
    this.#switched = false
  }
}
