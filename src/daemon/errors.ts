/** What goes wrong before the device serves: sentences for the operator, no stack traces. */

/** What is wrong with the command line. Exit status 2. */
export class UsageError extends Error {}

/** What cannot be done and what to do about it. Exit status 1. */
export class StartError extends Error {}
