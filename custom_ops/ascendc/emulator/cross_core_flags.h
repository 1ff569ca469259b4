// The counters behind CrossCoreSetFlag and CrossCoreWaitFlag: 16 on each core. The chip's scheduler collects the sets
// of a group of cores, and when all of the group have set a flag it adds one to its counter on the cores that wait.
//
//   mode 0  all AICs -> all AICs, or all AIVs -> all AIVs
//   mode 1  the AIVs of a block -> the same AIVs
//   mode 2  the AIC of a block -> its AIVs, or its AIVs -> the AIC
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "clocks.h"
#include "refusal.h"

namespace ascendc_emulator {

constexpr int kCrossCoreFlags = 16;
constexpr size_t kMaxCrossCoreCount = 15;

class CrossCoreFlags {
 public:
  explicit CrossCoreFlags(std::vector<std::string> core_names)
      : names_(std::move(core_names)), cores_(names_.size()) {}

  // Core `from` sets `flag` in `mode`; `group` are the cores whose sets belong together, `waiters` those that are told.
  void Set(int from, int flag, int mode, const Knowledge& snapshot, const std::vector<int>& group,
           const std::vector<int>& waiters) {
    CheckMode(&cores_[from][flag], flag, mode);
    for (int waiter : waiters) CheckMode(&cores_[waiter][flag], flag, mode);
    cores_[from][flag].pending.push_back(snapshot);
    for (int core : group) {
      if (cores_[core][flag].pending.empty()) return;
    }
    const SharedClocks clocks = Collect(flag, group);
    for (int waiter : waiters) {
      auto& arrived = cores_[waiter][flag].arrived;
      if (arrived.size() == kMaxCrossCoreCount) {
        Refuse("the counter of flag ", flag, " of ", names_[waiter], " passes ", kMaxCrossCoreCount,
               ": it was set so often without CrossCoreWaitFlag");
      }
      arrived.push_back(clocks);
    }
  }

  bool IsReady(int core, int flag) const { return !cores_[core][flag].arrived.empty(); }

  // What the sets behind the oldest count of the flag knew, by core. Takes the count away.
  SharedClocks Take(int core, int flag) {
    auto& arrived = cores_[core][flag].arrived;
    const SharedClocks clocks = arrived.front();
    arrived.pop_front();
    return clocks;
  }

  // At the end of a launch: a count that nobody took would be there when the next kernel starts.
  void CheckEnd() const {
    for (size_t core = 0; core < cores_.size(); ++core) {
      for (int flag = 0; flag < kCrossCoreFlags; ++flag) {
        const State& state = cores_[core][flag];
        if (!state.arrived.empty()) {
          Refuse("the kernel ends while flag ", flag, " of ", names_[core], " still counts ", state.arrived.size(),
                 ": it was set more often than CrossCoreWaitFlag was called");
        }
        if (!state.pending.empty()) {
          Refuse("the kernel ends while flag ", flag, ", set by ", names_[core],
                 ", was not set by the other cores of its group as often");
        }
      }
    }
  }

 private:
  struct State {
    int mode = -1;                     // of the sets and counts below
    std::deque<Knowledge> pending;     // sets of this core that wait for the rest of the group
    std::deque<SharedClocks> arrived;  // the counter: one entry for each count
  };
  struct Flags {
    State states[kCrossCoreFlags];
    State& operator[](int flag) { return states[flag]; }
    const State& operator[](int flag) const { return states[flag]; }
  };

  static void CheckMode(State* state, int flag, int mode) {
    if (state->mode != mode && (!state->pending.empty() || !state->arrived.empty())) {
      Refuse("flag ", flag, " is set in mode ", mode, " while a set in mode ", state->mode,
             " has not been waited for");
    }
    state->mode = mode;
  }

  SharedClocks Collect(int flag, const std::vector<int>& group) {
    auto clocks = std::make_shared<CoreClocks>(cores_.size(), Clock{});
    for (int core : group) {
      auto& pending = cores_[core][flag].pending;
      const Knowledge& snapshot = pending.front();
      JoinClock(&(*clocks)[core], snapshot.local);
      for (size_t i = 0; snapshot.others && i < cores_.size(); ++i) JoinClock(&(*clocks)[i], (*snapshot.others)[i]);
      pending.pop_front();
    }
    return clocks;
  }

  std::vector<std::string> names_;
  std::vector<Flags> cores_;
};

}  // namespace ascendc_emulator
