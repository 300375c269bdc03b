/** What tells inodes apart, by struct statx: where birth times count, and where they do not. */
import test from 'ava'
import { S_IFLNK, S_IFREG } from '../../protocol/linux/constants.js'
import { statx, STATX_BTIME, STATX_MNT_ID } from '../../protocol/linux/statx.js'
import { Inodes } from '../../src/filesystems/host/inodes.js'

const F = statx.f

/** Looks at inode 5 of mount 3. */
function see(inodes: Inodes, view: DataView, type: number, bornSec: number): void {
  F.stx_mask.set(view, 0, STATX_BTIME | STATX_MNT_ID)
  F.stx_mode.set(view, 0, type | 0o644)
  F.stx_ino.set(view, 0, 5)
  F.stx_mnt_id.set(view, 0, 3)
  F.stx_btime_sec.set(view, 0, bornSec)
  inodes.see(0)
}

for (const [where, movesFiles, type, same] of [
  ['a file', false, S_IFREG, false],
  ['a file of overlayfs, which gets another when it is first written', true, S_IFREG, true],
  ['a symbolic link of overlayfs, which is never written', true, S_IFLNK, false],
] as const)
  test(`another birth time under the same number, of ${where}: ${same ? 'the same' : 'another'}`, t => {
    const view = new DataView(new ArrayBuffer(statx.SIZE))
    const inodes = new Inodes(view)
    see(inodes, view, type, 1000)
    inodes.seenMount.movesFiles = movesFiles
    see(inodes, view, type, 1000)
    t.is(inodes.seenBirth, !same)
    const node = inodes.make()
    t.is(inodes.find(), node)
    see(inodes, view, type, 1001)
    t.is(inodes.isSeen(node), same)
    t.is(inodes.find(), same ? node : undefined)
  })
