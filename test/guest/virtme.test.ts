/** virtme-ng finds the daemon in PATH and boots a guest whose root is the host's tree, served by it. */
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { findVirtme, runVirtme } from '../../scripts/lab/virtme.js'
import { packageFile } from '../../src/native/addon.js'
import { registerMissing } from './helpers/missing.js'

const LIMIT_MS = 600_000
const TITLE = 'virtme-ng: boots from our daemon'

const sha256 = (file: string): string =>
  createHash('sha256').update(readFileSync(file)).digest('hex')

const found = findVirtme()
if ('missing' in found) registerMissing(TITLE, `${found.missing}: run "scripts/setup test"`)
else
  test.serial(TITLE, async t => {
    t.timeout(LIMIT_MS + 10_000)
    const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-virtme-'))
    t.teardown(() => rmSync(folder, { recursive: true, force: true }))
    const share = join(folder, 'share')
    const prefix = join(folder, 'prefix')
    mkdirSync(share)
    writeFileSync(join(share, 'from-host'), randomBytes(1_000_003))
    const words = ['--prefix', prefix, '--descriptors', join(folder, 'descriptors')]
    execFileSync(process.execPath, [packageFile('dist', 'src', 'bin', 'install.js'), ...words])
    // The launcher falls back to 9p when the daemon is no good: what the root is has to be asked.
    const { stdout, stderr } = await runVirtme({
      folder,
      prefix,
      timeoutMs: LIMIT_MS,
      command: `
        cd ${share}; grep ' / ' /proc/mounts; uname -r
        cat from-host from-host > from-guest; mv from-guest renamed
        sha256sum ${process.execPath}; sync`,
    })
    t.regex(stdout, /^ROOTFS \/ virtiofs rw,/m, stderr)
    t.true(stdout.includes(`${sha256(process.execPath)}  ${process.execPath}`), stdout)
    t.deepEqual(readdirSync(share).sort(), ['from-host', 'renamed'])
    const content = readFileSync(join(share, 'from-host'))
    t.true(readFileSync(join(share, 'renamed')).equals(Buffer.concat([content, content])))
    t.notRegex(stderr, /fallback to 9p/)
  })
