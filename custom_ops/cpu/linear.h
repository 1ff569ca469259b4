// x W^T for 1 to some hundred tokens: what every linear layer of a model computes.
//
// W stands in panels of 16 rows (panels.h). A tile of tokens takes a panel's chunk of columns from one end to the
// other, its sums in registers: each belongs to one token and row, and takes its products in the order of the columns
// for any number of tokens, threads and chunks. So a token's result is bitwise the same whatever else is in the batch.
// Blocks are multiplied as whole numbers with the whole numbers of the tokens, 32 columns exactly, and then scaled.
#pragma once

#include <algorithm>
#include <vector>

#include "threads.h"
#include "linear_input.h"

namespace paged_ops {

// Tokens that share one load of weights: as many as have room in the registers for their sums, of blocks two kinds.
#if defined(PAGED_OPS_AVX512)
constexpr int kTileTokens = 8, kBlockTileTokens = 8;
#elif defined(PAGED_OPS_AVX2)
constexpr int kTileTokens = 6, kBlockTileTokens = 6;
#elif defined(__aarch64__)
constexpr int kTileTokens = 6, kBlockTileTokens = 3;
#else
constexpr int kTileTokens = 2, kBlockTileTokens = 2;
#endif

// A chunk of columns is read by many tiles and stays in the nearest cache. Of few tokens it is short, because memory is
// what they wait for, and their tiles fetch one chunk while they take the one before.
constexpr int64_t kChunkColumns = 192, kShortChunkColumns = 96;
constexpr int64_t kShortChunkTokens = 32;
constexpr int64_t kChunkBlocks = 16;      // 16 KB of whole numbers
constexpr int64_t kBlockTokens = 96;      // that share a chunk of weights which is unpacked, and 6 KB of sums
constexpr int64_t kPrefetchBytes = 4096;  // weights are fetched by this much before their use by one tile alone
constexpr int64_t kLineBytes = 64;

inline Vec BroadcastFrom(const float* source) {
#if defined(PAGED_OPS_AVX512)
  return (Vec)_mm512_set1_ps(*source);
#elif defined(PAGED_OPS_AVX2)
  return (Vec)_mm256_broadcast_ss(source);
#else
  return Broadcast(*source);
#endif
}

inline PairVec BroadcastPair(const int16_t* source) {
  int32_t pair;
  std::memcpy(&pair, source, sizeof pair);
  return (PairVec)(IntVec{} + pair);
}

// sums[i] + a[2 i] b[2 i] + a[2 i + 1] b[2 i + 1]
inline IntVec AddPairs(PairVec a, PairVec b, IntVec sums) {
#if defined(PAGED_OPS_AVX512)
  return sums + (IntVec)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(PAGED_OPS_AVX2)
  return sums + (IntVec)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__aarch64__)
  const int16x8_t x = (int16x8_t)a, y = (int16x8_t)b;
  return sums + (IntVec)vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
#else
  for (int i = 0; i < kLanes; ++i) sums[i] += a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
  return sums;
#endif
}

// What weights are fetched while a tile of several tokens is multiplied: a line every so many columns, so that the
// tiles of a chunk fetch the next one together, each its share.
struct Ahead {
  const char* lines;
  int64_t columns;
};

template <int kTokens>
void LoadSums(const float (*sums)[kPanelRows], bool is_first, Vec tile[kTokens][kRowVecs]) {
  PAGED_OPS_UNROLL_TILE
  for (int t = 0; t < kTokens; ++t) {
    PAGED_OPS_UNROLL_TILE
    for (int v = 0; v < kRowVecs; ++v) tile[t][v] = is_first ? Vec{} : Load(sums[t] + v * kLanes);
  }
}

template <int kTokens>
void StoreSums(const Vec tile[kTokens][kRowVecs], float (*sums)[kPanelRows]) {
  PAGED_OPS_UNROLL_TILE
  for (int t = 0; t < kTokens; ++t) {
    PAGED_OPS_UNROLL_TILE
    for (int v = 0; v < kRowVecs; ++v) Store(sums[t] + v * kLanes, tile[t][v]);
  }
}

