/**
 * Makes dist/bundle, what is installed as `virtiofsd`: main thread and device thread as one file each,
 * with V8's code cache; and `virtiofsctl`. Reading some hundred modules takes longer than Node itself needs to start
 * (figures: scripts/bench/startup.ts). Run after tsc.
 */
import { chmodSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import vm from 'node:vm'
import { type BuildOptions, build } from 'esbuild'

/** The package, from dist/scripts. */
const PACKAGE = fileURLToPath(new URL('../..', import.meta.url))
/** Entries, by their paths in dist/src and in the bundle: the first starts the second by relative path. */
const ENTRIES = ['bin/virtiofsd', 'device/thread', 'bin/virtiofsctl']
const LAUNCHER = 'bin/launch'
const PARAMETERS = 'exports,require,module,__filename'

const OPTIONS: BuildOptions = {
  bundle: true,
  write: false,
  platform: 'node',
  target: 'node20',
  format: 'cjs',
  define: { 'import.meta.url': 'importMetaUrl' },
  // Less to read; names stay, for stack traces.
  minifySyntax: true,
  minifyWhitespace: true,
  lineLimit: 120,
  legalComments: 'none',
  logLevel: 'error',
}

export async function makeBundle(folder: string): Promise<void> {
  rmSync(folder, { recursive: true, force: true })
  for (const entry of ENTRIES) await makeEntry(entry, join(folder, entry))
  // Node starts faster without its loader of ES modules.
  writeFileSync(join(folder, 'package.json'), '{ "type": "commonjs" }\n')
}

async function makeEntry(entry: string, base: string): Promise<void> {
  const body = (await bundled(entry)).replace(/^#!.*\n/, '')
  const code = `(function(${PARAMETERS}){const importMetaUrl=require('node:url').pathToFileURL(__filename).href;${body}\n})`
  const filename = `${base}.code.js`
  mkdirSync(dirname(base), { recursive: true })
  writeFileSync(filename, code)
  writeFileSync(`${base}.cache`, new vm.Script(code, { filename }).createCachedData())
  writeFileSync(`${base}.js`, await bundled(LAUNCHER))
  chmodSync(`${base}.js`, 0o755)
}

async function bundled(entry: string): Promise<string> {
  const entryPoints = [join(PACKAGE, 'dist', 'src', `${entry}.js`)]
  const result = await build({ ...OPTIONS, entryPoints })
  return result.outputFiles![0]!.text
}

if (import.meta.url === pathToFileURL(process.argv[1]!).href)
  await makeBundle(join(PACKAGE, 'dist', 'bundle'))
