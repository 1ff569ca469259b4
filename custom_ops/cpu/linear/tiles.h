// The matrix tiles of AMX: eight registers of 16 rows of 64 bytes, and products of them.
//
// Written out in assembler: GCC 12's own functions tell the compiler neither that a load reads memory nor that the
// configuration does beyond its first bytes, and what was written there is left out.
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
#pragma once

#include "cpu/runtime/simd.h"

#if defined(PAGED_OPS_AMX)
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#endif

namespace paged_ops {

constexpr int kTileRows = 16, kTileRowBytes = 64;

#if defined(PAGED_OPS_AMX)

inline std::atomic<bool> tiles_wanted{true};

// Whether this process may use tiles: Linux gives leave, once for all threads, or says no.
inline bool HasTiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl's ARCH_REQ_XCOMP_PERM
  static const bool has = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return has && tiles_wanted.load(std::memory_order_relaxed);
}

// The calling thread's tiles. Others use them too, so they are given back when a piece of work ends.
class Tiles {
 public:
  // 0 to 3 are sums, num_rows x 16 numbers of 32 bits; 4 and 5 tokens, num_rows of token_bytes; 6 and 7 weights of as
  // many columns. Costs nothing if that is what they are.
  void Shape(int num_rows, int token_bytes) {
    if (num_rows_ == num_rows && token_bytes_ == token_bytes) return;
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } shapes;
    for (int tile = 0; tile < 8; ++tile) {
      shapes.rows[tile] = static_cast<uint8_t>(tile < 6 ? num_rows : token_bytes / 4);
      shapes.row_bytes[tile] = static_cast<uint16_t>(tile == 4 || tile == 5 ? token_bytes : kTileRowBytes);
    }
    asm volatile("ldtilecfg %0" ::"m"(shapes));
    num_rows_ = num_rows;
    token_bytes_ = token_bytes;
  }

  void Release() {
    if (num_rows_ != 0) asm volatile("tilerelease");
    num_rows_ = 0;
  }

 private:
  int num_rows_ = 0, token_bytes_ = 0;
};

template <int kTile>
inline void ZeroTile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

template <int kTile>
inline void LoadTile(const void* source, int64_t row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(source), "r"(row_bytes), "i"(kTile) : "memory");
}

template <int kTile>
inline void StoreTile(void* target) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(target), "r"(int64_t{kTileRowBytes}), "i"(kTile) : "memory");
}

// sums += tokens x weights, of signed bytes
template <int kSums, int kTokens, int kWeights>
inline void AddTileOfBytes() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kTokens), "i"(kWeights));
}

// sums += tokens x weights, of bfloat16
template <int kSums, int kTokens, int kWeights>
inline void AddTileOfBFloat16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kTokens), "i"(kWeights));
}

#else  // there are none

inline bool HasTiles() { return false; }

struct Tiles {
  void Release() {}
};

#endif

}  // namespace paged_ops
