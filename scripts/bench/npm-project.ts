/**
 * A small npm project whose packages lie in an npm cache beside it, so that `npm ci --offline` installs it
 * without any network. The packages are made here; no registry is asked.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

const PACKAGES = 40
const FILES_EACH = 20
const VERSION = '1.0.0'

/** npm's program, which comes with Node; the guest sees the host's files. */
function npmProgram(): string {
  const beside = join(dirname(realpathSync(process.execPath)), '..')
  return realpathSync(join(beside, 'lib', 'node_modules', 'npm', 'bin', 'npm-cli.js'))
}

/** Shell text that installs the project in `folder`, relative to the working directory. */
export function npmCi(folder: string): string {
  const quiet = '--offline --no-audit --no-fund --no-update-notifier --loglevel=error'
  return `cd ${folder}/project && ${realpathSync(process.execPath)} ${npmProgram()} ci ${quiet} --cache=../cache`
}

/** Makes `folder` with the project and the cache in it. */
export function makeNpmProject(folder: string): void {
  const work = join(folder, 'work')
  const project = join(folder, 'project')
  mkdirSync(work, { recursive: true })
  mkdirSync(project)
  const names = Array.from({ length: PACKAGES }, (_, i) => `part-${i}`)
  const archives = names.map(name => makeArchive(work, name))
  execFileSync(
    process.execPath,
    [npmProgram(), 'cache', 'add', '--offline', '--cache', join(folder, 'cache'), ...archives],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  )
  const dependencies = Object.fromEntries(names.map(name => [name, VERSION]))
  const root = { name: 'project', version: VERSION, dependencies }
  const packages = Object.fromEntries(
    names.map((name, i) => [`node_modules/${name}`, locked(name, archives[i]!)]),
  )
  const lock = { ...root, lockfileVersion: 3, requires: true, packages: { '': root, ...packages } }
  writeFileSync(join(project, 'package.json'), JSON.stringify({ ...root, private: true }))
  writeFileSync(join(project, 'package-lock.json'), JSON.stringify(lock))
  rmSync(work, { recursive: true })
}

function makeArchive(work: string, name: string): string {
  const folder = join(work, name, 'package')
  mkdirSync(join(folder, 'lib'), { recursive: true })
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name, version: VERSION }))
  for (let i = 0; i < FILES_EACH; i++)
    writeFileSync(
      join(folder, 'lib', `file-${i}.js`),
      `module.exports = '${name} ${i}'\n`.repeat(i * 5 + 1),
    )
  const archive = join(work, `${name}.tgz`)
  execFileSync('tar', ['czf', archive, '-C', join(work, name), 'package'])
  return archive
}

/** The lock file's entry. npm finds the archive by its hash; the address is never asked. */
function locked(name: string, archive: string): Record<string, string> {
  const hash = createHash('sha512').update(readFileSync(archive)).digest('base64')
  return {
    version: VERSION,
    resolved: `https://registry.npmjs.org/${name}/-/${name}-${VERSION}.tgz`,
    integrity: `sha512-${hash}`,
  }
}
