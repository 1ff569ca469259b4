// O[t] = exp(Q[t] K[t]^T) V[t]: the cube cores multiply, the vector cores take the exponential, through GM.
// Scores of task t + 1 are computed while the vector cores work on those of task t.
#include "cube_mixed_tiling.h"
#include "cube_tile.h"

namespace {

using namespace AscendC;

constexpr uint16_t kScoresReady = 0;
constexpr uint16_t kWeightsReady = 1;

// Where the two slots of this block lie in the workspace.
class Workspace {
 public:
  __aicore__ inline Workspace(GM_ADDR workspace, const CubeMixedTiling& plan, uint32_t block)
      : slot_elements_(plan.m * plan.n) {
    const GM_ADDR start = workspace + block * CubeMixedBlockBytes(plan);
    scores_.SetGlobalBuffer((__gm__ float*)start, 2 * slot_elements_);
    weights_.SetGlobalBuffer((__gm__ half*)(start + 2 * CubeMixedScoresBytes(plan)), 2 * slot_elements_);
  }

  __aicore__ inline GlobalTensor<float> Scores(uint32_t turn) { return scores_[(turn % 2) * slot_elements_]; }
  __aicore__ inline GlobalTensor<half> Weights(uint32_t turn) { return weights_[(turn % 2) * slot_elements_]; }

 private:
  uint32_t slot_elements_;
  GlobalTensor<float> scores_;
  GlobalTensor<half> weights_;
};

class CubeSide {
 public:
  __aicore__ inline CubeSide(GM_ADDR q, GM_ADDR k, GM_ADDR v, GM_ADDR o, const CubeMixedTiling& plan) : plan_(plan) {
    q_gm_.SetGlobalBuffer((__gm__ half*)q, plan.tasks * plan.m * plan.d);
    k_gm_.SetGlobalBuffer((__gm__ half*)k, plan.tasks * plan.n * plan.d);
    v_gm_.SetGlobalBuffer((__gm__ half*)v, plan.tasks * plan.n * plan.d);
    o_gm_.SetGlobalBuffer((__gm__ float*)o, plan.tasks * plan.m * plan.d);
  }

  __aicore__ inline void Run(TPipe& pipe, Workspace& workspace) {
    const uint32_t step = GetBlockNum();
    uint32_t turn = 0;
    tile_.Init(pipe);
    for (uint32_t task = GetBlockIdx(); task < plan_.tasks; task += step, ++turn) {
      if (turn == 0) {
        Score(workspace, task, turn);
      }
      if (task + step < plan_.tasks) {
        Score(workspace, task + step, turn + 1);
      }
      CrossCoreWaitFlag(kWeightsReady);
      tile_.Multiply(o_gm_[task * plan_.m * plan_.d], workspace.Weights(turn), v_gm_[task * plan_.n * plan_.d],
                     cube_tile::Shape{plan_.m, plan_.d, plan_.n, plan_.n, false});
    }
    tile_.Finish();
  }

 private:
  __aicore__ inline void Score(Workspace& workspace, uint32_t task, uint32_t turn) {
    tile_.Multiply(workspace.Scores(turn), q_gm_[task * plan_.m * plan_.d], k_gm_[task * plan_.n * plan_.d],
                   cube_tile::Shape{plan_.m, plan_.n, plan_.d, plan_.d, true});
    CrossCoreSetFlag<2, PIPE_FIX>(kScoresReady);
  }

  CubeMixedTiling plan_;
  cube_tile::CubeTile<half> tile_;
  GlobalTensor<half> q_gm_;
  GlobalTensor<half> k_gm_;
  GlobalTensor<half> v_gm_;
  GlobalTensor<float> o_gm_;
};

// Each of the two vector cores takes half of the rows; with few rows the second one only answers the flags.
class VectorSide {
 public:
  __aicore__ inline explicit VectorSide(const CubeMixedTiling& plan) : plan_(plan) {}

  __aicore__ inline void Run(TPipe& pipe, Workspace& workspace) {
    pipe.InitBuffer(scores_buffer_, plan_.m * plan_.n * sizeof(float));
    pipe.InitBuffer(weights_buffer_, plan_.m * plan_.n * sizeof(half));
    const uint32_t block = GetBlockIdx() / GetTaskRation();
    uint32_t turn = 0;
    SetFlag<HardEvent::MTE3_MTE2>(EVENT_ID0);
    for (uint32_t task = block; task < plan_.tasks; task += GetBlockNum(), ++turn) {
      CrossCoreWaitFlag(kScoresReady);
      Exponentiate(workspace.Weights(turn), workspace.Scores(turn));
      CrossCoreSetFlag<2, PIPE_MTE3>(kWeightsReady);
    }
    WaitFlag<HardEvent::MTE3_MTE2>(EVENT_ID0);
  }

 private:
  __aicore__ inline void Exponentiate(const GlobalTensor<half>& weights_gm, const GlobalTensor<float>& scores_gm) {
    const uint32_t middle = (plan_.m + 1) / 2;
    const uint32_t first = GetSubBlockIdx() == 0 ? 0 : middle;
    const uint32_t rows = GetSubBlockIdx() == 0 ? middle : plan_.m - middle;
    if (rows == 0) {
      return;
    }
    const uint32_t count = rows * plan_.n;
    LocalTensor<float> scores = scores_buffer_.Get<float>();
    LocalTensor<half> weights = weights_buffer_.Get<half>();
    WaitFlag<HardEvent::MTE3_MTE2>(EVENT_ID0);
    DataCopy(scores, scores_gm[first * plan_.n], count);
    SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
    WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
    Exp(scores, scores, count);
    PipeBarrier<PIPE_V>();
    Cast(weights, scores, RoundMode::CAST_RINT, count);
    SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
    WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
    DataCopy(weights_gm[first * plan_.n], weights, count);
    SetFlag<HardEvent::MTE3_MTE2>(EVENT_ID0);
  }

  CubeMixedTiling plan_;
  TBuf<TPosition::VECCALC> scores_buffer_;
  TBuf<TPosition::VECCALC> weights_buffer_;
};

}  // namespace

extern "C" __global__ __aicore__ void cube_mixed(GM_ADDR q, GM_ADDR k, GM_ADDR v, GM_ADDR o, GM_ADDR workspace,
                                                 GM_ADDR tiling) {
  REGISTER_TILING_DEFAULT(CubeMixedTiling);
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  GET_TILING_DATA(plan, tiling);
  TPipe pipe;
  if ASCEND_IS_AIC {
    Workspace slots(workspace, plan, GetBlockIdx());
    CubeSide(q, k, v, o, plan).Run(pipe, slots);
  }
  if ASCEND_IS_AIV {
    Workspace slots(workspace, plan, GetBlockIdx() / GetTaskRation());
    VectorSide(plan).Run(pipe, slots);
  }
}
