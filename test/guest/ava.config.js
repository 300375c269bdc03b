// Guest tests: real kernels, one file after the other, each test file with its own long time limit.
export default {
  files: ['dist/test/guest/**/*.test.js'],
  workerThreads: false,
  concurrency: 1,
  timeout: '30m',
}
