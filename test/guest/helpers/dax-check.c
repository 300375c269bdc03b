/* A guest's programs for the DAX tests, in one static binary: the first argument says which. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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

static void on_bus(int s) { (void)s; _exit(77); }
/* A child reads the byte: 77 for SIGBUS, else 0. */
static int bus(volatile unsigned char *at) {
  pid_t child = fork();
  if (child == 0) { signal(SIGBUS, on_bus); (void)*at; _exit(0); }
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
  return WEXITSTATUS(status);
}
static unsigned char *map_whole(const char *name, int *fd) {
  *fd = open(name, O_RDWR);
  if (*fd < 0) FAIL("open %s", name);
  unsigned char *m = mmap(0, size_of(*fd), PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
  if (m == MAP_FAILED) FAIL("mmap %s", name);
  return m;
}
static void all(const unsigned char *m, size_t from, size_t to, int byte) {
  for (size_t i = from; i < to; i++) if (m[i] != byte) FAIL("byte %zu is %02x, not %02x", i, m[i], byte);
}
static void wait_for(const char *name) {
  double limit = now() + 200;
  while (access(name, F_OK) != 0) if (now() > limit) FAIL("%s does not come", name); else usleep(50000);
}
static void say_by_file(const char *name) { int fd = open(name, O_RDWR | O_CREAT, 0644); CHECK(fd >= 0); close(fd); }

/* What becomes of files that stay mapped: a to e, 1 MiB each of their own letter. */
static int shapes(void) {
  int fa, fb, fc, fd, fe;
  unsigned char *a = map_whole("a", &fa), *b = map_whole("b", &fb), *c = map_whole("c", &fc), *d = map_whole("d", &fd), *e = map_whole("e", &fe), byte[4];
  /* Everything is mapped before anything is done. */
  all(a, 0, MIB, 'a'), all(b, 0, MIB, 'b'), all(c, 0, MIB, 'c'), all(d, 0, MIB, 'd'), all(e, 0, MIB, 'e');

  CHECK(rename("b", "a") == 0);
  all(a, 0, MIB, 'a'), all(b, 0, MIB, 'b');
  a[5] = 'A', b[7] = 'B';
  int again = open("a", O_RDONLY);
  CHECK(pread(again, byte, 4, 4) == 4 && !memcmp(byte, "bbbB", 4));
  CHECK(unlink("a") == 0 && access("a", F_OK) != 0);
  CHECK(a[5] == 'A' && b[7] == 'B' && pread(again, byte, 1, 7) == 1 && byte[0] == 'B');
  b[MIB - 1] = '!';
  CHECK(msync(b, MIB, MS_SYNC) == 0 && pread(again, byte, 1, MIB - 1) == 1 && byte[0] == '!');
  CHECK(close(again) == 0 && close(fa) == 0 && munmap(a, MIB) == 0);
  all(b, 8, MIB - 1, 'b');

  CHECK(ftruncate(fc, 8192) == 0);
  all(c, 0, 8192, 'c');
  CHECK(bus(c + 8191) == 0 && bus(c + 8192) == 77 && bus(c + MIB - 1) == 77);
  CHECK(ftruncate(fc, MIB) == 0);
  all(c, 0, 8192, 'c'), all(c, 8192, MIB, 0);
  c[500000] = 'C';
  CHECK(pread(fc, byte, 1, 500000) == 1 && byte[0] == 'C');
  CHECK(ftruncate(fc, 10000) == 0 && size_of(fc) == 10000);
  CHECK(bus(c + 9999) == 0 && bus(c + 12288) == 77);
  all(c, 8192, 12288, 0);
  CHECK(truncate("c", 3 * MIB) == 0);
  all(c, 8192, MIB, 0);

  CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 65536, 131072) == 0);
  all(d, 0, 65536, 'd'), all(d, 65536, 196608, 0), all(d, 196608, MIB, 'd');
  d[70000] = 'D';
  CHECK(pread(fd, byte, 1, 70000) == 1 && byte[0] == 'D');
  if (fallocate(fd, FALLOC_FL_ZERO_RANGE, 300000, 1000) == 0) all(d, 300000, 301000, 0);
  else memset(d + 300000, 0, 1000);
  CHECK(fallocate(fd, FALLOC_FL_KEEP_SIZE, MIB, MIB) == 0 && size_of(fd) == MIB);
  CHECK(msync(d, MIB, MS_SYNC) == 0);

  int empty = open("e", O_RDWR | O_TRUNC);
  CHECK(empty >= 0 && bus(e) == 77);
  memset(byte, 'E', 4);
  CHECK(pwrite(empty, byte, 4, 0) == 4 && !memcmp(e, "EEEE", 4) && bus(e + PAGE) == 77);
  CHECK(pwrite(empty, byte, 4, MIB - 4) == 4 && e[MIB - 1] == 'E');
  all(e, 4, MIB - 4, 0);
  printf("shapes ok\n");
  return 0;
}

