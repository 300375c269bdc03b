/**
 * Sizes, offsets and values against C: a golden answer made with linux/fuse.h 7.45 (libfuse e8d407ce,
 * include/fuse_kernel.h) before the headers of Linux 6.1.187, and the headers of this machine.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type Abi, declaredAbi, systemAbi } from '../../scripts/make-abi.js'

// From dist/test/protocol to the sources.
const GOLDEN = join(import.meta.dirname, '../../../test/golden/abi.json')
const golden = JSON.parse(readFileSync(GOLDEN, 'utf8')) as Abi
const declared = declaredAbi()
const KINDS = ['sizes', 'offsets', 'constants'] as const

/** Not in those headers: ours, from a specification in prose, or younger than Linux 6.1. */
const NOT_COVERED: Readonly<Record<keyof Abi, readonly string[]>> = {
  sizes: [],
  offsets: [
    'statx.stx_subvol',
    'statx.stx_atomic_write_unit_min',
    'statx.stx_atomic_write_unit_max',
    'statx.stx_atomic_write_segments_max',
    'statx.stx_dio_read_offset_align',
    'statx.stx_atomic_write_unit_max_opt',
    'vhost_iotlb_msg.padding0',
    'vhost_iotlb_msg.padding1',
  ],
  constants: [
    'FUSE_INIT_IN_BASE_SIZE',
    'FUSE_MIN_MINOR_VERSION',
    'FALLOC_FL_WRITE_ZEROES',
    'RWF_ATOMIC',
    'RWF_DONTCACHE',
    'RWF_NOAPPEND',
    'STATX_ATTR_WRITE_ATOMIC',
    'STATX_DIO_READ_ALIGN',
    'STATX_MNT_ID_UNIQUE',
    'STATX_SUBVOL',
    'STATX_WRITE_ATOMIC',
    'VIRTIO_MAX_SHMEM_REGIONS',
    'VIRTIO_FS_FIRST_REQUEST_QUEUE',
    'VIRTIO_FS_F_NOTIFICATION',
    'VIRTIO_FS_HIPRIO_QUEUE',
    'VIRTIO_FS_NOTIFICATION_QUEUE',
    'VIRTIO_FS_NOTIFY_BUF_SIZE_OFFSET',
    'VIRTIO_F_ADMIN_VQ',
    'VIRTIO_F_NOTIFICATION_DATA',
    'VIRTIO_F_NOTIF_CONFIG_DATA',
    'VRING_MAX_SIZE',
  ],
}

for (const kind of KINDS) {
  test(`${kind} are those of the newest header`, t => {
    const want = Object.fromEntries(
      Object.entries(declared[kind]).filter(([name]) => !NOT_COVERED[kind].includes(name)),
    )
    t.deepEqual(want, golden[kind])
  })

  test(`${kind}: the list of what C was not asked is no longer than needed`, t => {
    const gone = NOT_COVERED[kind].filter(name => !(name in declared[kind]))
    const covered = NOT_COVERED[kind].filter(name => name in golden[kind])
    t.deepEqual({ gone, covered }, { gone: [], covered: [] })
  })
}

test('nothing differs from the headers of this machine', t => {
  const system = systemAbi()
  if (!system) {
    t.log('skipped: no C compiler')
    t.pass()
    return
  }
  t.true(Object.keys(system.sizes).length > 60)
  for (const kind of KINDS) {
    for (const [name, value] of Object.entries(system[kind])) {
      // The version is the one thing that may differ, and the one O_* word that is per machine.
      if (name === 'FUSE_KERNEL_MINOR_VERSION') continue
      if (
        process.arch === 'arm64' &&
        /^O_(DIRECT|DIRECTORY|NOFOLLOW|LARGEFILE|TMPFILE)$/.test(name)
      )
        continue
      t.is(declared[kind][name], value, name)
    }
  }
})
