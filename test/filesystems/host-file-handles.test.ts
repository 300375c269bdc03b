/** `--inode-file-handles`: what it is refused for, other mounts in the share, file systems without birth times. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, renameSync, rmSync, unlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { HostFileSystem } from '../../src/filesystems/host/host-filesystem.js'
import { DEFAULT_HOST_OPTIONS } from '../../src/filesystems/host/options.js'
import { SCRATCH_AT } from '../../src/fuse/layout.js'
import { mayOpenByHandle, share } from './host-share.js'
import { Harness } from './harness.js'

const EPERM = -1
const EOPNOTSUPP = -95
const ESTALE = -116
const CAP_DAC_READ_SEARCH = 2

/** What starting with `sharedDir` comes to, without file handles' capability if `drop`. */
function started(
  sharedDir: string,
  inodeFileHandles: 'prefer' | 'mandatory',
  drop = false,
): { fault: number; why: string } {
  const h = new Harness()
  const fs = new HostFileSystem(h.context, SCRATCH_AT, {
    ...DEFAULT_HOST_OPTIONS,
    sharedDir,
    inodeFileHandles,
  })
  const had = drop ? h.context.setEffectiveCapability(CAP_DAC_READ_SEARCH, 0) : 0
  const fault = fs.start()
  if (had === 1) h.context.setEffectiveCapability(CAP_DAC_READ_SEARCH, 1)
  h.fs = fs
  h.close()
  return { fault, why: fs.startFault }
}

test('mandatory is refused where the file system has no handles', t => {
  const { fault, why } = started('/proc', 'mandatory')
  t.is(fault, EOPNOTSUPP)
  t.regex(why, /file system of the shared directory \/proc has no file handles.*give prefer/)
  t.is(started('/proc', 'prefer').fault, 0)
})

test('mandatory is refused without the capability', t => {
  const { fault, why } = started(tmpdir(), 'mandatory', true)
  t.is(fault, EPERM)
  t.regex(why, /needs the capability CAP_DAC_READ_SEARCH/)
  t.is(started(tmpdir(), 'prefer', true).fault, 0)
})

test('a shared directory that is not there', t => {
  const { fault, why } = started('/nowhere/at/all', 'prefer')
  t.is(fault, -2)
  t.is(why, 'cannot open the shared directory /nowhere/at/all: ENOENT')
})

/** Runs mount(8); false where that is not permitted. */
function mount(t: ExecutionContext, on: string, ...args: string[]): boolean {
  mkdirSync(on, { recursive: true })
  try {
    execFileSync('mount', [...args, on], { stdio: 'pipe' })
  } catch (cause) {
    t.log(`not tried: ${String(cause)}`)
    return false
  }
  t.teardown(() => {
    try {
      execFileSync('umount', ['-l', on], { stdio: 'pipe' })
    } catch {
      // The test did it.
    }
  })
  return true
}

function folder(t: ExecutionContext): string {
  const made = mkdtempSync(join(tmpdir(), 'virtiofsd-mounts-'))
  t.teardown(() => rmSync(made, { recursive: true, force: true }))
  return made
}

for (const mode of ['prefer', 'mandatory'] as const)
  test(`another mount in the share is served by handle, and can be unmounted when forgotten (${mode})`, t => {
    t.pass()
    if (!mayOpenByHandle()) return
    const on = join(folder(t), 'share')
    if (!mount(t, join(on, 'sub'), '-t', 'tmpfs', 'tmpfs')) return
    const { h, host, evict } = share(t, mode, on)
    writeFileSync(host('sub/f'), 'there')
    const sub = h.lookup(1, 'sub')
    const f = h.lookup(sub, 'f')
    t.is(h.setattr(f, { setMode: true, mode: 0o600 }), 0)
    evict()
    renameSync(host('sub/f'), host('sub/g'))
    const fh = h.open(f)
    t.is(h.readText(f, fh), 'there', 'by handle')
    h.release(f, fh)
    t.throws(() => execFileSync('umount', [host('sub')], { stdio: 'pipe' }), undefined, 'in use')
    h.forget(f)
    h.forget(sub)
    t.notThrows(() => execFileSync('umount', [host('sub')], { stdio: 'pipe' }))
    t.not(h.lookup(1, 'sub'), sub, 'what was covered')
  })

for (const mode of ['never', 'prefer', 'mandatory'] as const)
  test(`without birth times, inode numbers used again (${mode})`, t => {
    t.pass()
    if (mode !== 'never' && !mayOpenByHandle()) return
    const own = folder(t)
    const image = join(own, 'image')
    try {
      execFileSync('truncate', ['-s', '8M', image])
      // Inodes of 128 bytes have no room for one.
      execFileSync('mke2fs', ['-q', '-F', '-t', 'ext2', '-I', '128', image], { stdio: 'pipe' })
    } catch {
      t.log('not tried: no mke2fs')
      return
    }
    const on = join(own, 'share')
    if (!mount(t, on, '-o', 'loop', image)) return
    const { h, host } = share(t, mode, on)
    writeFileSync(host('f'), 'old')
    const old = h.lookup(1, 'f')
    const { inoLow } = h.stat(old)
    t.false(h.stat(old).hasBirth)
    unlinkSync(host('f'))
    writeFileSync(host('f'), 'new')
    const now = h.lookup(1, 'f')
    t.is(h.stat(now).inoLow, inoLow, 'the number was used again')
    t.is(h.readText(now, h.open(now)), 'new')
    if (mode === 'never') return
    t.not(now, old)
    t.is(h.open(old), ESTALE)
  })
