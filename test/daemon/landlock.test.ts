/** Landlock, where files are not opened by handle: the share and nothing else, whatever the mode. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { IsolationMode } from '../../src/native/addon.js'

const ADDON = new URL('../../src/native/addon.js', import.meta.url).href

/** Runs in a child, since there is no way back; a worker stands for the threads that were there before. */
function script(folder: string): string {
  return `
    import { native } from ${JSON.stringify(ADDON)}
    import { readFileSync, writeFileSync } from 'node:fs'
    import { Worker } from 'node:worker_threads'
    const tries = ${JSON.stringify([join(folder, 'file'), '/etc/passwd', '/proc/version'])}
    const attempt = path => { try { readFileSync(path); return 'ok' } catch (cause) { return cause.code } }
    const worker = new Worker(\`
      const { parentPort } = process.getBuiltinModule('node:worker_threads')
      const { readFileSync } = process.getBuiltinModule('node:fs')
      const attempt = \${attempt}
      parentPort.on('message', paths => parentPort.postMessage(paths.map(attempt)))\`, { eval: true })
    await new Promise(done => worker.once('online', done))
    const answer = native.isolate(${IsolationMode.none}, ${JSON.stringify(folder)}, 0n, true)
    const there = new Promise(done => worker.once('message', done))
    worker.postMessage(tries)
    let written = 'ok'
    try { writeFileSync(${JSON.stringify(join(folder, 'new'))}, 'x') } catch (cause) { written = cause.code }
    const main = tries.map(attempt)
    console.log(JSON.stringify({ answer, main, worker: await there, written }))
    process.exit(0)`
}

function landlockVersion(): number {
  try {
    const python = 'import ctypes; print(ctypes.CDLL(None).syscall(444, 0, 0, 1))'
    return Number(execFileSync('python3', ['-c', python], { encoding: 'utf8' }))
  } catch {
    return -1
  }
}

test('every thread reaches the share and nothing beside it', t => {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-landlock-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  writeFileSync(join(folder, 'file'), 'inside')
  const out = execFileSync(process.execPath, ['--input-type=module', '-e', script(folder)], {
    encoding: 'utf8',
    timeout: 120_000,
  })
  const result = JSON.parse(out) as {
    answer: [number, string]
    main: string[]
    worker: string[]
    written: string
  }
  t.is(result.answer[0], 0, result.answer[1])
  // On a kernel without it the share is not fenced in, and nothing fails.
  const outside = landlockVersion() >= 2 ? 'EACCES' : 'ok'
  const expected = ['ok', outside, outside]
  t.deepEqual(result.main, expected)
  t.deepEqual(result.worker, expected)
  t.is(result.written, 'ok')
})
