// The counters behind CrossCoreSetFlag and CrossCoreWaitFlag, 16 flags on each core.
//
//   mode 0  all AICs -> all AICs, or all AIVs -> all AIVs
//   mode 1  the AIVs of a block -> the same AIVs
//   mode 2  the AIC of a block -> its AIVs, or its AIVs -> the AIC
//
// In modes 0 and 1 the chip's scheduler collects the sets of a group of cores, and when all of the group have set a flag
// it adds one to its counter on each of them. In mode 2 nothing is collected: a core that waits has a semaphore for each
// core that sets, one for each AIV on the AIC, and a wait takes one from every one of them. So an AIV that runs ahead of
// the other fills its own.
#pragma once

#include <deque>
#include <map>
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
    CheckMode(from, flag, mode);
    for (int waiter : waiters) CheckMode(waiter, flag, mode);
    if (mode == 2) return Post(from, flag, snapshot, group, waiters);
    cores_[from][flag].pending.push_back(snapshot);
    for (int core : group) {
      if (cores_[core][flag].pending.empty()) return;
    }
    std::vector<Knowledge> sets;
    for (int core : group) sets.push_back(TakeFirst(&cores_[core][flag].pending));
    const SharedClocks clocks = Collect(group, sets);
    for (int waiter : waiters) {
      auto& arrived = cores_[waiter][flag].arrived;
      if (arrived.size() == kMaxCrossCoreCount) RefuseCount(flag, names_[waiter]);
      arrived.push_back(clocks);
    }
  }

  bool IsReady(int core, int flag) const {
    const State& state = cores_[core][flag];
    if (!state.arrived.empty()) return true;
    for (const auto& semaphore : state.semaphores) {
      if (semaphore.second.empty()) return false;
    }
    return !state.semaphores.empty();
  }

  // What the sets behind the oldest count of the flag knew, by core. Takes the count away.
  SharedClocks Take(int core, int flag) {
    State& state = cores_[core][flag];
    if (!state.arrived.empty()) return TakeFirst(&state.arrived);
    std::vector<int> setters;
    std::vector<Knowledge> sets;
    for (auto& semaphore : state.semaphores) {
      setters.push_back(semaphore.first);
      sets.push_back(TakeFirst(&semaphore.second));
    }
    return Collect(setters, sets);
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
        for (const auto& semaphore : state.semaphores) {
          if (semaphore.second.empty()) continue;
          Refuse("the kernel ends while flag ", flag, " of ", names_[core], " still counts ", semaphore.second.size(),
                 " of ", names_[semaphore.first], ": it was set more often than CrossCoreWaitFlag was called");
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
    std::deque<Knowledge> pending;     // modes 0 and 1: sets of this core that wait for the rest of the group
    std::deque<SharedClocks> arrived;  // modes 0 and 1: the counter, one entry for each count
    std::map<int, std::deque<Knowledge>> semaphores;  // mode 2: counts of each core that sets this core's flag
  };
  struct Flags {
    State states[kCrossCoreFlags];
    State& operator[](int flag) { return states[flag]; }
    const State& operator[](int flag) const { return states[flag]; }
  };

  template <typename Entry>
  static Entry TakeFirst(std::deque<Entry>* entries) {
    const Entry first = entries->front();
    entries->pop_front();
    return first;
  }

  [[noreturn]] static void RefuseCount(int flag, const std::string& counter) {
    Refuse("the counter of flag ", flag, " of ", counter, " passes ", kMaxCrossCoreCount,
           ": it was set so often without CrossCoreWaitFlag");
  }

  // A set in mode 2, of one of the cores in `group`.
  void Post(int from, int flag, const Knowledge& snapshot, const std::vector<int>& group,
            const std::vector<int>& waiters) {
    for (int waiter : waiters) {
      auto& semaphores = cores_[waiter][flag].semaphores;
      for (int setter : group) semaphores[setter];  // a wait needs all of them
      if (semaphores[from].size() == kMaxCrossCoreCount) RefuseCount(flag, names_[waiter] + " for " + names_[from]);
      semaphores[from].push_back(snapshot);
    }
  }

  void CheckMode(int core, int flag, int mode) {
    State& state = cores_[core][flag];
    if (state.mode != mode && HasCounts(core, flag)) {
      Refuse("flag ", flag, " is set in mode ", mode, " while a set in mode ", state.mode,
             " has not been waited for");
    }
    state.mode = mode;
  }

  // Whether the core has set the flag, or was told of it, and somebody has still to wait.
  bool HasCounts(int core, int flag) const {
    const State& state = cores_[core][flag];
    if (!state.pending.empty() || !state.arrived.empty()) return true;
    for (const auto& semaphore : state.semaphores) {
      if (!semaphore.second.empty()) return true;
    }
    for (const Flags& other : cores_) {
      const auto found = other[flag].semaphores.find(core);
      if (found != other[flag].semaphores.end() && !found->second.empty()) return true;
    }
    return false;
  }

  // What the sets of these cores knew together, by core.
  SharedClocks Collect(const std::vector<int>& setters, const std::vector<Knowledge>& sets) const {
    auto clocks = std::make_shared<CoreClocks>(cores_.size(), Clock{});
    for (size_t each = 0; each < setters.size(); ++each) {
      JoinClock(&(*clocks)[setters[each]], sets[each].local);
      const SharedClocks& others = sets[each].others;
      for (size_t i = 0; others && i < cores_.size(); ++i) JoinClock(&(*clocks)[i], (*others)[i]);
    }
    return clocks;
  }

  std::vector<std::string> names_;
  std::vector<Flags> cores_;
};

}  // namespace ascendc_emulator
