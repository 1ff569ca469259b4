"""A step as one operator of the CPU, and the weights of its decoder layers in a few Parameters.

MindSpore takes some 20 us to start an operator and 3 us to tell it of an input, when weights have just gone through the
CPU's caches: a small model's step would be made of that.
"""

from functools import partial
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, nn

from mindspore_paged.custom_ops.layer_ops import ABSENT, ACTIVATIONS, LAYER_ROLES, NO_HEAD, DecoderStep
from mindspore_paged.formats.weight_format import WeightFormat
from mindspore_paged.formats.weight_place import WeightPlace, whole_lines
from mindspore_paged.models.adapter_slots import PackedAdapters
from mindspore_paged.models.executions.layer_operators import stacked
from mindspore_paged.models.kv_pages import KVPages
from mindspore_paged.models.model_weights import ModelWeights, head_role
from mindspore_paged.models.parallel import weight_parameter
from mindspore_paged.models.spec import WeightSpec
from mindspore_paged.weights.lora_adapter import AdapterRoom

PACK_BYTES = 2**30
"""A Parameter takes no layer beyond it: some pieces of memory are easier to find than one, and cost no time."""


class Held(NamedTuple):
    """A layer's weight, by Hugging Face's name, as it is held."""

    name: str
    form: WeightFormat
    shape: tuple[int, ...]

    @property
    def room(self) -> int:
        """Bytes, up to the start of another."""
        return whole_lines(self.form.num_bytes(self.shape))


class PackedLayers(nn.Cell):
    """The weights of decoder layers, uint8 [bytes] in each of `packs`, those of several layers together.

    layers: of each what it has of every one of LAYER_ROLES, None for what it lacks; or of one that all share.
    layout: int64 [L, roles, 5], as DecoderStep takes it. places: where each weight lies, by Hugging Face's names.
    """

    def __init__(self, layers: list[list[Held | None]], num_layers: int):
        super().__init__()
        sizes = [0]  # of the packs, in bytes
        rows, where = [], []
        for layer in layers:
            if sizes[-1] and sizes[-1] + sum(each.room for each in layer if each) > PACK_BYTES:
                sizes.append(0)
            for each in layer:
                if each is None:
                    rows.append(ABSENT)
                    continue
                where.append((len(sizes) - 1, sizes[-1], each))
                shape = (1, *each.shape) if len(each.shape) == 1 else each.shape
                rows.append((len(sizes) - 1, sizes[-1], each.form.kind, *shape))
                sizes[-1] += each.room
        self.packs = ParameterTuple([weight_parameter(size, dtype=ms.uint8) for size in sizes])
        names = [f"packed_layers_{number}" for number in range(len(sizes))]
        for pack, name in zip(self.packs, names, strict=True):
            pack.name = name
        layout = np.array(rows, np.int64).reshape(len(layers), -1, len(ABSENT))
        self.layout = np.repeat(layout, num_layers // len(layers), axis=0)
        self.places = {
            each.name: WeightPlace(self.packs[pack], each.form, each.form.stored_shape(each.shape), offset, names[pack])
            for pack, offset, each in where
        }


class WholeStep(nn.Cell):
    """The step of `models.decoder` as one operator; activations are float32.

    weights: of one rank that has all of the model; kv_pages: a pool that has all layers together. places: where each
    weight is that a checkpoint must provide. room: for adapters, which `adapters` then has; None: there are none.
    """

    def __init__(self, weights: ModelWeights, kv_pages: KVPages, tables, ops_backend, room: AdapterRoom | None = None):
        super().__init__()
        config = weights.config
        self.cos_tables, self.sin_tables = stacked(tables)
        self.block_table = kv_pages.block_table
        self.key_caches, self.value_caches = ParameterTuple(kv_pages.key_caches), ParameterTuple(kv_pages.value_caches)
        layers = PackedLayers(_held(weights), config.num_hidden_layers)
        self.packs = layers.packs
        self.table, self.norm_weight = weights.of_model("embedding"), weights.of_model("final_norm")
        self.head = weights.of_model(head_role(config))
        self.places = weights.places | layers.places
        self.adapters = PackedAdapters(weights, room) if room else None
        self.adapter_weights = self.adapters.parameter if self.adapters else None
        rank = self.adapters.rank if self.adapters else 0
        self.operator_with = partial(_operator, weights, layers.layout, ops_backend, rank)
        self.step = self.operator_with(weights.kind_of_model(head_role(config)))

    def construct(self, input_ids, positions, rows, logit_indices, table_indices, table_values, adapters=None):
        return self.step(
            input_ids, positions, rows, self.cos_tables, self.sin_tables, logit_indices, table_indices, table_values,
            self.block_table, self.table, self.norm_weight, self.head, self.key_caches[0], self.value_caches[0],
            self.packs, self.of_adapters(adapters),
        )  # fmt: skip

    def of_adapters(self, adapters):
        """What the operator takes of adapters: nothing, if there are none."""
        return () if adapters is None else (adapters, self.adapter_weights)


class WholeStepHidden(nn.Cell):
    """`of` without its head, over its Parameters: the tokens wanted behind the last norm, float32 [N, hidden_size]."""

    def __init__(self, of: WholeStep):
        super().__init__()
        self.of, self.step = of, of.operator_with(NO_HEAD)

    def construct(self, input_ids, positions, rows, logit_indices, table_indices, table_values, adapters=None):
        of = self.of
        return self.step(
            input_ids, positions, rows, of.cos_tables, of.sin_tables, logit_indices, table_indices, table_values,
            of.block_table, of.table, of.norm_weight, of.norm_weight, of.key_caches[0], of.value_caches[0], of.packs,
            of.of_adapters(adapters),
        )  # fmt: skip


def _operator(weights: ModelWeights, layout: np.ndarray, ops_backend, adapter_rank: int, head_kind: int) -> DecoderStep:
    config = weights.config
    options = [(config.window_of(layer), config.rope_table_of(layer)) for layer in range(config.num_hidden_layers)]
    return DecoderStep(
        config.rms_norm_eps,
        config.score_scale,
        layout,
        np.array(options, np.int64),
        weights.kind_of_model("embedding"),
        head_kind,
        ops_backend,
        embedding_scale=config.embedding_scale,
        residual_scale=config.residual_scale,
        logit_scale=config.logit_scale,
        activation=ACTIVATIONS.index(config.hidden_act),
        adapter_rank=adapter_rank,
    )


def _held(weights: ModelWeights) -> list[list[Held | None]]:
    """What each layer has, or the first where they share it, in the order of LAYER_ROLES."""
    found = [weights.of_role(role) for role in LAYER_ROLES]
    layers = range(1 if weights.share_layers else weights.config.num_hidden_layers)
    return [[_held_weight(weights, layer, weight) if weight else None for weight in found] for layer in layers]


def _held_weight(weights: ModelWeights, layer: int, weight: WeightSpec) -> Held:
    name = weights.name_of(layer, weight)
    return Held(name, weights.format_of(name), weights.shape_of(weight))
