/** The text of --help, made from the option table. */
import { spelling } from './command-line.js'
import { HEADINGS, type OptionRow } from './option-table.js'

const HELP_COLUMN = 34
const HELP_WIDTH = 100

export function helpText(): string {
  return [
    'virtiofsd: shares a directory of the host with a virtual machine (virtio-fs over vhost-user).',
    '',
    'Usage: virtiofsd --shared-dir DIR (--socket-path PATH | --fd N) [options]',
    ...HEADINGS.flatMap(({ title, rows }) => ['', `${title}:`, ...rows.flatMap(helpLines)]),
    '',
    'In the guest: mount -t virtiofs TAG /mnt',
    '',
  ].join('\n')
}

function helpLines(row: OptionRow): string[] {
  const value = row.takes === 'none' ? '' : valueSyntax(row)
  const short = row.short === undefined ? '' : `${spelling(row.short)}, `
  const left = `  ${short}${spelling(row.name)}${value}`
  const lines = wrap(row.help, HELP_WIDTH - HELP_COLUMN).map(line => ' '.repeat(HELP_COLUMN) + line)
  if (left.length >= HELP_COLUMN) return [left, ...lines]
  return [left.padEnd(HELP_COLUMN) + lines[0]!.trimStart(), ...lines.slice(1)]
}

function valueSyntax(row: OptionRow): string {
  if (row.takes === 'optional') return `[=${row.value}]`
  return row.takes === 'equals' ? `=${row.value}` : ` ${row.value}`
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const line = lines.at(-1)
    if (line !== undefined && line.length + 1 + word.length <= width)
      lines[lines.length - 1] = `${line} ${word}`
    else lines.push(word)
  }
  return lines
}
