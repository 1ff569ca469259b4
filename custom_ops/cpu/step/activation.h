// The activation of a feed forward layer's gate.
#pragma once

#include "cpu/runtime/simd.h"
#include "op/aot_op.h"

namespace paged_ops {

// In the order of ACTIVATIONS in layer_roles.py.
enum class Activation : int64_t { kSilu = 0, kGeluTanh = 1 };

inline Activation ActivationOf(const char* op, int64_t number) {
  if (number != 0 && number != 1) Refuse(op, "activation is ", number, ", allowed: 0 (silu), 1 (gelu_pytorch_tanh)");
  return static_cast<Activation>(number);
}

// a / (1 + e^-b), with the exponential of a number that is not positive, which cannot overflow.
inline Vec TimesSigmoid(Vec a, Vec b) {
  const Vec small = Exp(b > 0.0f ? -b : b);
  return a * (b > 0.0f ? Broadcast(1.0f) : small) / (small + 1.0f);
}

struct Silu {
  Vec operator()(Vec a) const { return TimesSigmoid(a, a); }
};

// a / 2 (1 + tanh(sqrt(2 / pi) (a + 0.044715 a^3))), where (1 + tanh(c)) / 2 = 1 / (1 + e^-2c).
// Source: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", by PyTorch's name gelu_pytorch_tanh.
struct GeluTanh {
  Vec operator()(Vec a) const {
    constexpr float kTwiceRoot = 1.5957691216f;  // 2 sqrt(2 / pi)
    return TimesSigmoid(a, a * kTwiceRoot * (a * a * 0.044715f + 1.0f));
  }
};

// Calls use(function of a vector).
template <typename Use>
void WithActivation(Activation activation, Use&& use) {
  activation == Activation::kSilu ? use(Silu{}) : use(GeluTanh{});
}

}  // namespace paged_ops
