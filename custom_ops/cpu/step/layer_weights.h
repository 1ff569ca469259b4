// The weights that a decoder layer may have, by role; and those of one that an op is given one by one.
#pragma once

#include <optional>

#include "cpu/linear/linear_call.h"

namespace paged_ops {

// In the order of LAYER_ROLES in layer_roles.py. A layer may lack biases, norms of heads, and norms of what its halves
// put out.
enum Role {
  kAttentionNorm,
  kQuery,
  kKey,
  kValue,
  kOut,
  kQueryBias,
  kKeyBias,
  kValueBias,
  kOutBias,
  kQueryNorm,
  kKeyNorm,
  kAttentionOutputNorm,
  kMlpNorm,
  kGate,
  kUp,
  kDown,
  kGateBias,
  kUpBias,
  kDownBias,
  kMlpOutputNorm,
  kNumRoles
};

constexpr const char* kRoleNames[kNumRoles] = {
    "attention_norm", "q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "o_bias", "q_norm", "k_norm",
    "attention_output_norm",
    "mlp_norm", "gate", "up", "down", "gate_bias", "up_bias", "down_bias", "mlp_output_norm"};

// A layer's weights as inputs of an op.
class InputWeights {
 public:
  explicit InputWeights(const char* op) : op_(op) {}

  void TakeRow(Role role, Arguments& arguments) {
    tensors_[role] = arguments.Next(kRoleNames[role], 1, {DType::kFloat32});
  }

  void TakeMatrix(Role role, Arguments& arguments) { tensors_[role] = NextWeight(arguments, kRoleNames[role]); }

  // Rows of those roles that `there` has a bit for, the first lowest, as the op is told it.
  void TakeOptional(const Parameters& parameters, int first, int number, int64_t there,
                    std::initializer_list<Role> roles) {
    const auto bits = static_cast<uint64_t>(there);
    if (bits >> roles.size() != 0 || __builtin_popcountll(bits) != number) {
      Refuse(op_, "got ", number, " optional weights, optional is ", there, ": a bit for each, of ", roles.size(),
             " at most");
    }
    Arguments arguments = parameters.Some(op_, first, number);
    int bit = 0;
    for (Role role : roles) {
      if (bits >> bit++ & 1) TakeRow(role, arguments);
    }
  }

  void SetKinds(const Kinds& kinds, std::initializer_list<Role> roles) {
    int index = 0;
    for (Role role : roles) kinds_[role] = kinds[index++];
  }

  // [rows, columns], the rows as they come.
  Weights Matrix(Role role, int64_t columns) const { return WeightsOf(op_, *tensors_[role], kinds_[role], columns); }

  // float32 [columns]; null if there is none.
  const float* Row(Role role, int64_t columns) const {
    if (!tensors_[role]) return nullptr;
    RequireShape(op_, *tensors_[role], {columns});
    return tensors_[role]->as<float>();
  }

  // One that every layer has.
  const float* NeededRow(Role role, int64_t columns) const { return Row(role, columns); }

 private:
  const char* op_;
  std::optional<Tensor> tensors_[kNumRoles];
  int64_t kinds_[kNumRoles] = {};
};

}  // namespace paged_ops
