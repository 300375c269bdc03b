/** Which inodes of the host nodes, open files and names stand for. */
import { statx } from '../../../protocol/linux/statx.js'
import { type ChangeTime, type Identities, type InodeKey, NO_INODE } from '../../vfs/identities.js'
import type { Name } from '../../vfs/request.js'
import type { HostNode } from './node.js'
import type { HostState } from './state.js'

const F = statx.f

export class HostIdentities implements Identities {
  readonly #host: HostState

  constructor(host: HostState) {
    this.#host = host
  }

  ofNode(nodeid: number, key: InodeKey): number {
    return fromNode(this.#host.nodes.get(nodeid), key)
  }

  ofHandle(fh: number, key: InodeKey): number {
    return fromNode(this.#host.handles.get(fh)?.node, key)
  }

  ofName(parent: number, name: Name, key: InodeKey): number {
    const dir = this.#host.directoryFd(parent)
    if (dir < 0 || this.#host.statName(dir, name) < 0) return NO_INODE
    return this.#host.nodes.identify(this.#host.statAt, dir, name.at, key)?.nodeid ?? 0
  }

  lastChange(nodeid: number, time: ChangeTime, ask: boolean): boolean {
    const { nodes, metadata, context, statAt } = this.#host
    const node = nodes.get(nodeid)
    if (node === undefined) return false
    const kept = metadata.find(node)
    if (kept < 0) {
      if (!ask) return false
      if (nodes.stat(node, statAt) < 0) return false
      metadata.learn(node, statAt)
    }
    const at = kept < 0 ? statAt : kept
    const view = kept < 0 ? context.view : metadata.view
    time.sec = F.stx_ctime_sec.get(view, at)
    time.nsec = F.stx_ctime_nsec.get(view, at)
    return true
  }
}

function fromNode(node: HostNode | undefined, key: InodeKey): number {
  if (node === undefined) return NO_INODE
  key.devMajor = node.mount.devMajor
  key.devMinor = node.mount.devMinor
  key.inoLow = node.inoLow
  key.inoHigh = node.inoHigh
  key.btimeSec = node.btimeSec
  key.btimeNsec = node.btimeNsec
  return node.nodeid
}
