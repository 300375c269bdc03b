/** Alone in its process: no rehearsal has gone before. */
import { setFlagsFromString } from 'node:v8'
import test from 'ava'
import type { HostState } from '../../src/filesystems/host/state.js'
import { ChangeTime, InodeKey } from '../../src/vfs/identities.js'
import { hostFs } from '../helpers/rig.js'
import { LEASES, stage } from './rehearsal-stage.js'

const stateOf = (fs: unknown): HostState => (fs as { readonly host: HostState }).host

test('what was made before it is of the same kind as what is made after it', t => {
  // Else the code that was compiled meanwhile would be void for the share, at the first request.
  setFlagsFromString('--allow-natives-syntax')
  const sameKind = new Function('a', 'b', 'return %HaveSameMap(a, b)')
  setFlagsFromString('--no-allow-natives-syntax')
  const { context, folder, make } = stage(t, {}, LEASES)
  const made = () => {
    const fs = hostFs(context, folder)
    return { fs, root: stateOf(fs).nodes.table.get(1), key: new InodeKey(), time: new ChangeTime() }
  }
  const before = made()
  const rehearsal = make()
  while (rehearsal.step());
  const after = made()
  for (const of of ['fs', 'root', 'key', 'time'] as const)
    t.true(sameKind(before[of], after[of]), of)
  t.true(sameKind(stateOf(before.fs), stateOf(after.fs)))
  before.fs.dispose()
  after.fs.dispose()
})
