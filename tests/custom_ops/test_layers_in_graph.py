"""The layer operators inside static graphs: every option reaches the operator as its own, shapes and types too."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, ParameterTuple, Tensor, nn

from mindspore_paged.custom_ops.layer_ops import ACTIVATIONS, AttentionLayer, DecoderStep, FeedForwardLayer
from tests.custom_ops.kernel_builds import native_library
from tests.custom_ops.kernel_calls import Kernels, assert_same_bits, attention_roles, feed_forward_roles, packed
from tests.custom_ops.layer_scenes import EPSILON
from tests.custom_ops.test_layer_options import make_scene_with_options


@pytest.fixture(scope="module")
def native(catcher):
    ms.set_context(mode=ms.GRAPH_MODE)
    return Kernels(native_library(), catcher)


def parameters(name, arrays) -> ParameterTuple:
    return ParameterTuple([Parameter(Tensor(array), name=f"{name}_{i}") for i, array in enumerate(arrays)])


class StepOfScene(nn.Cell):
    """DecoderStep over what a scene holds."""

    def __init__(self, scene, arranged):
        super().__init__()
        layers = [
            attention_roles(a.norm_weight, a.weights, a.head_norms, a.output_norm)
            + feed_forward_roles(f.norm_weight, f.weights, f.output_norm)
            for a, f in zip(scene.attentions, scene.feed_forwards)
        ]
        layout, packs = packed(layers, arranged)
        first, options = scene.attentions[0], [(a.window, a.rope_table) for a in scene.attentions]
        self.packs = parameters("pack", packs)
        stacked = [np.stack([getattr(a, name) for a in scene.attentions]) for name in CACHES]
        self.pages = parameters("pages", stacked)
        self.tables = Tensor(first.cos_tables), Tensor(first.sin_tables)
        self.block_table = Parameter(Tensor(first.block_table), name="block_table")
        self.ends = parameters("end", [arranged(scene.table), scene.norm_weight, arranged(scene.head)])
        self.step = DecoderStep(
            EPSILON, first.scale, layout, np.array(options), scene.table.form.kind, scene.head.form.kind, "cpu",
            embedding_scale=scene.embedding_scale, residual_scale=scene.residual_scale, logit_scale=scene.logit_scale,
            activation=ACTIVATIONS.index(scene.activation),
        )  # fmt: skip

    def construct(self, input_ids, positions, rows, logit_indices, table_indices, table_values):
        return self.step(
            input_ids, positions, rows, *self.tables, logit_indices, table_indices, table_values, self.block_table,
            *self.ends, *self.pages, self.packs,
        )  # fmt: skip


class LayerOfScene(nn.Cell):
    """AttentionLayer, and of what it gives FeedForwardLayer."""

    def __init__(self, attention, feed_forward, activation, arranged):
        super().__init__()
        optional = [[*(weight.bias for weight in half.weights)] for half in (attention, feed_forward)]
        optional[0] += attention.head_norms
        self.optional, self.optional_of_mlp = (
            parameters(f"optional_{i}", [weight for weight in each if weight is not None])
            for i, each in enumerate(optional)
        )
        has = [[weight is not None for weight in each] for each in optional]
        kinds = [[weight.form.kind for weight in half.weights] for half in (attention, feed_forward)]
        self.weights, self.weights_of_mlp = (
            parameters(f"weights_{i}", [half.norm_weight, *map(arranged, half.weights)])
            for i, half in enumerate((attention, feed_forward))
        )
        self.tables = Tensor(attention.cos_tables), Tensor(attention.sin_tables)
        self.pages = parameters("pages", [getattr(attention, name) for name in (*CACHES, "block_table")])
        self.attend = AttentionLayer(
            EPSILON, attention.scale, kinds[0], has[0], True, "cpu", window=attention.window,
            rope_table=attention.rope_table,
        )  # fmt: skip
        self.feed_forward = FeedForwardLayer(
            EPSILON, kinds[1], has[1], False, "cpu", activation=ACTIVATIONS.index(activation)
        )

    def construct(self, x, positions, rows):
        x = self.attend(x, *self.weights, *self.tables, *self.pages, positions, rows, self.optional)
        return self.feed_forward(x, *self.weights_of_mlp, self.optional_of_mlp)


CACHES = ("key_cache", "value_cache")


def run(cell, *inputs):
    return cell(*(Tensor(array) for array in inputs)).asnumpy()


def test_a_whole_step(native):
    scene = make_scene_with_options(np.random.default_rng(0), ("float32", "Q4_1", "bfloat16"))
    first = scene.attentions[0]
    entries = np.array([[0, 0]], np.int32), first.block_table[0, :1]
    cell = StepOfScene(scene, native.arranged)
    logits = run(cell, scene.input_ids, first.positions, first.rows, scene.logit_indices, *entries)
    assert_same_bits(logits, scene.run(native))
    for pages, name in zip(cell.pages, CACHES):
        assert_same_bits(pages.asnumpy(), np.stack([getattr(a, name) for a in scene.attentions]))


@pytest.mark.parametrize("layer", range(3), ids=["window", "second table", "no rotation"])
def test_a_layer(native, layer):
    scene = make_scene_with_options(np.random.default_rng(1), ("float32", "Q4_1", "float32"))
    attention, feed_forward = scene.attentions[layer], scene.feed_forwards[layer]
    cell = LayerOfScene(attention, feed_forward, scene.activation, native.arranged)
    output = run(cell, attention.x, attention.positions, attention.rows)
    between = attention.run(native)
    expected = native.feed_forward_layer(between, feed_forward.norm_weight, feed_forward.weights, EPSILON, False, 1)
    assert_same_bits(output, expected)
