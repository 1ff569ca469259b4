// One emulated core: its memories, its pipes' instruction counters and knowledge, its flags, and what it counts.
//
// Every API call becomes one instruction: `Instruction instruction(kPipeV, "Add")`, then Read and Write on local
// memories and on global memory. These check and record; only when all of them have passed is data touched.
#pragma once

#include <bitset>
#include <deque>
#include <exception>
#include <functional>
#include <string>
#include <unordered_map>

#include "global_memory.h"
#include "local_memory.h"
#include "report.h"

namespace ascendc_emulator {

class Launching;

enum class CoreType { kAiv, kAic };
enum MemoryId : uint8_t { kUb, kL1, kL0A, kL0B, kL0C, kBias, kFixpipe, kNumMemories };

// The chip gives the last 256 bytes of UB and L1 to the runtime.
constexpr uint32_t kMemoryBytes[kNumMemories] = {192 * 1024 - 256, 512 * 1024 - 256, 64 * 1024, 64 * 1024,
                                                 128 * 1024,       1024,             2048};

inline const char* MemoryName(int memory) {
  static const char* const names[] = {"UB", "L1", "L0A", "L0B", "L0C", "BIAS", "FIXBUF"};
  return names[memory];
}

// The memories of one core; finished cores hand them to the next.
class Memories {
 public:
  explicit Memories(CoreType type) {
    for (int id = 0; id < kNumMemories; ++id) {
      const bool has = (type == CoreType::kAiv) == (id == kUb);
      if (has) memories_[id].reset(new LocalMemory(MemoryName(id), kMemoryBytes[id]));
    }
  }

  LocalMemory* Get(MemoryId id) const { return memories_[id].get(); }

  void Reset() {
    for (auto& memory : memories_) {
      if (memory) memory->Reset();
    }
  }

 private:
  std::unique_ptr<LocalMemory> memories_[kNumMemories];
};

// One buffer that TPipe::InitBuffer cut out of a memory, with the state that a queue keeps of it.
struct LocalBuffer {
  enum State : uint8_t { kFree, kAllocated, kEnqueued, kDequeued };
  MemoryId memory;
  uint32_t offset;
  uint32_t bytes;
  const char* position;
  State state = kFree;
  uint32_t generation = 0;  // of its current allocation; an older tensor is one used after FreeTensor
  int enqueue_event_id = -1;
  int free_event = -1;  // FreeTensor set its flag with free_event_id, AllocTensor has still to take it
  int free_event_id = -1;
};

constexpr int kEventIds = 8;
constexpr int kMaxEvents = 40;

struct Flag {
  bool set = false;
  Knowledge snapshot;
};

class Core {
 public:
  Core(Launching* launch, CoreType type, int index, int block, int sub_block)
      : launch_(launch), type_(type), index_(index), block_(block), sub_block_(sub_block) {}

  Launching& launch() const { return *launch_; }
  CoreType type() const { return type_; }
  int index() const { return index_; }
  int block() const { return block_; }
  int sub_block() const { return sub_block_; }
  const char* api() const { return api_; }
  void set_api(const char* api) { api_ = api; }
  Counters& counters() { return counters_; }

  void set_memories(std::unique_ptr<Memories> memories) { memories_ = std::move(memories); }
  std::unique_ptr<Memories> TakeMemories() { return std::move(memories_); }

  LocalMemory& Memory(MemoryId id) {
    LocalMemory* memory = memories_->Get(id);
    if (memory == nullptr) Refuse("uses ", MemoryName(id), ", which this core does not have");
    return *memory;
  }

  // ---- instructions

  // Issues an instruction. The scalar unit issues for all pipes, so whatever it waited for has finished by now.
  void Issue(Pipe pipe, bool strict) {
    running_ = pipe;
    ++issued_[pipe];
    if (issued_[pipe] >= 1u << 29) Refuse("more than 2^29 instructions of pipe ", PipeName(pipe));
    LearnFromScalar(pipe);
    access_ = {pipe, issued_[pipe], knowledge_[pipe].local, !strict};
    if (pipe == kPipeS) access_.known[kPipeS] = ~0u;  // scalar follows scalar
  }

  const uint8_t* Read(MemoryId memory, uint32_t offset, uint32_t bytes) {
    return Memory(memory).Read(access_, offset, bytes);
  }

  const uint8_t* ReadPadded(MemoryId memory, uint32_t offset, uint32_t bytes) {
    return Memory(memory).ReadPadded(access_, offset, bytes);
  }

  // The chip itself orders the running instruction after all that `pipe` was given.
  void FollowsByHardware(Pipe pipe) { access_.known[pipe] = ~0u; }

  uint8_t* Write(MemoryId memory, uint32_t offset, uint32_t bytes) {
    return Memory(memory).Write(access_, offset, bytes);
  }

  const uint8_t* ReadGm(GmRegion* region, const void* address, uint64_t bytes) {
    return region->Read(GmAccessOf(region, address), address, bytes);
  }

  uint8_t* WriteGm(GmRegion* region, const void* address, uint64_t bytes) {
    uint8_t* data = region->Write(GmAccessOf(region, address), address, bytes);
    if (running_ == kPipeS) dirty_.push_back({region, static_cast<uint8_t*>(data), bytes});
    return data;
  }

  Sequence issued(Pipe pipe) const { return issued_[pipe]; }

