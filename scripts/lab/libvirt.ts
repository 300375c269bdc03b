/** A real libvirt on a host of its own (scripts/lab/libvirt-host), which starts QEMU guests and the daemon. */
import { type ChildProcess, execFile, execFileSync, spawn, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { packageFile } from '../../src/native/addon.js'
import { findQemu, KERNEL_COMMAND_LINE, makeInitramfs, parseConsole } from './qemu.js'
import { type GuestResult, TAG } from './uml.js'

const READY_LIMIT_MS = 120_000
const GUEST_LIMIT_MS = 300_000
const DOMAIN = 'virtiofsd-lab'
const run = promisify(execFile)

export interface ShareOptions {
  readonly share: string
  /** Mount tag; default TAG. */
  readonly tag?: string
  /** The attributes and children of `<binary>`; without `path` libvirt looks for a descriptor. */
  readonly binary?: {
    readonly path?: string
    readonly xattr?: 'on' | 'off'
    /** XML. */
    readonly children?: string
  }
}

export interface DomainOptions extends ShareOptions {
  /** Shell text for busybox that runs in the mounted share: see qemu-init. */
  readonly command: string
  readonly mountOptions?: string
}

/** What is missing, if anything. */
export function findLibvirt(): { readonly missing: string } | undefined {
  if (process.geteuid?.() !== 0) return { missing: 'not root' }
  for (const program of ['libvirtd', 'virtlogd', 'virsh'])
    try {
      execFileSync(program, ['--version'], { stdio: 'ignore' })
    } catch {
      return { missing: `no ${program}` }
    }
  const qemu = findQemu()
  return 'missing' in qemu ? qemu : undefined
}

export class Libvirt {
  /** Where the host's own folders are: etc, run, lib, log. */
  readonly folder: string
  readonly #host: ChildProcess
  readonly #ended: Promise<void>
  #errors = ''

  /** Starts virtlogd and libvirtd. Errors: they did not start. */
  static async start(): Promise<Libvirt> {
    const libvirt = new Libvirt()
    try {
      await libvirt.#ready()
    } catch (cause) {
      await libvirt.stop()
      throw cause
    }
    return libvirt
  }

  private constructor() {
    this.folder = mkdtempSync(join(tmpdir(), 'virtiofsd-libvirt-'))
    const host = packageFile('scripts', 'lab', 'libvirt-host')
    const namespaces = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc']
    this.#host = spawn('unshare', [...namespaces, host, this.folder], {
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    this.#host.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.#errors += text
    })
    this.#ended = new Promise(done => this.#host.on('close', () => done()))
  }

  #ready(): Promise<void> {
    return new Promise((done, failed) => {
      const fail = (): void => failed(new Error(`libvirt did not start:\n${this.#errors}`))
      const timer = setTimeout(fail, READY_LIMIT_MS)
      this.#ended.then(fail)
      this.#host.stdout!.setEncoding('utf8').on('data', (text: string) => {
        if (!text.includes('ready')) return
        clearTimeout(timer)
        done()
      })
    })
  }

  /** Everything that runs on this host ends. */
  async stop(): Promise<void> {
    this.#host.stdin!.end()
    const timer = setTimeout(() => this.#host.kill('SIGKILL'), 30_000)
    await this.#ended
    clearTimeout(timer)
    removeControlGroups()
    rmSync(this.folder, { recursive: true, force: true })
  }

  /** What virsh prints. Errors: it failed. */
  async virsh(...args: string[]): Promise<string> {
    const socket = join(this.folder, 'run', 'libvirt', 'libvirt-sock')
    const uri = `qemu+unix:///system?socket=${socket}`
    return (await run('virsh', ['-q', '-c', uri, ...args])).stdout.trim()
  }

  /** Makes a domain and starts it; its guest ends by itself, or with `destroy`. */
  async start(options: DomainOptions): Promise<Domain> {
    const folder = join(this.folder, 'guest')
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder)
    const xml = join(folder, 'domain.xml')
    writeFileSync(xml, domainXml(folder, options))
    await this.virsh('define', xml)
    const domain = new Domain(this, folder)
    try {
      await this.virsh('start', DOMAIN)
    } catch (cause) {
      await domain.remove()
      throw new Error(`${(cause as Error).message}\n${this.daemonLog()}`)
    }
    return domain
  }

  /** Plugs a share into the running guest, or with `detach` takes it out. */
  async plug(action: 'attach' | 'detach', options: ShareOptions): Promise<void> {
    const xml = join(this.folder, 'guest', 'device.xml')
    writeFileSync(xml, shareXml(options))
    await this.virsh(`${action}-device`, DOMAIN, xml, '--live')
  }

  /** What the daemons of all domains printed, through virtlogd. */
  daemonLog(): string {
    return ['fs0', 'fs1']
      .map(alias => this.#read('log', 'libvirt', 'qemu', `${DOMAIN}-${alias}-virtiofsd.log`))
      .join('')
  }

  /** libvirtd's own log. */
  log(): string {
    return this.#read('log', 'libvirt', 'libvirtd.log')
  }

  #read(...path: string[]): string {
    const file = join(this.folder, ...path)
    return existsSync(file) ? readFileSync(file, 'utf8') : ''
  }

  /** The command lines of all daemons libvirtd started. */
  daemonRuns(): string[] {
    const runs = this.log().matchAll(/ : About to run (?:[A-Z_]+=\S* )*(\S*virtiofsd --fd.*)$/gm)
    return Array.from(runs, match => match[1]!)
  }

  /** Processes of this host by the name they give themselves. */
  processes(name: string): number[] {
    const own = this.#pidNamespace()
    return readdirSync('/proc')
      .map(Number)
      .filter(pid => {
        try {
          return (
            readlinkSync(`/proc/${pid}/ns/pid`) === own &&
            readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === name
          )
        } catch {
          return false
        }
      })
  }

  #pidNamespace(): string {
    return readlinkSync(`/proc/${this.#host.pid}/ns/pid_for_children`)
  }
}

