/** A daemon that a launcher starts inside a chroot: the guest gets the share, not what is around it. */
import { statSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { connect, guestReads, Launched, Place, PROGRAM } from '../helpers/launch.js'
import { threadsOf } from './sandbox-helpers.js'

const inChroot = process.geteuid?.() === 0 ? test : test.skip

/** The root of the chroot is a mount of its own, and so another one than that of the namespace. */
const ENTER =
  'mount --make-rprivate / && mkdir "$0" && mount --rbind / "$0" && exec chroot "$0" "$@"'

for (const sandbox of ['namespace', 'chroot'])
  inChroot(`--sandbox=${sandbox} in a chroot: every thread is in the share`, async t => {
    const place = new Place(t)
    const daemon = new Launched(
      t,
      [`--shared-dir=${place.share}`, `--socket-path=${place.socket}`, `--sandbox=${sandbox}`],
      { program: ['unshare', '-m', 'sh', '-c', ENTER, join(place.folder, 'root'), ...PROGRAM] },
    )
    await daemon.ready()
    const share = statSync(place.share)
    const threads = threadsOf(daemon.process.pid!)
    t.true(threads.length > 2)
    for (const { name, folder } of threads) {
      const root = statSync(join(folder, 'root'))
      t.deepEqual([root.dev, root.ino], [share.dev, share.ino], name)
    }
    t.is(guestReads(await connect(place.socket)), place.content)
  })
