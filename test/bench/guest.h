// A guest without a VM: memory in a memfd, split rings, eventfds, and a FUSE client that writes the
// bytes a Linux guest writes. Used by the load generator (driver.cc) only.
#pragma once

#include <linux/fuse.h>
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <vector>

namespace bench {

constexpr uint32_t kPage = 4096;
constexpr uint32_t kRingSize = 1024;
constexpr uint32_t kMaxQueues = 5;  // hiprio and four request queues
constexpr uint32_t kMaxDepth = 64;
constexpr uint32_t kDataPages = 256;  // 1 MiB a request
constexpr uint32_t kForgets = 256;

[[noreturn]] inline void die(const char* what) {
  perror(what);
  exit(2);
}

uint64_t nowNs();

// What one request in flight owns: memory for its headers, its arguments, its indirect table.
struct Slot {
  uint32_t queue = 1;
  uint16_t head = 0;
  uint8_t* in = nullptr;   // fuse_in_header, arguments
  uint8_t* out = nullptr;  // fuse_out_header, results
  vring_desc* table = nullptr;
  uint32_t descriptors = 0;
  std::vector<uint8_t*> pages;
  uint64_t startedNs = 0;
  int step = 0;
  uint64_t nodeid = 0;
  uint64_t fh = 0;
  uint64_t offset = 0;
  uint64_t number = 0;
  uint32_t bytes = 0;

  fuse_in_header& header() { return *reinterpret_cast<fuse_in_header*>(in); }
  uint8_t* body() { return in + sizeof(fuse_in_header); }
  template <class T>
  T& arg() {
    return *reinterpret_cast<T*>(body());
  }
  fuse_out_header& reply() { return *reinterpret_cast<fuse_out_header*>(out); }
  template <class T>
  T& result(uint32_t at = 0) {
    return *reinterpret_cast<T*>(out + sizeof(fuse_out_header) + at);
  }
};

struct Ring {
  uint32_t size = kRingSize;
  vring_desc* desc = nullptr;
  uint16_t* avail = nullptr;
  uint16_t* used = nullptr;
  vring_used_elem* elements = nullptr;
  uint16_t availIndex = 0;
  uint16_t usedSeen = 0;
  int kick = -1;
  int call = -1;
};

struct Counters {
  uint64_t requests = 0;
  uint64_t kicks = 0;
  uint64_t sleeps = 0;
};

class Guest {
 public:
  // `pagesFile`: the memory that data goes through, shared with other guests that never work at the same
  // time; empty: its own.
  Guest(uint32_t requestQueues, const std::string& pagesFile);
  // The vhost-user handshake on a connected socket. Fewer queues when the back end has fewer.
  void connect(const std::string& path);
  void init();

  uint32_t requestQueues() const { return queues_ - 1; }
  Slot& slot(uint32_t i) { return slots_[i]; }
  Ring& ring(uint32_t i) { return rings_[i]; }
  Counters counters;
  // Called with a slot whose reply is there.
  template <class Done>
  uint32_t poll(Done done) {
    uint32_t taken = 0;
    reapForgets();
    for (uint32_t q = 1; q < queues_; q++) {
      Ring& r = rings_[q];
      while (__atomic_load_n(&r.used[1], __ATOMIC_ACQUIRE) != r.usedSeen) {
        taken++;
        done(slots_[r.elements[r.usedSeen++ & (r.size - 1)].id]);
      }
    }
    return taken;
  }
  void reapForgets();
  // Blocks until a call descriptor is signalled, at most so long; not at all when something came.
  void sleep(int timeoutMs);
  uint64_t takeSignals();

  // Requests, as the kernel builds them: header, arguments, pages; reply header, results, pages.
  void build(Slot& s, uint32_t opcode, uint64_t nodeid, uint32_t argBytes, uint32_t inPages,
             uint32_t resultBytes, uint32_t outPages);
  void submit(Slot& s);
  void forget(uint64_t nodeid, uint64_t count);
  // Sends the slot's request and waits; the reply's error.
  int ask(Slot& s);
  uint64_t lookup(uint64_t parent, const std::string& name);
  uint64_t open(uint32_t opcode, uint64_t nodeid, uint32_t flags);
  void setIds(uint32_t uid, uint32_t gid) { uid_ = uid, gid_ = gid; }
  uint64_t guestAddress(const void* p) const {
    return kGuestBase + static_cast<uint64_t>(static_cast<const uint8_t*>(p) - memory_);
  }
  uint8_t* atAddress(uint64_t a) { return memory_ + (a - kGuestBase); }

 private:
  static constexpr uint64_t kGuestBase = 0x100000000ull;
  static constexpr uint64_t kUserBase = 0x7f0000000000ull;
  void message(uint32_t request, const void* payload, uint32_t bytes, const int* fds, uint32_t count);
  uint64_t get(uint32_t request);
  void tell(uint32_t request, const void* payload, uint32_t bytes, std::initializer_list<int> fds = {});
  void offer(Ring& r, uint16_t head);

  uint32_t queues_;
  int socket_ = -1;
  int memoryFd_ = -1;
  int pagesFd_ = -1;
  int epoll_ = -1;
  bool acknowledges_ = false;
  uint8_t* memory_ = nullptr;
  uint64_t pagesAt_ = 0;
  uint64_t pagesBytes_ = 0;
  uint64_t unique_ = 2;
  uint32_t uid_ = 0, gid_ = 0;
  Ring rings_[kMaxQueues];
  std::vector<Slot> slots_;
  std::vector<uint16_t> freeForgets_;
  uint8_t* forgetMemory_ = nullptr;
};

}  // namespace bench
