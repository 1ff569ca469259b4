// One thread's products of tokens with panels, of whatever format: compiled once, for all operators, in panel_worker.cc.
#pragma once

#include <memory>

#include "cpu/linear/linear_input.h"
#include "cpu/linear/panels.h"
#include "cpu/linear/tiles.h"
#include "cpu/linear/token_tiles.h"

namespace paged_ops {

constexpr int64_t kBlockTokens = 96;  // that share a panel's weights while these are unpacked, and 6 KB of sums
constexpr int kPanelsTogether = 2;    // that share a load of tokens, where they can

// 16 rows of a weight.
struct Panel {
  const Weights& weights;
  int64_t index;

  int64_t num_rows() const { return weights.rows_of(index); }
  bool is_whole() const { return num_rows() == kPanelRows; }
};

using Sums = float (*)[kPanelRows];  // [tokens][16]

class PanelWorker {
 public:
  PanelWorker();
  ~PanelWorker();

  // sums[t][n] = x[t] . row n of the panel, for up to kBlockTokens tokens; zeros for rows that it does not have.
  void Multiply(const LinearTokens& tokens, const Panel& panel, Sums sums);

  // Of two panels, which share their loads of tokens where they can.
  void Multiply(const LinearTokens& tokens, const Panel& first, Sums first_sums, const Panel& second, Sums second_sums);

  // Tokens `first` on of a call's input, which is told from others by a number of its own; they stay until the next.
  // While they are made ready, the beginning of `weights` is fetched.
  const LinearTokens& Take(uint64_t call, const LinearInput& input, int64_t first, int64_t count, const char* weights);

  // After the last of some panels.
  void Release() { tiles_.Release(); }

 private:
  struct Memory;

  template <typename T>
  bool MultiplyTwo(const LinearTokens& tokens, WeightKind kind, const T* const panels[2], const Sums sums[2]);
  void OfBFloat16(const LinearTokens& tokens, WeightKind kind, const BFloat16* panel, Sums sums);

  uint64_t call_ = 0;
  int64_t first_ = 0;
  LinearTokens tokens_;
  TokenForms forms_;
  ArrangedPanel arranged_;
  std::unique_ptr<Memory> memory_;
  Tiles tiles_;
};

}  // namespace paged_ops
