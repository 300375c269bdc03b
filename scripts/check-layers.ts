/**
 * Walks the imports of protocol/ and src/ and fails on one that points up the layers, or on a library
 * outside the layer it belongs to. The table is the design: who may import whom.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'

/** Layer (path prefix) -> layers it may import besides itself. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  protocol: [],
  'src/native': ['protocol'],
  'src/virtio': ['protocol', 'src/native'],
  'src/vhost': ['protocol', 'src/native', 'src/virtio'],
  'src/vfs': ['protocol', 'src/native'],
  'src/fuse': ['protocol', 'src/vfs', 'src/native'],
  'src/filesystems': ['protocol', 'src/vfs', 'src/native'],
  'src/migration': ['protocol', 'src/vfs'],
  'src/dax': ['protocol', 'src/native', 'src/vfs'],
  'src/coherence': ['protocol', 'src/native', 'src/vfs'],
  'src/control': ['protocol', 'src/vhost'],
  'src/changes': ['protocol', 'src/native'],
  'src/device': [
    'src/migration',
    'src/coherence',
    'src/dax',
    'protocol',
    'src/native',
    'src/virtio',
    'src/vhost',
    'src/vfs',
    'src/fuse',
    'src/filesystems',
  ],
  'src/daemon': [
    'protocol',
    'src/native',
    'src/virtio',
    'src/vhost',
    'src/vfs',
    'src/fuse',
    'src/filesystems',
    'src/device',
    'src/dax',
    'src/coherence',
    'src/control',
    'src/changes',
  ],
  'src/bin': ['src/daemon', 'src/native', 'src/control', 'protocol'],
}
/** Packages and the layers that may use them. */
const LIBRARIES: Readonly<Record<string, readonly string[]>> = {
  winston: ['src/daemon'],
  // The device thread writes and reads the state of a migration: handing it to the main thread first would
  // copy it and keep the guest waiting.
  msgpackr: ['src/control', 'src/daemon', 'src/migration'],
}
/** node: modules a pure layer must not touch. */
const PURE = 'protocol'

const LAYERS = Object.keys(MAY_IMPORT)

function layerOf(file: string): string | undefined {
  return LAYERS.find(layer => file.startsWith(`${layer}/`))
}

function* sources(folder: string): IterableIterator<string> {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name)
    if (statSync(path).isDirectory()) yield* sources(path)
    else if (path.endsWith('.ts')) yield path
  }
}

/** What is wrong with one import of `file`, or undefined. */
export function faultOf(file: string, specifier: string): string | undefined {
  const layer = layerOf(file)
  if (layer === undefined)
    return `${file} is in no layer: add its folder to scripts/check-layers.ts`
  if (specifier.startsWith('node:'))
    return layer === PURE ? `${file}: ${PURE}/ is pure and imports ${specifier}` : undefined
  if (!specifier.startsWith('.')) {
    const users = LIBRARIES[specifier.split('/')[0]!]
    if (users === undefined) return `${file}: the package ${specifier} belongs to no layer yet`
    return users.includes(layer)
      ? undefined
      : `${file}: ${specifier} is for ${users.join(', ')} alone`
  }
  const target = normalize(join(dirname(file), specifier))
  const other = layerOf(target)
  if (other === undefined) return `${file}: ${specifier} leaves the layers`
  if (other === layer || MAY_IMPORT[layer]!.includes(other)) return undefined
  return `${file}: ${layer} must not import ${other} (${specifier})`
}

function main(): void {
  const faults: string[] = []
  let count = 0
  for (const root of ['protocol', 'src'])
    for (const file of sources(root))
      for (const match of readFileSync(file, 'utf8').matchAll(
        /^(?:import|export)\b[^'"]*?from '([^']+)'|^import '([^']+)'/gm,
      )) {
        count++
        const fault = faultOf(file, match[1] ?? match[2]!)
        if (fault !== undefined) faults.push(fault)
      }
  for (const fault of faults) console.error(fault)
  if (faults.length > 0) process.exit(1)
  console.log(`layers: ${count} imports, none points up`)
}

main()