// sums[t] += x[t] . panel, for `columns` columns of floats; x's tokens are `stride` apart.
template <int kTokens, typename T>
void MultiplyTile(const float* x, int64_t stride, const T* panel, int64_t columns, bool is_first, Ahead ahead,
                  float (*sums)[kPanelRows]) {
  Vec tile[kTokens][kRowVecs];
  LoadSums<kTokens>(sums, is_first, tile);
  const auto multiply = [&](int64_t k) {
    Vec weights[kRowVecs];
    LoadColumn(panel + k * kPanelRows, weights);
    PAGED_OPS_UNROLL_TILE
    for (int t = 0; t < kTokens; ++t) {
      const Vec token = InRegister(BroadcastFrom(x + t * stride + k));
      PAGED_OPS_UNROLL_TILE
      for (int v = 0; v < kRowVecs; ++v) tile[t][v] = MulAdd(token, weights[v], tile[t][v]);
    }
  };
  if constexpr (kTokens == 1) {
    for (int64_t k = 0; k < columns; ++k) {
      __builtin_prefetch(reinterpret_cast<const char*>(panel + k * kPanelRows) + kPrefetchBytes);
      multiply(k);
    }
  } else {
    for (int64_t first = 0; first < columns; first += ahead.columns) {
      __builtin_prefetch(ahead.lines + first * kPanelRows * sizeof(T), 0, 2);  // not into the nearest cache
      for (int64_t k = first; k < std::min(columns, first + ahead.columns); ++k) multiply(k);
    }
  }
  StoreSums<kTokens>(tile, sums);
}

// The same of blocks, whose numbers are in `numbers`, be it the blocks themselves.
template <int kTokens, typename Block, typename Numbers>
void MultiplyBlocks(const LinearInput& tokens, int64_t first_block, const Block* blocks, const Numbers* numbers,
                    int64_t num_blocks, bool is_first, float (*sums)[kPanelRows]) {
  const int64_t stride = tokens.num_columns, scale_stride = stride / kBlockWeights;
  Vec tile[kTokens][kRowVecs];
  LoadSums<kTokens>(sums, is_first, tile);
  for (int64_t b = 0; b < num_blocks; ++b) {
    if constexpr (std::is_same_v<Block, Numbers>) {  // from memory, not yet read by another tile
      PAGED_OPS_UNROLL_TILE
      for (size_t line = 0; line < sizeof(Block); line += kLineBytes) {
        __builtin_prefetch(reinterpret_cast<const char*>(blocks + b) + kPrefetchBytes + line);
      }
    }
    const int16_t* x = tokens.numbers + (first_block + b) * kBlockWeights;
    IntVec whole[kTokens][kRowVecs] = {};
    for (int load = 0; load < Numbers::kLoads; ++load) {
      PairVec pairs[kRowVecs][Numbers::kPairsOfLoad];
      PAGED_OPS_UNROLL_TILE
      for (int v = 0; v < kRowVecs; ++v) LoadPairs(numbers[b], load, v, pairs[v]);
      PAGED_OPS_UNROLL_TILE
      for (int p = 0; p < Numbers::kPairsOfLoad; ++p) {
        PAGED_OPS_UNROLL_TILE
        for (int t = 0; t < kTokens; ++t) {
          const PairVec token = InRegister(BroadcastPair(x + t * stride + 2 * (load * Numbers::kPairsOfLoad + p)));
          PAGED_OPS_UNROLL_TILE
          for (int v = 0; v < kRowVecs; ++v) whole[t][v] = AddPairs(pairs[v][p], token, whole[t][v]);
        }
      }
    }
    PAGED_OPS_UNROLL_TILE
    for (int t = 0; t < kTokens; ++t) {
      const int64_t place = t * scale_stride + first_block + b;
      const Vec scale = BroadcastFrom(tokens.scales + place);
      PAGED_OPS_UNROLL_TILE
      for (int v = 0; v < kRowVecs; ++v) {
        const Vec scales = Load(blocks[b].scales + v * kLanes) * scale;
        tile[t][v] = MulAdd(__builtin_convertvector(whole[t][v], Vec), scales, tile[t][v]);
        if constexpr (kHasMinimum<Block>) {
          tile[t][v] = MulAdd(MinimumOf(blocks[b], v), BroadcastFrom(tokens.sums + place), tile[t][v]);
        }
      }
    }
  }
  StoreSums<kTokens>(tile, sums);
}

