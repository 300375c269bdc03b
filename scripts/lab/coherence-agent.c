/*
 * Runs in a guest, or on the host: takes orders from a serial line, a line each, "SLOT ORDER ARGUMENTS...", and
 * answers "SLOT RESULT", each slot in a thread of its own. A result is what the order found, or -errno.
 * "again N ORDER ARGUMENTS..." does it N times.
 * Usage: coherence-agent LINE, or - for standard input and output
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <termios.h>
#include <unistd.h>

#define SLOTS 64
#define LINE 512

static pthread_mutex_t answering = PTHREAD_MUTEX_INITIALIZER;
static int line, answers;

struct slot {
  int number;
  int orders[2];
  int fd;
};

static void answer(int slot, const char *text) {
  char out[LINE + 16];
  int bytes = snprintf(out, sizeof out, "%d %s\n", slot, text);
  pthread_mutex_lock(&answering);
  for (int at = 0; at < bytes;) {
    ssize_t done = write(answers, out + at, bytes - at);
    if (done > 0) at += done;
    else if (errno != EINTR && errno != EAGAIN) exit(1);
  }
  pthread_mutex_unlock(&answering);
}

static void tell(char *out, const struct stat *s) {
  snprintf(out, LINE, "ino=%lu size=%ld mode=%o nlink=%lu mtime=%ld.%09ld ctime=%ld.%09ld", (unsigned long)s->st_ino,
           (long)s->st_size, s->st_mode, (unsigned long)s->st_nlink, (long)s->st_mtim.tv_sec, s->st_mtim.tv_nsec,
           (long)s->st_ctim.tv_sec, s->st_ctim.tv_nsec);
}

static int contents(char *out, int fd) {
  ssize_t got = pread(fd, out, LINE - 1, 0);
  if (got < 0) return -1;
  out[got] = 0;
  return 0;
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static int names(char *out, const char *path) {
  struct dirent **list;
  int count = scandir(path, &list, NULL, by_name);
  if (count < 0) return -1;
  out[0] = 0;
  for (int i = 0; i < count; i++) {
    if (list[i]->d_name[0] != '.') strcat(strcat(out, "/"), list[i]->d_name);
    free(list[i]);
  }
  free(list);
  return 0;
}

static int with_file(const char *path, int flags, int (*then)(int fd, const char *text), const char *text) {
  int fd = open(path, flags, 0644);
  if (fd < 0) return -1;
  int result = then(fd, text), error = errno;
  close(fd);
  errno = error;
  return result;
}
static int put(int fd, const char *text) { return write(fd, text, strlen(text)) < 0 ? -1 : 0; }
static int nothing(int fd, const char *text) { return (void)fd, (void)text, 0; }
static int map(int fd, const char *text) {
  char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return -1;
  memcpy(at, text, strlen(text));
  int result = msync(at, 4096, MS_SYNC);
  munmap(at, 4096);
  return result;
}

static int obey(struct slot *slot, char *order, char *out) {
  char *what = strtok_r(order, " ", &order), *a = strtok_r(NULL, " ", &order), *b = strtok_r(NULL, " ", &order),
       *c = strtok_r(NULL, " ", &order);
  struct stat info;
  strcpy(out, "ok");
#define IS(word) (!strcmp(what, word))
  if (IS("ping")) return 0;
  if (IS("close")) return slot->fd >= 0 ? close(slot->fd) : 0;
  if (IS("fstat")) return fstat(slot->fd, &info) ? -1 : (tell(out, &info), 0);
  if (IS("pread")) return contents(out, slot->fd);
  if (a == NULL) return errno = EINVAL, -1;
  if (IS("open")) return (slot->fd = open(a, O_RDONLY)) < 0 ? -1 : 0;
  if (IS("stat")) return lstat(a, &info) ? -1 : (tell(out, &info), 0);
  if (IS("ls")) return names(out, a);
  if (IS("unlink")) return unlink(a);
  if (IS("rmdir")) return rmdir(a);
  if (IS("mkdir")) return mkdir(a, 0755);
  if (IS("create")) return with_file(a, O_CREAT | O_EXCL | O_WRONLY, nothing, NULL);
  if (IS("cat")) {
    int fd = open(a, O_RDONLY), result = fd < 0 ? -1 : contents(out, fd);
    if (fd >= 0) close(fd);
    return result;
  }
  if (IS("readlink")) {
    ssize_t bytes = readlink(a, out, LINE - 1);
    if (bytes >= 0) out[bytes] = 0;
    return bytes < 0 ? -1 : 0;
  }
  if (b == NULL) return errno = EINVAL, -1;
  if (IS("overwrite")) return with_file(a, O_WRONLY, put, b);
  if (IS("append")) return with_file(a, O_WRONLY | O_APPEND, put, b);
  if (IS("mmap")) return with_file(a, O_RDWR, map, b);
  if (IS("truncate")) return truncate(a, atol(b));
  if (IS("chmod")) return chmod(a, strtol(b, NULL, 8));
  if (IS("utimes")) {
    struct timespec times[2] = {{atol(b), 0}, {atol(b), 0}};
    return utimensat(AT_FDCWD, a, times, 0);
  }
  if (IS("link")) return link(a, b);
  if (IS("rename")) return rename(a, b);
  if (IS("symlink")) return symlink(a, b);
  if (IS("getxattr")) {
    ssize_t bytes = getxattr(a, b, out, LINE - 1);
    if (bytes >= 0) out[bytes] = 0;
    return bytes < 0 ? -1 : 0;
  }
  if (IS("setxattr") && c != NULL) return setxattr(a, b, c, strlen(c), 0);
  return errno = EINVAL, -1;
}

static void *serve(void *data) {
  struct slot *slot = data;
  char order[LINE], out[LINE];
  char once[LINE];
  while (read(slot->orders[0], order, LINE) == LINE) {
    int times = 1, at = 0;
    sscanf(order, "again %d %n", &times, &at);
    while (times-- > 0)
      if (obey(slot, strcpy(once, order + at), out) < 0) snprintf(out, sizeof out, "-%d", errno);
    answer(slot->number, out);
  }
  return NULL;
}

int main(int argc, char **argv) {
  static struct slot slots[SLOTS];
  struct termios raw;
  if (argc < 2) return 1;
  if (!strcmp(argv[1], "-")) answers = STDOUT_FILENO;
  else if ((answers = line = open(argv[1], O_RDWR | O_NOCTTY)) < 0 || tcgetattr(line, &raw)) return perror("line"), 1;
  else {
    cfmakeraw(&raw);
    tcsetattr(line, TCSANOW, &raw);
  }
  for (int i = 0; i < SLOTS; i++) {
    pthread_t thread;
    slots[i].number = i;
    slots[i].fd = -1;
    if (pipe(slots[i].orders) || pthread_create(&thread, NULL, serve, &slots[i])) return perror("slot"), 1;
  }
  FILE *in = fdopen(dup(line), "r");
  char text[LINE], padded[LINE];
  answer(0, "ready");
  while (fgets(text, sizeof text, in)) {
    text[strcspn(text, "\r\n")] = 0;
    char *rest;
    long slot = strtol(text, &rest, 10);
    if (!strcmp(rest, " end")) return answer(0, "ended"), 0;
    if (slot < 0 || slot >= SLOTS || *rest != ' ') continue;
    memset(padded, 0, sizeof padded);
    strncpy(padded, rest + 1, LINE - 1);
    if (write(slots[slot].orders[1], padded, LINE) != LINE) return perror("order"), 1;
  }
  return 0;
}
