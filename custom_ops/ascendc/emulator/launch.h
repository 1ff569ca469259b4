// Runs a kernel on every core of a launch, and reports what it did.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core.h"
#include "cross_core_flags.h"
#include "fiber.h"

namespace ascendc_emulator {

enum class KernelType { kAivOnly, kMixAiv10, kAicOnly, kMixAic12 };

inline const char* KernelTypeName(KernelType type) {
  static const char* const names[] = {"KERNEL_TYPE_AIV_ONLY", "KERNEL_TYPE_MIX_AIV_1_0", "KERNEL_TYPE_AIC_ONLY",
                                      "KERNEL_TYPE_MIX_AIC_1_2"};
  return names[static_cast<int>(type)];
}

struct LaunchOptions {
  // false: takes for granted what the compiler's auto-sync would add, V after V and the scalar unit's flags.
  bool strict = true;
  // What TILING_KEY_IS compares with.
  uint64_t tiling_key = 0;
};

inline std::string NameOf(const Core& core);  // "block 3 AIV1"

// What finished cores leave to the next, on this thread: clean memories by core type, and stacks.
struct IdleParts {
  std::vector<std::unique_ptr<Memories>> memories[2];
  std::vector<std::unique_ptr<FiberStack>> stacks;

  static IdleParts& OfThread() {
    static thread_local IdleParts parts;
    return parts;
  }
};

// The running launch: its cores, its buffers, and who waits for what.
class Launching {
 public:
  Launching(KernelType type, int num_blocks, const std::vector<GmBuffer>& buffers,
            const std::function<void()>& kernel, const LaunchOptions& options)
      : type_(type), num_blocks_(num_blocks), kernel_(kernel), options_(options) {
    if (num_blocks <= 0) Refuse("the launch has ", num_blocks, " blocks, it must have at least 1");
    for (const GmBuffer& buffer : buffers) regions_.emplace_back(new GmRegion(buffer));
    for (int block = 0; block < num_blocks; ++block) {
      if (type == KernelType::kAicOnly || type == KernelType::kMixAic12) AddCore(CoreType::kAic, block, 0);
      for (int sub = 0; sub < AivsOfBlock(); ++sub) AddCore(CoreType::kAiv, block, sub);
    }
  }

  KernelType type() const { return type_; }
  int num_blocks() const { return num_blocks_; }
  int num_cores() const { return static_cast<int>(cores_.size()); }
  bool strict() const { return options_.strict; }
  uint64_t tiling_key() const { return options_.tiling_key; }
  Core& core(int index) { return *cores_[index]; }
  int AivsOfBlock() const { return type_ == KernelType::kAicOnly ? 0 : type_ == KernelType::kMixAic12 ? 2 : 1; }

  // Only these kernel types switch on the scheduler that SyncAll and cross-core flags need.
  bool HasScheduler() const { return type_ == KernelType::kMixAiv10 || type_ == KernelType::kMixAic12; }

  // The buffer that holds `address`, or null.
  GmRegion* Find(const void* address) {
    if (last_region_ != nullptr && last_region_->Holds(address)) return last_region_;
    for (auto& region : regions_) {
      if (region->Holds(address)) return last_region_ = region.get();
    }
    return nullptr;
  }

  // Blocks the running core until `ready` holds. `what` says what it waits for.
  void WaitUntil(const std::string& what, const std::function<bool()>& ready) {
    Runner& runner = *running_;
    while (!ready()) {
      runner.waits_for = what;
      runner.ready = ready;
      runner.fiber->Suspend();
      if (stopping_) throw Stopped();
    }
    runner.ready = nullptr;
  }

  CrossCoreFlags& cross_core_flags() {
    if (!cross_core_flags_) cross_core_flags_.reset(new CrossCoreFlags(CoreNames()));
    return *cross_core_flags_;
  }

  // All cores of a type, or of both, meet here: afterwards each knows all that any of them had done.
  void Meet(bool only_aiv, Core* self);

