// The emulated chip's size and its report, for tests and for the cost model (custom_ops/ascendc/cost_model.py).

#include "emulated_call.h"

namespace paged_ops {
namespace {

thread_local ascendc_emulator::Report last_report;
thread_local std::string report_text;

void Append(std::string* text, const char* name, uint64_t value) {
  if (text->back() != '{') *text += ", ";
  *text += "\"" + std::string(name) + "\": " + std::to_string(value);
}

std::string CountersText(const ascendc_emulator::Counters& counters) {
  static const char* const kPipeNames[] = {"s", "v", "m", "mte1", "mte2", "mte3", "fix"};
  static_assert(sizeof(kPipeNames) / sizeof(*kPipeNames) == ascendc_emulator::kNumPipes, "a name for each pipe");
  std::string text = "{";
  for (int pipe = 0; pipe < ascendc_emulator::kNumPipes; ++pipe) {
    Append(&text, (std::string(kPipeNames[pipe]) + "_bytes").c_str(), counters.bytes[pipe]);
    Append(&text, (std::string(kPipeNames[pipe]) + "_copies").c_str(), counters.dma_instructions[pipe]);
  }
  Append(&text, "mte2_rows", counters.mte2_rows);
  Append(&text, "scalar_bytes_read", counters.scalar_gm_bytes_read);
  Append(&text, "vector_instructions", counters.vector_instructions);
  Append(&text, "vector_repeats", counters.vector_repeats);
  Append(&text, "cube_instructions", counters.cube_instructions);
  Append(&text, "cube_macs", counters.cube_macs);
  Append(&text, "sync_alls", counters.sync_alls);
  Append(&text, "peak_ub", counters.peak_ub);
  Append(&text, "peak_l1", counters.peak_l1);
  return text + "}";
}

std::string BuffersText(const std::vector<ascendc_emulator::BufferTraffic>& buffers) {
  std::string text = "{";
  for (const auto& buffer : buffers) {
    text += (text == "{" ? "\"" : ", \"") + buffer.name + "\": {";
    Append(&text, "read", buffer.bytes_read);
    Append(&text, "written", buffer.bytes_written);
    text += "}";
  }
  return text + "}";
}

}  // namespace

EmulatedChip& Chip() {
  static EmulatedChip chip;
  return chip;
}

void SetLastReport(const ascendc_emulator::Report& report) { last_report = report; }

}  // namespace paged_ops

// Sets how many cores the emulated chip has, and which variant of paged_attention it runs: kPagedAttentionVectorKey,
// kPagedAttentionCubeKey, or 0 for the one that the tiling chooses.
PAGED_OPS_EXPORT void EmulatorSetChip(uint32_t vector_cores, uint32_t cube_cores, uint32_t attention_key) {
  paged_ops::Chip().vector_cores = vector_cores;
  paged_ops::Chip().cube_cores = cube_cores;
  paged_ops::Chip().attention_key = attention_key;
}

// Whether paged_attention runs without its indices being checked before, as it does on the chip.
PAGED_OPS_EXPORT void EmulatorTrustIndices(int trusts) { paged_ops::Chip().trusts_indices = trusts != 0; }

// JSON: what the newest operator that this thread called moved and did, on all cores and at most on one of each kind.
// Valid until the thread's next call.
PAGED_OPS_EXPORT const char* EmulatorReport() {
  using namespace paged_ops;
  report_text = "{\"total\": " + CountersText(last_report.total) +
                ", \"slowest_vector_core\": " + CountersText(last_report.slowest_aiv) +
                ", \"slowest_cube_core\": " + CountersText(last_report.slowest_aic) +
                ", \"buffers\": " + BuffersText(last_report.buffers) + "}";
  return report_text.c_str();
}
