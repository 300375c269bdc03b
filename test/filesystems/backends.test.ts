/** The conformance suite against every back end. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { HostFileSystem } from '../../src/filesystems/host/host-filesystem.js'
import { DEFAULT_HOST_OPTIONS, type InodeFileHandles } from '../../src/filesystems/host/options.js'
import { MemoryFileSystem } from '../../src/filesystems/memory/memory-filesystem.js'
import { SCRATCH_AT } from '../../src/fuse/layout.js'
import { openDescriptors } from '../helpers/rig.js'
import { CONFORMANCE } from './conformance.js'
import { mayOpenByHandle } from './host-share.js'
import { Harness, type TestableFileSystem } from './harness.js'

interface BackEnd {
  /** Makes it, empty; `cleanUp` removes what it made besides. */
  make(h: Harness): { fs: TestableFileSystem; cleanUp: () => void }
}

function hostBackEnd(
  folder: string,
  nodeDescriptors: number,
  inodeFileHandles: InodeFileHandles = 'prefer',
): BackEnd {
  return {
    make(h) {
      const sharedDir = mkdtempSync(join(folder, 'virtiofsd-conformance-'))
      const fs = new HostFileSystem(h.context, SCRATCH_AT, {
        ...DEFAULT_HOST_OPTIONS,
        sharedDir,
        xattr: true,
        nodeDescriptors,
        inodeFileHandles,
      })
      const fault = fs.start()
      if (fault < 0) throw new Error(fs.startFault)
      return { fs, cleanUp: () => rmSync(sharedDir, { recursive: true, force: true }) }
    },
  }
}

const BACK_ENDS: Readonly<Record<string, BackEnd>> = {
  'host (disk)': hostBackEnd(tmpdir(), 4096),
  'host (disk, 16 node descriptors)': hostBackEnd(tmpdir(), 16),
  'host (disk, 16 node descriptors, no file handles)': hostBackEnd(tmpdir(), 16, 'never'),
  ...(mayOpenByHandle() && {
    'host (disk, file handles mandatory)': hostBackEnd(tmpdir(), 16, 'mandatory'),
  }),
  'host (tmpfs)': hostBackEnd('/dev/shm', 4096),
  memory: { make: h => ({ fs: new MemoryFileSystem(h.context), cleanUp: () => undefined }) },
}

for (const [backEnd, { make }] of Object.entries(BACK_ENDS))
  for (const [title, run] of Object.entries(CONFORMANCE))
    test(`${backEnd}: ${title}`, t => {
      const before = openDescriptors()
      const h = new Harness()
      const { fs, cleanUp } = make(h)
      h.start(fs)
      run(t, h)
      t.is(fs.handleCount, 0, 'every handle is closed')
      fs.destroy()
      t.is(fs.nodeCount, 1, 'every node but the root is forgotten')
      h.close()
      cleanUp()
      t.is(openDescriptors(), before, 'no descriptor is left open')
    })
