/** What the file system's operations have in common. */
import { Errno } from '../../../protocol/errno.js'
import type { Context } from '../../native/context.js'
import { UnsupportedFileSystem } from '../../vfs/unsupported.js'
import type { HostNode } from './node.js'
import type { HostState } from './state.js'

/** The answer to a nodeid that the guest should not have any more. */
export const STALE = -Errno.ESTALE

export abstract class HostOperations extends UnsupportedFileSystem {
  protected readonly host: HostState
  protected readonly context: Context

  constructor(host: HostState) {
    super()
    this.host = host
    this.context = host.context
  }

  protected node(nodeid: number): HostNode | undefined {
    return this.host.nodes.get(nodeid)
  }
}
