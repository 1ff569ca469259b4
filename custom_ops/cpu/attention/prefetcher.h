// Tokens that are read soon, fetched while others are worked on.
#pragma once

#include <algorithm>
#include <cstdint>

namespace paged_ops {

// Keys or values of some consecutive tokens that will be read soon: where they lie, if there are any.
template <typename Cache>
struct ComingTokens {
  const Cache* first;
  int64_t count;
};

// Fetches coming tokens into the core's own cache while others are worked on, little by little, and in the order of
// their addresses. Without this the processor waits: its own foresight needs long even streams, and here each token is
// a short run, and the next block lies anywhere.
class Prefetcher {
 public:
  // Of each token `width` elements, `stride` apart. `work`: how much there is to do meanwhile, in any unit.
  template <typename Cache>
  Prefetcher(const ComingTokens<Cache>& tokens, int64_t width, int64_t stride, int64_t work)
      : run_(reinterpret_cast<const char*>(tokens.first)), run_stride_(stride * sizeof(Cache)) {
    const bool is_one_run = width == stride;
    const int64_t run_bytes = (is_one_run ? tokens.count * width : width) * sizeof(Cache);
    runs_left_ = is_one_run ? std::min<int64_t>(tokens.count, 1) : tokens.count;
    run_lines_ = (run_bytes + kLine - 1) / kLine;
    share_ = (runs_left_ * run_lines_ << kShareBits) / work;
  }

  // With `work` of it begun, its share of the lines.
  void Advance(int64_t work) {
    due_ += work * share_;
    Fetch(due_ >> kShareBits);
    due_ &= (1 << kShareBits) - 1;
  }

  void Finish() {
    while (runs_left_ > 0) Fetch(run_lines_);
  }

 private:
  static constexpr int64_t kLine = 64;
  static constexpr int kShareBits = 16;

  void Fetch(int64_t lines) {
    while (lines > 0 && runs_left_ > 0) {
      const int64_t end = std::min(next_line_ + lines, run_lines_);
      lines -= end - next_line_;
      // Into the second-level cache: one head of 16 tokens often lies at a stride of 4096 bytes, too many lines for the
      // few places that the first level has for such addresses.
      for (; next_line_ < end; ++next_line_) __builtin_prefetch(run_ + next_line_ * kLine, 0, 2);
      if (next_line_ < run_lines_) return;
      run_ += run_stride_;
      next_line_ = 0;
      --runs_left_;
    }
  }

  const char* run_;  // bytes that lie together
  const int64_t run_stride_;
  int64_t runs_left_;
  int64_t run_lines_;
  int64_t next_line_ = 0;
  int64_t share_;  // lines for a unit of work, in fractions of 2^-kShareBits
  int64_t due_ = 0;
};

}  // namespace paged_ops
