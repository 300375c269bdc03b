// Guest tests: real kernels, one file after the other, each test file with its own long time limit.
export default {
  // dax.test.js needs the Debian tree of scripts/setup-dax (900 MB): test/guest/dax.config.js runs it.
  files: ['dist/test/guest/**/*.test.js', '!dist/test/guest/dax.test.js'],
  workerThreads: false,
  concurrency: 1,
  timeout: '30m',
}
