/** Guest memory as the front end describes it: all regions at once, or one by one. */
import { errnoName } from '../../protocol/errno.js'
import { VHOST_MEMORY_BASELINE_NREGIONS } from '../../protocol/vhost-user/messages.js'
import {
  VhostUserMemory,
  VhostUserMemoryRegion,
  VhostUserMemRegMsg,
} from '../../protocol/vhost-user/payloads.js'
import { native } from '../native/addon.js'
import type { Context } from '../native/context.js'
import type { Connection } from './connection.js'
import type { Rings } from './rings.js'
import { refuse, type Verdict } from './verdict.js'

/** Regions QEMU may add one by one; its own ceiling is the same. */
export const MAX_MEM_SLOTS = 509n

export class MemoryTable {
  readonly #context: Context
  readonly #connection: Connection
  readonly #rings: Rings

  constructor(context: Context, connection: Connection, rings: Rings) {
    this.#context = context
    this.#connection = connection
    this.#rings = rings
  }

  /** SET_MEM_TABLE. */
  set(): Verdict {
    const connection = this.#connection
    const { view } = this.#context
    const count = VhostUserMemory.f.nregions.get(view, connection.payloadAt)
    if (count > VHOST_MEMORY_BASELINE_NREGIONS || count !== connection.fds.length)
      return refuse(`${count} regions with ${connection.fds.length} descriptors`)
    // User-mode Linux 6.1 sends room for more regions than it names.
    if (connection.payloadBytes < VhostUserMemory.SIZE + count * VhostUserMemoryRegion.SIZE)
      return refuse(`${count} regions in ${connection.payloadBytes} bytes`)
    return this.#rings.whileDown(() => {
      this.#context.raw.clearRegions()
      for (let i = 0; i < count; i++) {
        const at = connection.payloadAt + VhostUserMemory.SIZE + i * VhostUserMemoryRegion.SIZE
        const fault = this.#mapRegion(at)
        if (fault < 0) {
          this.#context.raw.clearRegions()
          return refuse(`region ${i} cannot be mapped (${errnoName(fault)})`)
        }
      }
      return 'done'
    })
  }

  /** Maps the region described at `at` with the next descriptor of the message. */
  #mapRegion(at: number): number {
    const { view, raw } = this.#context
    const Region = VhostUserMemoryRegion.f
    const fd = this.#connection.takeFd()
    const answer = raw.addRegion(
      fd,
      Region.mmap_offset.get(view, at),
      Region.guest_phys_addr.get(view, at),
      Region.userspace_addr.get(view, at),
      Region.memory_size.get(view, at),
    )
    native.closeFd(fd)
    return answer
  }

  /** ADD_MEM_REG. */
  add(): Verdict {
    const fault = this.#mapRegion(
      this.#connection.payloadAt + VhostUserMemRegMsg.f.guest_phys_addr.offset,
    )
    return fault < 0 ? refuse(`the region cannot be mapped (${errnoName(fault)})`) : 'done'
  }

  /** REM_MEM_REG. */
  remove(): Verdict {
    const { view, raw } = this.#context
    const at = this.#connection.payloadAt
    const Msg = VhostUserMemRegMsg.f
    const user = Msg.userspace_addr.get(view, at)
    const bytes = Msg.memory_size.get(view, at)
    const ring = this.#rings.within(user, bytes)
    if (ring >= 0) return refuse(`ring ${ring} lies in the region`)
    const fault = raw.removeRegion(Msg.guest_phys_addr.get(view, at), user, bytes)
    return fault < 0 ? refuse('no such region') : 'done'
  }
}
