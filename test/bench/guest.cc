// The guest's side: see guest.h. Sources: virtio 1.3 section 2.7; QEMU docs/interop/vhost-user.rst;
// Linux fs/fuse/virtio_fs.c for how a request lies in its descriptors.
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <random>

namespace bench {

namespace {
constexpr uint64_t kRingBytes = 0x20000;
constexpr uint64_t kAvailAt = 0x8000, kUsedAt = 0x10000;
constexpr uint64_t kSlotBytes = 4 * kPage;  // in, out, table (two pages)
constexpr uint64_t kForgetBytes = 128;
constexpr uint64_t kFeatures = 1ull << 32 | 1ull << 30 | 1ull << 29 | 1ull << 28;
constexpr uint64_t kMq = 1, kReplyAck = 1 << 3;
// What a Linux 6.1 guest offers (7.37).
constexpr uint32_t kInitFlags = 0x73fffffb;
}  // namespace

uint64_t nowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

Guest::Guest(uint32_t requestQueues, const std::string& pagesFile) : queues_(requestQueues + 1) {
  const uint64_t slotsAt = kMaxQueues * kRingBytes;
  const uint64_t forgetsAt = slotsAt + kMaxDepth * kSlotBytes;
  pagesAt_ = forgetsAt + ((kForgets * kForgetBytes + kPage - 1) & ~uint64_t(kPage - 1));
  pagesBytes_ = uint64_t(kMaxDepth) * kDataPages * kPage;
  memoryFd_ = memfd_create("bench-guest", MFD_CLOEXEC);
  pagesFd_ = pagesFile.empty() ? memfd_create("bench-pages", MFD_CLOEXEC)
                               : ::open(pagesFile.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (memoryFd_ < 0 || ftruncate(memoryFd_, static_cast<off_t>(pagesAt_)) != 0 || pagesFd_ < 0 ||
      ftruncate(pagesFd_, static_cast<off_t>(pagesBytes_)) != 0)
    die("guest memory");
  constexpr int kAccess = PROT_READ | PROT_WRITE;
  void* at = mmap(nullptr, pagesAt_ + pagesBytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) die("guest memory");
  memory_ = static_cast<uint8_t*>(at);
  constexpr int kHow = MAP_SHARED | MAP_FIXED | MAP_POPULATE;
  if (mmap(memory_, pagesAt_, kAccess, kHow, memoryFd_, 0) == MAP_FAILED ||
      mmap(memory_ + pagesAt_, pagesBytes_, kAccess, kHow, pagesFd_, 0) == MAP_FAILED)
    die("guest memory");
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  for (uint32_t q = 0; q < queues_; q++) {
    Ring& r = rings_[q];
    uint8_t* base = memory_ + q * kRingBytes;
    r.desc = reinterpret_cast<vring_desc*>(base);
    r.avail = reinterpret_cast<uint16_t*>(base + kAvailAt);
    r.used = reinterpret_cast<uint16_t*>(base + kUsedAt);
    r.elements = reinterpret_cast<vring_used_elem*>(base + kUsedAt + 4);
    r.kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r.call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    epoll_event event = {};
    event.events = EPOLLIN | EPOLLET;
    if (r.kick < 0 || r.call < 0 || epoll_ctl(epoll_, EPOLL_CTL_ADD, r.call, &event) != 0)
      die("eventfd");
  }
  // A guest's pages lie anywhere: no two of a request are neighbours but by chance.
  std::vector<uint8_t*> pages;
  for (uint64_t i = 0; i < uint64_t(kMaxDepth) * kDataPages; i++)
    pages.push_back(memory_ + pagesAt_ + i * kPage);
  std::shuffle(pages.begin(), pages.end(), std::mt19937_64(1));
  slots_.resize(kMaxDepth);
  for (uint32_t i = 0; i < kMaxDepth; i++) {
    Slot& s = slots_[i];
    uint8_t* base = memory_ + slotsAt + i * kSlotBytes;
    s.in = base;
    s.out = base + kPage;
    s.table = reinterpret_cast<vring_desc*>(base + 2 * kPage);
    s.head = static_cast<uint16_t>(i);
    s.pages.assign(pages.begin() + i * kDataPages, pages.begin() + (i + 1) * kDataPages);
  }
  static_assert((kDataPages + 4) * sizeof(vring_desc) <= 2 * kPage);
  forgetMemory_ = memory_ + forgetsAt;
  for (uint32_t i = 0; i < kForgets; i++) freeForgets_.push_back(static_cast<uint16_t>(i));
}

void Guest::message(uint32_t request, const void* payload, uint32_t bytes, const int* fds,
                    uint32_t count) {
  struct {
    uint32_t request, flags, size;
    uint8_t payload[256];
  } m = {};
  const bool asks = acknowledges_ && request != 1 && request != 15 && request != 17;
  m.request = request;
  m.flags = 1 | (asks ? 8 : 0);
  m.size = bytes;
  if (bytes > 0) memcpy(m.payload, payload, bytes);
  iovec part = {&m, 12 + bytes};
  char control[CMSG_SPACE(sizeof(int) * 8)] = {};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (count > 0) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(sizeof(int) * count);
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
  }
  if (sendmsg(socket_, &header, MSG_NOSIGNAL) != static_cast<ssize_t>(12 + bytes)) die("sendmsg");
}

uint64_t Guest::get(uint32_t request) {
  message(request, nullptr, 0, nullptr, 0);
  uint8_t reply[20];
  if (recv(socket_, reply, sizeof reply, MSG_WAITALL) != sizeof reply) die("vhost-user reply");
  uint64_t value;
  memcpy(&value, reply + 12, 8);
  return value;
}

void Guest::tell(uint32_t request, const void* payload, uint32_t bytes, std::initializer_list<int> fds) {
  message(request, payload, bytes, fds.begin(), static_cast<uint32_t>(fds.size()));
  if (!acknowledges_) return;
  uint8_t reply[20];
  if (recv(socket_, reply, sizeof reply, MSG_WAITALL) != sizeof reply) die("vhost-user reply");
  uint64_t value;
  memcpy(&value, reply + 12, 8);
  if (value != 0) {
    fprintf(stderr, "driver: the back end refused message %u\n", request);
    exit(2);
  }
}

void Guest::connect(const std::string& path) {
  socket_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) die("socket path");
  memcpy(address.sun_path, path.c_str(), path.size());
  if (::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) die("connect");
  const uint64_t offered = get(1);
  if ((offered & kFeatures) != kFeatures) {
    fprintf(stderr, "driver: the back end offers too little: %llx\n", (unsigned long long)offered);
    exit(2);
  }
  const uint64_t protocol = get(15) & (kMq | kReplyAck);
  tell(16, &protocol, 8);
  acknowledges_ = (protocol & kReplyAck) != 0;
  if ((protocol & kMq) != 0) queues_ = std::min<uint64_t>(queues_, get(17));
  tell(3, nullptr, 0);
  tell(2, &kFeatures, 8);
  const uint64_t table[9] = {2,         kGuestBase,            pagesAt_,    kUserBase,            0,
                             kGuestBase + pagesAt_, pagesBytes_, kUserBase + pagesAt_, 0};
  tell(5, table, sizeof table, {memoryFd_, pagesFd_});
  for (uint32_t q = 0; q < queues_; q++) {
    const Ring& r = rings_[q];
    const uint32_t size[2] = {q, r.size}, base[2] = {q, 0}, enable[2] = {q, 1};
    const uint64_t user = kUserBase + q * kRingBytes, index = q;
    const uint64_t addresses[5] = {q, user, user + kUsedAt, user + kAvailAt, 0};
    tell(8, size, sizeof size);
    tell(10, base, sizeof base);
    tell(9, addresses, sizeof addresses);
    tell(13, &index, 8, {r.call});
    tell(12, &index, 8, {r.kick});
    tell(18, enable, sizeof enable);
  }
}

