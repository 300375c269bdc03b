/** INIT DESTROY INTERRUPT NOTIFY_REPLY. */
import { Opcode } from '../../protocol/fuse/opcodes.js'
import { fuse_init_out, fuse_interrupt_in } from '../../protocol/fuse/structs.js'
import type { OperationTable } from './operation.js'

/** Bytes of fuse_init_in that every minor sends. */
const INIT_IN_BASE_BYTES = 16

export const sessionOperations: OperationTable = {
  [Opcode.FUSE_INIT]: {
    minBody: INIT_IN_BASE_BYTES,
    replyBytes: fuse_init_out.SIZE,
    run: ({ fs, session, request }) => session.init(fs, request),
    encode: ({ session, request }, _outcome, at) => session.encodeInit(request, at),
  },
  [Opcode.FUSE_DESTROY]: {
    minBody: 0,
    replyBytes: 0,
    run({ fs, session }) {
      session.window?.clear()
      fs.destroy()
      session.reset()
      return 0
    },
  },
  // A request that waits for a lock is answered EINTR; others in their time. Linux has no such request for us:
  // virtio_fs_send_interrupt() is empty up to 7.2.
  [Opcode.FUSE_INTERRUPT]: {
    minBody: fuse_interrupt_in.SIZE,
    replyBytes: 0,
    silent: true,
    run({ request }) {
      const { view } = request.context
      const { offset } = fuse_interrupt_in.f.unique
      request.interrupt(
        view.getUint32(request.bodyAt + offset, true),
        view.getUint32(request.bodyAt + offset + 4, true),
      )
      return 0
    },
  },
  // Answers notifications, of which we send none.
  [Opcode.FUSE_NOTIFY_REPLY]: { minBody: 0, replyBytes: 0, silent: true, run: () => 0 },
}
