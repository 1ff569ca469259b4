// The team of threads under the thread sanitizer (sanitize.py): several callers at once, loops that end before a helper
// comes, helpers that sleep, a team that grows and shrinks, and operators that share their work. What chunks write is
// no atomic: the sanitizer sees a chunk that runs twice, too late, or unseen by the caller.

#include <chrono>
#include <cstdio>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "cpu/attention/paged_attention.cc"
#include "cpu/runtime/threads.cc"
#include "cpu/step/norm_linear.cc"

namespace {

using paged_ops::ForChunksInOrder;
using paged_ops::Threads;

constexpr int kCallers = 4;
std::atomic<int> failures{0};

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: %s\n", what);
  ++failures;
}

// A function of the caller's number for each of several callers, all begun at once.
void Together(int callers, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  std::atomic<int> waiting{callers};
  for (int caller = 0; caller < callers; ++caller) {
    threads.emplace_back([&, caller] {
      --waiting;
      while (waiting > 0) std::this_thread::yield();
      body(caller);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Loops over memory that is gone right behind them; `pause` lets the helpers come late, or fall asleep.
template <typename Loop>
void RunLoops(Loop&& loop, int seed, int rounds, std::chrono::microseconds pause) {
  std::mt19937 random(seed);
  for (int round = 0; round < rounds; ++round) {
    const int64_t count = round % 3 ? 2 + random() % 3 : 1 + random() % 150;
    std::vector<int> done(count);
    const int64_t offset = round;
    loop(count, [&done, offset](int64_t chunk) { done[chunk] += static_cast<int>(offset + chunk); });
    bool once = true;
    for (int64_t chunk = 0; chunk < count; ++chunk) once = once && done[chunk] == offset + chunk;
    Require(once, "each chunk of a loop is done once");
    if (pause.count() > 0 && round % 8 == 0) std::this_thread::sleep_for(pause);
  }
}

void RunTeam(int caller, int rounds, std::chrono::microseconds pause = {}) {
  const auto loop = [](int64_t count, auto&& body) {
    Threads& team = Threads::Get();
    team.For(count, false, [&](int64_t chunk, int thread) {
      Require(thread >= 0 && thread < team.capacity(), "a thread is one of the team");
      body(chunk);
    });
  };
  RunLoops(loop, caller, rounds, pause);
}

void RunRanges(int caller, int rounds) {
  RunLoops([](int64_t count, auto&& body) { ForChunksInOrder(count, false, body); }, caller, rounds, {});
}

struct Argument {
  std::vector<int64_t> shape;
  const char* dtype;
  void* data;
};

template <typename Entry>
void Call(Entry entry, std::vector<Argument> arguments) {
  std::vector<void*> params;
  std::vector<int> ndims;
  std::vector<int64_t*> shapes;
  std::vector<const char*> dtypes;
  for (Argument& argument : arguments) {
    params.push_back(argument.data);
    ndims.push_back(static_cast<int>(argument.shape.size()));
    shapes.push_back(argument.shape.data());
    dtypes.push_back(argument.dtype);
  }
  entry(static_cast<int>(params.size()), params.data(), ndims.data(), shapes.data(), dtypes.data(), nullptr, nullptr);
}

std::vector<float> Normal(int64_t count, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> floats(count);
  for (float& number : floats) number = normal(random);
  return floats;
}

// The head of a model over tokens of its own.
std::vector<float> Products(int seed) {
  constexpr int64_t kTokens = 20, kColumns = 160, kRows = 90;
  std::vector<float> x = Normal(kTokens * kColumns, seed), norm(kColumns, 1.0f), output(kTokens * kRows);
  std::vector<float> weight = Normal(kRows * kColumns, 1);
  float epsilon = 1e-5f;
  int64_t kind = 0;
  Call(NormLinear, {{{kTokens, kColumns}, "float32", x.data()},
                    {{kColumns}, "float32", norm.data()},
                    {{kRows, kColumns}, "float32", weight.data()},
                    {{}, "float32", &epsilon},
                    {{}, "int64", &kind},
                    {{kTokens, kRows}, "float32", output.data()}});
  return output;
}

// Attention to a context so long that its parts are shared, and joined by whoever is last; with a window or without.
std::vector<float> Attention(int seed) {
  constexpr int64_t kTokens = 3, kHeads = 4, kKvHeads = 2, kDim = 16, kBlockSize = 16, kBlocks = 90;
  std::vector<float> query = Normal(kTokens * kHeads * kDim, seed), output(query.size());
  std::vector<float> keys = Normal(kBlocks * kBlockSize * kKvHeads * kDim, seed + 1), values = keys;
  std::vector<int32_t> table(kBlocks), rows(kTokens, 0), contexts = {1400, 1401, 700};
  for (int32_t block = 0; block < kBlocks; ++block) table[block] = kBlocks - 1 - block;
  float scale = 0.25f;
  int64_t window = seed % 2 ? 1300 : 0;
  Call(PagedAttention, {{{kTokens, kHeads, kDim}, "float32", query.data()},
                        {{kBlocks, kBlockSize, kKvHeads, kDim}, "float32", keys.data()},
                        {{kBlocks, kBlockSize, kKvHeads, kDim}, "float32", values.data()},
                        {{1, kBlocks}, "int32", table.data()},
                        {{kTokens}, "int32", rows.data()},
                        {{kTokens}, "int32", contexts.data()},
                        {{}, "float32", &scale},
                        {{}, "int64", &window},
                        {{kTokens, kHeads, kDim}, "float32", output.data()}});
  return output;
}

// What several callers compute at once is what each computes alone.
void RunOperators(int rounds) {
  Threads& team = Threads::Get();
  const int before = team.size();
  team.Resize(1);
  std::vector<std::vector<float>> products, attention;
  for (int caller = 0; caller < kCallers; ++caller) {
    products.push_back(Products(caller));
    attention.push_back(Attention(caller));
  }
  team.Resize(before);
  Together(kCallers, [&](int caller) {
    for (int round = 0; round < rounds; ++round) {
      Require(Products(caller) == products[caller], "products are those of one thread");
      Require(Attention(caller) == attention[caller], "attention is that of one thread");
    }
  });
}

}  // namespace

int main() {
  using std::chrono::microseconds;
  Together(kCallers, [](int) { Threads::Get(); });  // the first of all calls, at once
  for (const int threads : {2, 5}) {
    Threads::Get().Resize(threads);
    RunTeam(0, 3000);
    RunTeam(1, 300, microseconds(500));  // helpers have gone to sleep
    RunRanges(2, 2000);
    Together(kCallers, [](int caller) { RunTeam(caller, 2000); });
    Together(kCallers, [](int caller) { RunRanges(caller, 1000); });
    RunOperators(10);
  }
  Together(kCallers, [](int caller) {
    if (caller > 0) return RunTeam(caller, 1500);
    for (int round = 0; round < 60; ++round) Threads::Get().Resize(1 + round % 6);
  });
  std::printf("%d failures\n", failures.load());
  return failures > 0;
}
