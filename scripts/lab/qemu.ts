/** A QEMU guest without hardware virtualisation: Debian's cloud kernel and an initramfs made for each run. */
import { execFileSync, spawn } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { packageFile } from '../../src/native/addon.js'
import { cacheFolder, type GuestResult, TAG } from './uml.js'

const PROGRAM = 'qemu-system-x86_64'
const BUSYBOX = '/bin/busybox'
export const KERNEL_COMMAND_LINE = 'console=ttyS0 quiet mitigations=off'
const DEFAULT_LIMIT_MS = 300_000

/** In the order of loading; what the package does not hold is built into its kernel. */
const MODULES = [
  'fs/fuse/fuse',
  'drivers/virtio/virtio_ring',
  'drivers/virtio/virtio',
  'fs/fuse/virtiofs',
  'drivers/virtio/virtio_pci_legacy_dev',
  'drivers/virtio/virtio_pci_modern_dev',
  'drivers/virtio/virtio_pci',
]

export interface QemuOptions {
  readonly socketPath: string
  /** Shell text for busybox that runs in the mounted share, after a reboot once more: see qemu-init. */
  readonly command: string
  readonly mountOptions?: string
  /** Text files the command finds as /lab/NAME, executable. */
  readonly files?: Readonly<Record<string, string | Uint8Array>>
  /** Request queues of the device; default 1. */
  readonly queues?: number
  /** CPUs of the guest; default 1. */
  readonly cpus?: number
  readonly memoryMiB?: number
  readonly timeoutMs?: number
  /** Called with console text as it comes. */
  readonly onOutput?: (text: string) => void
  /** Kills QEMU with SIGKILL; the result then is what there was. */
  readonly signal?: AbortSignal
}

export interface QemuGuest {
  readonly kernel: string
  /** The folder that holds fs/, drivers/ and so on. */
  readonly modules: string
}

/** The kernel scripts/setup put into the cache, when all else is there too; otherwise what is missing. */
export function findQemu(): QemuGuest | { readonly missing: string } {
  try {
    execFileSync(PROGRAM, ['--version'], { stdio: 'ignore' })
  } catch {
    return { missing: `no ${PROGRAM}` }
  }
  if (!existsSync(BUSYBOX)) return { missing: `no ${BUSYBOX}` }
  const cache = cacheFolder()
  const folder = existsSync(cache)
    ? readdirSync(cache)
        .filter(name => name.startsWith('linux-image-'))
        .sort()
        .at(-1)
    : undefined
  if (folder === undefined) return { missing: 'no cloud kernel in the cache' }
  const root = join(cache, folder)
  const kernel = readdirSync(join(root, 'boot')).find(name => name.startsWith('vmlinuz-'))
  if (kernel === undefined) return { missing: `no kernel in ${root}` }
  const release = kernel.slice('vmlinuz-'.length)
  const library = ['lib', 'usr/lib'].find(name => existsSync(join(root, name, 'modules', release)))
  return {
    kernel: join(root, 'boot', kernel),
    modules: join(root, library ?? 'lib', 'modules', release, 'kernel'),
  }
}

/** Boots the guest, runs the command, waits for power-off. Errors: something is missing; the time limit passed. */
export async function runQemu(options: QemuOptions): Promise<GuestResult> {
  const guest = findQemu()
  if ('missing' in guest) throw new Error(`${guest.missing}: run "scripts/setup test"`)
  const lab = mkdtempSync(join(tmpdir(), 'virtiofsd-qemu-'))
  try {
    const initramfs = makeInitramfs(lab, guest, options)
    return await boot(qemuArguments(guest.kernel, initramfs, options), options)
  } finally {
    rmSync(lab, { recursive: true, force: true })
  }
}

/** Makes LAB/initramfs.gz out of LAB/root, and tells its path. */
export function makeInitramfs(
  lab: string,
  guest: QemuGuest,
  options: Pick<QemuOptions, 'command' | 'mountOptions' | 'files'>,
): string {
  const root = join(lab, 'root')
  for (const name of ['bin', 'dev', 'proc', 'sys', 'tmp', 'mnt', 'modules', 'lab'])
    mkdirSync(join(root, name), { recursive: true })
  copyFileSync(BUSYBOX, join(root, 'bin', 'busybox'))
  copyFileSync(packageFile('scripts', 'lab', 'qemu-init'), join(root, 'init'))
  for (const [index, path] of MODULES.entries()) {
    const module = join(guest.modules, `${path}.ko`)
    if (existsSync(module)) copyFileSync(module, join(root, 'modules', `${index}.ko`))
  }
  const files = {
    ...options.files,
    command: options.command,
    tag: TAG,
    options: options.mountOptions ?? 'rw',
  }
  for (const [name, text] of Object.entries(files))
    writeFileSync(join(root, 'lab', name), text, { mode: 0o755 })
  const initramfs = join(lab, 'initramfs.gz')
  execFileSync('sh', [
    '-ec',
    'cd "$1"; find . | cpio --quiet -o -H newc | gzip -1 > "$2"',
    'sh',
    root,
    initramfs,
  ])
  return initramfs
}

export function qemuArguments(kernel: string, initramfs: string, options: QemuOptions): string[] {
  const memory = `${options.memoryMiB ?? 512}M`
  const queues = options.queues === undefined ? '' : `,num-request-queues=${options.queues}`
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio'],
    ...['-accel', 'tcg,thread=multi', '-smp', String(options.cpus ?? 1), '-m', memory],
    ...['-object', `memory-backend-memfd,id=mem,size=${memory},share=on`],
    ...['-numa', 'node,memdev=mem'],
    ...['-chardev', `socket,id=c0,path=${options.socketPath}`],
    ...['-device', `vhost-user-fs-pci,chardev=c0,tag=${TAG}${queues}`],
    ...['-kernel', kernel, '-initrd', initramfs],
    ...['-append', KERNEL_COMMAND_LINE],
  ]
}

export function boot(
  args: readonly string[],
  options: QemuOptions,
  program = PROGRAM,
): Promise<GuestResult> {
  const limitMs = options.timeoutMs ?? DEFAULT_LIMIT_MS
  return new Promise((done, failed) => {
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      killSignal: 'SIGKILL',
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    })
    let console = ''
    let why = ''
    const kill = (reason: string): void => {
      why ||= reason
      child.kill('SIGKILL')
    }
    const take = (text: string): void => {
      console += text
      if (console.includes('end Kernel panic')) kill('the guest panicked')
      options.onOutput?.(text)
    }
    child.stdout.setEncoding('utf8').on('data', take)
    child.stderr.setEncoding('utf8').on('data', take)
    const timer = setTimeout(() => kill(`the guest did not finish in ${limitMs / 1000} s`), limitMs)
    child.on('error', cause => {
      if (options.signal?.aborted !== true) failed(cause)
    })
    child.on('close', () => {
      clearTimeout(timer)
      if (why === '') done(parseConsole(console))
      else failed(new Error(`${why}; its console ends:\n${console.slice(-3000)}`))
    })
  })
}

/** The output of all boots together; the status of the last one. */
export function parseConsole(console: string): GuestResult {
  const text = console.replaceAll('\r', '')
  const [, ...boots] = text.split('lab: start\n')
  const end = /^lab: end (\d+)$/m.exec(boots.at(-1) ?? '')
  const output = boots.map(one => one.split(/^lab: end \d+$/m)[0]).join('')
  return { status: end === null ? -1 : Number(end[1]), output, console: text }
}
