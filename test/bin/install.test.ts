/** virtiofsd-install: what launchers find afterwards. */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { packageFile } from '../../src/native/addon.js'

function place(t: ExecutionContext) {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-install-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const prefix = join(folder, "pre fix's")
  const descriptors = join(folder, 'descriptors')
  return {
    prefix,
    launcher: join(prefix, 'bin', 'virtiofsd'),
    descriptor: join(descriptors, '40-virtiofsd-ts.json'),
    install: (...words: string[]) =>
      spawnSync(
        process.execPath,
        [
          packageFile('dist', 'src', 'bin', 'install.js'),
          ...['--prefix', prefix, '--descriptors', descriptors],
          ...words,
        ],
        { encoding: 'utf8' },
      ),
  }
}

test('the launcher works without PATH, and the descriptor names it', t => {
  const { install, launcher, descriptor } = place(t)
  const { status, stdout, stderr } = install()
  t.is(status, 0, stderr)
  t.is(stdout, `${launcher}\n${descriptor}\n`)
  const bare = { env: {}, encoding: 'utf8' } as const
  t.regex(execFileSync(launcher, ['--version'], bare), /^virtiofsd \d/)
  const description = JSON.parse(readFileSync(descriptor, 'utf8')) as Record<string, unknown>
  t.is(description.binary, launcher)
  const capabilities = JSON.parse(execFileSync(launcher, ['--print-capabilities'], bare)) as object
  t.like(description, capabilities)
  // Again: the same.
  t.is(install().status, 0)
})

test("another program's virtiofsd is left alone unless forced, by the removal too", t => {
  const { install, prefix, launcher, descriptor } = place(t)
  mkdirSync(join(prefix, 'bin'), { recursive: true })
  writeFileSync(launcher, 'other')
  const { status, stderr } = install()
  t.is(status, 1)
  t.regex(stderr, /another program's/)
  t.false(existsSync(descriptor))
  t.is(install('--uninstall').status, 0)
  t.is(readFileSync(launcher, 'utf8'), 'other')
  t.is(install('--force').status, 0)
  t.is(install('--uninstall').status, 0)
  t.false(existsSync(launcher))
  t.false(existsSync(descriptor))
})

test('what it does not know: status 2', t => {
  const { status, stderr } = place(t).install('--frefix')
  t.is(status, 2)
  t.regex(stderr, /^virtiofsd-install: .*--frefix/)
})
