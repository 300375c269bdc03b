/* A guest's programs for the DAX tests, in one static binary: the first argument says which. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FAIL(...) do { printf("FAIL line %d: ", __LINE__); printf(__VA_ARGS__); printf(" (errno %d)\n", errno); exit(1); } while (0)
#define CHECK(x) do { if (!(x)) FAIL("%s", #x); } while (0)
#define PAGE 4096
#define MIB (1 << 20)

static uint64_t seed = 88172645463325252ULL;
static uint64_t rnd(void) { seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17; return seed; }
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static off_t size_of(int fd) { struct stat s; CHECK(fstat(fd, &s) == 0); return s.st_size; }

/* Reads standard input's list of files by mmap; prints "FNV name" of each. */
static int sums(void) {
  char line[4096];
  while (fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = 0;
    int fd = open(line, O_RDONLY);
    if (fd < 0) FAIL("open %s", line);
    off_t n = size_of(fd);
    uint64_t h = 1469598103934665603ULL;
    if (n > 0) {
      unsigned char *m = mmap(0, n, PROT_READ, MAP_SHARED, fd, 0);
      if (m == MAP_FAILED) FAIL("mmap %s", line);
      for (off_t i = 0; i < n; i++) h = (h ^ m[i]) * 1099511628211ULL;
      munmap(m, n);
    }
    close(fd);
    printf("%016llx %s\n", (unsigned long long)h, line);
  }
  return 0;
}

/* A small fsx: random writes, mapped writes, truncations and reads against a copy in memory. */
static int fsx(const char *name, int rounds, int odd) {
  enum { MOST = 6 * MIB };
  unsigned char *model = calloc(1, MOST), *buffer = malloc(MOST);
  int fd = open(name, O_RDWR | O_CREAT, 0644);
  CHECK(fd >= 0);
  off_t n = size_of(fd);
  CHECK(pread(fd, model, n, 0) == n);
  for (int round = 0; round < rounds; round++) {
    off_t at = rnd() % MOST, len = 1 + rnd() % (256 * 1024);
    if (!odd) at &= ~(off_t)(PAGE - 1), len = (len + PAGE - 1) & ~(off_t)(PAGE - 1);
    if (at + len > MOST) len = MOST - at;
    switch (rnd() % 6) {
    case 0: /* write, extending or not */
      if (at > n + MIB) at = n;
      if (at + len > MOST) len = MOST - at;
      for (off_t i = 0; i < len; i++) buffer[i] = rnd();
      CHECK(pwrite(fd, buffer, len, at) == len);
      memcpy(model + at, buffer, len);
      if (at + len > n) n = at + len;
      break;
    case 1: { /* mapped write */
      if (at >= n) break;
      if (at + len > n) len = n - at;
      off_t base = at & ~(off_t)(PAGE - 1);
      unsigned char *m = mmap(0, at + len - base, PROT_READ | PROT_WRITE, MAP_SHARED, fd, base);
      CHECK(m != MAP_FAILED);
      for (off_t i = 0; i < len; i++) m[at - base + i] = model[at + i] = rnd();
      munmap(m, at + len - base);
      break;
    }
    case 2: { /* truncate */
      if (rnd() % 4) break;
      off_t to = at;
      CHECK(ftruncate(fd, to) == 0);
      if (to < n) memset(model + to, 0, n - to);
      n = to;
      break;
    }
    case 3: /* punch a hole */
      if (at >= n) break;
      if (at + len > n) len = n - at;
      if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len) == 0) memset(model + at, 0, len);
      break;
    case 4: { /* mapped read */
      if (at >= n) break;
      if (at + len > n) len = n - at;
      off_t base = at & ~(off_t)(PAGE - 1);
      unsigned char *m = mmap(0, at + len - base, PROT_READ, MAP_SHARED, fd, base);
      CHECK(m != MAP_FAILED);
      for (off_t i = 0; i < len; i++)
        if (m[at - base + i] != model[at + i]) FAIL("round %d: mapped byte %lld is %02x, not %02x, size %lld", round, (long long)(at + i), m[at - base + i], model[at + i], (long long)n);
      munmap(m, at + len - base);
      break;
    }
    default:
      CHECK(pread(fd, buffer, len, at) == (at >= n ? 0 : at + len > n ? n - at : len));
      if (at < n && memcmp(buffer, model + at, at + len > n ? n - at : len)) FAIL("round %d: read at %lld", round, (long long)at);
    }
    CHECK(size_of(fd) == n);
  }
  fsync(fd);
  CHECK(ftruncate(fd, n) == 0);
  uint64_t h = 1469598103934665603ULL;
  for (off_t i = 0; i < n; i++) h = (h ^ model[i]) * 1099511628211ULL;
  printf("fsx %s ok, size %lld fnv %016llx\n", name, (long long)n, (unsigned long long)h);
  return 0;
}

