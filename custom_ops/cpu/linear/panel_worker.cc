// Which products a format's panels are multiplied by.

#include "cpu/linear/panel_worker.h"

#include "cpu/linear/amx_bf16.h"
#include "cpu/linear/dot_floats.h"
#include "cpu/linear/dot_fp8.h"
#if defined(PAGED_OPS_VNNI)
#include "cpu/linear/dot_vnni.h"
#else
#include "cpu/linear/dot_madd.h"
#endif

namespace paged_ops {
namespace {

#if defined(PAGED_OPS_AMX)
int64_t BytesOfPanel(const LinearTokens& tokens) { return tokens.num_columns * kPanelRows * sizeof(BFloat16); }
#elif defined(PAGED_OPS_AVX512)
// By pairs of columns.
template <int kPanels>
void MultiplyPairs(const LinearTokens& tokens, [[maybe_unused]] WeightKind kind, const BFloat16* const panels[kPanels],
                   const Sums sums[kPanels]) {
  const BFloat16Pair* pairs[kPanels];
  for (int p = 0; p < kPanels; ++p) pairs[p] = reinterpret_cast<const BFloat16Pair*>(panels[p]);
#if defined(PAGED_OPS_AVX512_BF16)
  if (kind == WeightKind::kW16A16) {
    return MultiplyBy<kPanels, BFloat16Products, BFloat16Pair>(tokens, tokens.bfloat16, pairs, sums);
  }
#endif
  MultiplyFloats<kPanels, BFloat16Pair>(tokens, pairs, sums);
}
#endif

}  // namespace

struct PanelWorker::Memory {
  BlockWorker blocks;
  Fp8Worker fp8;
};

PanelWorker::PanelWorker() : memory_(std::make_unique<Memory>()) {}
PanelWorker::~PanelWorker() = default;

const LinearTokens& PanelWorker::Take(uint64_t call, const LinearInput& input, int64_t first, int64_t count,
                                      const char* weights) {
  if (call == call_ && first == first_) return tokens_;
  for (int64_t line = 0; line < kPrefetchBytes; line += kLineBytes) Fetch(weights, line);
  tokens_ = forms_.Of(input, first, count);
  call_ = call;
  first_ = first;
  return tokens_;
}

void PanelWorker::Multiply(const LinearTokens& tokens, const Panel& panel, Sums sums) {
  const Weights& weights = panel.weights;
  const char* data = arranged_.Of(weights, panel.index);
  WithKind(weights.kind, [&](auto of) {
    using T = decltype(of);
    if constexpr (kIsBlock<T>) {
      const auto* blocks = reinterpret_cast<const typename T::Panel*>(data);
      if constexpr (T::kAreFloats) {
        memory_->fp8.Multiply<T>(tokens, blocks, sums);
      } else {
        memory_->blocks.Multiply<T>(tokens, blocks, tiles_, sums);
      }
    } else if constexpr (std::is_same_v<T, BFloat16>) {
      OfBFloat16(tokens, weights.kind, reinterpret_cast<const BFloat16*>(data), sums);
    } else {
      const T* const panels[] = {reinterpret_cast<const T*>(data)};
      MultiplyFloats<1, T>(tokens, panels, &sums);
    }
  });
}

void PanelWorker::Multiply(const LinearTokens& tokens, const Panel& first, Sums first_sums, const Panel& second,
                           Sums second_sums) {
  const bool are_alike = first.is_whole() && second.is_whole() && first.weights.kind == second.weights.kind;
  const bool share = are_alike && WithKind(first.weights.kind, [&](auto of) {
    using T = decltype(of);
    if constexpr (kIsBlock<T>) {
      return false;
    } else {
      const auto data = [](const Panel& panel) { return reinterpret_cast<const T*>(panel.weights.panel(panel.index)); };
      const T* const panels[] = {data(first), data(second)};
      const Sums sums[] = {first_sums, second_sums};
      return MultiplyTwo(tokens, first.weights.kind, panels, sums);
    }
  });
  if (share) return;
  Multiply(tokens, first, first_sums);
  Multiply(tokens, second, second_sums);
}

// Whether it can be done together, and is.
template <typename T>
bool PanelWorker::MultiplyTwo(const LinearTokens& tokens, [[maybe_unused]] WeightKind kind, const T* const panels[2],
                              const Sums sums[2]) {
  if constexpr (std::is_same_v<T, BFloat16>) {
#if defined(PAGED_OPS_AMX)
    if (StandsByPairs(tokens.num_columns)) {
      if (tokens.parts.blocks == nullptr) return false;
      const int64_t panels_on = panels[1] == panels[0] + tokens.num_columns * kPanelRows ? 2 : 1;  // of one weight: both
      MultiplyByTiles<2>(tokens, panels, panels_on * BytesOfPanel(tokens), tiles_, sums);
      return true;
    }
#elif defined(PAGED_OPS_AVX512)
    if (StandsByPairs(tokens.num_columns) && tokens.num_tokens > 1) {
      MultiplyPairs<2>(tokens, kind, panels, sums);
      return true;
    }
#endif
  }
  if (kPanelsOfTile == 1 || tokens.num_tokens == 1) return false;
  MultiplyFloats<2, T>(tokens, panels, sums);
  return true;
}

void PanelWorker::OfBFloat16(const LinearTokens& tokens, [[maybe_unused]] WeightKind kind, const BFloat16* panel,
                             Sums sums) {
#if defined(PAGED_OPS_AMX)
  if (StandsByPairs(tokens.num_columns)) {
    if (tokens.parts.blocks != nullptr) return MultiplyByTiles<1>(tokens, &panel, BytesOfPanel(tokens), tiles_, &sums);
    const int64_t stride = kTokenParts * tokens.num_columns;
    for (int64_t t = 0; t < tokens.num_tokens; ++t) {
      const float* parts = tokens.parts.floats + t * stride;
      MultiplyByVectors(parts, panel, tokens.num_columns / kTileColumns, sums[t]);
    }
    return;
  }
#elif defined(PAGED_OPS_AVX512)
  if (StandsByPairs(tokens.num_columns)) return MultiplyPairs<1>(tokens, kind, &panel, &sums);
#endif
  MultiplyFloats<1, BFloat16>(tokens, &panel, &sums);
}

}  // namespace paged_ops
