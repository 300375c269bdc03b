#!/usr/bin/env node
/**
 * `virtiofsd-install`: puts the daemon where launchers look. Two files: a launcher that names Node by its
 * absolute path (libvirt and Incus run the daemon with the environment of a service, in which a Node of
 * nvm or the like is not found), and the description that QEMU's vhost-user.json defines and libvirt reads.
 */
import {
  accessSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { capabilitiesText } from '../daemon/options.js'
import { packageFile } from '../native/addon.js'

const HELP = `Usage: virtiofsd-install [options]

Makes PREFIX/bin/virtiofsd, which runs this package's daemon, and tells libvirt of it.

  --prefix DIR        default /usr/local; /usr where AppArmor confines libvirtd
  --descriptors DIR   default /etc/qemu/vhost-user
  --force             replace a bin/virtiofsd that is another program's
  --uninstall         remove the two files
  --help
`
const MARK = '# Made by virtiofsd-install of virtiofsd-ts.'
/** libvirt takes the first by name; distributions ship 50-virtiofsd.json and 50-qemu-virtiofsd.json. */
const DESCRIPTOR = '40-virtiofsd-ts.json'

interface Places {
  readonly launcher: string
  readonly descriptor: string
}

class InstallError extends Error {}

/** The bundle; in a checkout that has none, what tsc made. */
function daemonFile(): string {
  const bundle = packageFile('dist', 'bundle', 'bin', 'virtiofsd.js')
  return existsSync(bundle) ? bundle : packageFile('dist', 'src', 'bin', 'virtiofsd.js')
}

/** A word for sh. */
function quoted(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`
}

/** Errors: InstallError. */
function install(places: Places, force: boolean): void {
  const daemon = daemonFile()
  if (!force && isForeign(places.launcher))
    throw new InstallError(
      `${places.launcher} is another program's: choose another --prefix, or --force`,
    )
  const launcher = `#!/bin/sh\n${MARK}\nexec ${quoted(process.execPath)} ${quoted(daemon)} "$@"\n`
  write(places.launcher, launcher, 0o755)
  const description = {
    description: 'virtiofsd-ts vhost-user-fs',
    ...(JSON.parse(capabilitiesText()) as object),
    binary: places.launcher,
  }
  write(places.descriptor, `${JSON.stringify(description, undefined, 2)}\n`, 0o644)
}

function uninstall(places: Places): void {
  if (!isForeign(places.launcher)) rmSync(places.launcher, { force: true })
  rmSync(places.descriptor, { force: true })
}

/** Something stands there that is neither our launcher nor npm's link to this package. */
function isForeign(launcher: string): boolean {
  const found = lstatSync(launcher, { throwIfNoEntry: false })
  if (found === undefined) return false
  if (found.isSymbolicLink())
    return !existsSync(launcher) || realpathSync(launcher) !== daemonFile()
  return !readFileSync(launcher, 'latin1').includes(MARK)
}

/** In one step: a domain may be starting. */
function write(path: string, text: string, mode: number): void {
  const temporary = `${path}.${process.pid}.tmp`
  try {
    mkdirSync(dirname(path), { recursive: true })
    accessSync(dirname(path), constants.W_OK)
    writeFileSync(temporary, text, { mode })
    renameSync(temporary, path)
  } catch (cause) {
    rmSync(temporary, { force: true })
    throw new InstallError(`cannot write ${path}: ${(cause as Error).message}`)
  }
  process.stdout.write(`${path}\n`)
}

function main(): number {
  const { values } = parseArgs({
    options: {
      prefix: { type: 'string', default: '/usr/local' },
      descriptors: { type: 'string', default: '/etc/qemu/vhost-user' },
      force: { type: 'boolean', default: false },
      uninstall: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  const places = {
    launcher: join(resolve(values.prefix), 'bin', 'virtiofsd'),
    descriptor: join(resolve(values.descriptors), DESCRIPTOR),
  }
  if (values.help) process.stdout.write(HELP)
  else if (values.uninstall) uninstall(places)
  else install(places, values.force)
  return 0
}

try {
  process.exitCode = main()
} catch (cause) {
  const isUsage = (cause as NodeJS.ErrnoException).code?.startsWith('ERR_PARSE_ARGS') === true
  if (!isUsage && !(cause instanceof InstallError)) throw cause
  process.stderr.write(`virtiofsd-install: ${(cause as Error).message}\n`)
  process.exitCode = isUsage ? 2 : 1
}
