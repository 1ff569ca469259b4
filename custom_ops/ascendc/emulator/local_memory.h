// A core's on-chip memory (UB, L1, L0A, L0B, L0C, …) and its shadow: which bytes were ever written, and for each
// 32-byte line which instruction wrote it last and which instruction of each pipe read it last.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "clocks.h"
#include "refusal.h"

namespace ascendc_emulator {

constexpr uint32_t kLineBytes = 32;

// An access of the running instruction: who, and what it knows.
struct Access {
  Pipe pipe;
  Sequence sequence;
  Clock known;             // own core; the running pipe's own entry is huge for the scalar unit
  bool tolerates_scalar;   // non-strict: what the compiler's auto-sync adds is taken as done
};

class LocalMemory {
 public:
  LocalMemory(const char* name, uint32_t bytes) : name_(name), data_(bytes, kPoison), written_(bytes, 0) {
    const uint32_t lines = bytes / kLineBytes;
    for (auto* by_line : {&writers_, &written_masks_, &older_writers_}) by_line->assign(lines, 0);
    for (auto& readers : readers_) readers.assign(lines, 0);
  }

  const char* name() const { return name_; }
  uint32_t capacity() const { return static_cast<uint32_t>(data_.size()); }
  uint8_t* data() { return data_.data(); }
  uint32_t touched() const { return touched_; }

  // For each byte from `offset` on, 1 if it holds a value.
  uint8_t* written(uint32_t offset) { return written_.data() + offset; }

  const uint8_t* Read(const Access& access, uint32_t offset, uint32_t bytes) {
    CheckRange(offset, bytes);
    CheckWritten(offset, bytes);
    return ReadPadded(access, offset, bytes);
  }

  // Some of the bytes may hold nothing: the caller looks at `written`.
  const uint8_t* ReadPadded(const Access& access, uint32_t offset, uint32_t bytes) {
    CheckRange(offset, bytes);
    const uint32_t first = offset / kLineBytes, last = (offset + bytes - 1) / kLineBytes;
    Sequence* readers = readers_[access.pipe].data();
    for (uint32_t line = first; line <= last; ++line) {
      const uint32_t writer = writers_[line];
      if (access.known[writer & 7] < (writer >> 3)) CheckReadAfterWrite(access, line, LineMask(line, offset, bytes));
      readers[line] = access.sequence;
    }
    readers_used_ |= 1u << access.pipe;
    return data_.data() + offset;
  }

  uint8_t* Write(const Access& access, uint32_t offset, uint32_t bytes) {
    CheckRange(offset, bytes);
    const uint32_t first = offset / kLineBytes, last = (offset + bytes - 1) / kLineBytes;
    CheckWriteAfterRead(access, first, last);
    const uint32_t writer = (access.sequence << 3) | access.pipe;
    for (uint32_t line = first; line <= last; ++line) {
      const uint32_t previous = writers_[line], mask = LineMask(line, offset, bytes);
      if (access.known[previous & 7] >= (previous >> 3)) {
        older_writers_[line] = previous;  // still the last to have written the line's other bytes
        written_masks_[line] = mask;
      } else {
        CheckWriteAfterWrite(access, line, mask);
        written_masks_[line] |= mask;
      }
      writers_[line] = writer;
    }
    std::memset(written_.data() + offset, 1, bytes);
    return data_.data() + offset;
  }

  // The bytes hold nothing that may be read.
  void Forget(uint32_t offset, uint32_t bytes) { std::memset(written_.data() + offset, 0, bytes); }

  // For the next block: poisons what was touched.
  void Reset() {
    const uint32_t lines = (touched_ + kLineBytes - 1) / kLineBytes;
    std::memset(data_.data(), kPoison, touched_);
    std::memset(written_.data(), 0, touched_);
    for (auto* by_line : {&writers_, &written_masks_, &older_writers_}) std::fill_n(by_line->begin(), lines, 0);
    for (auto& readers : readers_) std::fill_n(readers.begin(), lines, 0);
    readers_used_ = 0;
    touched_ = 0;
  }

 private:
  static constexpr uint8_t kPoison = 0xFF;  // NaN in every floating type

