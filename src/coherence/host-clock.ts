/** The clock by which all daemons of a table count: CLOCK_MONOTONIC of the host, wherever they run. */
import { readFileSync } from 'node:fs'

/**
 * By how many milliseconds this process's CLOCK_MONOTONIC is ahead of the host's: not 0 in a container with a
 * time namespace (time_namespaces(7)), one that was restored from a checkpoint, say. Needs /proc.
 */
export function clockOffsetMs(): number {
  try {
    const line = /^monotonic\s+(-?\d+)\s+(\d+)$/m.exec(
      readFileSync('/proc/self/timens_offsets', 'latin1'),
    )
    return line === null ? 0 : Number(line[1]) * 1000 + Number(line[2]) / 1e6
  } catch (cause) {
    // A kernel without time namespaces.
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return 0
    throw cause
  }
}
