/** Debian's libvirt starts the daemon as it starts any virtiofsd, and QEMU with it. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
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
import test, { type ExecutionContext } from 'ava'
import { type DomainOptions, findLibvirt, Libvirt } from '../../scripts/lab/libvirt.js'
import { packageFile } from '../../src/native/addon.js'
import { registerMissing } from './helpers/missing.js'

const LIMIT_MS = 900_000
const READY = 'Waiting for vhost-user socket connection'

interface Lab {
  readonly libvirt: Libvirt
  /** What virtiofsd-install made of the package. */
  readonly launcher: string
  readonly share: string
}

/** One libvirt for the whole file. */
let lab: Omit<Lab, 'share'> | undefined
test.after.always('libvirt ends', async () => lab?.libvirt.stop())

async function startLab(): Promise<Omit<Lab, 'share'>> {
  const libvirt = await Libvirt.start()
  const prefix = join(libvirt.folder, 'prefix')
  execFileSync(process.execPath, [
    packageFile('dist', 'src', 'bin', 'install.js'),
    ...['--prefix', prefix],
    ...['--descriptors', join(libvirt.folder, 'etc', 'qemu', 'vhost-user')],
  ])
  return { libvirt, launcher: join(prefix, 'bin', 'virtiofsd') }
}

function libvirtTest(title: string, body: (t: ExecutionContext, lab: Lab) => Promise<void>): void {
  const missing = findLibvirt()?.missing
  if (missing !== undefined) {
    registerMissing(title, `${missing}: run "scripts/setup test"`)
    return
  }
  test.serial(title, async t => {
    t.timeout(LIMIT_MS)
    lab ??= await startLab()
    const { libvirt } = lab
    const share = mkdtempSync(join(tmpdir(), 'virtiofsd-share-'))
    try {
      await body(t, { ...lab, share })
      t.false(/ERROR/.test(libvirt.daemonLog()), libvirt.daemonLog())
    } catch (cause) {
      t.log(libvirt.daemonLog().slice(-3000))
      t.log(libvirt.log().slice(-3000))
      // What a failed test left running: the next one starts on a new host.
      await libvirt.stop()
      lab = undefined
      throw cause
    } finally {
      rmSync(share, { recursive: true, force: true })
    }
  })
}

/** Waits for something; false: it does not come. */
async function comes(condition: () => boolean): Promise<boolean> {
  const limit = Date.now() + 90_000
  while (!condition()) {
    if (Date.now() > limit) return false
    await new Promise(done => setTimeout(done, 50))
  }
  return true
}

/** Waits until so many daemons run. */
function daemonsAre(libvirt: Libvirt, count: number): Promise<boolean> {
  return comes(() => libvirt.processes('virtiofsd').length === count)
}

/** All names below a folder in which others remove some meanwhile. */
function namesBelow(folder: string): string[] {
  for (let tries = 0; ; tries++) {
    try {
      return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ENOENT' || tries === 100) throw cause
    }
  }
}

/** Sockets and pid files of daemons that libvirt no longer runs. */
function leftOver({ folder }: Libvirt): string[] {
  return ['run', 'lib']
    .flatMap(name => namesBelow(join(folder, name, 'libvirt', 'qemu')))
    .filter(name => /fs\d.*\.(sock|pid)$/.test(name))
}

interface Found {
  /** The daemon's command line. */
  readonly argv: string
  /** What it is confined to, as seen from here. */
  readonly root: string
  readonly log: string
}

