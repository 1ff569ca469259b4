// Global memory as a launch sees it: the host buffers that it was given, and for those that the kernel may write a
// shadow that tells races between cores and pipes, stale data caches and uninitialized bytes.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "local_memory.h"
#include "report.h"

namespace ascendc_emulator {

// "block 3 AIV" for the core of that index in the running launch.
std::string CoreName(int core);

struct GmBuffer {
  const char* name;
  void* data;
  size_t bytes;
  bool writable;
  bool initialized;  // false: a workspace, whose bytes must be written before they are read
};

// An access to global memory: the local part, and what is known of other cores.
struct GmAccess {
  int core;
  Pipe pipe;
  Sequence sequence;
  const Clock* own;             // what the running pipe knows of its own core
  const CoreClocks* others;     // of the other cores, may be null
  const Clock* cleaned_own;     // scalar reads: what was known when the data cache was last cleaned for this line
  const CoreClocks* cleaned_others;

  Sequence Known(int core_index, Pipe of) const {
    if (core_index == core) return (*own)[of];
    return others == nullptr ? 0 : (*others)[core_index][of];
  }

  Sequence Cleaned(int core_index, Pipe of) const {
    if (cleaned_own == nullptr) return 0;
    if (core_index == core) return (*cleaned_own)[of];
    return cleaned_others == nullptr ? 0 : (*cleaned_others)[core_index][of];
  }
};

class GmRegion {
 public:
  explicit GmRegion(const GmBuffer& buffer)
      : name_(buffer.name), begin_(static_cast<uint8_t*>(buffer.data)), bytes_(buffer.bytes),
        writable_(buffer.writable) {
    if (!buffer.initialized) defined_.assign(bytes_, 0);
    if (writable_) pages_.resize(bytes_ / kPageBytes + 1);
  }

  const char* name() const { return name_; }

  bool Holds(const void* address) const {
    return address >= static_cast<const void*>(begin_) && address < static_cast<const void*>(begin_ + bytes_);
  }

  const uint8_t* Read(const GmAccess& access, const void* address, uint64_t bytes) {
    const uint64_t offset = CheckRange(address, bytes, "reads");
    bytes_read_ += bytes;
    CheckDefined(offset, bytes);
    if (writable_) {
      ForEachLine(offset, bytes,
                  [&](Line* line, uint64_t index, uint32_t mask) { ReadLine(access, line, index, mask); });
    }
    return begin_ + offset;
  }

  uint8_t* Write(const GmAccess& access, const void* address, uint64_t bytes) {
    const uint64_t offset = CheckRange(address, bytes, "writes");
    bytes_written_ += bytes;
    if (!writable_) Refuse("writes GM buffer '", name_, "', which this launch may only read");
    ForEachLine(offset, bytes,
                [&](Line* line, uint64_t index, uint32_t mask) { WriteLine(access, line, index, mask); });
    if (!defined_.empty()) std::memset(defined_.data() + offset, 1, bytes);
    return begin_ + offset;
  }

  // The scalar unit of `core` writes back its data cache: its writes become those of an ordinary write at `sequence`.
  void CleanLines(int core, Sequence sequence, const void* address, uint64_t bytes) {
    if (!writable_) return;
    const uint64_t offset = static_cast<const uint8_t*>(address) - begin_;
    ForEachLine(offset, std::min(bytes, bytes_ - offset), [&](Line* line, uint64_t, uint32_t) {
      for (Record& record : *line) {
        if (!record.dirty || record.core != core) continue;
        record.dirty = false;
        record.sequence = sequence;
      }
    });
  }

  const uint8_t* begin() const { return begin_; }
  uint64_t bytes() const { return bytes_; }
  BufferTraffic traffic() const { return {name_, bytes_read_, bytes_written_}; }

 private:
  struct Record {
    int core;
    Pipe pipe;
    bool is_write;
    bool dirty;  // written by the scalar unit, still in its data cache
    Sequence sequence;
    uint32_t mask;
  };
  using Line = std::vector<Record>;
  static constexpr uint64_t kPageLines = 128;
  static constexpr uint64_t kPageBytes = kPageLines * kLineBytes;

  template <typename Visit>
  void ForEachLine(uint64_t offset, uint64_t bytes, Visit visit) {
    for (uint64_t index = offset / kLineBytes; index <= (offset + bytes - 1) / kLineBytes; ++index) {
      auto& page = pages_[index / kPageLines];
      if (!page) page.reset(new Line[kPageLines]);
      const uint64_t begin = index * kLineBytes, from = std::max(begin, offset) - begin;
      const uint64_t to = std::min(begin + kLineBytes, offset + bytes) - begin;
      const uint32_t mask = to - from == kLineBytes ? ~0u : ((1u << (to - from)) - 1) << from;
      visit(&page[index % kPageLines], index, mask);
    }
  }