/* Stores, then makes them durable, waiting for a word of the host before each. */
static int disk(const char *name) {
  int fd;
  unsigned char *m = map_whole(name, &fd);
  size_t n = size_of(fd);
  for (size_t at = 0; at < n; at += PAGE) m[at] = 'm';
  say_by_file("stored"), wait_for("stored-seen");
  CHECK(msync(m, n, MS_SYNC) == 0);
  say_by_file("msynced"), wait_for("msynced-seen");
  for (size_t at = 0; at < n; at += PAGE) m[at] = 'f';
  CHECK(pwrite(fd, "w", 1, 1) == 1 && fsync(fd) == 0);
  say_by_file("fsynced"), wait_for("fsynced-seen");
  for (size_t at = 0; at < n; at += PAGE) m[at] = 's';
  sync();
  say_by_file("all-synced");
  printf("disk ok\n");
  return 0;
}

/* Pages of the file that the page cache has and the disk has not: cachestat(2), Linux 6.5. */
static int dirty(const char *name) {
  struct { uint64_t off, len; } range = {0, 0};
  struct { uint64_t cache, dirty, writeback, evicted, recently_evicted; } stat;
  int fd = open(name, O_RDONLY);
  CHECK(fd >= 0);
  if (syscall(451, fd, &range, &stat, 0) != 0) { printf("unknown\n"); return 0; }
  printf("%llu\n", (unsigned long long)(stat.dirty + stat.writeback));
  return 0;
}
/* As many as a store into each page of a new file makes, or unknown. */
static int dirty_probe(const char *name) {
  int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
  CHECK(fd >= 0 && ftruncate(fd, MIB) == 0);
  close(fd);
  unsigned char *m = map_whole(name, &fd);
  for (int at = 0; at < MIB; at += PAGE) m[at] = 1;
  return dirty(name);
}

enum { DUET_PAGES = 1024, DUET_BATCH = 48 };
static uint32_t *duet_page(uint32_t turn, uint32_t page) {
  static uint32_t words[PAGE / 4];
  for (uint32_t i = 0; i < PAGE / 4; i++) words[i] = turn == 0 ? 0 : turn * 1000003u + page * 8191u + i;
  return words;
}
/*
 * Two guests write one file in turn, half of it through the mapping and half by pwrite; who is next checks every page of it
 * first. Both know who wrote what. Parity 2 only looks, when all is done.
 */
