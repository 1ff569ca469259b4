"""Memory for a few adapters of low rank beside a model's projections; a step is told each token's by its number.

Adapters come and go while graphs stay: all have one rank, lower ones being filled up with zeros. Source: Hu et al.
2021, "LoRA"; Chen et al. 2023, "Punica", for tokens of several adapters in one batch.
"""

from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from mindspore_paged.custom_ops.layer_roles import ADAPTED_ROLES, PANEL_ROWS, RANK_STEP
from mindspore_paged.models.model_weights import ModelWeights
from mindspore_paged.models.parallel import weight_parameter
from mindspore_paged.weights.lora_adapter import AdapterRoom, LoraAdapter
from mindspore_paged.weights.weight_memory import WeightMemory

LINE = 16
"""Numbers of a line, to which parts of an adapter are filled up."""


class PackedAdapters:
    """Those of a step that is one operator: float32 [adapters, numbers], in the order that DecoderStep takes.

    rank: a multiple of RANK_STEP.
    """

    def __init__(self, weights: ModelWeights, room: AdapterRoom):
        config, self.room = weights.config, room
        self.rank = whole(room.rank, RANK_STEP)
        shapes = {role: weights.shape_of(weights.of_role(role)) for role in ADAPTED_ROLES}
        self._places, end = {}, 0
        for layer in range(config.num_hidden_layers):
            for role, (outputs, inputs) in shapes.items():
                num_panels = -(-outputs // PANEL_ROWS)
                up = end + whole(self.rank * inputs, LINE)
                self._places[layer, role] = _Place(end, up, inputs, num_panels)
                end = up + num_panels * self.rank * PANEL_ROWS
        self.parameter = weight_parameter(room.number, end, dtype=ms.float32)
        self.parameter.name = "adapter_weights"
        # In memory that MindSpore takes as it is: what is written there is there for the next step.
        memory = WeightMemory([self.parameter.nbytes]).allocate(self.parameter.nbytes)
        self._memory = memory.view(np.float32).reshape(self.parameter.shape)
        self.parameter.set_data(ms.from_numpy(self._memory))

    def write(self, number: int, adapter: LoraAdapter) -> None:
        """Put an adapter in the place of the one of this number."""
        memory = self._memory[number]
        memory[...] = 0.0
        for key, product in adapter.products.items():
            place, rank, outputs = self._places[key], product.rank, len(product.up)
            memory[place.down : place.down + rank * place.inputs] = product.down.reshape(-1)
            up = np.zeros((place.num_panels * PANEL_ROWS, self.rank), np.float32)
            up[:outputs, :rank] = product.up
            panels = up.reshape(place.num_panels, PANEL_ROWS, self.rank).transpose(0, 2, 1)
            memory[place.up : place.up + up.size] = panels.reshape(-1)


class StackedAdapters:
    """Those of the execution of any backend: of each projection all A [adapters * rank, inputs] and all B [outputs,
    adapters * rank], of which a token takes its own adapter's.

    dtype: of activations.
    """

    def __init__(self, weights: ModelWeights, room: AdapterRoom, dtype):
        self.room, self._dtype = room, dtype
        width = room.number * room.rank
        self.parameters: dict[tuple[int, str], tuple[Parameter, Parameter]] = {}
        self._memory: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = {}
        for layer in range(weights.config.num_hidden_layers):
            for role in ADAPTED_ROLES:
                outputs, inputs = weights.shape_of(weights.of_role(role))
                values = np.zeros((width, inputs), np.float32), np.zeros((outputs, width), np.float32)
                self._memory[layer, role] = values
                self.parameters[layer, role] = tuple(
                    Parameter(Tensor(value, dtype), name=f"adapters.{layer}.{role}.{which}", requires_grad=False)
                    for which, value in zip(("down", "up"), values, strict=True)
                )

    def write(self, number: int, adapter: LoraAdapter) -> None:
        """Put an adapter in the place of the one of this number."""
        start = number * self.room.rank
        own = slice(start, start + self.room.rank)
        for key, (down, up) in self._memory.items():
            down[own], up[:, own] = 0.0, 0.0
            product = adapter.products.get(key)
            if product is not None:
                down[start : start + product.rank], up[:, start : start + product.rank] = product.down, product.up
            for parameter, values in zip(self.parameters[key], (down, up), strict=True):
                parameter.set_data(Tensor(values, self._dtype))


class _Place(NamedTuple):
    """Where an adapter's numbers have the A and the B of a projection."""

    down: int
    up: int
    inputs: int
    num_panels: int


def whole(count: int, step: int) -> int:
    """The multiple of `step` that is not below `count`."""
    return -(-count // step) * step
