"""Files of which some weights are quantized, each seen as one weight under the name that it has as floats."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.weight_format import BLOCK_FORMATS, WeightFormat
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.spec import LM_HEAD
from mindspore_paged.weights.quantized.grouped_weight import GroupedWeight
from mindspore_paged.weights.quantized.stored_tensors import StoredTensors
from mindspore_paged.weights.tensor_source import TensorSource
from mindspore_paged.wording import shown

_OF_ACTIVATIONS = ("input_scale", "input_zero_point")
"""What would round activations to 8 bits, which are computed with as they are."""


class QuantizedFiles:
    """The tensors of `source`, those of a quantized weight as one of float32; also a BlockSource of these.

    weights_of: finds them (a QuantizationMethod). model: whose they are; biases of projections that have none in it are
    left out where they are all zero, as AutoGPTQ writes them.
    Raises CheckpointError for tensors that do not go together, for two of one name, and for a quantized head of a model
    whose head is its embeddings.
    """

    def __init__(
        self,
        path: Path,
        source: TensorSource,
        weights_of: Callable[[StoredTensors], dict[str, GroupedWeight]],
        model: ModelConfig,
    ):
        self._source = source
        self._weights = weights_of(StoredTensors(path, source))
        used = {name for weight in self._weights.values() for name in weight.tensors}
        stems = [name.removesuffix(".weight") for name in self._weights]
        used |= {f"{stem}.{part}" for stem in stems for part in _OF_ACTIVATIONS}
        if model.tie_word_embeddings and LM_HEAD in self._weights:
            raise CheckpointError(
                f"{path}: {LM_HEAD} is quantized by itself, but config.json says that it is the embeddings "
                "(tie_word_embeddings)"
            )
        others = [name for name in source.names() if name not in used]
        for name in self._weights.keys() & set(others):
            raise CheckpointError(f"{path}: tensor {shown(name)} is there twice, quantized and not")
        foreign = {f"{stem}.bias" for stem in stems if stem.rpartition(".")[2] not in model.biases}
        others = [name for name in others if name not in foreign or source.read(name).any()]
        self._names = [*others, *self._weights]

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read(name)` returns."""
        weight = self._weights.get(name)
        return weight.shape if weight else self._source.shape(name)

    def dtype(self, name: str) -> np.dtype:
        """The dtype that `read(name)` returns."""
        return np.dtype(np.float32) if name in self._weights else self._source.dtype(name)

    def read(self, name: str) -> np.ndarray:
        """The tensor called `name`, as an array of its own."""
        weight = self._weights.get(name)
        return weight.read_part(0, 0, weight.shape[0]) if weight else self._source.read(name)

    def read_part(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """What `read(name)` has from start to stop of one axis."""
        weight = self._weights.get(name)
        return weight.read_part(axis, start, stop) if weight else self._source.read_part(name, axis, start, stop)

    def block_format(self, name: str, start: int = 0, stop: int | None = None) -> WeightFormat | None:
        """The blocks that hold the columns from start to stop of a tensor exactly; None for floats, or without such."""
        weight = self._weights.get(name)
        form = weight.block_format(start, weight.shape[1] if stop is None else stop) if weight else None
        return form if form and form.kind in BLOCK_FORMATS else None

    def float_dtype(self, name: str) -> np.dtype:
        """The floats for a tensor that no blocks hold: those that its scales are."""
        weight = self._weights.get(name)
        return weight.scale_dtype if weight else self._source.dtype(name)

    def read_blocks(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """Those blocks from start to stop (weights, not bytes) of one axis, as an array of its own."""
        return self._weights[name].read_blocks(axis, start, stop)
