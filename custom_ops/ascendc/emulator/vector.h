// Runs one vector instruction: checks its operands, then computes run by run.
#pragma once

#include "element.h"
#include "overlap.h"
#include "params.h"
#include "repeats.h"

namespace ascendc_emulator {

// Visits the bytes of an operand's runs: runs that follow each other count as one, and so do repeated ones.
template <typename Visit>
void ForEachStretch(const std::vector<Run>& runs, const Operand& operand, int index, Visit visit) {
  uint32_t begin = 0, end = 0;
  for (const Run& run : runs) {
    const uint32_t from = run.offsets[index], to = from + run.elements * operand.element_bytes;
    if (from >= begin && to <= end) continue;
    if (from == end) {
      end = to;
      continue;
    }
    if (end > begin) visit(operand.view->offset + begin, end - begin);
    begin = from;
    end = to;
  }
  visit(operand.view->offset + begin, end - begin);
}

// An instruction of the vector pipe. Refused where there is none.
class VectorInstruction : public Instruction {
 public:
  explicit VectorInstruction(const char* api) : Instruction(kPipeV, api) {
    if (core().type() != CoreType::kAiv) Refuse("a vector instruction on an AIC core");
  }

  void Count(uint32_t repeats) {
    ++core().counters().vector_instructions;
    core().counters().vector_repeats += repeats;
  }

  // Checks the operands (the first is the output) and hands every run's addresses to `compute`.
  template <typename Compute>
  void Execute(const RepeatPlan& plan, const Operand* operands, int num_operands, bool may_accumulate,
               Compute compute) {
    static thread_local std::vector<Run> runs;
    Count(plan.repeats);
    for (int i = 0; i < num_operands; ++i) {
      operands[i].view->CheckIn(kUb, operands[i].name);
      operands[i].view->CheckAligned(kBlockBytes, operands[i].name);
    }
    if (operands[0].block_stride == 0) Refuse("the block stride of ", operands[0].name, " is 0");
    RunCutter(plan, operands, num_operands, &runs);
    Extent extents[kMaxOperands];
    for (int i = 0; i < num_operands; ++i) {
      extents[i] = ExtentOf(runs, operands[i], i);
      operands[i].view->Range(0, extents[i].end, operands[i].name);
    }
    for (int i = operands[0].also_read ? 0 : 1; i < num_operands; ++i) {
      OverlapCheck(runs, operands, extents, i, may_accumulate && i == num_operands - 1);
    }
    for (int i = operands[0].also_read ? 0 : 1; i < num_operands; ++i) {
      ForEachStretch(runs, operands[i], i, [this](uint32_t at, uint32_t bytes) { core().Read(kUb, at, bytes); });
    }
    ForEachStretch(runs, operands[0], 0, [this](uint32_t at, uint32_t bytes) { core().Write(kUb, at, bytes); });
    uint8_t* memory = core().Memory(kUb).data();
    for (const Run& run : runs) {
      uint8_t* addresses[kMaxOperands] = {};
      for (int i = 0; i < num_operands; ++i) addresses[i] = memory + operands[i].view->offset + run.offsets[i];
      compute(addresses, run.elements);
    }
  }
};

template <typename T, typename... Allowed>
void CheckType() {
  if constexpr (!IsOneOf<T, Allowed...>) {
    Refuse("element type ", TypeName<T>(), " is not supported by this instruction");
  }
}

}  // namespace ascendc_emulator