/** Boots a guest that reads a file and writes one; what became of the daemon. */
async function readsAndWrites(
  t: ExecutionContext,
  { libvirt, share }: Lab,
  options: Omit<DomainOptions, 'share' | 'command'> & { readonly command?: string },
): Promise<Found> {
  const content = randomBytes((1 << 20) + 123)
  writeFileSync(join(share, 'from-host'), content)
  const before = libvirt.daemonLog().length
  const domain = await libvirt.start({
    ...options,
    share,
    command: `
      set -e
      cat from-host from-host > from-guest; mkdir folder; mv from-guest folder/renamed; sync
      ${options.command ?? ''}
      while [ ! -e seen ]; do sleep 0.1; done
      rm seen`,
  })
  await domain.said('lab: start')
  const [daemon, ...others] = libvirt.processes('virtiofsd')
  t.deepEqual(others, [])
  const root = readlinkSync(`/proc/${daemon}/root`)
  t.not(leftOver(libvirt).length, 0)
  writeFileSync(join(share, 'seen'), '')
  const result = await domain.end()
  t.is(result.status, 0, result.console)
  t.true(readFileSync(join(share, 'folder', 'renamed')).equals(Buffer.concat([content, content])))
  t.deepEqual(readdirSync(share).sort(), ['folder', 'from-host'])
  t.true(await daemonsAre(libvirt, 0))
  t.true(await comes(() => leftOver(libvirt).length === 0), leftOver(libvirt).join())
  // The log goes through another process.
  const log = (): string => libvirt.daemonLog().slice(before)
  t.true(await comes(() => log().includes('the front end is gone')), log())
  t.is(log().split(READY).length, 2, log())
  t.log(libvirt.daemonRuns().at(-1), root)
  return { argv: libvirt.daemonRuns().at(-1)!, root, log: log() }
}

libvirtTest('libvirt: a domain whose <binary> is our launcher', async (t, lab) => {
  const { argv, log } = await readsAndWrites(t, lab, { binary: { path: lab.launcher } })
  t.true(argv.startsWith(`${lab.launcher} --fd=`), argv)
  // Debian 12's libvirt speaks the old form; newer ones ask for the capabilities and speak the new one.
  t.regex(argv, / (-o source=|--shared-dir )/)
  t.true(argv.includes(lab.share))
  t.regex(log, /the front end is gone/)
})

libvirtTest('libvirt: every option it knows', async (t, lab) => {
  const { argv, root } = await readsAndWrites(t, lab, {
    binary: {
      path: lab.launcher,
      xattr: 'on',
      children: `<cache mode='always'/><sandbox mode='chroot'/><thread_pool size='4'/>`,
    },
  })
  for (const word of [
    /cache[= ]always/,
    /sandbox[= ]chroot/,
    /(,|--)xattr/,
    /--thread-pool-size=4/,
  ])
    t.regex(argv, word)
  t.is(root, lab.share)
})

libvirtTest('libvirt: the first descriptor is ours; cache none', async (t, lab) => {
  const { argv } = await readsAndWrites(t, lab, { binary: { children: "<cache mode='none'/>" } })
  t.true(argv.startsWith(`${lab.launcher} --fd=`), argv)
  t.regex(argv, /cache(=none| never)/)
})

libvirtTest('libvirt: a share plugged into a running guest, and out again', async (t, lab) => {
  const { libvirt, share } = lab
  const hot = { share: join(share, 'hot'), tag: 'hot', binary: { path: lab.launcher } }
  mkdirSync(hot.share)
  const domain = await libvirt.start({
    share,
    binary: { path: lab.launcher },
    command: `
      mkdir /tmp/hot; until mount -t virtiofs hot /tmp/hot 2>/dev/null; do sleep 0.1; done
      echo plugged > /tmp/hot/file; umount /tmp/hot; echo; echo lab: unmounted
      while [ ! -e seen ]; do sleep 0.1; done`,
  })
  await domain.said('lab: start')
  await libvirt.plug('attach', hot)
  await domain.said('lab: unmounted')
  t.is(readFileSync(join(hot.share, 'file'), 'utf8'), 'plugged\n')
  t.is(libvirt.processes('virtiofsd').length, 2)
  await libvirt.plug('detach', hot)
  t.true(await daemonsAre(libvirt, 1))
  writeFileSync(join(share, 'seen'), '')
  t.is((await domain.end()).status, 0, domain.console())
  t.true(await daemonsAre(libvirt, 0))
  t.true(await comes(() => leftOver(libvirt).length === 0), leftOver(libvirt).join())
})

libvirtTest('libvirt: a domain that is destroyed takes its daemon with it', async (t, lab) => {
  const { libvirt, share } = lab
  const domain = await libvirt.start({
    share,
    binary: { path: lab.launcher },
    command: 'while :; do dd if=/dev/zero of=file bs=64k count=200 conv=notrunc 2>/dev/null; done',
  })
  await domain.said('lab: start')
  await domain.destroy()
  t.true(await daemonsAre(libvirt, 0))
  t.true(await comes(() => leftOver(libvirt).length === 0), leftOver(libvirt).join())
})
