// virtiofsd-userns UID_MAP GID_MAP PROGRAM [ARGUMENT...]
// Puts itself into a new user namespace with these maps and becomes PROGRAM there, under the same process
// id, with every capability of that namespace. A program of its own, because only a process of one thread
// may enter a user namespace, and Node has several from its first line on.
//   maps: INSIDE:OUTSIDE:COUNT, separated by commas. A map of one id, our own, is written directly; others
//   need newuidmap and newgidmap (package uidmap) and a range in /etc/subuid and /etc/subgid.
// Fails with status 1 and a sentence on stderr.
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

struct Range {
  unsigned inside, outside, count;
};

[[noreturn]] void fail(const std::string& what, int code = errno) {
  fprintf(stderr, "virtiofsd: %s: %s\n", what.c_str(), strerror(code));
  exit(1);
}

std::vector<Range> parse(const char* text) {
  std::vector<Range> ranges;
  while (*text != '\0') {
    Range range;
    int used = 0;
    if (sscanf(text, "%u:%u:%u%n", &range.inside, &range.outside, &range.count, &used) != 3) fail("a broken id map", EINVAL);
    ranges.push_back(range);
    text += used;
    if (*text == ',') text++;
  }
  if (ranges.empty()) fail("an empty id map", EINVAL);
  return ranges;
}

bool write(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const ssize_t done = ::write(fd, text.data(), text.size());
  const int code = errno;
  close(fd);
  errno = code;
  return done == static_cast<ssize_t>(text.size());
}

void runTool(const char* tool, pid_t pid, const std::vector<Range>& ranges) {
  std::vector<std::string> words = {tool, std::to_string(pid)};
  for (const Range& r : ranges)
    for (unsigned value : {r.inside, r.outside, r.count}) words.push_back(std::to_string(value));
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  const pid_t child = fork();
  if (child < 0) fail("cannot start a process");
  if (child == 0) {
    execvp(tool, pointers.data());
    fprintf(stderr, "virtiofsd: cannot run %s: %s; install it (package uidmap) or leave the id maps out\n", tool,
            strerror(errno));
    _exit(1);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  // The tool has said why.
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) exit(1);
}

void setMap(const char* file, const char* tool, pid_t pid, const std::vector<Range>& ranges, unsigned own) {
  if (ranges.size() != 1 || ranges[0].outside != own || ranges[0].count != 1) {
    runTool(tool, pid, ranges);
    return;
  }
  char line[64];
  snprintf(line, sizeof line, "%u %u 1", ranges[0].inside, ranges[0].outside);
  const std::string path = "/proc/" + std::to_string(pid) + "/" + file;
  if (!write(path, line)) fail("cannot write " + path);
}

// Runs outside the namespace, where the maps are written: waits until the parent is inside.
[[noreturn]] void writeMaps(int ready, pid_t parent, const char* uidText, const char* gidText) {
  char byte;
  if (read(ready, &byte, 1) != 1) exit(1);
  const std::vector<Range> gids = parse(gidText);
  const bool ownGroup = gids.size() == 1 && gids[0].outside == getegid() && gids[0].count == 1;
  // Without the right to set any group the kernel wants setgroups given up first.
  if (ownGroup && !write("/proc/" + std::to_string(parent) + "/setgroups", "deny")) fail("cannot give up setgroups");
  setMap("uid_map", "newuidmap", parent, parse(uidText), geteuid());
  setMap("gid_map", "newgidmap", parent, gids, getegid());
  exit(0);
}

// Capabilities outlive execve for a user other than root only in the ambient set.
void keepCapabilities() {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  if (syscall(SYS_capget, &header, sets) != 0) fail("cannot read the capabilities");
  for (__user_cap_data_struct& set : sets) set.inheritable = set.permitted;
  if (syscall(SYS_capset, &header, sets) != 0) fail("cannot keep the capabilities");
  for (int capability = 0; capability < 64; capability++)
    if ((sets[capability / 32].permitted >> (capability % 32) & 1) != 0)
      prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) {
    fprintf(stderr, "virtiofsd: virtiofsd-userns UID_MAP GID_MAP PROGRAM [ARGUMENT...] is for virtiofsd's own use\n");
    return 1;
  }
  const pid_t self = getpid();
  int ready[2];
  if (pipe2(ready, O_CLOEXEC) != 0) fail("cannot make a pipe");
  const pid_t child = fork();
  if (child < 0) fail("cannot start a process");
  if (child == 0) {
    close(ready[1]);
    writeMaps(ready[0], self, words[1], words[2]);
  }
  if (unshare(CLONE_NEWUSER) != 0)
    fail("cannot make a user namespace (allow it: sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces, "
         "kernel.apparmor_restrict_unprivileged_userns; or give --sandbox=none)");
  if (::write(ready[1], "", 1) != 1) fail("cannot go on");
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return 1;
  keepCapabilities();
  execv(words[3], words + 3);
  fail(std::string("cannot run ") + words[3]);
}
