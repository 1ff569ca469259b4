// The address overlap rules of vector instructions.
//
// Within a repeat, a source and the destination are the same bytes or share none. A later repeat must not read what an
// earlier one wrote, except that some binary instructions may accumulate through their second source.
#pragma once

#include <unordered_set>

#include "repeats.h"

namespace ascendc_emulator {

class OverlapCheck {
 public:
  // `extents` of all operands.
  OverlapCheck(const std::vector<Run>& runs, const Operand* operands, const Extent* extents, int source,
               bool may_accumulate)
      : runs_(runs), out_(operands[0]), in_(operands[source]), source_(source) {
    const uint64_t out = out_.view->offset, in = in_.view->offset;
    const Extent &written = extents[0], &read = extents[source];
    if (out + written.begin >= in + read.end || in + read.begin >= out + written.end) return;
    const bool same_layout = out_.view->offset == in_.view->offset && out_.element_bytes == in_.element_bytes &&
                             out_.block_stride == in_.block_stride && out_.repeat_stride == in_.repeat_stride;
    const bool one_repeat = runs_.back().repeat == 0;
    if (runs_.size() == 1) {
      CheckContiguous();
    } else if (!(same_layout && (one_repeat || out_.repeat_stride >= 8 * out_.block_stride))) {
      CheckRepeatByRepeat(may_accumulate && (out_.repeat_stride == 0 || in_.repeat_stride == 0));
    }
  }

 private:
  uint64_t OutAt(const Run& run) const { return out_.view->offset + run.offsets[0]; }
  uint64_t InAt(const Run& run) const { return in_.view->offset + run.offsets[source_]; }

  [[noreturn]] void RefuseOverlap(const char* how) const {
    Refuse(out_.name, " at byte ", out_.view->offset, " and ", in_.name, " at byte ", in_.view->offset, " of UB ", how);
  }

  // One stretch: the same bytes, or written at least a repeat behind what is still to be read.
  void CheckContiguous() const {
    const uint64_t out = OutAt(runs_[0]), in = InAt(runs_[0]);
    if (out_.element_bytes == in_.element_bytes && (out == in || out + kRepeatBytes <= in)) return;
    RefuseOverlap("overlap in part");
  }

  void CheckRepeatByRepeat(bool may_accumulate) const {
    std::unordered_set<uint64_t> written;  // 32-byte lines, by earlier repeats
    for (size_t begin = 0, end; begin < runs_.size(); begin = end) {
      for (end = begin; end < runs_.size() && runs_[end].repeat == runs_[begin].repeat;) ++end;
      for (size_t i = begin; i < end; ++i) CheckReads(runs_[i], begin, end, written, may_accumulate);
      for (size_t i = begin; i < end; ++i) {
        const uint64_t last = (OutAt(runs_[i]) + runs_[i].elements * out_.element_bytes - 1) / kBlockBytes;
        for (uint64_t line = OutAt(runs_[i]) / kBlockBytes; line <= last; ++line) written.insert(line);
      }
    }
  }

  void CheckReads(const Run& run, size_t begin, size_t end, const std::unordered_set<uint64_t>& written,
                  bool may_accumulate) const {
    const uint64_t in = InAt(run), in_end = in + run.elements * in_.element_bytes;
    for (size_t i = begin; i < end; ++i) {
      const uint64_t out = OutAt(runs_[i]), out_end = out + runs_[i].elements * out_.element_bytes;
      const bool meet = out < in_end && in < out_end;
      if (meet && !(out == in && out_end == in_end)) RefuseOverlap("overlap in part within a repeat");
    }
    if (may_accumulate) return;
    for (uint64_t line = in / kBlockBytes; line <= (in_end - 1) / kBlockBytes; ++line) {
      if (written.count(line)) RefuseOverlap("overlap: a later repeat reads what an earlier one wrote");
    }
  }

  const std::vector<Run>& runs_;
  const Operand& out_;
  const Operand& in_;
  int source_;
};

}  // namespace ascendc_emulator
