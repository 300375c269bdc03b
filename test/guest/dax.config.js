// The DAX guest: QEMU 11.1 and Linux 7.2 from scripts/setup-dax.
export default {
  files: ['dist/test/guest/dax.test.js'],
  workerThreads: false,
  concurrency: 1,
  timeout: '30m',
}
