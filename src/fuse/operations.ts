/**
 * Every opcode of the protocol: served, or answered with the errno that makes the guest fall back.
 * To add one: protocol/fuse (number, structs), a method of FileSystem, a row in an ops-*.ts file.
 */
import { Errno } from '../../protocol/errno.js'
import { OPCODE_LIMIT, Opcode } from '../../protocol/fuse/opcodes.js'
import type { Operation, OperationTable } from './operation.js'
import { daxOperations } from './ops-dax.js'
import { directoryOperations } from './ops-directory.js'
import { fileOperations } from './ops-file.js'
import { inodeOperations } from './ops-inode.js'
import { lockOperations } from './ops-lock.js'
import { namespaceOperations } from './ops-namespace.js'
import { sessionOperations } from './ops-session.js'
import { xattrOperations } from './ops-xattr.js'

const answer = (errno: number): Operation => ({ minBody: 0, replyBytes: 0, run: () => -errno })

const refusedOperations: OperationTable = {
  // No block device lies below; swap files and LILO, its only users, then fail as they should.
  [Opcode.FUSE_BMAP]: answer(Errno.ENOSYS),
  // The guest takes ENOSYS for "always ready", which regular files are.
  [Opcode.FUSE_POLL]: answer(Errno.ENOSYS),
}

/** All rows get the same properties in the same order: to V8 they are of one kind then, and reading them is cheap. */
function alike(row: Operation): Operation {
  return {
    minBody: row.minBody,
    replyBytes: row.replyBytes,
    writes: row.writes,
    silent: row.silent,
    run: row.run,
    encode: row.encode,
    payloadReply: row.payloadReply,
    undo: row.undo,
  }
}

/** Rows by opcode; undefined for numbers the protocol does not have (ENOSYS). */
export const OPERATIONS: readonly (Operation | undefined)[] = Object.freeze(
  Array.from({ length: OPCODE_LIMIT }, (_, opcode) => {
    const tables = [
      sessionOperations,
      inodeOperations,
      namespaceOperations,
      fileOperations,
      directoryOperations,
      xattrOperations,
      daxOperations,
      lockOperations,
      refusedOperations,
    ]
    const found = tables.map(table => table[opcode]).find(row => row !== undefined)
    return found && alike(found)
  }),
)