void Guest::build(Slot& s, uint32_t opcode, uint64_t nodeid, uint32_t argBytes, uint32_t inPages,
                  uint32_t resultBytes, uint32_t outPages) {
  const uint32_t dataIn = inPages > 0 ? s.bytes : 0;
  s.header() = {};
  s.header().len = static_cast<uint32_t>(sizeof(fuse_in_header)) + argBytes + dataIn;
  s.header().opcode = opcode;
  s.header().unique = unique_;
  s.header().nodeid = nodeid;
  s.header().uid = uid_;
  s.header().gid = gid_;
  s.header().pid = 1;
  unique_ += 2;
  s.reply().len = 0;
  uint32_t n = 0;
  auto add = [&](const void* at, uint32_t bytes, uint16_t flags) {
    s.table[n] = {guestAddress(at), bytes, static_cast<uint16_t>(flags | VRING_DESC_F_NEXT),
                  static_cast<uint16_t>(n + 1)};
    n++;
  };
  add(s.in, sizeof(fuse_in_header), 0);
  if (argBytes > 0) add(s.body(), argBytes, 0);
  for (uint32_t i = 0; i < inPages; i++) add(s.pages[i], std::min(kPage, s.bytes - i * kPage), 0);
  add(s.out, sizeof(fuse_out_header), VRING_DESC_F_WRITE);
  if (resultBytes > 0) add(s.out + sizeof(fuse_out_header), resultBytes, VRING_DESC_F_WRITE);
  for (uint32_t i = 0; i < outPages; i++)
    add(s.pages[i], std::min(kPage, s.bytes - i * kPage), VRING_DESC_F_WRITE);
  s.table[n - 1].flags &= static_cast<uint16_t>(~VRING_DESC_F_NEXT);
  s.descriptors = n;
}

