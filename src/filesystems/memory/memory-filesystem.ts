/**
 * A file system in memory: names and metadata in JavaScript, file data in memfds that READ and WRITE
 * reach straight from guest pages. Nothing of it survives the daemon. It is small and complete, and
 * keeps the `FileSystem` interface honest: nothing in it knows of the host's tree.
 *
 * The operations are in rooms named as those of src/fuse: `ops-inode.ts`, `ops-file.ts`, `ops-namespace.ts`,
 * each a class that extends the one before (the first `view.ts`), so that a request finds its method in one step.
 */
import { Errno } from '../../../protocol/errno.js'
import { native } from '../../native/addon.js'
import type { MappableFiles } from '../../vfs/dax.js'
import type { Capabilities, FileSystem } from '../../vfs/filesystem.js'
import { NO_CAPABILITIES } from '../../vfs/unsupported.js'
import { MemoryNamespaceOperations } from './ops-namespace.js'
import { STALE } from './view.js'

/** As one guest has it. With several on one store each sees at once what another has changed. */
export class MemoryFileSystem extends MemoryNamespaceOperations implements FileSystem {
  override readonly capabilities: Capabilities = {
    ...NO_CAPABILITIES,
    readdirplus: true,
    xattr: true,
    killpriv: true,
  }
  readonly mappable: MappableFiles = {
    owned: true,
    open: nodeid => this.#openToMap(nodeid),
    known: nodeid => this.node(nodeid) !== undefined,
  }

  #openToMap(nodeid: number): number {
    const node = this.node(nodeid)
    if (node === undefined) return STALE
    return node.isFile && node.memfd >= 0 ? native.dupFd(node.memfd) : -Errno.EACCES
  }
}