  Report Run() {
    while (!AllFinished()) {
      if (!RunOnce()) RefuseDeadlock();
    }
    if (failure_) std::rethrow_exception(failure_);
    if (cross_core_flags_) cross_core_flags_->CheckEnd();
    return MakeReport();
  }

  ~Launching() { StopAll(); }

 private:
  struct Stopped {};  // unwinds the stacks of the cores that did not fail

  struct Runner {
    std::unique_ptr<Fiber> fiber;
    bool finished = false;
    std::string waits_for;
    std::function<bool()> ready;
  };

  void AddCore(CoreType type, int block, int sub_block) {
    cores_.emplace_back(new Core(this, type, num_cores(), block, sub_block));
    runners_.emplace_back();
  }

  bool AllFinished() const {
    if (failure_) return true;
    for (const Runner& runner : runners_) {
      if (!runner.finished) return false;
    }
    return true;
  }

  // Runs every core that can run, in order; false if none could.
  bool RunOnce() {
    bool ran = false;
    for (size_t i = 0; i < runners_.size() && !failure_; ++i) {
      Runner& runner = runners_[i];
      if (runner.finished || (runner.ready && !runner.ready())) continue;
      Step(i);
      ran = true;
    }
    return ran;
  }

  void Step(size_t index);
  void Body(Core* core);
  void Finish(size_t index);
  void StopAll();
  void CheckEnd(Core* core);

  [[noreturn]] void RefuseDeadlock() {
    for (size_t i = 0; i < runners_.size(); ++i) {
      if (!runners_[i].finished) {
        Refuse("deadlock: ", NameOf(*cores_[i]), " waits for ", runners_[i].waits_for,
               ", and no core can run any more");
      }
    }
    Refuse("deadlock");
  }

  std::vector<std::string> CoreNames() const {
    std::vector<std::string> names;
    for (auto& core : cores_) names.push_back(NameOf(*core));
    return names;
  }

  Report MakeReport() {
    Report report;
    report.num_cores = num_cores();
    for (auto& region : regions_) report.buffers.push_back(region->traffic());
    for (auto& core : cores_) {
      CombineCounters(&report.total, core->counters(), [](uint64_t a, uint64_t b) { return a + b; });
      Counters* slowest = core->type() == CoreType::kAiv ? &report.slowest_aiv : &report.slowest_aic;
      CombineCounters(slowest, core->counters(), [](uint64_t a, uint64_t b) { return std::max(a, b); });
    }
    return report;
  }

  KernelType type_;
  int num_blocks_;
  std::function<void()> kernel_;
  LaunchOptions options_;
  std::vector<std::unique_ptr<GmRegion>> regions_;
  GmRegion* last_region_ = nullptr;
  std::vector<std::unique_ptr<Core>> cores_;
  std::deque<Runner> runners_;
  std::unique_ptr<CrossCoreFlags> cross_core_flags_;
  Runner* running_ = nullptr;
  bool stopping_ = false;
  std::exception_ptr failure_;

  struct Meeting {
    int arrived = 0;
    uint64_t round = 0;
    SharedClocks joined;
    std::shared_ptr<CoreClocks> gathering;
  };
  Meeting meetings_[2];
};

// The core whose kernel runs on this thread right now.
inline thread_local Core* current_core = nullptr;

inline Core& CurrentCore() {
  if (current_core == nullptr) throw Refusal("an Ascend C call outside of a launch");
  return *current_core;
}

inline std::string NameOf(const Core& core) {
  std::string text = "block " + std::to_string(core.block()) + (core.type() == CoreType::kAiv ? " AIV" : " AIC");
  if (core.launch().AivsOfBlock() == 2 && core.type() == CoreType::kAiv) text += std::to_string(core.sub_block());
  return text;
}

inline std::string CoreName(int core) { return NameOf(CurrentCore().launch().core(core)); }

inline std::string WhereText() {
  if (current_core == nullptr) return "";
  const std::string api = current_core->api();
  return NameOf(*current_core) + ", " + (api.empty() ? "" : api + ": ");
}

// Marks the API call for messages and issues its instruction.
class Instruction {
 public:
  Instruction(Pipe pipe, const char* api) : core_(CurrentCore()) {
    core_.set_api(api);
    core_.Issue(pipe, core_.launch().strict());
  }
  Core* operator->() const { return &core_; }
  Core& core() const { return core_; }

