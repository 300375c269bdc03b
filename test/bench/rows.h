// The rows of the bench: what one operation of each is, as a sequence of requests of one slot.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "guest.h"

namespace bench {

// The tree that scripts/bench/tree.ts makes, as far as its numbers matter here.
constexpr uint32_t kFolders = 10, kFilesEach = 1000, kListed = 1000;
constexpr uint64_t kDataBytes = 64ull << 20;
constexpr uint64_t kColdBytes = 512ull << 20;

struct Tree {
  uint64_t root = 1, list = 0, work = 0, data = 0, out = 0, cold = 0;
  std::vector<uint64_t> folders;
  std::vector<uint64_t> files;
  uint64_t dataFh = 0, outFh = 0;
};

class Row {
 public:
  virtual ~Row() = default;
  // Before the slots start.
  virtual void begin(Guest&, const Tree&, uint32_t /*depth*/) {}
  // Builds the slot's request for `s.step`; false when there is nothing more to do (cold rows).
  virtual bool request(Guest&, const Tree&, Slot&) = 0;
  // Looks at the reply: false when another request of the operation follows.
  virtual bool finished(Guest&, const Tree&, Slot&) { return true; }
  virtual void end(Guest&, const Tree&) {}
  uint64_t errors = 0;
  const char* firstError = nullptr;

 protected:
  // What a reply must be; counted when it is not.
  void expect(bool good, const char* what) {
    if (good) return;
    if (errors++ == 0) firstError = what;
  }
  uint64_t next_ = 0;
  uint64_t random_ = 0x9e3779b97f4a7c15ull;
  uint64_t random() {  // xorshift64
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_;
  }
};

std::unique_ptr<Row> makeRow(const std::string& name);
std::vector<std::string> rowNames();

}  // namespace bench
