"""Each half of a layer as one operator of the CPU, for ranks that share a model and exchange what each half gives.

The rest of the step is that of `models.decoder`; activations are float32, weights of any format. Half a layer is norm,
attention or MLP, and the projection back; what ranks sum is normed, scaled and added behind the operator.

Shapes: T tokens, N logits wanted. Heads and widths are those of one rank.
"""

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn
from mindspore.common.initializer import Zero

from mindspore_paged.custom_ops.layer_ops import (
    ACTIVATIONS,
    AttentionLayer,
    Embedding,
    FeedForwardLayer,
    NormLinear,
)
from mindspore_paged.models.decoder import norm_of_layer, scaled
from mindspore_paged.models.model_weights import ModelWeights
from mindspore_paged.tensor_parallel import Cut

ATTENTION_ROLES, ATTENTION_OPTIONS = ("q", "k", "v", "o"), ("q_bias", "k_bias", "v_bias", "o_bias", "q_norm", "k_norm")
MLP_ROLES, MLP_OPTIONS = ("gate", "up", "down"), ("gate_bias", "up_bias", "down_bias")


class OperatorLayer(nn.Cell):
    """x + attention(norm(x)), then x + mlp(norm(x)), as `decoder.DecoderLayer` computes them."""

    def __init__(self, weights: ModelWeights, layer: int, ops_backend, ranks):
        super().__init__()
        self.attention = OperatorAttention(weights, layer, ops_backend)
        self.mlp = OperatorMLP(weights, layer, ops_backend)
        self.sum_over_ranks = ranks.sum()
        self.attention_output_norm = norm_of_layer(weights, layer, "attention_output_norm")
        self.mlp_output_norm = norm_of_layer(weights, layer, "mlp_output_norm")
        self.residual_scale = weights.config.residual_scale

    def construct(self, x, key_cache, value_cache, step):
        attended = self.sum_over_ranks(self.attention(x, key_cache, value_cache, step))
        x = x + scaled(self.attention_output_norm(attended), self.residual_scale)
        fed = self.sum_over_ranks(self.mlp(x))
        return x + scaled(self.mlp_output_norm(fed), self.residual_scale)


class OperatorAttention(nn.Cell):
    """attention(norm(x)) over the sequence's pages; this step's keys and values are written first."""

    def __init__(self, weights: ModelWeights, layer: int, ops_backend):
        super().__init__()
        config = weights.config
        self.norm_weight = weights.of_layer(layer, "attention_norm")
        self.q, self.k, self.v, self.o = (weights.of_layer(layer, role) for role in ATTENTION_ROLES)
        self.optional, has_optional = _optional(weights, layer, ATTENTION_OPTIONS)
        self.attend = AttentionLayer(
            config.rms_norm_eps,
            config.score_scale,
            [weights.kind_of(layer, role) for role in ATTENTION_ROLES],
            has_optional,
            False,
            ops_backend,
            window=config.window_of(layer),
            rope_table=config.rope_table_of(layer),
        )

    def construct(self, x, key_cache, value_cache, step):
        cos_tables, sin_tables, block_table, positions, rows = step
        return self.attend(
            x, self.norm_weight, self.q, self.k, self.v, self.o, cos_tables, sin_tables, key_cache, value_cache,
            block_table, positions, rows, self.optional,
        )  # fmt: skip


class OperatorMLP(nn.Cell):
    """mlp(norm(x))."""

    def __init__(self, weights: ModelWeights, layer: int, ops_backend):
        super().__init__()
        config = weights.config
        self.norm_weight = weights.of_layer(layer, "mlp_norm")
        self.gate, self.up, self.down = (weights.of_layer(layer, role) for role in MLP_ROLES)
        self.optional, has_optional = _optional(weights, layer, MLP_OPTIONS)
        kinds = [weights.kind_of(layer, role) for role in MLP_ROLES]
        activation = ACTIVATIONS.index(config.hidden_act)
        self.feed_forward = FeedForwardLayer(
            config.rms_norm_eps, kinds, has_optional, False, ops_backend, activation=activation
        )

    def construct(self, x):
        return self.feed_forward(x, self.norm_weight, self.gate, self.up, self.down, self.optional)


class OperatorEmbedding(nn.Cell):
    """Token ids [T] -> rows of the table [T, hidden_size], with the table in any format."""

    def __init__(self, weights: ModelWeights, weight, kind: int, vocab: Cut, ops_backend, ranks):
        super().__init__()
        config = weights.config
        self.weight = weight
        self.like = Tensor(shape=(config.hidden_size,), dtype=ms.float32, init=Zero()).init_data()
        self.embedding = Embedding(kind, vocab.start, config.vocab_size, ops_backend)
        self.sum_over_ranks = ranks.sum()

    def construct(self, input_ids):
        return self.sum_over_ranks(self.embedding(input_ids, self.weight, self.like))


class OperatorHead(nn.Cell):
    """norm(x) W^T, [N, hidden_size] -> [N, rows of the vocabulary], with the weight in any format."""

    def __init__(self, weights: ModelWeights, weight, kind: int, ops_backend):
        super().__init__()
        self.norm_weight, self.weight = weights.of_model("final_norm"), weight
        self.product = NormLinear(weights.config.rms_norm_eps, kind, ops_backend)

    def construct(self, x):
        return self.product(x, self.norm_weight, self.weight)


class OperatorPositions(nn.Cell):
    """What the operators need to know of the tokens' positions: they look the rest up themselves."""

    def __init__(self, tables: list[tuple[np.ndarray, np.ndarray]]):
        super().__init__()
        self.cos_tables, self.sin_tables = stacked(tables)

    def construct(self, block_table, positions, rows, _adapters=None):
        return self.cos_tables, self.sin_tables, block_table, positions, rows


def stacked(tables: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all tables as the operators take them, float32 [S, P, 1, rotated]."""
    return tuple(Tensor(np.stack(of_tables)[:, :, None], ms.float32) for of_tables in zip(*tables, strict=True))


def _optional(weights: ModelWeights, layer: int, roles: tuple[str, ...]):
    """The weights of these roles that the layer has, for the operator, and of which roles it has one."""
    parameters = [weights.of_layer(layer, role) for role in roles]
    held = [parameter for parameter in parameters if parameter is not None]
    return ParameterTuple(held) if held else (), [parameter is not None for parameter in parameters]
