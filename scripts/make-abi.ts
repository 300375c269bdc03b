/**
 * Asks the C compiler what the system's headers say of the structs and constants that protocol/ declares.
 *
 *     node dist/scripts/make-abi.js                          JSON to standard output
 *     node dist/scripts/make-abi.js -I DIR > test/golden/abi.json
 *
 * DIR comes before the system's headers: put a newer linux/fuse.h there (libfuse carries it as
 * include/fuse_kernel.h). What the headers do not have is left out of the answer: every probe is a line
 * of its own, and lines that the compiler refuses are dropped.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Errno } from '../protocol/errno.js'
import * as fuseDirent from '../protocol/fuse/dirent.js'
import * as flags from '../protocol/fuse/flags.js'
import { Opcode } from '../protocol/fuse/opcodes.js'
import * as fuse from '../protocol/fuse/structs.js'
import * as device from '../protocol/fuse/structs-device.js'
import * as constants from '../protocol/linux/constants.js'
import * as dirent from '../protocol/linux/dirent.js'
import * as stat from '../protocol/linux/statx.js'
import * as messages from '../protocol/vhost-user/messages.js'
import * as payloads from '../protocol/vhost-user/payloads.js'
import * as fs from '../protocol/virtio/fs.js'
import * as ring from '../protocol/virtio/ring.js'

/** What C or protocol/ says: bytes by `struct` and by `struct.field`, values by constant name. */
export interface Abi {
  readonly sizes: Record<string, number>
  readonly offsets: Record<string, number>
  /** Decimal text: some have 64 bits. */
  readonly constants: Record<string, string>
}

const HEADERS = `#define _GNU_SOURCE
#include <stddef.h>
#include <stdio.h>
#include <dirent.h>
#include <sys/stat.h>
#include <linux/fuse.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_fs.h>
#include <linux/vhost_types.h>
#include <linux/stat.h>
#include <linux/fcntl.h>
#include <linux/openat2.h>
#include <linux/falloc.h>
#include <linux/xattr.h>
#include <linux/limits.h>
#include <linux/fs.h>
#include <linux/fsverity.h>
#include <linux/capability.h>
#include <asm/errno.h>
`

interface Declared {
  readonly NAME: string
  readonly SIZE: number
  readonly f: Readonly<Record<string, { readonly offset: number }>>
}

function isStruct(value: unknown): value is Declared {
  return typeof value === 'object' && value !== null && 'LAYOUT' in value && 'SIZE' in value
}

/** Structs of modules whose headers the compiler can see. */
export const STRUCTS: readonly Declared[] = [fuse, device, stat, dirent, ring, fs, payloads]
  .flatMap(module => Object.values(module) as unknown[])
  .filter(isStruct)
  .filter(({ NAME }) => !/^(VhostUser|QueueRegion|DescState)/.test(NAME))

/** Members that are structs: a prefix here, a path in C. */
const NESTED: ReadonlyArray<
  readonly [struct: string, prefix: string, member: string, inner: Declared]
> = [
  ['fuse_entry_out', 'attr_', 'attr', fuse.fuse_attr],
  ['fuse_attr_out', 'attr_', 'attr', fuse.fuse_attr],
  ['fuse_statfs_out', 'st_', 'st', fuse.fuse_kstatfs],
  ['fuse_lk_in', 'lk_', 'lk', fuse.fuse_file_lock],
  ['fuse_lk_out', 'lk_', 'lk', fuse.fuse_file_lock],
  ['fuse_statx', 'atime_', 'atime', fuse.fuse_sx_time],
  ['fuse_statx', 'btime_', 'btime', fuse.fuse_sx_time],
  ['fuse_statx', 'ctime_', 'ctime', fuse.fuse_sx_time],
  ['fuse_statx', 'mtime_', 'mtime', fuse.fuse_sx_time],
  ['fuse_statx_out', 'stat_', 'stat', fuse.fuse_statx],
  ['fuse_direntplus', 'entry_out_', 'entry_out', fuse.fuse_entry_out],
  ['fuse_direntplus', 'dirent_', 'dirent', fuse.fuse_dirent],
  ['fuse_uring_req_header', 'ring_ent_in_out_', 'ring_ent_in_out', device.fuse_uring_ent_in_out],
]

