// Which part of some work is this core's.
#pragma once

#include "kernel_operator.h"

namespace paged_ops {

struct CoreShare {
  uint64_t begin;
  uint64_t end;
};

// Consecutive units for every core, their numbers at most one apart.
__aicore__ inline CoreShare ShareOfThisCore(uint64_t units) {
  const uint64_t core = AscendC::GetBlockIdx();
  const uint64_t cores = AscendC::GetBlockNum();
  return {units * core / cores, units * (core + 1) / cores};
}

}  // namespace paged_ops
