// See rows.h. Arguments and results have the sizes that Linux gives them.
#include "rows.h"

#include <errno.h>
#include <string.h>

#include <functional>

namespace bench {

namespace {

constexpr uint32_t kReaddirPages = 8;  // glibc asks for 32 KiB

uint32_t putName(Slot& s, uint32_t at, const char* format, unsigned long long a) {
  return at + static_cast<uint32_t>(snprintf(reinterpret_cast<char*>(s.body()) + at, 200, format, a)) + 1;
}

void release(Guest& g, uint32_t opcode, uint64_t nodeid, uint64_t fh) {
  Slot& s = g.slot(0);
  s.arg<fuse_release_in>() = {};
  s.arg<fuse_release_in>().fh = fh;
  g.build(s, opcode, nodeid, sizeof(fuse_release_in), 0, 0, 0);
  g.ask(s);
}

struct Getattr : Row {
  bool request(Guest& g, const Tree& t, Slot& s) override {
    s.arg<fuse_getattr_in>() = {};
    s.nodeid = t.files[next_++ % kFilesEach];
    g.build(s, FUSE_GETATTR, s.nodeid, sizeof(fuse_getattr_in), 0, sizeof(fuse_attr_out), 0);
    return true;
  }
  bool finished(Guest&, const Tree&, Slot& s) override {
    expect(s.reply().error == 0 && s.reply().len == 16 + sizeof(fuse_attr_out), "GETATTR");
    return true;
  }
};

struct Lookup : Row {
  enum Kind { hit, many, miss } kind;
  explicit Lookup(Kind k) : kind(k) {}
  bool request(Guest& g, const Tree& t, Slot& s) override {
    const uint64_t n = next_++;
    uint64_t parent = t.folders[0];
    uint32_t bytes = 0;
    if (kind == hit) bytes = putName(s, 0, "file-%04llu", 7);
    if (kind == miss) bytes = putName(s, 0, "absent-%04llu", n % 1000);
    if (kind == many) {
      s.number = n % t.files.size();
      parent = t.folders[s.number / kFilesEach];
      bytes = putName(s, 0, "file-%04llu", s.number % kFilesEach);
    }
    g.build(s, FUSE_LOOKUP, parent, bytes, 0, sizeof(fuse_entry_out), 0);
    return true;
  }
  bool finished(Guest&, const Tree& t, Slot& s) override {
    const auto& found = s.result<fuse_entry_out>();
    // A negative entry may be an error or, to be cached, a nodeid of zero.
    if (kind == miss) expect(s.reply().error == -ENOENT || found.nodeid == 0, "LOOKUP of no file");
    if (kind == hit) expect(s.reply().error == 0 && found.nodeid == t.files[7], "LOOKUP hit");
    if (kind == many) expect(s.reply().error == 0 && found.nodeid == t.files[s.number], "LOOKUP");
    return true;
  }
};

// A name the server does not know (any more): LOOKUP, and FORGET behind it.
struct LookupCold : Row {
  bool request(Guest& g, const Tree& t, Slot& s) override {
    const uint32_t bytes = putName(s, 0, "entry-%04llu", next_++ % kListed);
    g.build(s, FUSE_LOOKUP, t.list, bytes, 0, sizeof(fuse_entry_out), 0);
    return true;
  }
  bool finished(Guest& g, const Tree&, Slot& s) override {
    expect(s.reply().error == 0, "LOOKUP");
    if (s.reply().error == 0) g.forget(s.result<fuse_entry_out>().nodeid, 1);
    return true;
  }
};

constexpr uint32_t kReadLarge = 0100000;  // O_RDONLY | O_LARGEFILE

void buildOpen(Guest& g, Slot& s) {
  s.arg<fuse_open_in>() = {};
  s.arg<fuse_open_in>().flags = kReadLarge;
  g.build(s, FUSE_OPEN, s.nodeid, sizeof(fuse_open_in), 0, sizeof(fuse_open_out), 0);
}

void buildRelease(Guest& g, Slot& s) {
  s.arg<fuse_release_in>() = {};
  s.arg<fuse_release_in>().fh = s.fh;
  s.arg<fuse_release_in>().flags = kReadLarge;
  g.build(s, FUSE_RELEASE, s.nodeid, sizeof(fuse_release_in), 0, 0, 0);
}

struct OpenRelease : Row {
  uint32_t files;
  explicit OpenRelease(uint32_t howMany) : files(howMany) {}
  bool request(Guest& g, const Tree& t, Slot& s) override {
    if (s.step == 0) {
      s.nodeid = t.files[next_++ % files];
      buildOpen(g, s);
    } else {
      buildRelease(g, s);
    }
    return true;
  }
  bool finished(Guest&, const Tree&, Slot& s) override {
    expect(s.reply().error == 0, s.step == 0 ? "OPEN" : "RELEASE");
    s.fh = s.result<fuse_open_out>().fh;
    return s.step == 1 || s.reply().error != 0;
  }
};

// A file the server does not know (any more): LOOKUP, OPEN, RELEASE, and FORGET behind it.
struct OpenFresh : Row {
  bool request(Guest& g, const Tree& t, Slot& s) override {
    if (s.step == 0) {
      const uint32_t bytes = putName(s, 0, "entry-%04llu", next_++ % kListed);
      g.build(s, FUSE_LOOKUP, t.list, bytes, 0, sizeof(fuse_entry_out), 0);
    } else if (s.step == 1) {
      buildOpen(g, s);
    } else {
      buildRelease(g, s);
    }
    return true;
  }
  bool finished(Guest& g, const Tree&, Slot& s) override {
    static const char* const names[] = {"LOOKUP", "OPEN", "RELEASE"};
    expect(s.reply().error == 0, names[s.step]);
    if (s.reply().error != 0) return true;
    if (s.step == 0) s.nodeid = s.result<fuse_entry_out>().nodeid;
    if (s.step == 1) s.fh = s.result<fuse_open_out>().fh;
    if (s.step == 2) g.forget(s.nodeid, 1);
    return s.step == 2;
  }
};

// CREATE, RELEASE, UNLINK, and FORGET at the end.
struct CreateUnlink : Row {
  uint32_t id;
  explicit CreateUnlink(uint32_t who) : id(who) {}
  void begin(Guest& g, const Tree&, uint32_t) override { g.setIds(id, id); }
  void end(Guest& g, const Tree&) override { g.setIds(0, 0); }
  bool request(Guest& g, const Tree& t, Slot& s) override {
    if (s.step == 0) {
      s.number = next_++;
      auto& in = s.arg<fuse_create_in>();
      in = {};
      in.flags = 0100302;  // O_RDWR | O_CREAT | O_EXCL | O_LARGEFILE
      in.mode = 0100644;
      in.umask = 022;
      const uint32_t bytes = putName(s, sizeof in, "new-%llu", s.number);
      g.build(s, FUSE_CREATE, t.work, bytes, 0, sizeof(fuse_entry_out) + sizeof(fuse_open_out), 0);
    } else if (s.step == 1) {
      s.arg<fuse_release_in>() = {};
      s.arg<fuse_release_in>().fh = s.fh;
      g.build(s, FUSE_RELEASE, s.nodeid, sizeof(fuse_release_in), 0, 0, 0);
    } else {
      const uint32_t bytes = putName(s, 0, "new-%llu", s.number);
      g.build(s, FUSE_UNLINK, t.work, bytes, 0, 0, 0);
    }
    return true;
  }
  bool finished(Guest& g, const Tree&, Slot& s) override {
    static const char* const names[] = {"CREATE", "RELEASE", "UNLINK"};
    expect(s.reply().error == 0, names[s.step]);
    if (s.reply().error != 0) return true;
    if (s.step == 0) {
      s.nodeid = s.result<fuse_entry_out>().nodeid;
      s.fh = s.result<fuse_open_out>(sizeof(fuse_entry_out)).fh;
    }
    if (s.step == 2) g.forget(s.nodeid, 1);
    return s.step == 2;
  }
};

// One whole listing of 1,000 entries with attributes.
struct Readdirplus : Row {
  std::vector<uint64_t> handles;
  void begin(Guest& g, const Tree& t, uint32_t depth) override {
    for (uint32_t i = 0; i < depth; i++) handles.push_back(g.open(FUSE_OPENDIR, t.list, 0200000));
  }
  void end(Guest& g, const Tree& t) override {
    for (uint64_t fh : handles) release(g, FUSE_RELEASEDIR, t.list, fh);
  }
  bool request(Guest& g, const Tree& t, Slot& s) override {
    if (s.step == 0) s.offset = 0, s.number = 0;
    s.bytes = kReaddirPages * kPage;
    auto& in = s.arg<fuse_read_in>();
    in = {};
    in.fh = handles[s.head];
    in.offset = s.offset;
    in.size = s.bytes;
    g.build(s, FUSE_READDIRPLUS, t.list, sizeof in, 0, 0, kReaddirPages);
    return true;
  }
  bool finished(Guest&, const Tree&, Slot& s) override {
    if (s.reply().error != 0) {
      expect(false, "READDIRPLUS");
      return true;
    }
    const uint32_t end = s.reply().len - 16;
    if (end == 0) {
      expect(s.number == kListed + 2, "READDIRPLUS: number of entries");
      return true;
    }
    auto word = [&](uint32_t at) -> uint64_t {  // entries are 8-byte aligned
      return *reinterpret_cast<uint64_t*>(s.pages[at / kPage] + at % kPage);
    };
    for (uint32_t at = 0; at + 152 <= end; s.number++) {
      s.offset = word(at + 136);
      at += static_cast<uint32_t>(152 + (((word(at + 144) & 0xffffffff) + 7) & ~7ull));
    }
    return false;
  }
};

struct Read : Row {
  uint32_t bytes;
  bool sequential, cold;
  uint64_t blocks, coldFh = 0;
  std::vector<uint32_t> order;
  Read(uint32_t size, bool inOrder, bool fromDisk)
      : bytes(size), sequential(inOrder), cold(fromDisk),
        blocks((fromDisk ? kColdBytes : kDataBytes) / size) {}
  // The cold file is open for one run: what a server maps of it while it is open cannot be dropped, of no server's.
  void begin(Guest& g, const Tree& t, uint32_t) override {
    if (!cold) return;
    coldFh = g.open(FUSE_OPEN, t.cold, 0100000);
    if (sequential) return;
    for (uint32_t i = 0; i < blocks; i++) order.push_back(i);
    for (uint32_t i = static_cast<uint32_t>(blocks) - 1; i > 0; i--)
      std::swap(order[i], order[random() % (i + 1)]);
  }
  bool request(Guest& g, const Tree& t, Slot& s) override {
    if (cold && next_ == blocks) return false;
    const uint64_t n = next_++;
    const uint64_t block = sequential ? n % blocks : cold ? order[n] : random() % blocks;
    s.bytes = bytes;
    s.offset = block * bytes;
    auto& in = s.arg<fuse_read_in>();
    in = {};
    in.fh = cold ? coldFh : t.dataFh;
    in.offset = s.offset;
    in.size = bytes;
    in.flags = 0100000;
    g.build(s, FUSE_READ, cold ? t.cold : t.data, sizeof in, 0, 0, bytes / kPage);
    return true;
  }
  void end(Guest& g, const Tree& t) override {
    if (cold) release(g, FUSE_RELEASE, t.cold, coldFh);
  }
  // Each page of the files begins with its offset.
  bool finished(Guest&, const Tree&, Slot& s) override {
    const uint32_t last = bytes / kPage - 1;
    expect(s.reply().error == 0 && s.reply().len == 16 + bytes &&
               *reinterpret_cast<uint64_t*>(s.pages[0]) == s.offset &&
               *reinterpret_cast<uint64_t*>(s.pages[last]) == s.offset + uint64_t(last) * kPage,
           "READ");
    return true;
  }
};

struct Write : Row {
  uint32_t bytes;
  bool sequential;
  Write(uint32_t size, bool inOrder) : bytes(size), sequential(inOrder) {}
  bool request(Guest& g, const Tree& t, Slot& s) override {
    const uint64_t blocks = kDataBytes / bytes;
    s.bytes = bytes;
    s.offset = (sequential ? next_++ % blocks : random() % blocks) * bytes;
    auto& in = s.arg<fuse_write_in>();
    in = {};
    in.fh = t.outFh;
    in.offset = s.offset;
    in.size = bytes;
    in.flags = 0100002;
    *reinterpret_cast<uint64_t*>(s.pages[0]) = s.offset;
    g.build(s, FUSE_WRITE, t.out, sizeof in, bytes / kPage, sizeof(fuse_write_out), 0);
    return true;
  }
  bool finished(Guest&, const Tree&, Slot& s) override {
    expect(s.reply().error == 0 && s.result<fuse_write_out>().size == bytes, "WRITE");
    return true;
  }
};

struct Statfs : Row {
  bool request(Guest& g, const Tree&, Slot& s) override {
    g.build(s, FUSE_STATFS, 1, 0, 0, sizeof(fuse_statfs_out), 0);
    return true;
  }
  bool finished(Guest&, const Tree&, Slot& s) override {
    expect(s.reply().error == 0, "STATFS");
    return true;
  }
};

// What the kernel asks before a write: is there a security.capability?
struct GetxattrMiss : Row {
  bool request(Guest& g, const Tree& t, Slot& s) override {
    static const char name[] = "security.capability";
    s.arg<fuse_getxattr_in>() = {};
    memcpy(s.body() + sizeof(fuse_getxattr_in), name, sizeof name);
    g.build(s, FUSE_GETXATTR, t.files[next_++ % kFilesEach], sizeof(fuse_getxattr_in) + sizeof name, 0,
            sizeof(fuse_getxattr_out), 0);
    return true;
  }
  bool finished(Guest&, const Tree&, Slot& s) override {
    expect(s.reply().error == -ENODATA, "GETXATTR");
    return true;
  }
};

struct Named {
  const char* name;
  std::function<Row*()> make;
};

const std::vector<Named>& table() {
  constexpr uint32_t k4 = 4096, k128 = 128 << 10, m1 = 1 << 20;
  static const std::vector<Named> rows = {
      {"getattr", [] { return new Getattr; }},
      {"lookup-hit", [] { return new Lookup(Lookup::hit); }},
      {"lookup-many", [] { return new Lookup(Lookup::many); }},
      {"lookup-miss", [] { return new Lookup(Lookup::miss); }},
      {"lookup+forget", [] { return new LookupCold; }},
      {"open+release", [] { return new OpenRelease(kFilesEach); }},
      {"open+release-few", [] { return new OpenRelease(32); }},
      {"open-fresh", [] { return new OpenFresh; }},
      {"create+unlink", [] { return new CreateUnlink(0); }},
      {"create+unlink-user", [] { return new CreateUnlink(1000); }},
      {"readdirplus-1000", [] { return new Readdirplus; }},
      {"read-4k-rand", [=] { return new Read(k4, false, false); }},
      {"read-4k-seq", [=] { return new Read(k4, true, false); }},
      {"read-128k-rand", [=] { return new Read(k128, false, false); }},
      {"read-128k-seq", [=] { return new Read(k128, true, false); }},
      {"read-1m-rand", [=] { return new Read(m1, false, false); }},
      {"read-1m-seq", [=] { return new Read(m1, true, false); }},
      {"write-4k-rand", [=] { return new Write(k4, false); }},
      {"write-4k-seq", [=] { return new Write(k4, true); }},
      {"write-128k-rand", [=] { return new Write(k128, false); }},
      {"write-128k-seq", [=] { return new Write(k128, true); }},
      {"write-1m-rand", [=] { return new Write(m1, false); }},
      {"write-1m-seq", [=] { return new Write(m1, true); }},
      {"statfs", [] { return new Statfs; }},
      {"getxattr-miss", [] { return new GetxattrMiss; }},
      {"cold-read-4k-rand", [=] { return new Read(k4, false, true); }},
      {"cold-read-128k-seq", [=] { return new Read(k128, true, true); }},
  };
  return rows;
}

}  // namespace

std::unique_ptr<Row> makeRow(const std::string& name) {
  for (const Named& row : table())
    if (name == row.name) return std::unique_ptr<Row>(row.make());
  return nullptr;
}

std::vector<std::string> rowNames() {
  std::vector<std::string> names;
  for (const Named& row : table()) names.push_back(row.name);
  return names;
}

}  // namespace bench