/** Members that are arrays, with C elements per field: `spare3` is `spare[3]` where that is 1. */
const ARRAYS: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  fuse_kstatfs: { spare: 1 },
  fuse_statx: { __spare0_: 1, __spare2_: 1 },
  fuse_statx_out: { spare: 1 },
  cuse_init_out: { spare: 1 },
  fuse_uring_cmd_req: { padding: 1 },
  fuse_uring_req_header: { in_out: 8, op_in: 8 },
  virtio_fs_config: { tag: 1 },
}

/** Room for fields to come: a header of another age has more of it, in other pieces. */
const ROOM = /^fuse_init_(in|out)\.unused|^statx\.spare[23]/

/** Constants with another name, or none, in C. */
const EXPRESSIONS: Readonly<Record<string, string>> = {
  O_ASYNC: 'FASYNC',
  ENOTSUP: 'EOPNOTSUPP',
  STATX_BYTES: 'sizeof(struct statx)',
  VRING_DESC_SIZE: 'sizeof(struct vring_desc)',
  VRING_DESC_ALIGN: 'VRING_DESC_ALIGN_SIZE',
  VRING_AVAIL_ALIGN: 'VRING_AVAIL_ALIGN_SIZE',
  VRING_USED_ALIGN: 'VRING_USED_ALIGN_SIZE',
  VIRTIO_FS_CONFIG_BYTES: 'sizeof(struct virtio_fs_config)',
  VIRTIO_FS_TAG_BYTES: 'sizeof(((struct virtio_fs_config *)0)->tag)',
  FUSE_UNIQUE_RESEND_HIGH: 'FUSE_UNIQUE_RESEND >> 32',
  FS_IOC32_GETFLAGS: "_IOR('f', 1, int)",
  FS_IOC32_SETFLAGS: "_IOW('f', 2, int)",
}

/** The C expression of a member, after `struct x,`. */
function member(struct: string, field: string): string {
  for (const [owner, prefix, path, inner] of NESTED) {
    const rest = field.slice(prefix.length)
    if (owner === struct && field.startsWith(prefix) && rest in inner.f)
      return `${path}.${member(inner.NAME, rest)}`
  }
  for (const [array, stride] of Object.entries(ARRAYS[struct] ?? {})) {
    const index = field.slice(array.length)
    if (!field.startsWith(array) || !/^\d+$/.test(index)) continue
    return `${array.replace(/_$/, '')}[${index} * ${stride}]`
  }
  if (struct === 'statx') {
    const time = /^(stx_.time)_(sec|nsec|reserved)$/.exec(field)
    if (time) return `${time[1]}.${time[2] === 'reserved' ? '__reserved' : `tv_${time[2]}`}`
    if (field === 'spare0') return '__spare0'
  }
  return field
}

function declaredConstants(): Record<string, bigint> {
  const found: Record<string, bigint> = {}
  const take = (values: object): void => {
    for (const [name, value] of Object.entries(values)) {
      if (
        /^[A-Z][A-Z0-9_]+$/.test(name) &&
        (typeof value === 'number' || typeof value === 'bigint')
      )
        found[name] = BigInt(value)
    }
  }
  const modules: object[] = [
    flags,
    fuse,
    fuseDirent,
    device,
    constants,
    stat,
    messages,
    payloads,
    fs,
    ring,
  ]
  for (const module of modules) {
    take(module)
    for (const value of Object.values(module) as unknown[])
      if (typeof value === 'object' && value !== null && !isStruct(value)) take(value)
  }
  take(Errno)
  take(Opcode)
  // The header has the high word's flags at their place in 64 bits.
  for (const [name, value] of Object.entries(flags.InitFlag2)) found[name] = BigInt(value) << 32n
  // vhost-user is specified in prose: no installed header has it.
  for (const name of Object.keys(found))
    if (/^VHOST_(USER|TRANSFER|SET_CONFIG|LOG_PAGE|MEMORY)/.test(name)) delete found[name]
  return found
}