// Each request is published and its kick decided by itself, as in the kernel, where every one comes
// from another task.
void Guest::offer(Ring& r, uint16_t head) {
  counters.requests++;
  r.avail[2 + (r.availIndex & (r.size - 1))] = head;
  r.availIndex++;
  __atomic_store_n(&r.avail[1], r.availIndex, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  const uint16_t event = __atomic_load_n(&r.used[2 + r.size * 4], __ATOMIC_RELAXED);
  if (!vring_need_event(event, r.availIndex, static_cast<uint16_t>(r.availIndex - 1))) return;
  counters.kicks++;
  const uint64_t one = 1;
  if (write(r.kick, &one, sizeof one) < 0) die("kick");
}

void Guest::submit(Slot& s) {
  Ring& r = rings_[s.queue];
  r.desc[s.head] = {guestAddress(s.table), static_cast<uint32_t>(s.descriptors * sizeof(vring_desc)),
                    VRING_DESC_F_INDIRECT, 0};
  offer(r, s.head);
}

void Guest::reapForgets() {
  Ring& r = rings_[0];
  while (__atomic_load_n(&r.used[1], __ATOMIC_ACQUIRE) != r.usedSeen)
    freeForgets_.push_back(static_cast<uint16_t>(r.elements[r.usedSeen++ & (r.size - 1)].id));
}

void Guest::forget(uint64_t nodeid, uint64_t count) {
  while (freeForgets_.empty()) {
    reapForgets();
    if (freeForgets_.empty()) sched_yield();
  }
  const uint16_t head = freeForgets_.back();
  freeForgets_.pop_back();
  uint8_t* at = forgetMemory_ + head * kForgetBytes;
  fuse_in_header& header = *reinterpret_cast<fuse_in_header*>(at);
  header = {};
  header.len = sizeof header + 8;
  header.opcode = FUSE_FORGET;
  header.nodeid = nodeid;
  memcpy(at + sizeof header, &count, 8);
  rings_[0].desc[head] = {guestAddress(at), header.len, 0, 0};
  offer(rings_[0], head);
}

void Guest::sleep(int timeoutMs) {
  // What came back of the FORGETs is no reason to stay awake.
  reapForgets();
  for (uint32_t q = 0; q < queues_; q++)
    __atomic_store_n(&rings_[q].avail[2 + rings_[q].size], rings_[q].usedSeen, __ATOMIC_SEQ_CST);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  for (uint32_t q = 0; q < queues_; q++)
    if (__atomic_load_n(&rings_[q].used[1], __ATOMIC_ACQUIRE) != rings_[q].usedSeen) return;
  counters.sleeps++;
  epoll_event events[kMaxQueues];
  epoll_wait(epoll_, events, kMaxQueues, timeoutMs);
}

uint64_t Guest::takeSignals() {
  uint64_t sum = 0, value;
  for (uint32_t q = 0; q < queues_; q++)
    if (read(rings_[q].call, &value, sizeof value) == sizeof value) sum += value;
  return sum;
}

int Guest::ask(Slot& s) {
  submit(s);
  bool there = false;
  const uint64_t limit = nowNs() + 20000000000ull;
  while (!there) {
    if (poll([&](Slot& other) { there = there || &other == &s; }) == 0) sleep(1000);
    if (nowNs() > limit) {
      fprintf(stderr, "driver: no answer to opcode %u\n", s.header().opcode);
      exit(2);
    }
  }
  return s.reply().error;
}

void Guest::init() {
  Slot& s = slots_[0];
  s.queue = 1;
  build(s, FUSE_INIT, 0, sizeof(fuse_init_in), 0, sizeof(fuse_init_out), 0);
  s.arg<fuse_init_in>() = {};
  s.arg<fuse_init_in>().major = 7;
  s.arg<fuse_init_in>().minor = 37;
  s.arg<fuse_init_in>().max_readahead = 131072;
  s.arg<fuse_init_in>().flags = kInitFlags;
  if (ask(s) != 0) die("INIT");
  if (s.result<fuse_init_out>().max_write < kDataPages * kPage)
    fprintf(stderr, "driver: max_write is only %u\n", s.result<fuse_init_out>().max_write);
}

uint64_t Guest::lookup(uint64_t parent, const std::string& name) {
  Slot& s = slots_[0];
  s.queue = 1;
  memcpy(s.body(), name.c_str(), name.size() + 1);
  build(s, FUSE_LOOKUP, parent, static_cast<uint32_t>(name.size() + 1), 0, sizeof(fuse_entry_out), 0);
  if (ask(s) != 0) {
    fprintf(stderr, "driver: LOOKUP %s: error %d\n", name.c_str(), s.reply().error);
    exit(2);
  }
  return s.result<fuse_entry_out>().nodeid;
}

uint64_t Guest::open(uint32_t opcode, uint64_t nodeid, uint32_t flags) {
  Slot& s = slots_[0];
  s.queue = 1;
  s.arg<fuse_open_in>() = {};
  s.arg<fuse_open_in>().flags = flags;
  build(s, opcode, nodeid, sizeof(fuse_open_in), 0, sizeof(fuse_open_out), 0);
  if (ask(s) != 0) {
    fprintf(stderr, "driver: OPEN: error %d\n", s.reply().error);
    exit(2);
  }
  return s.result<fuse_open_out>().fh;
}

}  // namespace bench
