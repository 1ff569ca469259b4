// What a launch moved and did.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "clocks.h"

namespace ascendc_emulator {

struct Counters {
  uint64_t bytes[kNumPipes] = {};             // DMA bytes: MTE2 GM -> local, MTE3 local -> GM, MTE1, FIX
  uint64_t dma_instructions[kNumPipes] = {};  // of the same pipes
  uint64_t mte2_rows = 0;  // pieces of GM that MTE2 reads each in one go: rows of a matrix, blocks of a copy
  uint64_t scalar_gm_bytes_read = 0;
  uint64_t scalar_gm_bytes_written = 0;
  uint64_t scalar_local_reads = 0;  // GetValue on a LocalTensor
  uint64_t vector_instructions = 0;
  uint64_t vector_repeats = 0;  // up to 256 bytes each
  uint64_t cube_instructions = 0;
  uint64_t cube_macs = 0;
  uint64_t sync_alls = 0;
  uint64_t peak_ub = 0;  // highest byte that an instruction touched
  uint64_t peak_l1 = 0;
  uint64_t peak_l0a = 0;
  uint64_t peak_l0b = 0;
  uint64_t peak_l0c = 0;
};

// Applies `combine(a, b)` to each figure; the peaks are always maxima.
template <typename Combine>
void CombineCounters(Counters* into, const Counters& other, Combine combine) {
  for (int pipe = 0; pipe < kNumPipes; ++pipe) {
    into->bytes[pipe] = combine(into->bytes[pipe], other.bytes[pipe]);
    into->dma_instructions[pipe] = combine(into->dma_instructions[pipe], other.dma_instructions[pipe]);
  }
  for (uint64_t Counters::*figure :
        {&Counters::mte2_rows, &Counters::scalar_gm_bytes_read, &Counters::scalar_gm_bytes_written,
         &Counters::scalar_local_reads, &Counters::vector_instructions, &Counters::vector_repeats,
         &Counters::cube_instructions, &Counters::cube_macs, &Counters::sync_alls}) {
    into->*figure = combine(into->*figure, other.*figure);
  }
  for (uint64_t Counters::*peak : {&Counters::peak_ub, &Counters::peak_l1, &Counters::peak_l0a, &Counters::peak_l0b,
                                   &Counters::peak_l0c}) {
    into->*peak = std::max(into->*peak, other.*peak);
  }
}

// Bytes of one global buffer that all cores together have read and written.
struct BufferTraffic {
  std::string name;
  uint64_t bytes_read;
  uint64_t bytes_written;
};

struct Report {
  Counters total;        // over all cores
  Counters slowest_aiv;  // each figure's maximum over the AIV cores
  Counters slowest_aic;  // each figure's maximum over the AIC cores
  std::vector<BufferTraffic> buffers;
  int num_cores = 0;
};

}  // namespace ascendc_emulator
