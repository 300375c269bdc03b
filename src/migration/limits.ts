/** How much state there may be. Source and destination keep to the same limits. */

/** The whole stream. */
export const MAX_STATE_BYTES = 1024 * 1024 * 1024
/** One record: a node with the longest name, path and handle, and its numbers. */
export const MAX_RECORD_BYTES = 8192
/** As many as a guest with a few gigabytes for its caches may know. */
export const MAX_NODES = 4_000_000
export const MAX_HANDLES = 1_048_576
/** Slots of the tables: a nodeid or fh past it would make them huge by itself. */
export const MAX_NODE_SLOT = 16_777_216
export const MAX_HANDLE_SLOT = 2_097_152
export const MAX_GENERATION = 0xfffff
/** Lookups of one node. */
export const MAX_LOOKUPS = Number.MAX_SAFE_INTEGER

export const MAX_NAME_BYTES = 255
export const MAX_PATH_BYTES = 4095
/** MAX_HANDLE_SZ and the two words before it. */
export const MAX_HANDLE_BYTES = 136

/** Why a migration cannot go on: a sentence for the log of the daemon. */
export class MigrationError extends Error {}
