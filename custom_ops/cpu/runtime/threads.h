// Threads that share the chunks of one loop.
//
// Why not OpenMP: MindSpore calls ops from several threads of its own, and OpenMP keeps a team for each of them, which
// then wait for work side by side, on the cores that another team needs. And its loops end when every thread of the
// team has come by: on a busy machine a step waits hundreds of times for a thread that is not running at all. Here all
// callers share one team, a chunk goes to whoever asks first, and a loop ends when its chunks are done: a thread that
// comes late is not waited for.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>

namespace paged_ops {

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

class Threads {
 public:
  // One team a process; its threads end with it. A forked child has none of them, but what they waited for: it makes
  // a team of its own.
  static Threads& Get() {
    Threads* const team = team_.load(std::memory_order_acquire);
    return team ? *team : Make();
  }

  // Threads that work, the caller of a loop among them: $OMP_NUM_THREADS if it is set, else the cores that this
  // process may use.
  int size() const { return size_; }

  // Threads that there are: more than size() after it was made smaller.
  int capacity() const { return capacity_; }

  // Not while an op runs: it may have counted the threads.
  void Resize(int size) {
    std::lock_guard<std::mutex> loop(loop_);
    size_ = std::max(1, size);
    for (; capacity_ < size_; ++capacity_) std::thread(&Threads::Work, this, capacity_.load()).detach();
  }

  // body(chunk, thread) for each chunk in [0, count), thread in [0, capacity()); returns when all are done. No chunk may
  // throw. Where another thread runs a loop just now, and with `alone`, the caller does everything itself.
  template <typename Body>
  void For(int64_t count, bool alone, Body&& body) {
    std::unique_lock<std::mutex> loop(loop_, std::defer_lock);
    if (alone || count <= 1 || size_ == 1 || !loop.try_lock()) {
      for (int64_t chunk = 0; chunk < count; ++chunk) body(chunk, 0);
      return;
    }
    using Called = std::remove_reference_t<Body>;
    call_ = [](void* context, int64_t chunk, int thread) { (*static_cast<Called*>(context))(chunk, thread); };
    context_ = const_cast<void*>(static_cast<const void*>(&body));
    count_ = count;
    unfinished_.store(count, std::memory_order_relaxed);
    // Generation and chunks left in one word: a worker takes a chunk of the loop that it saw, or none.
    const uint64_t generation = (left_.load(std::memory_order_relaxed) >> 32) + 1;
    left_.store(generation << 32 | static_cast<uint64_t>(count));
    if (sleeping_.load() > 0) {
      std::lock_guard<std::mutex> lock(sleep_);
      wake_.notify_all();
    }
    TakeChunks(0);
    while (unfinished_.load(std::memory_order_acquire) > 0) Pause();
  }

 private:
  Threads() { Resize(SizeAtStart()); }

  static Threads& Make() {
    static const int forgets = pthread_atfork(nullptr, nullptr, [] { team_.store(nullptr); });
    static_cast<void>(forgets);
    Threads* const made = new Threads;  // never destroyed: a worker may be in it while the process ends
    Threads* other = nullptr;
    return team_.compare_exchange_strong(other, made) ? *made : *other;
  }

  static inline std::atomic<Threads*> team_{nullptr};

  static int SizeAtStart() {
    if (const int given = ThreadsAtStartOfProcess(); given > 0) return given;
    cpu_set_t allowed;
    if (CoresOfProcess(&allowed)) return CPU_COUNT(&allowed);
    return static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  }

  // $OMP_NUM_THREADS as the process was started with it, 0 if it was not: MindSpore sets its own copy to 1.
  static int ThreadsAtStartOfProcess() {
    std::ifstream environment("/proc/self/environ");
    const std::string name = "OMP_NUM_THREADS=";
    for (std::string entry; std::getline(environment, entry, '\0');) {
      if (entry.compare(0, name.size(), name) == 0) return std::atoi(entry.c_str() + name.size());
    }
    return 0;
  }

  // Those of its first thread. Callers of ops may be pinned to a core, and who is started from there would share it.
  static bool CoresOfProcess(cpu_set_t* allowed) { return sched_getaffinity(getpid(), sizeof *allowed, allowed) == 0; }

  // Chunks as long as there are any.
  void TakeChunks(int thread) {
    uint64_t left = left_.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(left) > 0) {
      if (!left_.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel)) continue;
      // From here on the loop cannot end before this chunk is done, so what describes it stays.
      call_(context_, count_ - static_cast<uint32_t>(left), thread);
      unfinished_.fetch_sub(1, std::memory_order_release);
      left = left_.load(std::memory_order_acquire);
    }
  }

  bool HasChunksFor(int thread) const { return thread < size_ && static_cast<uint32_t>(left_.load()) > 0; }

  void Work(int thread) {
    cpu_set_t allowed;
    if (CoresOfProcess(&allowed)) sched_setaffinity(0, sizeof allowed, &allowed);
    while (true) {
      if (HasChunksFor(thread)) TakeChunks(thread);
      // The next op of a step comes within microseconds; the next step may take its time.
      const auto until = std::chrono::steady_clock::now() + kSpin;
      while (!HasChunksFor(thread) && std::chrono::steady_clock::now() < until) {
        for (int i = 0; i < 32; ++i) Pause();
      }
      if (HasChunksFor(thread)) continue;
      std::unique_lock<std::mutex> lock(sleep_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, [this, thread] { return HasChunksFor(thread); });
      sleeping_.fetch_sub(1);
    }
  }

  static constexpr std::chrono::microseconds kSpin{200};

  std::atomic<int> size_{1};
  std::atomic<int> capacity_{1};
  std::mutex loop_;
  void (*call_)(void*, int64_t, int) = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0;
  alignas(64) std::atomic<uint64_t> left_{0};
  alignas(64) std::atomic<int64_t> unfinished_{0};
  std::mutex sleep_;
  std::condition_variable wake_;
  std::atomic<int> sleeping_{0};
};

}  // namespace paged_ops