static int duet(const char *name, unsigned parity, unsigned rounds) {
  int fd;
  unsigned char *m = map_whole(name, &fd);
  static uint32_t writer[DUET_PAGES];
  double limit = now() + 300;
  for (uint32_t turn = 1; turn <= 2 * rounds + 1; turn++) {
    int last = turn > 2 * rounds;
    uint64_t s = turn * 0x9e3779b97f4a7c15ULL;
    if (last || turn % 2 == parity) {
      while (__atomic_load_n((uint32_t *)m, __ATOMIC_SEQ_CST) != turn - 1)
        if (now() > limit) FAIL("turn %u does not come", turn); else usleep(200);
      for (uint32_t page = 1; page < DUET_PAGES; page++)
        if (memcmp(m + page * PAGE, duet_page(writer[page], page), PAGE)) FAIL("turn %u: page %u is not as turn %u wrote it", turn, page, writer[page]);
    }
    if (last) break;
    for (int i = 0; i < DUET_BATCH; i++) {
      s ^= s << 13, s ^= s >> 7, s ^= s << 17;
      uint32_t page = 1 + s % (DUET_PAGES - 1);
      writer[page] = turn;
      if (turn % 2 != parity) continue;
      if (s & (1 << 20)) memcpy(m + page * PAGE, duet_page(turn, page), PAGE);
      else CHECK(pwrite(fd, duet_page(turn, page), PAGE, (off_t)page * PAGE) == PAGE);
    }
    if (turn % 2 == parity) __atomic_store_n((uint32_t *)m, turn, __ATOMIC_SEQ_CST);
  }
  printf("duet ok %u\n", 2 * rounds);
  return 0;
}

static void pass(volatile uint32_t *turn, uint32_t to) { __atomic_store_n(turn, to, __ATOMIC_SEQ_CST); }
static sigjmp_buf back;
static void jump(int s) { (void)s; siglongjmp(back, 1); }
/* Waits for its turn, and reads all over `m` meanwhile: past its end there is SIGBUS, of the guest's kernel. */
static void await(volatile uint32_t *turn, uint32_t to, volatile unsigned char *m, size_t n) {
  double limit = now() + 200;
  struct sigaction action = {.sa_handler = jump}, before;
  sigaction(SIGBUS, &action, &before);
  while (__atomic_load_n(turn, __ATOMIC_SEQ_CST) != to) {
    if (now() > limit) FAIL("turn %u does not come", to);
    if (m == 0) usleep(200);
    else if (sigsetjmp(back, 1) == 0) for (int i = 0; i < 100; i++) (void)m[rnd() % n];
  }
  sigaction(SIGBUS, &before, 0);
}
enum { CUT_PAGES = 1024, READY = 1 << 30 };
/*
 * One guest cuts the file again and again and fills it anew; the other touches all of it all the time, and has what the first
 * has left at the moment it is told.
 */
static int cuts(const char *name, int cutter, unsigned rounds) {
  static unsigned char value[CUT_PAGES], fill[64 * PAGE];
  uint64_t chance = 7;
  int fd, turns;
  volatile uint32_t *turn = (uint32_t *)map_whole("turns", &turns);
  unsigned char *m = map_whole(name, &fd);
  CHECK(size_of(fd) == CUT_PAGES * PAGE);
  memset(value, 1, sizeof value);
  volatile unsigned char *touched = cutter ? 0 : m;
  if (cutter) await(turn, READY, 0, 0);
  else pass(turn, READY);
  for (unsigned r = 1; r <= rounds; r++) {
    chance = chance * 6364136223846793005ULL + 1442695040888963407ULL;
    off_t left = (chance >> 33) % CUT_PAGES;
    if (cutter) {
      CHECK(ftruncate(fd, left * PAGE) == 0);
      pass(turn, 4 * r - 3), await(turn, 4 * r - 2, touched, 0);
      memset(fill, 2 + r % 250, sizeof fill);
      for (off_t at = left; at < CUT_PAGES; ) {
        off_t count = CUT_PAGES - at < 64 ? CUT_PAGES - at : 64;
        CHECK(pwrite(fd, fill, count * PAGE, at * PAGE) == count * PAGE);
        at += count;
      }
      pass(turn, 4 * r - 1), await(turn, 4 * r, touched, 0);
      continue;
    }
    await(turn, 4 * r - 3, touched, CUT_PAGES * PAGE);
    if (size_of(fd) != left * PAGE) FAIL("round %u: size %lld", r, (long long)size_of(fd));
    for (off_t i = 0; i < left; i++) all(m + i * PAGE, 0, PAGE, value[i]);
    CHECK(bus(m + left * PAGE) == 77);
    pass(turn, 4 * r - 2), await(turn, 4 * r - 1, touched, CUT_PAGES * PAGE);
    memset(value + left, 2 + r % 250, CUT_PAGES - left);
    if (size_of(fd) != CUT_PAGES * PAGE) FAIL("round %u: filled, size %lld", r, (long long)size_of(fd));
    for (off_t i = 0; i < CUT_PAGES; i++) all(m + i * PAGE, 0, PAGE, value[i]);
    pass(turn, 4 * r);
  }
  printf("cuts ok %u\n", rounds);
  return 0;
}