export class Domain {
  readonly #libvirt: Libvirt
  readonly #console: string

  constructor(libvirt: Libvirt, folder: string) {
    this.#libvirt = libvirt
    this.#console = join(folder, 'console')
  }

  async isRunning(): Promise<boolean> {
    return (await this.#libvirt.virsh('domstate', DOMAIN)) !== 'shut off'
  }

  console(): string {
    return existsSync(this.#console) ? readFileSync(this.#console, 'utf8') : ''
  }

  /** Waits until the guest has printed the text. Errors: it has not in time, or the guest ended. */
  async said(text: string): Promise<void> {
    await this.#until(async () => {
      if (this.console().includes(text)) return true
      if (!(await this.isRunning())) throw new Error(`the guest ended:\n${this.console()}`)
      return false
    })
  }

  /** Waits for the guest's power-off and removes the domain. Errors: none in time. */
  async end(): Promise<GuestResult> {
    await this.#until(async () => !(await this.isRunning()))
    await this.remove()
    return parseConsole(this.console())
  }

  async destroy(): Promise<void> {
    await this.#libvirt.virsh('destroy', DOMAIN)
    await this.remove()
  }

  async remove(): Promise<void> {
    if (await this.isRunning()) await this.#libvirt.virsh('destroy', DOMAIN)
    await this.#libvirt.virsh('undefine', DOMAIN)
  }

  async #until(condition: () => Promise<boolean>): Promise<void> {
    const limit = Date.now() + GUEST_LIMIT_MS
    while (!(await condition())) {
      if (Date.now() > limit) {
        await this.remove()
        throw new Error(
          `the guest took too long; its console ends:\n${this.console().slice(-3000)}`,
        )
      }
      await new Promise(done => setTimeout(done, 100))
    }
  }
}

function domainXml(folder: string, options: DomainOptions): string {
  const guest = findQemu()
  if ('missing' in guest) throw new Error(guest.missing)
  const initramfs = makeInitramfs(folder, guest, options)
  return `
    <domain type='qemu'>
      <name>${DOMAIN}</name>
      <memory unit='MiB'>512</memory>
      <vcpu>1</vcpu>
      <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
      <os>
        <type arch='x86_64' machine='pc'>hvm</type>
        <kernel>${guest.kernel}</kernel>
        <initrd>${initramfs}</initrd>
        <cmdline>${KERNEL_COMMAND_LINE}</cmdline>
      </os>
      <features><acpi/></features>
      <devices>
        <emulator>/usr/bin/qemu-system-x86_64</emulator>
        <controller type='usb' model='none'/>
        <memballoon model='none'/>
        ${shareXml(options)}
        <serial type='file'><source path='${join(folder, 'console')}'/></serial>
      </devices>
    </domain>`
}

function shareXml(options: ShareOptions): string {
  const { path, xattr, children } = options.binary ?? {}
  const attributes = [
    ...(path === undefined ? [] : [` path='${path}'`]),
    ...(xattr === undefined ? [] : [` xattr='${xattr}'`]),
  ].join('')
  return `
        <filesystem type='mount' accessmode='passthrough'>
          <driver type='virtiofs'/>
          <binary${attributes}>${children ?? ''}</binary>
          <source dir='${options.share}'/>
          <target dir='${options.tag ?? TAG}'/>
        </filesystem>`
}

/**
 * Those that libvirtd made, which are the whole machine's. (It could do without, but libvirtd 9.0 dies
 * when a share is plugged into a domain that has none.)
 */
function removeControlGroups(): void {
  const ours = ['-path', `*/machine/qemu-*-${DOMAIN}.libvirt-qemu*`, '-o', '-name', 'machine']
  const words = [
    '/sys/fs/cgroup',
    '-depth',
    '-type',
    'd',
    '(',
    ...ours,
    ')',
    '-exec',
    'rmdir',
    '{}',
  ]
  spawnSync('find', [...words, '+'], { stdio: 'ignore' })
}
