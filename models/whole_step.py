"""A step as one operator, and the weights of its decoder layers in a few Parameters."""

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, nn

from mindspore_paged.custom_ops.layer_ops import ABSENT, LAYER_ROLES, DecoderStep
from mindspore_paged.formats.weight_format import WeightFormat
from mindspore_paged.formats.weight_place import WeightPlace, whole_lines
from mindspore_paged.models.kv_pages import KVPages
from mindspore_paged.models.parallel import weight_parameter

LAYER_NAMES = {role: f"{role}.weight" for role in LAYER_ROLES} | {
    "attention_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    **{role: f"self_attn.{role}_proj.weight" for role in "qkvo"},
    **{f"{role}_bias": f"self_attn.{role}_proj.bias" for role in "qkvo"},
    **{role: f"mlp.{role}_proj.weight" for role in ("gate", "up", "down")},
    **{f"{role}_bias": f"mlp.{role}_proj.bias" for role in ("gate", "up", "down")},
}
"""Of each role the weight's name in a layer, by Hugging Face's names, where a LLaMA may have it."""

PACK_BYTES = 2**30
"""A Parameter takes no layer beyond it: some pieces of memory are easier to find than one, and cost no time."""


class PackedLayers(nn.Cell):
    """The weights of decoder layers, uint8 [bytes] in each of `packs`, those of several layers together.

    layers: for each, the form and the shape of the weight of each of LAYER_ROLES, None for what it lacks; or for one
    that all share. layout: int64 [L, 20, 5], as DecoderStep takes it.
    MindSpore takes some 3 us to tell an operator of an input, when weights have just gone through the CPU's caches.
    """

    def __init__(self, layers: list[list[tuple[WeightFormat, tuple[int, ...]] | None]], num_layers: int):
        super().__init__()
        sizes = [0]  # of the packs, in bytes
        where = []  # of each weight: pack, offset, form, shape
        for layer in layers:
            room = [whole_lines(held[0].num_bytes(held[1])) if held else 0 for held in layer]
            if sizes[-1] and sizes[-1] + sum(room) > PACK_BYTES:
                sizes.append(0)
            for held, num_bytes in zip(layer, room, strict=True):
                where.append((len(sizes) - 1, sizes[-1], *held) if held else None)
                sizes[-1] += num_bytes
        self.packs = ParameterTuple([weight_parameter(size, dtype=ms.uint8) for size in sizes])
        for number, pack in enumerate(self.packs):
            pack.name = f"packed_layers_{number}"
        self._where = where * (num_layers // len(layers))
        rows = [_layout_row(*place) if place else ABSENT for place in self._where]
        self.layout = np.array(rows, np.int64).reshape(num_layers, len(LAYER_ROLES), -1)

    def weight_places(self) -> dict[str, WeightPlace]:
        """Where each weight lies, by Hugging Face's names."""
        names = (f"model.layers.{i}.{part}" for i in range(len(self.layout)) for part in LAYER_NAMES.values())
        held = ((name, place) for name, place in zip(names, self._where, strict=True) if place)
        return {
            name: WeightPlace(self.packs[pack], form, form.stored_shape(shape), offset)
            for name, (pack, offset, form, shape) in held
        }


class WholeStep(nn.Cell):
    """Called as `Decoder` is. model: its tensors, the layers packed; head: the Cell with the head's `weight`.

    kv_pool: one that has all layers together. scale: of the scores. Activations are float32.
    """

    def __init__(self, model, head, kv_pool: KVPages, cos_tables, sin_tables, epsilon, scale, backend):
        super().__init__()
        self.model, self.head = model, head
        self.cos_tables, self.sin_tables = cos_tables, sin_tables
        self.block_table = kv_pool.block_table
        self.packs = model.layers.packs
        self.key_caches, self.value_caches = ParameterTuple(kv_pool.key_caches), ParameterTuple(kv_pool.value_caches)
        layout = model.layers.layout
        options = np.zeros((len(layout), 2), np.int64)  # no window, the first table
        self.step = DecoderStep(epsilon, scale, layout, options, model.embed_tokens.kind, head.kind, backend)

    def construct(self, input_ids, positions, rows, logit_indices, table_indices, table_values):
        return self.step(
            input_ids, positions, rows, self.cos_tables, self.sin_tables, logit_indices, table_indices, table_values,
            self.block_table, self.model.embed_tokens.weight, self.model.norm.weight, self.head.weight,
            self.key_caches[0], self.value_caches[0], self.packs,
        )  # fmt: skip


def _layout_row(pack: int, offset: int, form: WeightFormat, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (pack, offset, form.kind, *((1, *shape) if len(shape) == 1 else shape))
