/** Metadata is kept, and changes by others are seen, in every mode of the sandbox. */
import { execFileSync } from 'node:child_process'
import { appendFileSync, chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import type { FuseClient } from '../helpers/fuse-client.js'
import { Place } from '../helpers/launch.js'
import { guest, missing, MODES, started } from './sandbox-helpers.js'

const WARM = 24

function mount(...args: string[]): void {
  execFileSync('mount', args)
}

function size(client: FuseClient, nodeid: number): bigint {
  return client.do(3, nodeid, concat(u32s(0, 0), u64(0n))).body.getBigUint64(16 + 8, true)
}

for (const mode of MODES) {
  const run = missing(mode) === undefined ? test : test.skip
  run(`${mode.name}: what is kept is right`, async t => {
    const place = new Place(t)
    for (const name of ['below', 'other']) {
      mkdirSync(join(place.share, name), { mode: 0o755 })
      writeFileSync(join(place.share, name, 'file'), name)
    }
    if (mode.rootless !== true) {
      // As systemd leaves mounts on a host.
      mount('--bind', place.share, place.share)
      t.teardown(() => execFileSync('umount', ['--lazy', '--recursive', place.share]))
      mount('--make-shared', place.share)
    }
    const daemon = await started(t, place, mode, ['--log-level=debug'])
    const client = await guest(t, place)
    const file = client.lookup(1, 'file')
    const length = BigInt(place.content.length)
    for (let i = 0; i < WARM; i++) {
      t.is(size(client, file), length)
      t.is(client.lookup(1, 'later'), -2)
      t.is(size(client, client.lookup(client.lookup(1, 'below'), 'file')), 5n)
    }
    appendFileSync(join(place.share, 'file'), '+')
    t.is(size(client, file), length + 1n)
    writeFileSync(join(place.share, 'later'), '')
    t.true(client.lookup(1, 'later') > 0)
    chmodSync(join(place.share, 'file'), 0o600)
    const { body } = client.do(3, file, concat(u32s(0, 0), u64(0n)))
    t.is(body.getUint32(16 + 60, true) & 0o777, 0o600)
    // A mount on the host comes into the daemon's own mount namespace.
    if (mode.rootless !== true) {
      const below = join(place.share, 'below')
      mount('--bind', join(place.share, 'other'), below)
      writeFileSync(join(below, 'file'), 'longer')
      t.is(size(client, client.lookup(client.lookup(1, 'below'), 'file')), 6n)
    }
    client.front.close()
    t.is(await daemon.end(), 0)
    const [, hits, names] = /metadata: (\d+) attributes and (\d+) names/.exec(daemon.stderr)!
    t.true(Number(hits) >= WARM, `${hits} attributes`)
    t.true(Number(names) >= WARM, `${names} names`)
  })
}
