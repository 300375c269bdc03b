/**
 * The long run of metadata-cache.test.ts: `node --expose-gc dist/test/filesystems/metadata-by-hand.js [ROUNDS [SEED]]`,
 * 100,000 rounds by default: a change that is tried, about half of which can be made, and looks. In BENCH_DISK, or the folder for temporary files.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Rig } from '../helpers/rig.js'
import { changeAndLook, HOST_CHANGES } from './metadata-changes.js'

const rounds = Number(process.argv[2] ?? 100_000)
const seed = Number(process.argv[3] ?? Date.now() % 1_000_000)
const STEP = 10_000

const folder = mkdtempSync(join(process.env.BENCH_DISK ?? tmpdir(), 'virtiofsd-metadata-'))
const rig = new Rig({ folder, keepsMetadata: true })
try {
  const client = rig.client()
  let looks = 0
  let changes = 0
  for (let done = 0; done < rounds; done += STEP) {
    const tally = changeAndLook(
      folder,
      client,
      Math.min(STEP, rounds - done),
      seed + done,
      HOST_CHANGES,
    )
    looks += tally.looks
    for (const count of Object.values(tally.changes)) changes += count
    const { hits, nameHits } = rig.fs.metadataCounters
    console.log(
      `seed ${seed + done}: ${changes} changes, ${looks} looks, all right; ${hits} attributes and ${nameHits} names were kept ones`,
    )
  }
} finally {
  rig.close()
  rmSync(folder, { recursive: true, force: true })
}