// Calls body with `count`, 1 to kMost, as a constant.
template <int kMost, typename Body>
void WithTokens(int64_t count, Body&& body) {
  if constexpr (kMost > 1) {
    if (count < kMost) return WithTokens<kMost - 1>(count, body);
  }
  body(std::integral_constant<int, kMost>{});
}

// Calls body(first token, number of tokens as a constant, tile, num_tiles) for tiles of nearly the same size: one of
// few tokens would be slow, because each sum waits for the one before.
template <int kMost, typename Body>
void InTiles(int64_t num_tokens, Body&& body) {
  if (num_tokens <= kMost) return WithTokens<kMost>(num_tokens, [&](auto tokens) { body(0, tokens, 0, 1); });
  const int64_t num_tiles = (num_tokens + kMost - 1) / kMost;
  for (int64_t tile = 0, token = 0; tile < num_tiles; ++tile) {
    const int64_t count = num_tokens / num_tiles + (tile < num_tokens % num_tiles);
    WithTokens<kMost>(count, [&](auto tokens) { body(token, tokens, tile, num_tiles); });
    token += count;
  }
}

// One thread's working memory.
class PanelWorker {
 public:
  // sums[t][n] = x[t] . W[16 panel + n], for up to kBlockTokens tokens; zeros for rows that W does not have.
  void Multiply(const LinearInput& tokens, const Weights& weights, int64_t panel, float (*sums)[kPanelRows]) {
    const char* data = arranged_.Of(weights, panel);
    WithKind(weights.kind, [&](auto of) {
      using T = decltype(of);
      if constexpr (kIsBlock<T>) {
        Blocks(tokens, reinterpret_cast<const typename PanelBlock<T>::Type*>(data), sums);
      } else {
        Floats(tokens, reinterpret_cast<const T*>(data), sums);
      }
    });
  }

 private:
  template <typename T>
  static void Floats(const LinearInput& tokens, const T* panel, float (*sums)[kPanelRows]) {
    const int64_t columns = tokens.num_columns;
    const bool is_one_tile = tokens.num_tokens <= kTileTokens, is_short = tokens.num_tokens <= kShortChunkTokens;
    const int64_t chunk = is_one_tile ? columns : is_short ? kShortChunkColumns : kChunkColumns;
    const int64_t ahead_bytes = is_one_tile ? kPrefetchBytes : chunk * kPanelRows * sizeof(T);
    constexpr int64_t kColumnsOfLine = std::max<int64_t>(1, kLineBytes / (kPanelRows * sizeof(T)));
    for (int64_t first = 0; first < columns; first += chunk) {
      const T* weights = panel + first * kPanelRows;
      const char* ahead = reinterpret_cast<const char*>(weights) + ahead_bytes;
      InTiles<kTileTokens>(tokens.num_tokens, [&](int64_t token, auto count, int64_t tile, int64_t num_tiles) {
        MultiplyTile<count.value>(tokens.floats + token * columns + first, columns, weights,
                                  std::min(chunk, columns - first), first == 0,
                                  {ahead + tile * kLineBytes, num_tiles * kColumnsOfLine}, sums + token);
      });
    }
  }

  // For many tiles the numbers are unpacked once, for few by each as it goes.
  template <typename Block>
  void Blocks(const LinearInput& tokens, const Block* blocks, float (*sums)[kPanelRows]) {
    const int64_t num_blocks = tokens.num_columns / kBlockWeights;
    const int64_t chunk = tokens.num_tokens <= kBlockTileTokens ? num_blocks : kChunkBlocks;
    const bool is_direct = tokens.num_tokens <= Block::kDirectTiles * kBlockTileTokens;
    for (int64_t first = 0; first < num_blocks; first += chunk) {
      const int64_t count = std::min(chunk, num_blocks - first);
      const auto multiply = [&](const auto* numbers) {
        InTiles<kBlockTileTokens>(tokens.num_tokens, [&](int64_t token, auto in_tile, int64_t, int64_t) {
          MultiplyBlocks<in_tile.value>(tokens.Part(token, in_tile.value), first, blocks + first, numbers, count,
                                        first == 0, sums + token);
        });
      };
      if (is_direct) {
        multiply(blocks + first);
      } else {
        for (int64_t b = 0; b < count; ++b) Unpack(blocks[first + b], unpacked_[b]);
        multiply(unpacked_.data());
      }
    }
  }

