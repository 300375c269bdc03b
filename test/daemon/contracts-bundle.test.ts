/** What is installed: the bundle, through the link that npm makes for it. */
import { execFileSync } from 'node:child_process'
import { readFileSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { makeBundle } from '../../scripts/bundle.js'
import { packageFile } from '../../src/native/addon.js'
import { connect, guestReads, Launched, Place } from '../helpers/launch.js'

const FOLDER = packageFile('dist', 'bundle-of-test')

test.before(() => makeBundle(FOLDER))
test.after.always(() => rmSync(FOLDER, { recursive: true, force: true }))

test('the installed program serves, sandboxed, and is called virtiofsd', async t => {
  const place = new Place(t)
  const link = join(place.folder, 'virtiofsd')
  symlinkSync(join(FOLDER, 'bin', 'virtiofsd.js'), link)
  const daemon = new Launched(t, ['--fd=3', `--shared-dir=${place.share}`], {
    program: [link],
    pass: { fd: place.listen(), as: 3 },
  })
  await daemon.ready()
  t.is(readFileSync(`/proc/${daemon.pid}/comm`, 'utf8'), 'virtiofsd\n')
  t.is(guestReads(await connect(place.socket)), place.content)
  t.is(await daemon.end(), 0, daemon.stderr)
})

test('the installed virtiofsctl talks to it', async t => {
  const place = new Place(t)
  const control = join(place.folder, 'control.sock')
  const daemon = new Launched(
    t,
    ['--fd=3', `--shared-dir=${place.share}`, `--control-socket=${control}`],
    {
      program: [join(FOLDER, 'bin', 'virtiofsd.js')],
      pass: { fd: place.listen(), as: 3 },
    },
  )
  await daemon.ready()
  const program = join(FOLDER, 'bin', 'virtiofsctl.js')
  const text = execFileSync(program, ['--socket', control, 'status', '--json'], {
    encoding: 'utf8',
  })
  t.is((JSON.parse(text) as { pid: number }).pid, daemon.pid)
  t.regex(execFileSync(program, ['--help'], { encoding: 'utf8' }), /Usage: virtiofsctl/)
})

test('a code cache that V8 does not take is no hindrance', async t => {
  const place = new Place(t)
  const daemon = new Launched(t, ['--fd=3', `--shared-dir=${place.share}`], {
    // V8 compares its flags with those of the cache.
    program: [process.execPath, '--stack-size=900', join(FOLDER, 'bin', 'virtiofsd.js')],
    pass: { fd: place.listen(), as: 3 },
  })
  t.is(guestReads(await connect(place.socket)), place.content)
  t.is(await daemon.end(), 0, daemon.stderr)
})

test('the bench of the start-up measures it', t => {
  const bench = packageFile('dist', 'scripts', 'bench', 'startup.js')
  const program = [process.execPath, join(FOLDER, 'bin', 'virtiofsd.js')]
  const text = execFileSync(process.execPath, [bench, '1', '--', ...program], {
    encoding: 'utf8',
    env: { ...process.env, PEER: '' },
  })
  const { ours } = JSON.parse(text) as { ours: { readyMs: number; residentKib: number } }
  t.true(ours.readyMs > 10)
  // Node and a second thread take 51 MB of it.
  t.true(ours.residentKib < 100_000)
})