  // ---- synchronisation

  // What is finished once everything that `pipe` was given so far has finished.
  Knowledge Snapshot(Pipe pipe) {
    LearnFromScalar(pipe);
    Knowledge snapshot = knowledge_[pipe];
    snapshot.local[pipe] = issued_[pipe];
    return snapshot;
  }

  // Later instructions of `pipe` start after what `snapshot` says, a snapshot of this core.
  void Join(Pipe pipe, const Knowledge& snapshot) {
    knowledge_[pipe].Join(snapshot);
    if (pipe == kPipeS) ++scalar_version_;
  }

  void Barrier(Pipe pipe) { knowledge_[pipe].local[pipe] = issued_[pipe]; }

  void BarrierAll() {
    Knowledge all;
    for (int pipe = 0; pipe < kNumPipes; ++pipe) {
      all.local[pipe] = issued_[pipe];
      all.others = JoinClocks(all.others, knowledge_[pipe].others);
    }
    Join(kPipeS, all);
    for (int pipe = 0; pipe < kNumPipes; ++pipe) LearnFromScalar(static_cast<Pipe>(pipe));
  }

  // ---- the data cache of the scalar unit

  // Writes the whole cache back and forgets it.
  void CleanCache() {
    for (const Dirty& dirty : dirty_) dirty.region->CleanLines(index_, issued_[kPipeS], dirty.address, dirty.bytes);
    dirty_.clear();
    cleaned_ = Snapshot(kPipeS);
    cleaned_lines_.clear();
    has_cleaned_ = true;
  }

  // Same for the bytes from `address` to the end of its cache line, as the chip does.
  void CleanCacheLine(const void* address) {
    const auto* begin = static_cast<const uint8_t*>(address);
    const auto* end = begin + kCacheLineBytes - reinterpret_cast<uintptr_t>(begin) % kCacheLineBytes;
    std::vector<Dirty> left;
    for (const Dirty& dirty : dirty_) {
      if (dirty.address >= begin && dirty.address + dirty.bytes <= end) {
        dirty.region->CleanLines(index_, issued_[kPipeS], dirty.address, dirty.bytes);
      } else {
        left.push_back(dirty);
      }
    }
    dirty_ = std::move(left);
    cleaned_lines_[CacheLineOf(address)] = {begin, Snapshot(kPipeS)};
  }

  bool has_dirty_cache() const { return !dirty_.empty(); }

  // ---- flags and buffers; flags.h and queue.h hold their rules

  Flag flags[kMaxEvents][kEventIds];
  uint8_t event_ids[kMaxEvents] = {};   // occupied ones, a bit each
  std::deque<LocalBuffer> buffers;      // addresses stay
  uint32_t pool_end[kNumMemories] = {};  // how far TPipe has handed each memory out
  void* pipe_object = nullptr;           // the living TPipe
  std::exception_ptr late_failure;       // what a destructor found and cannot throw
  std::bitset<kMemoryBytes[kL0C] / 512> unit_flags;  // by 512 bytes of L0C: Mmad has handed them to Fixpipe
  uint64_t vector_mask[2] = {~uint64_t{0}, ~uint64_t{0}};  // low, high
  bool mask_counts = false;                                // SetMaskCount

 private:
  static constexpr uint64_t kCacheLineBytes = 64;

  struct CleanedLine {
    const void* from;
    Knowledge known;
  };

  struct Dirty {
    GmRegion* region;
    const uint8_t* address;
    uint64_t bytes;
  };

  static uint64_t CacheLineOf(const void* address) { return reinterpret_cast<uintptr_t>(address) / kCacheLineBytes; }

  void LearnFromScalar(Pipe pipe) {
    if (learned_version_[pipe] == scalar_version_) return;
    learned_version_[pipe] = scalar_version_;
    if (pipe != kPipeS) knowledge_[pipe].Join(knowledge_[kPipeS]);
  }

  GmAccess GmAccessOf(const GmRegion* region, const void* address) const {
    GmAccess access{index_, running_, access_.sequence, &access_.known, knowledge_[running_].others.get(), nullptr,
                    nullptr};
    if (running_ != kPipeS || region == nullptr) return access;
    auto line = cleaned_lines_.find(CacheLineOf(address));
    const bool line_cleaned = line != cleaned_lines_.end() && address >= line->second.from;
    const Knowledge* cleaned = line_cleaned ? &line->second.known : has_cleaned_ ? &cleaned_ : nullptr;
    if (cleaned != nullptr) {
      access.cleaned_own = &cleaned->local;
      access.cleaned_others = cleaned->others.get();
    }
    return access;
  }

  Launching* launch_;
  CoreType type_;
  int index_, block_, sub_block_;
  const char* api_ = "";
  std::unique_ptr<Memories> memories_;
  Counters counters_;

  Clock issued_{};
  Knowledge knowledge_[kNumPipes];
  uint32_t scalar_version_ = 0;  // how often the scalar unit learned something
  uint32_t learned_version_[kNumPipes] = {};
  Pipe running_ = kPipeS;
  Access access_{};

  Knowledge cleaned_;
  bool has_cleaned_ = false;
  std::unordered_map<uint64_t, CleanedLine> cleaned_lines_;
  std::vector<Dirty> dirty_;
};

}  // namespace ascendc_emulator