/** What protocol/ says, in the shape in which C answers. */
export function declaredAbi(): Abi {
  const sizes: Record<string, number> = {}
  const offsets: Record<string, number> = {}
  for (const { NAME, SIZE, f } of STRUCTS) {
    sizes[NAME] = SIZE
    for (const [field, { offset }] of Object.entries(f))
      if (!ROOM.test(`${NAME}.${field}`)) offsets[`${NAME}.${field}`] = offset
  }
  const values = Object.entries(declaredConstants()).map(([name, value]) => [
    name,
    value.toString(),
  ])
  return { sizes, offsets, constants: Object.fromEntries(values) as Record<string, string> }
}

function probes(): string[] {
  const lines: string[] = []
  for (const { NAME, f } of STRUCTS) {
    const type = NAME === 'linux_dirent64' ? 'struct dirent64' : `struct ${NAME}`
    // getdents64's struct ends with the name; glibc's has room for one.
    const size = NAME === 'linux_dirent64' ? `offsetof(${type}, d_name)` : `sizeof(${type})`
    lines.push(`A(sizes, "${NAME}", ${size})`)
    for (const field of Object.keys(f))
      if (!ROOM.test(`${NAME}.${field}`))
        lines.push(`A(offsets, "${NAME}.${field}", offsetof(${type}, ${member(NAME, field)}))`)
  }
  for (const [name, value] of Object.entries(declaredConstants()))
    lines.push(`${value < 0n ? 'S' : 'A'}(constants, "${name}", ${EXPRESSIONS[name] ?? name})`)
  return lines
}

function program(lines: readonly string[]): string {
  const functions = lines.map((line, index) => `static void p${index}(void) { ${line}; }`)
  const calls = lines.map((_, index) => `p${index}();`)
  return `${HEADERS}
#define A(kind, name, value) printf("%s\\t%s\\t%llu\\n", #kind, name, WIDE(value))
#define S(kind, name, value) printf("%s\\t%s\\t%lld\\n", #kind, name, (long long)(value))
/* 1 << 31 is an int in the header: widen without its sign. */
#define WIDE(value) (sizeof(value) == 4 ? (unsigned long long)(unsigned)(value) : (unsigned long long)(value))
${functions.join('\n')}
int main(void) { ${calls.join(' ')} return 0; }
`
}

/**
 * Compiles and runs the probes with `cc` (or $CC). Returns undefined when there is no compiler. Errors:
 * Error with the compiler's words when even the headers do not compile.
 */
export function systemAbi(includes: readonly string[] = []): Abi | undefined {
  const cc = process.env.CC ?? 'cc'
  const directory = mkdtempSync(join(tmpdir(), 'abi-'))
  try {
    const source = join(directory, 'abi.c')
    const binary = join(directory, 'abi')
    let lines = probes()
    const options = [
      '-w',
      '-fmax-errors=0',
      '-o',
      binary,
      ...includes.map(path => `-I${path}`),
      source,
    ]
    for (;;) {
      const text = program(lines)
      writeFileSync(source, text)
      const { error, status, stderr } = spawnSync(cc, options, { encoding: 'utf8' })
      if (error) return undefined
      if (status === 0) break
      const first = text.split('\n').findIndex(line => line.startsWith('static void p0('))
      const refused = new Set<number>()
      for (const [, line] of stderr.matchAll(/abi\.c:(\d+):\d+: error:/g))
        refused.add(Number(line) - 1 - first)
      const left = lines.filter((_, index) => !refused.has(index))
      if (left.length === lines.length)
        throw new Error(`${cc} cannot compile the probes: ${stderr}`)
      lines = left
    }
    const { stdout } = spawnSync(binary, { encoding: 'utf8' })
    const abi: Abi = { sizes: {}, offsets: {}, constants: {} }
    for (const line of stdout.trimEnd().split('\n')) {
      const [kind, name, value] = line.split('\t') as [keyof Abi, string, string]
      if (kind === 'constants') abi.constants[name] = value
      else abi[kind][name] = Number(value)
    }
    return abi
  } finally {
    rmSync(directory, { recursive: true })
  }
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const at = process.argv.indexOf('-I')
  const abi = systemAbi(at < 0 ? [] : process.argv.slice(at + 1, at + 2))
  if (!abi) throw new Error('no C compiler: install one, or set CC')
  process.stdout.write(`${JSON.stringify(abi, undefined, 1)}\n`)
}
