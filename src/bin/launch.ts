#!/usr/bin/env node
/**
 * What the installed program and its device thread begin with: runs the code beside it from V8's code
 * cache, both made by scripts/bundle.ts, which also turns this file into a CommonJS script. Compiling
 * would take a tenth of the time to readiness. A cache of another Node version is ignored by V8.
 */
import { readFileSync } from 'node:fs'
import { Script } from 'node:vm'

const filename = __filename.replace(/\.js$/, '.code.js')
const script = new Script(readFileSync(filename, 'utf8'), {
  filename,
  cachedData: readFileSync(__filename.replace(/\.js$/, '.cache')),
})
script.runInThisContext()(exports, require, module, __filename)