/* Holds a mapping while somebody else cuts the file to `left` bytes, then sees what is left of it. */
static int hold(const char *name, off_t left) {
  int fd;
  unsigned char *m = map_whole(name, &fd);
  size_t n = size_of(fd);
  all(m, 0, n, 99);
  say_by_file("held"), wait_for("cut");
  sleep(2);
  /* What it thinks of the size has run out by now. */
  CHECK(size_of(fd) == left);
  all(m, 0, left, 99);
  CHECK(bus(m + left - 1) == 0 && bus(m + left) == 77 && bus(m + n - 1) == 77);
  printf("hold ok\n");
  return 0;
}

/* Somebody else makes the file longer, up to `last` bytes; each page has its number in it. */
static int follow(const char *name, off_t last) {
  int fd = open(name, O_RDONLY), looks = 0;
  CHECK(fd >= 0);
  unsigned char *m = mmap(0, last, PROT_READ, MAP_SHARED, fd, 0);
  CHECK(m != MAP_FAILED);
  double limit = now() + 200;
  say_by_file("follows");
  for (off_t seen = 0; seen < last; looks++) {
    off_t n = size_of(fd);
    for (; seen < n; seen += PAGE) all(m + seen, 0, PAGE, 1 + seen / PAGE % 250);
    if (now() > limit) FAIL("it stays at %lld", (long long)n);
  }
  printf("follow ok\n");
  return looks < 20;
}

/*
 * One process appends odd pieces, one stores into what is there and one checks all of it, each by its own descriptor.
 * What is there is asked by lseek, which gives the inode's size, that a page fault goes by: fstat gives the one in the
 * reply, which Linux 7.2 (fuse_change_attributes) does not take over when another write was answered since it asked, so
 * that for a moment the page behind it is SIGBUS, with DAX or without.
 */
