/** A host folder served by a back end with hardly any descriptors for nodes. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { HostFileSystem } from '../../src/filesystems/host/host-filesystem.js'
import { DEFAULT_HOST_OPTIONS, type InodeFileHandles } from '../../src/filesystems/host/options.js'
import { SCRATCH_AT } from '../../src/fuse/layout.js'
import { openDescriptors } from '../helpers/rig.js'
import { Harness } from './harness.js'

/** CAP_DAC_READ_SEARCH. */
export function mayOpenByHandle(): boolean {
  const status = readFileSync('/proc/self/status', 'utf8')
  return (BigInt(`0x${/^CapEff:\s*(\w+)/m.exec(status)![1]}`) & 4n) !== 0n
}

/** What can be tested here. */
export const MODES: readonly InodeFileHandles[] = mayOpenByHandle()
  ? ['never', 'prefer', 'mandatory']
  : ['never', 'prefer']

export interface Share {
  readonly h: Harness
  readonly fs: HostFileSystem
  readonly folder: string
  host(name: string): string
  /** Uses so many other files that no node used before keeps its descriptor. */
  evict(): void
}

const NODE_DESCRIPTORS = 16

/** `inFolder`: the shared folder, otherwise a new one. Checked afterwards: no descriptor is left open. */
export function share(t: ExecutionContext, mode: InodeFileHandles, inFolder?: string): Share {
  const before = openDescriptors()
  const folder = inFolder ?? mkdtempSync(join(tmpdir(), 'virtiofsd-share-'))
  const h = new Harness()
  const fs = new HostFileSystem(h.context, SCRATCH_AT, {
    ...DEFAULT_HOST_OPTIONS,
    sharedDir: folder,
    inodeFileHandles: mode,
    nodeDescriptors: NODE_DESCRIPTORS,
    xattr: true,
  })
  if (fs.start() < 0) throw new Error(fs.startFault)
  h.start(fs)
  const fillers: number[] = []
  for (let i = 0; i < NODE_DESCRIPTORS * 3; i++) {
    writeFileSync(join(folder, `filler${i}`), '')
    fillers.push(h.lookup(1, `filler${i}`))
  }
  t.teardown(() => {
    h.close()
    if (inFolder === undefined) rmSync(folder, { recursive: true, force: true })
    const surplus = openDescriptors() - before
    if (surplus !== 0) throw new Error(`left open: ${surplus} descriptors`)
  })
  return {
    h,
    fs,
    folder,
    host: name => join(folder, name),
    evict() {
      for (const nodeid of fillers)
        if (h.setattr(nodeid, { setMode: true, mode: 0o644 }) < 0) throw new Error('filler')
    },
  }
}
