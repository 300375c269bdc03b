/**
 * A QEMU 11.1 guest with Linux 7.2 and a DAX window: `vhost-user-test-device-pci` is the one device of stock
 * QEMU that has one. QEMU and kernel come from a Debian tree in the cache, which `scripts/setup-dax` makes; nothing
 * of it is installed: QEMU runs by that tree's own dynamic loader.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { packageFile } from '../../src/native/addon.js'
import { boot, makeInitramfs, type QemuOptions } from './qemu.js'
import { cacheFolder, type GuestResult } from './uml.js'

/** Entries of each ring: a request has up to 4 fewer pages. */
const RING_SIZE = 128
/** tag[36] and the number of request queues. */
const CONFIG_BYTES = 40

interface DaxLab {
  readonly tree: string
  readonly kernel: string
  readonly modules: string
}

export interface DaxQemuOptions extends QemuOptions {
  /** Sockets of more daemons, a device each; the command mounts them by their tags. */
  readonly otherSockets?: readonly string[]
}

/** The tree, or what is missing. */
export function findDaxLab(): DaxLab | { readonly missing: string } {
  if (!existsSync('/bin/busybox')) return { missing: 'no /bin/busybox' }
  const tree = join(cacheFolder(), 'dax-lab')
  if (!existsSync(join(tree, '.done'))) return { missing: 'no QEMU 11.1 in the cache' }
  const modules = join(tree, 'kernel', 'usr', 'lib', 'modules')
  const release = readdirSync(modules)[0]
  const kernel = release === undefined ? undefined : join(modules, release, 'vmlinuz')
  if (kernel === undefined || !existsSync(kernel)) return { missing: `no kernel in ${modules}` }
  return { tree, kernel, modules: join(modules, release!, 'kernel') }
}

/** Boots the guest with `mount -o dax` (unless `mountOptions` say otherwise), runs the command, waits for power-off. The daemon must have a tag. */
export async function runQemuDax(options: DaxQemuOptions): Promise<GuestResult> {
  const found = findDaxLab()
  if ('missing' in found) throw new Error(`${found.missing}: run "scripts/setup-dax"`)
  const lab = mkdtempSync(join(tmpdir(), 'virtiofsd-dax-'))
  try {
    const initramfs = makeInitramfs(lab, found, { mountOptions: 'dax', ...options })
    const [program, ...args] = qemuCommand(found, initramfs, options)
    return await boot(args, options, program)
  } finally {
    rmSync(lab, { recursive: true, force: true })
  }
}

function qemuCommand(
  { tree, kernel }: DaxLab,
  initramfs: string,
  options: DaxQemuOptions,
): string[] {
  const library = join(tree, 'usr', 'lib', 'x86_64-linux-gnu')
  const share = join(tree, 'usr', 'share')
  const memory = `${options.memoryMiB ?? 512}M`
  const cpus = options.cpus ?? 1
  const queues = 1 + Math.max(options.queues ?? 1, 1)
  const sockets = [options.socketPath, ...(options.otherSockets ?? [])]
  const device = [
    'vhost-user-test-device-pci,virtio-id=26',
    `num_vqs=${queues},vq_size=${RING_SIZE},config_size=${CONFIG_BYTES}`,
  ].join(',')
  return [
    ...[join(library, 'ld-linux-x86-64.so.2'), '--library-path', library],
    ...[join(tree, 'usr', 'bin', 'qemu-system-x86_64'), '-L', join(share, 'qemu')],
    ...['-L', join(share, 'seabios')],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio'],
    ...['-M', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'max'],
    ...['-smp', String(cpus), '-m', memory],
    ...['-object', `memory-backend-memfd,id=mem,size=${memory},share=on`],
    ...['-numa', 'node,memdev=mem'],
    ...sockets.flatMap((path, i) => [
      ...['-chardev', `socket,id=c${i},path=${path}`],
      ...['-device', `${device},chardev=c${i}`],
    ]),
    ...['-kernel', kernel, '-initrd', initramfs],
    ...['-append', 'console=ttyS0 quiet mitigations=off no_timer_check tsc=reliable'],
  ]
}

/**
 * Compiles test/guest/helpers/dax-check.c, a guest's programs, into `folder`: its path. It is static, since a guest's root is
 * an initramfs of busybox, and padded to whole pages, since a mount with `dax` can read nothing else.
 */
export function compileCheck(folder: string): string {
  const program = join(folder, 'dax-check')
  const source = packageFile('test', 'guest', 'helpers', 'dax-check.c')
  execFileSync('cc', ['-O1', '-Wall', '-static', source, '-o', program])
  truncateSync(program, Math.ceil(statSync(program).size / 4096) * 4096)
  return program
}