 private:
  Core& core_;
};

inline void Launching::Meet(bool only_aiv, Core* self) {
  Meeting& meeting = meetings_[only_aiv];
  int expected = 0;
  for (auto& core : cores_) expected += !only_aiv || core->type() == CoreType::kAiv;
  if (!meeting.gathering) meeting.gathering = std::make_shared<CoreClocks>(cores_.size(), Clock{});
  const Knowledge mine = self->Snapshot(kPipeS);
  JoinClock(&(*meeting.gathering)[self->index()], mine.local);
  if (mine.others) {
    for (size_t core = 0; core < cores_.size(); ++core) JoinClock(&(*meeting.gathering)[core], (*mine.others)[core]);
  }
  const uint64_t round = meeting.round;
  if (++meeting.arrived == expected) {
    meeting.joined = std::move(meeting.gathering);
    meeting.gathering.reset();
    meeting.arrived = 0;
    ++meeting.round;
  }
  WaitUntil("the other cores at SyncAll", [&meeting, round] { return meeting.round > round; });
  self->Join(kPipeS, {(*meeting.joined)[self->index()], meeting.joined});
}

inline void Launching::Step(size_t index) {
  Core* core = cores_[index].get();
  Runner& runner = runners_[index];
  if (!runner.fiber) {
    auto& memories = IdleParts::OfThread().memories[static_cast<int>(core->type())];
    auto& stacks = IdleParts::OfThread().stacks;
    if (memories.empty()) memories.emplace_back(new Memories(core->type()));
    core->set_memories(std::move(memories.back()));
    memories.pop_back();
    if (stacks.empty()) stacks.emplace_back(new FiberStack());
    runner.fiber.reset(new Fiber(std::move(stacks.back()), [this, core] { Body(core); }));
    stacks.pop_back();
  }
  running_ = &runner;
  current_core = core;
  runner.fiber->Resume();
  current_core = nullptr;
  if (runner.fiber->finished()) Finish(index);
}

inline void Launching::Body(Core* core) {
  try {
    kernel_();
    CheckEnd(core);
  } catch (const Stopped&) {
  } catch (...) {
    if (!failure_) failure_ = std::current_exception();
  }
}

inline void Launching::Finish(size_t index) {
  Runner& runner = runners_[index];
  Core& core = *cores_[index];
  runner.finished = true;
  runner.ready = nullptr;
  IdleParts::OfThread().stacks.push_back(runner.fiber->TakeStack());
  runner.fiber.reset();
  auto memories = core.TakeMemories();
  Counters& counters = core.counters();
  const std::pair<MemoryId, uint64_t*> peaks[] = {{kUb, &counters.peak_ub},
                                                  {kL1, &counters.peak_l1},
                                                  {kL0A, &counters.peak_l0a},
                                                  {kL0B, &counters.peak_l0b},
                                                  {kL0C, &counters.peak_l0c}};
  for (const auto& [id, peak] : peaks) {
    if (memories->Get(id) != nullptr) *peak = memories->Get(id)->touched();
  }
  memories->Reset();
  IdleParts::OfThread().memories[static_cast<int>(core.type())].push_back(std::move(memories));
}

inline void Launching::StopAll() {
  stopping_ = true;
  for (size_t i = 0; i < runners_.size(); ++i) {
    if (runners_[i].fiber && !runners_[i].finished) Step(i);
  }
}

// Throws a Refusal if the kernel breaks a rule of the chip. Reentrant: one launch a thread at a time.
inline Report Launch(KernelType type, int num_blocks, const std::vector<GmBuffer>& buffers,
                     const std::function<void()>& kernel, const LaunchOptions& options = {}) {
  Launching launch(type, num_blocks, buffers, kernel, options);
  return launch.Run();
}

}  // namespace ascendc_emulator