  static uint32_t LineMask(uint32_t line, uint32_t offset, uint32_t bytes) {
    const uint32_t begin = line * kLineBytes, from = std::max(begin, offset) - begin;
    const uint32_t to = std::min(begin + kLineBytes, offset + bytes) - begin;
    return (to - from == kLineBytes) ? ~0u : ((1u << (to - from)) - 1) << from;
  }

  void CheckRange(uint32_t offset, uint32_t bytes) {
    if (bytes == 0 || uint64_t{offset} + bytes > capacity()) {
      Refuse("bytes [", offset, ", ", uint64_t{offset} + bytes, ") of ", name_, ", which has ", capacity());
    }
    touched_ = std::max(touched_, offset + bytes);
  }

  void CheckWritten(uint32_t offset, uint32_t bytes) const {
    const void* gap = std::memchr(written_.data() + offset, 0, bytes);
    if (gap == nullptr) return;
    Refuse("reads byte ", static_cast<const uint8_t*>(gap) - written_.data(), " of ", name_,
           ", which was never written in this block");
  }

  static bool Tolerated(const Access& access, int other) {
    if (!access.tolerates_scalar) return false;
    return (access.pipe == kPipeV && other == kPipeV) || access.pipe == kPipeS || other == kPipeS;
  }

  [[noreturn]] void RefuseHazard(const Access& access, const char* does, const char* did, int other, uint32_t line) {
    const std::string needed = access.pipe == other
                                   ? std::string("PipeBarrier<PIPE_") + PipeName(other) + ">"
                                   : std::string("a flag ") + PipeName(other) + "_" + PipeName(access.pipe);
    Refuse("pipe ", PipeName(access.pipe), " ", does, " bytes [", line * kLineBytes, ", ", (line + 1) * kLineBytes,
           ") of ", name_, " that pipe ", PipeName(other), " ", did, " before, without ", needed, " between them");
  }

  [[gnu::noinline]] void CheckReadAfterWrite(const Access& access, uint32_t line, uint32_t mask) {
    const uint32_t writer = writers_[line];
    const bool own = writer == ((access.sequence << 3) | access.pipe);
    if (own || Tolerated(access, writer & 7)) return;
    const bool apart = (written_masks_[line] & mask) == 0;
    if (!apart) RefuseHazard(access, "reads", "wrote", writer & 7, line);
    const uint32_t older = older_writers_[line];
    if (access.known[older & 7] >= (older >> 3) || Tolerated(access, older & 7)) return;
    RefuseHazard(access, "reads", "wrote", older & 7, line);
  }

  void CheckWriteAfterWrite(const Access& access, uint32_t line, uint32_t mask) {
    const uint32_t writer = writers_[line];
    const bool own = writer == ((access.sequence << 3) | access.pipe);
    // Two instructions of one pipe may fill different bytes of a line.
    const bool apart = (writer & 7) == access.pipe && (written_masks_[line] & mask) == 0;
    if (own || apart || Tolerated(access, writer & 7)) return;
    RefuseHazard(access, "writes", "wrote", writer & 7, line);
  }

  void CheckWriteAfterRead(const Access& access, uint32_t first, uint32_t last) {
    for (int pipe = 0; pipe < kNumPipes; ++pipe) {
      if (!(readers_used_ & (1u << pipe))) continue;
      const Sequence known = access.known[pipe];
      const Sequence own = pipe == access.pipe ? access.sequence : 0;
      const Sequence* readers = readers_[pipe].data();
      bool unfinished = false;
      for (uint32_t line = first; line <= last; ++line) unfinished |= readers[line] > known && readers[line] != own;
      if (!unfinished || Tolerated(access, pipe)) continue;
      uint32_t line = first;
      while (readers[line] <= known || readers[line] == own) ++line;
      RefuseHazard(access, "writes", "read", pipe, line);
    }
  }

  const char* name_;
  std::vector<uint8_t> data_;
  std::vector<uint8_t> written_;         // 1 for each byte that holds a value
  std::vector<uint32_t> writers_;        // by line: sequence << 3 | pipe of the last write
  std::vector<uint32_t> written_masks_;  // by line: the bytes of that write
  std::vector<uint32_t> older_writers_;  // by line: who wrote the other bytes
  std::vector<Sequence> readers_[kNumPipes];
  uint32_t readers_used_ = 0;
  uint32_t touched_ = 0;
};

}  // namespace ascendc_emulator