  uint64_t CheckRange(const void* address, uint64_t bytes, const char* does) const {
    const int64_t offset = static_cast<const uint8_t*>(address) - begin_;
    if (bytes == 0) Refuse(does, " 0 bytes of GM buffer '", name_, "'");
    if (offset < 0 || offset + bytes > bytes_) {
      Refuse(does, " bytes [", offset, ", ", offset + static_cast<int64_t>(bytes), ") of GM buffer '", name_,
             "', which has ", bytes_);
    }
    return offset;
  }

  void CheckDefined(uint64_t offset, uint64_t bytes) const {
    if (defined_.empty()) return;
    const void* gap = std::memchr(defined_.data() + offset, 0, bytes);
    if (gap == nullptr) return;
    Refuse("reads byte ", static_cast<const uint8_t*>(gap) - defined_.data(), " of GM buffer '", name_,
           "', which nothing has written");
  }

  static bool Finished(const GmAccess& access, const Record& record) {
    if (access.core == record.core && access.pipe == record.pipe && access.sequence == record.sequence) return true;
    return access.Known(record.core, record.pipe) >= record.sequence;
  }

  void ReadLine(const GmAccess& access, Line* line, uint64_t index, uint32_t mask) {
    Record* same = nullptr;
    for (Record& record : *line) {
      if (!record.is_write) {
        if (record.core == access.core && record.pipe == access.pipe && (record.mask & ~mask) == 0) same = &record;
        continue;
      }
      if ((record.mask & mask) == 0) continue;
      const bool own_scalar = access.pipe == kPipeS && record.pipe == kPipeS && access.core == record.core;
      if (own_scalar) continue;
      if (record.dirty) RefuseDirty(record, index, "reads");
      if (!Finished(access, record)) RefuseRace(access, record, index, "reads", "wrote");
      if (access.pipe == kPipeS && access.Cleaned(record.core, record.pipe) < record.sequence) {
        Refuse("the scalar unit reads bytes [", index * kLineBytes, ", ", (index + 1) * kLineBytes, ") of GM buffer '",
               name_, "' that ", CoreName(record.core), " wrote, without DataCacheCleanAndInvalid after that write");
      }
    }
    if (same != nullptr) {
      same->sequence = access.sequence;
      same->mask = mask;
    } else {
      line->push_back({access.core, access.pipe, false, false, access.sequence, mask});
    }
  }

  void WriteLine(const GmAccess& access, Line* line, uint64_t index, uint32_t mask) {
    size_t kept = 0;
    for (const Record& record : *line) {
      const bool own_scalar = access.pipe == kPipeS && record.pipe == kPipeS && access.core == record.core;
      if (record.dirty && !own_scalar) RefuseDirty(record, index, "writes");
      if (access.pipe == kPipeS && record.is_write && record.core != access.core && !Finished(access, record)) {
        // The scalar unit writes whole cache lines back.
        RefuseRace(access, record, index, "writes with the scalar unit", "wrote");
      }
      if ((record.mask & mask) != 0 && !own_scalar && !Finished(access, record)) {
        RefuseRace(access, record, index, "writes", record.is_write ? "wrote" : "read");
      }
      if ((record.mask & ~mask) != 0) (*line)[kept++] = record;
    }
    line->resize(kept);
    line->push_back({access.core, access.pipe, true, access.pipe == kPipeS, access.sequence, mask});
  }

  [[noreturn]] void RefuseDirty(const Record& record, uint64_t index, const char* does) const {
    Refuse(does, " bytes [", index * kLineBytes, ", ", (index + 1) * kLineBytes, ") of GM buffer '", name_,
           "' that the scalar unit of ", CoreName(record.core),
           " wrote: they are in its data cache until DataCacheCleanAndInvalid");
  }

  [[noreturn]] void RefuseRace(const GmAccess& access, const Record& record, uint64_t index, const char* does,
                               const char* did) const {
    if (record.core != access.core) {
      Refuse(CoreName(access.core), " ", does, " bytes [", index * kLineBytes, ", ", (index + 1) * kLineBytes,
             ") of GM buffer '", name_, "' that ", CoreName(record.core), " ", did,
             ", without SyncAll or a cross-core flag between them");
    }
    const std::string needed = access.pipe == record.pipe
                                   ? std::string("PipeBarrier<PIPE_") + PipeName(record.pipe) + ">"
                                   : std::string("a flag ") + PipeName(record.pipe) + "_" + PipeName(access.pipe);
    Refuse("pipe ", PipeName(access.pipe), " ", does, " bytes [", index * kLineBytes, ", ", (index + 1) * kLineBytes,
           ") of GM buffer '", name_, "' that pipe ", PipeName(record.pipe), " ", did, " before, without ", needed,
           " between them");
  }

  const char* name_;
  uint8_t* begin_;
  uint64_t bytes_;
  bool writable_;
  uint64_t bytes_read_ = 0;
  uint64_t bytes_written_ = 0;
  std::vector<uint8_t> defined_;  // 1 for each written byte; empty when the buffer came initialized
  std::vector<std::unique_ptr<Line[]>> pages_;
};

}  // namespace ascendc_emulator