  struct alignas(kLineBytes) UnpackedBlock {
    int16_t numbers[kBlockPairs][kPanelRows][2];
    static constexpr int kPairsOfLoad = 1, kLoads = kBlockPairs;
  };

  friend void LoadPairs(const UnpackedBlock& block, int load, int vec, PairVec pairs[1]) {
    pairs[0] = InRegister(LoadPair(&block.numbers[load][vec * kLanes][0]));
  }

  template <typename Block>
  static void Unpack(const Block& block, UnpackedBlock& unpacked) {
    PAGED_OPS_UNROLL_TILE
    for (size_t line = 0; line < sizeof(Block); line += kLineBytes) {
      __builtin_prefetch(reinterpret_cast<const char*>(&block) + kPrefetchBytes + line);
    }
    for (int load = 0; load < Block::kLoads; ++load) {
      PAGED_OPS_UNROLL_TILE
      for (int v = 0; v < kRowVecs; ++v) {
        PairVec pairs[Block::kPairsOfLoad];
        LoadPairs(block, load, v, pairs);
        PAGED_OPS_UNROLL_TILE
        for (int p = 0; p < Block::kPairsOfLoad; ++p) {
          std::memcpy(&unpacked.numbers[load * Block::kPairsOfLoad + p][v * kLanes][0], &pairs[p], sizeof pairs[p]);
        }
      }
    }
  }

  ArrangedPanel arranged_;
  std::vector<UnpackedBlock> unpacked_ = std::vector<UnpackedBlock>(kChunkBlocks);
};

// A weight whose products with x go to consume(first_token, num_tokens, first_row, num_rows, products [tokens][16]).
template <typename Consume>
struct Product {
  Weights weights;
  Consume consume;

  void Run(PanelWorker& worker, const LinearInput& tokens, int64_t token, int64_t count, int64_t panel) const {
    alignas(kLineBytes) float products[kBlockTokens][kPanelRows];
    worker.Multiply(tokens.Part(token, count), weights, panel, products);
    consume(token, count, panel * kPanelRows, weights.rows_of(panel), products);
  }
};

template <typename Consume>
Product(Weights, Consume) -> Product<Consume>;

// The calling thread's working memory, kept from call to call.
inline PanelWorker& ThisThreadsWorker() {
  thread_local PanelWorker worker;
  return worker;
}

constexpr int64_t kChunksOfThread = 8;  // enough for a thread that is slower, or late, to be helped out
constexpr int64_t kParallelProducts = 128 * 1024;  // that are worth waking the other threads for: tens of microseconds

// Products of the same tokens, all panels of all weights shared among the threads.
template <typename... Consume>
void Multiply(const LinearInput& tokens, const Product<Consume>&... products) {
  const int64_t num_tokens = tokens.num_tokens;
  const int64_t num_panels = (products.weights.num_panels() + ...);
  const int64_t num_blocks = (num_tokens + kBlockTokens - 1) / kBlockTokens;
  Threads& threads = Threads::Get();
  const int64_t wanted = std::max<int64_t>(1, kChunksOfThread * threads.size() / std::max<int64_t>(1, num_blocks));
  const int64_t panels_of_chunk = std::max<int64_t>(1, num_panels / wanted);
  const int64_t chunks_of_block = (num_panels + panels_of_chunk - 1) / panels_of_chunk;
  const bool alone = (products.weights.products(num_tokens) + ...) < kParallelProducts;
  threads.For(num_blocks * chunks_of_block, alone, [&](int64_t chunk, int) {
    PanelWorker& worker = ThisThreadsWorker();
    const int64_t token = chunk / chunks_of_block * kBlockTokens;
    const int64_t count = std::min(kBlockTokens, num_tokens - token);
    const int64_t first = chunk % chunks_of_block * panels_of_chunk;
    for (int64_t p = first; p < std::min(num_panels, first + panels_of_chunk); ++p) {
      int64_t panel = p;  // of the product that has it
      const auto run = [&](const auto& product) {
        const bool has = panel >= 0 && panel < product.weights.num_panels();
        if (has) product.Run(worker, tokens, token, count, panel);
        panel = has ? -1 : panel - product.weights.num_panels();
      };
      (run(products), ...);
    }
  });
}

}  // namespace paged_ops
