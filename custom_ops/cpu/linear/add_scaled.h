// From whole numbers, exact sums of products, to a token's sums with a panel's rows.
#pragma once

#include "cpu/linear/panels.h"

namespace paged_ops {

// What `added` to each number of 32 columns, or of the 16 that share a scale, takes from a token's sum of products;
// totals: those of the token's whole numbers, by 16 columns.
template <typename Format>
inline int32_t TakenBack(int32_t added, const int32_t totals[2], int group) {
  return -added * (Format::kScalesOfUnit == 1 ? totals[0] + totals[1] : totals[group]);
}

// The scales of 32 columns of a panel, or of 16 where a format has one for these.
template <typename Format>
struct ScalesOfGroup {
  const typename Format::Scales& scales;
  int unit, group;

  Vec scale(int vec) const { return scales.scale(unit, group, vec); }
  Vec minimum(int vec) const { return scales.minimum(unit, group, vec); }
};

// sums += whole * scale of both + minimum * token_sum, which is the sum of the token's numbers.
template <bool kHasMinimum, typename Scales>
inline void AddScaled(const IntVec whole[kRowVecs], const Scales& scales, float token_scale, float token_sum,
                      Vec sums[kRowVecs]) {
  const Vec scale = Broadcast(token_scale);
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kRowVecs; ++v) {
    sums[v] = MulAdd(__builtin_convertvector(whole[v], Vec), scales.scale(v) * scale, sums[v]);
    if constexpr (kHasMinimum) sums[v] = MulAdd(scales.minimum(v), Broadcast(token_sum), sums[v]);
  }
}

}  // namespace paged_ops