static int append(const char *name, int pieces) {
  int fd;
  unsigned char *m;
  fd = open(name, O_RDWR);
  CHECK(fd >= 0);
  off_t start = size_of(fd), most = start + (off_t)pieces * 5000;
  m = mmap(0, most, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(m != MAP_FAILED);
  volatile unsigned char *shared = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t writer = fork();
  if (writer == 0) {
    int to = open(name, O_WRONLY | O_APPEND);
    unsigned char piece[5000];
    for (int i = 0; i < pieces; i++) {
      size_t len = 1 + rnd() % sizeof piece;
      memset(piece, 1 + i % 100, len);
      CHECK(write(to, piece, len) == (ssize_t)len);
    }
    shared[0] = 1;
    _exit(0);
  }
  int ended = 0;
  off_t checked = start;
  while (!ended) {
    ended = shared[0];
    off_t n = lseek(fd, 0, SEEK_END);
    for (; checked < n; checked++) {
      if (m[checked] < 1 || m[checked] > 100) FAIL("byte %lld of %lld is %d", (long long)checked, (long long)n, m[checked]);
      /* By the mapping, so that a later look finds it. */
      m[checked] += 100;
    }
  }
  int status;
  CHECK(waitpid(writer, &status, 0) == writer && status == 0);
  CHECK(checked == size_of(fd));
  unsigned char *back = malloc(checked);
  CHECK(pread(fd, back, checked, 0) == checked && !memcmp(back, m, checked));
  for (off_t i = start; i < checked; i++) CHECK(back[i] > 100 && back[i] <= 200);
  printf("append ok %lld\n", (long long)checked);
  return 0;
}

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

/*
 * Nanoseconds for 4 KiB: of a file's first pass, by pread and (another file) by mapping, and of warm random and sequential ones;
 * microseconds of the first touch of 2 MiB.
 */
static int speed(const char *by_pread, const char *by_map, int rounds) {
  int fd = open(by_pread, O_RDONLY), mapped = open(by_map, O_RDONLY);
  CHECK(fd >= 0 && mapped >= 0);
  size_t n = size_of(fd), pages = n / PAGE, count = 0;
  CHECK((size_t)size_of(mapped) == n);
  double first[256], t;
  static unsigned char buffer[PAGE];
  volatile uint64_t sum = 0;

  t = now();
  for (size_t i = 0; i < pages; i++) CHECK(pread(fd, buffer, PAGE, i * PAGE) == PAGE);
  printf("speed first-pread %.0f\n", (now() - t) / pages * 1e9);
  unsigned char *m = mmap(0, n, PROT_READ, MAP_SHARED, mapped, 0);
  CHECK(m != MAP_FAILED);
  double begin = now();
  for (size_t at = 0; at < n; at += PAGE) {
    t = now();
    sum += m[at];
    if (at % (2 * MIB) == 0 && count < 256) first[count++] = (now() - t) * 1e6;
    memcpy(buffer, m + at, PAGE), sum += buffer[7];
  }
  printf("speed first-mmap %.0f\n", (now() - begin) / pages * 1e9);
  qsort(first, count, sizeof first[0], by_number);
  printf("speed touch-2M-us %.0f\n", first[count / 2]);

  t = now();
  for (int i = 0; i < rounds; i++) CHECK(pread(fd, buffer, PAGE, (rnd() % pages) * PAGE) == PAGE);
  printf("speed pread-random %.0f\n", (now() - t) / rounds * 1e9);
  t = now();
  for (int i = 0; i < rounds; i++) CHECK(pread(fd, buffer, PAGE, (i % pages) * PAGE) == PAGE);
  printf("speed pread-sequential %.0f\n", (now() - t) / rounds * 1e9);
  t = now();
  for (int i = 0; i < rounds; i++) memcpy(buffer, m + (rnd() % pages) * PAGE, PAGE), sum += buffer[7];
  printf("speed mmap-random %.0f\n", (now() - t) / rounds * 1e9);
  t = now();
  for (int i = 0; i < rounds; i++) memcpy(buffer, m + (i % pages) * PAGE, PAGE), sum += buffer[7];
  printf("speed mmap-sequential %.0f\n", (now() - t) / rounds * 1e9);
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
  if (!strcmp(what, "shapes")) return shapes();
  if (!strcmp(what, "disk")) return disk(argv[2]);
  if (!strcmp(what, "dirty")) return dirty(argv[2]);
  if (!strcmp(what, "dirty-probe")) return dirty_probe(argv[2]);
  if (!strcmp(what, "duet")) return duet(argv[2], atoi(argv[3]), atoi(argv[4]));
  if (!strcmp(what, "cuts")) return cuts(argv[2], atoi(argv[3]), atoi(argv[4]));
  if (!strcmp(what, "hold")) return hold(argv[2], atoll(argv[3]));
  if (!strcmp(what, "follow")) return follow(argv[2], atoll(argv[3]));
  if (!strcmp(what, "append")) return append(argv[2], atoi(argv[3]));
  if (!strcmp(what, "speed")) return speed(argv[2], argv[3], atoi(argv[4]));
  return 2;
}
