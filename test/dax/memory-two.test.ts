/**
 * Two guests that share memory through a file of the in-memory back end: the same memfd in both windows. A daemon serves one
 * guest, so the second one here gets that file by a small file system of its own; the two windows, sessions and VMMs are
 * real ones. With two guests the file is not the back end's alone any more, and is mapped by `exclusive`.
 */
import { fstatSync } from 'node:fs'
import test from 'ava'
import { S_IFREG } from '../../protocol/linux/constants.js'
import type { DaxWindow, MappableFiles } from '../../src/vfs/dax.js'
import type { FileSystem, Negotiated, Outcome } from '../../src/vfs/filesystem.js'
import type { Attributes, EntryReply } from '../../src/vfs/replies.js'
import type { Name, Request } from '../../src/vfs/request.js'
import { UnsupportedFileSystem } from '../../src/vfs/unsupported.js'
import { type DaxRig, daxRigs, MIB, pattern } from './rig.js'

/** Every name is the file `nodeid` of another guest's file system. */
class OneFile extends UnsupportedFileSystem implements FileSystem {
  readonly nodeCount = 1
  readonly handleCount = 0
  readonly mappable: MappableFiles
  readonly #of: () => { rig: DaxRig; nodeid: number }
  #dax: DaxWindow | undefined

  constructor(of: () => { rig: DaxRig; nodeid: number }) {
    super()
    this.#of = of
    this.mappable = {
      owned: false,
      open: nodeid => of().rig.fs.mappable.open(nodeid),
      known: () => true,
    }
  }

  override init(negotiated: Negotiated): void {
    this.#dax = negotiated.dax
  }

  #fill(request: Request, attr: Attributes): Outcome {
    const { rig, nodeid } = this.#of()
    const outcome = rig.fs.getattr(request, nodeid, 0, attr)
    this.#dax?.describe(nodeid, attr)
    return outcome
  }

  override lookup(request: Request, _parent: number, _name: Name, entry: EntryReply): Outcome {
    entry.nodeid = this.#of().nodeid
    return this.#fill(request, entry.attr)
  }

  override getattr(request: Request, _nodeid: number, _fh: number, attr: Attributes): Outcome {
    return this.#fill(request, attr)
  }

  dispose(): void {}
}

test('a file in memory is the same memory in the windows of two guests; what one cuts off is taken from the other', t => {
  const shared: { rig?: DaxRig; nodeid: number } = { nodeid: 0 }
  const rigs = daxRigs(
    t,
    { backEnd: 'memory', dax: { policy: 'exclusive' } },
    { makeFs: () => new OneFile(() => ({ rig: shared.rig!, nodeid: shared.nodeid })) },
  )
  const [a, b] = rigs as [DaxRig, DaxRig]
  const { nodeid, fh } = a.guest.create(1, 'f')
  shared.rig = a
  shared.nodeid = nodeid
  for (let at = 0; at < MIB; at += 65536)
    a.guest.write(nodeid, fh, at, pattern(MIB).subarray(at, at + 65536))
  t.is(b.guest.lookup(1, 'whatever'), nodeid)
  t.is(a.setup(nodeid, 0), 0)
  t.is(b.setup(nodeid, 8 * MIB), 0)
  const [inA, inB] = [a, b].map(r => fstatSync([...r.vmm.mappings.values()][0]!.fd))
  t.is(inA!.ino, inB!.ino)
  t.is(inA!.mode & S_IFREG, S_IFREG)
  t.is(inA!.nlink, 0)

  t.true(b.vmm.read(8 * MIB, MIB).equals(pattern(MIB)))
  b.vmm.write(8 * MIB + 4096, Buffer.from('from the second'))
  t.is(a.vmm.read(4096, 15).toString(), 'from the second')
  t.is(Buffer.from(a.guest.read(nodeid, fh, 4096, 15)).toString(), 'from the second')
  a.vmm.write(9000, Buffer.from('from the first'))
  t.is(b.vmm.read(8 * MIB + 9000, 14).toString(), 'from the first')

  t.is(a.truncate(nodeid, 65536), 0)
  b.pump()
  b.pump()
  t.is(b.getattr(nodeid).size, 65536)
  t.notThrows(() => b.vmm.read(8 * MIB, MIB))
  t.is(b.window.counters.shrunkByOthers, 1)
})
