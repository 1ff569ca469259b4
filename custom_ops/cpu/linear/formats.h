// The formats that weights are held in: one struct each says how numbers and scales lie in a file and in a panel.
//
// A row has num_columns weights. Blocks hold some neighbours of a row: whole numbers of few bits, scales, and, in some,
// minimums that the products are added to. weight = (number - kOffset) * scale + minimum, scale and minimum for 32 or 16
// columns. Kinds bear GGML's own numbers; those of Hugging Face's quantized folders begin at 100.
//
// A format has:
//   kKind, kName, kColumns     GGML's number, its name in files, weights of a block
//   kOffset                    what the numbers have added, so that none is below 0
//   kLargest                   the largest number, with that
//   kScalesOfUnit              1: a scale for 32 columns; 2: one for each 16
//   kHasMinimum
//   Stored, Panel              a block of a row, as files have it, and blocks of 16 rows: of the same size, rows aside
//   Take(stored, row, panel)   moves a row's scales
//   Numbers(stored, unit, n)   the 32 numbers of a unit of its columns
//   Scales(panel)              of all rows: scale(unit, group, vec), minimum(unit, group, vec)
// Source: the GGUF specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md, and gguf-py's quants.py.
#pragma once

#include "cpu/linear/formats/group_formats.h"
#include "cpu/linear/formats/k_quants.h"
#include "cpu/linear/formats/small_blocks.h"

namespace paged_ops {

// All formats of blocks: a new one is a struct in formats/ and a name here, and a row in formats/weight_format.py.
template <typename... Format>
struct FormatList {};
using BlockFormats =
    FormatList<Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4,
               Int4Group<100, 32>, Int4Group<101, 64>, Int4Group<102, 128>, Int8Group<103, 32>, Int8Group<104, 128>,
               Fp8Group<105, 32>, Fp8Group<106, 128>>;

template <typename... Format>
constexpr bool PanelsAreOfTheSameSize(FormatList<Format...>) {
  return ((sizeof(typename Format::Panel) == kPanelRows * sizeof(typename Format::Stored)) && ...) &&
         ((alignof(typename Format::Panel) == 1 || alignof(typename Format::Panel) == alignof(Half)) && ...);
}
static_assert(PanelsAreOfTheSameSize(BlockFormats()));

}  // namespace paged_ops