/* Appends odd pieces to a mapped file; what is mapped always shows them. */
static int grow(const char *name) {
  int fd = open(name, O_RDWR);
  CHECK(fd >= 0);
  off_t n = size_of(fd);
  unsigned char *m = mmap(0, 4 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(m != MAP_FAILED);
  volatile unsigned char first = m[0];
  (void)first;
  unsigned char piece[9000];
  while (n + (off_t)sizeof piece < 4 * MIB) {
    size_t len = 1 + rnd() % sizeof piece;
    for (size_t i = 0; i < len; i++) piece[i] = 1 + (rnd() % 255);
    CHECK(pwrite(fd, piece, len, n) == (ssize_t)len);
    if (memcmp(m + n, piece, len)) FAIL("appended at %lld", (long long)n);
    m[n] ^= 0x5a;
    unsigned char back;
    CHECK(pread(fd, &back, 1, n) == 1 && back == (unsigned char)(piece[0] ^ 0x5a));
    n += len;
  }
  printf("grow ok %lld\n", (long long)n);
  return 0;
}

/* Random 4 KiB blocks of files whose blocks say who they are: "FILE BLOCK" as two u64. */
static int random_blocks(int files, int megabytes, int rounds, int processes) {
  for (int p = 0; p < processes; p++)
    if (fork() == 0) {
      seed += p * 7919 + 1;
      unsigned char *m[64];
      for (int f = 0; f < files; f++) {
        char name[32];
        sprintf(name, "block%d", f);
        int fd = open(name, O_RDONLY);
        CHECK(fd >= 0);
        m[f] = mmap(0, (size_t)megabytes * MIB, PROT_READ, MAP_SHARED, fd, 0);
        CHECK(m[f] != MAP_FAILED);
        close(fd);
      }
      for (int i = 0; i < rounds; i++) {
        uint64_t f = rnd() % files, block = rnd() % ((uint64_t)megabytes * MIB / PAGE);
        uint64_t *at = (uint64_t *)(m[f] + block * PAGE);
        if (at[0] != f || at[1] != block || at[511] != block) FAIL("file %llu block %llu is %llu %llu", (unsigned long long)f, (unsigned long long)block, (unsigned long long)at[0], (unsigned long long)at[1]);
      }
      exit(0);
    }
  int status, bad = 0;
  while (wait(&status) > 0) bad |= status;
  printf("random %s\n", bad ? "FAILED" : "ok");
  return bad != 0;
}

/* Two processes count in one file through shared mappings. */
static int counters(const char *name) {
  for (int p = 0; p < 2; p++)
    if (fork() == 0) {
      int fd = open(name, O_RDWR);
      unsigned *m = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
      CHECK(m != MAP_FAILED);
      for (int i = 0; i < 100000; i++) __atomic_fetch_add(&m[1], 1, __ATOMIC_SEQ_CST);
      CHECK(msync(m, PAGE, MS_SYNC) == 0 && fsync(fd) == 0);
      exit(0);
    }
  int status, bad = 0;
  while (wait(&status) > 0) bad |= status;
  return bad != 0;
}

/* Ping-pong with whoever else maps the file: waits for even numbers, answers with the next. */
static int partner(const char *name, int parity, int rounds) {
  int fd = open(name, O_RDWR);
  unsigned *m = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(m != MAP_FAILED);
  double limit = now() + 200;
  for (int i = 0; i < rounds; i++) {
    while ((__atomic_load_n(m, __ATOMIC_SEQ_CST) & 1) != (unsigned)parity)
      if (now() > limit) FAIL("nobody answers, round %d", i);
      else usleep(200);
    m[2 + parity]++;
    __atomic_fetch_add(m, 1, __ATOMIC_SEQ_CST);
  }
  printf("partner ok %u\n", m[0]);
  return 0;
}

static volatile sig_atomic_t hit;
static void on_bus(int s) { (void)s; hit = 1; _exit(77); }
/* Touches the byte at an offset: exit status 77 for SIGBUS. */
static int touch(const char *name, long long at) {
  signal(SIGBUS, on_bus);
  int fd = open(name, O_RDONLY);
  CHECK(fd >= 0);
  long long base = at & ~(long long)(PAGE - 1);
  unsigned char *m = mmap(0, PAGE, PROT_READ, MAP_SHARED, fd, base);
  CHECK(m != MAP_FAILED);
  printf("byte %d\n", m[at - base]);
  return 0;
}

static int by_number(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return x < y ? -1 : x > y; }

/* Nanoseconds for a warm 4 KiB: sequential and random reads of a mapping, preads, and of the first touch of 2 MiB. */
static int speed(const char *name, int rounds) {
  int fd = open(name, O_RDONLY);
  CHECK(fd >= 0);
  size_t n = size_of(fd);
  double first[64];
  int count = 0;
  unsigned char *m = mmap(0, n, PROT_READ, MAP_SHARED, fd, 0);
  CHECK(m != MAP_FAILED);
  volatile uint64_t sum = 0;
  for (size_t at = 0; at + 2 * MIB <= n && count < 64; at += 2 * MIB) {
    double t = now();
    sum += m[at];
    first[count++] = (now() - t) * 1e6;
  }
  qsort(first, count, sizeof first[0], by_number);
  static unsigned char buffer[PAGE];
  double t = now();
  for (int i = 0; i < rounds; i++) CHECK(pread(fd, buffer, PAGE, (rnd() % (n / PAGE)) * PAGE) == PAGE);
  double random_read = (now() - t) / rounds * 1e9;
  t = now();
  for (int i = 0; i < rounds; i++) CHECK(pread(fd, buffer, PAGE, (i % (n / PAGE)) * PAGE) == PAGE);
  double sequential_read = (now() - t) / rounds * 1e9;
  for (size_t at = 0; at < n; at += PAGE) sum += m[at];
  t = now();
  for (int i = 0; i < rounds; i++) memcpy(buffer, m + (rnd() % (n / PAGE)) * PAGE, PAGE), sum += buffer[7];
  double random_map = (now() - t) / rounds * 1e9;
  t = now();
  for (int i = 0; i < rounds; i++) memcpy(buffer, m + (i % (n / PAGE)) * PAGE, PAGE), sum += buffer[7];
  double sequential_map = (now() - t) / rounds * 1e9;
  printf("speed first-touch-us %.0f pread-random-ns %.0f pread-sequential-ns %.0f mmap-random-ns %.0f mmap-sequential-ns %.0f\n",
         first[count / 2], random_read, sequential_read, random_map, sequential_map);
  return 0;
}

int main(int argc, char **argv) {
  setvbuf(stdout, 0, _IOLBF, 0);
  const char *what = argc > 1 ? argv[1] : "";
  if (!strcmp(what, "sums")) return sums();
  if (!strcmp(what, "fsx")) { seed += atoi(argv[5]); return fsx(argv[2], atoi(argv[3]), atoi(argv[4])); }
  if (!strcmp(what, "grow")) return grow(argv[2]);
  if (!strcmp(what, "random")) return random_blocks(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
  if (!strcmp(what, "counters")) return counters(argv[2]);
  if (!strcmp(what, "partner")) return partner(argv[2], atoi(argv[3]), atoi(argv[4]));
  if (!strcmp(what, "touch")) return touch(argv[2], atoll(argv[3]));
  if (!strcmp(what, "speed")) return speed(argv[2], atoi(argv[3]));
  return 2;
}
