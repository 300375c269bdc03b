/** virtme-ng's own launcher, unpacked by scripts/setup, on a host of its own: see virtme-host. */
import { execFileSync, spawn } from 'node:child_process'
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { packageFile } from '../../src/native/addon.js'
import { findQemu } from './qemu.js'
import { cacheFolder } from './uml.js'

export interface VirtmeOptions {
  /** A folder whose `share` the guest sees by the same path. */
  readonly folder: string
  /** Its bin holds the `virtiofsd` to be found. */
  readonly prefix: string
  /** Shell text for the guest, whose root is the host's, served by the daemon. */
  readonly command: string
  readonly timeoutMs: number
}

/** virtme-run's folder, or what is missing. */
export function findVirtme(): { readonly folder: string } | { readonly missing: string } {
  if (process.geteuid?.() !== 0) return { missing: 'not root' }
  const qemu = findQemu()
  if ('missing' in qemu) return qemu
  for (const program of ['udevadm', 'depmod'])
    try {
      execFileSync(program, ['--version'], { stdio: 'ignore' })
    } catch {
      return { missing: `no ${program}` }
    }
  const cache = cacheFolder()
  const name = existsSync(cache)
    ? readdirSync(cache).find(entry => entry.startsWith('virtme-ng_'))
    : undefined
  return name === undefined
    ? { missing: 'no virtme-ng in the cache' }
    : { folder: join(cache, name) }
}

/** Boots the guest and runs the command: what it and the launcher printed. Errors: it failed, or took too long. */
export async function runVirtme(
  options: VirtmeOptions,
): Promise<{ readonly stdout: string; readonly stderr: string }> {
  const virtme = findVirtme()
  const qemu = findQemu()
  if ('missing' in virtme) throw new Error(virtme.missing)
  if ('missing' in qemu) throw new Error(qemu.missing)
  const image = dirname(dirname(qemu.kernel))
  const words = [
    ...['--mount', '--pid', '--fork', '--kill-child', '--mount-proc'],
    packageFile('scripts', 'lab', 'virtme-host'),
    ...[options.folder, virtme.folder, image, options.prefix],
    ...['--mods=auto', '--memory', '1G', '--cpus', '1', '--disable-kvm', '--rw'],
    ...['--script-sh', options.command],
  ]
  // virtme-run opens its standard streams by path, which Node's pipes, being sockets, do not allow.
  const files = ['stdout', 'stderr'].map(name => join(options.folder, name))
  const fds = files.map(file => openSync(file, 'w+'))
  const status = await new Promise<number | null>((done, failed) => {
    const child = spawn('unshare', words, { stdio: ['ignore', ...fds] })
    const timer = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs)
    child.on('error', failed).on('close', code => {
      clearTimeout(timer)
      done(code)
    })
  })
  fds.forEach(closeSync)
  const [stdout, stderr] = files.map(file => readFileSync(file, 'utf8')) as [string, string]
  if (status !== 0) throw new Error(`virtme-run ended with ${status}:\n${stdout}${stderr}`)
  return { stdout, stderr }
}
