/** The state of a device as a stream, made piece by piece while the reader takes it. */
import type { Migratable, SessionState } from '../vfs/migration.js'
import { FrameWriter } from './frames.js'
import { MAX_HANDLES, MAX_NODES, MigrationError } from './limits.js'
import { encodeEnd, encodeHandle, encodeHead, encodeNode } from './records.js'

const CHUNK_BYTES = 64 * 1024

/** Chunks of the stream. Nothing may change meanwhile. Errors: MigrationError. */
export function* saveState(session: SessionState, tree: Migratable): Generator<Buffer> {
  let chunk: Buffer[] = []
  let bytes = 0
  for (const frame of frames(session, tree)) {
    chunk.push(frame)
    bytes += frame.length
    if (bytes < CHUNK_BYTES) continue
    yield Buffer.concat(chunk)
    chunk = []
    bytes = 0
  }
  yield Buffer.concat(chunk)
}

function* frames(session: SessionState, tree: Migratable): Generator<Buffer> {
  const writer = new FrameWriter()
  yield writer.start()
  yield writer.record(encodeHead({ session, tree: tree.saveTree() }))
  let nodes = 0
  for (const node of tree.saveNodes()) {
    if (++nodes > MAX_NODES)
      throw new MigrationError(
        `the guest knows more than ${MAX_NODES} files: let it drop caches (echo 2 > /proc/sys/vm/drop_caches)`,
      )
    yield writer.record(encodeNode(node))
  }
  let handles = 0
  for (const handle of tree.saveHandles()) {
    if (++handles > MAX_HANDLES)
      throw new MigrationError(`the guest has more than ${MAX_HANDLES} files open`)
    yield writer.record(encodeHandle(handle))
  }
  yield writer.record(encodeEnd({ nodes, handles }))
}
