"""Weights drawn at random, for tests and benchmarks of a shape whose real weights are not at hand."""

import zlib

import numpy as np

from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.registry import weight_shapes
from mindspore_paged.weights.tensor_source import along


class RandomCheckpoint:
    """A Checkpoint of `model_config` whose tensors are drawn from `seed`, each on its own; nothing is kept in memory.

    Matrices are normal with deviation fan_in^-0.5, so that activations keep their size; norms are ones, biases normal
    with deviation 0.1.
    """

    path = "random weights"
    tokenizer_source = None

    def __init__(self, model_config: ModelConfig, seed: int = 0):
        self.model_config = model_config
        self._seed = seed
        self._shapes = weight_shapes(model_config)

    def names(self) -> list[str]:
        """The names of all tensors, Hugging Face's."""
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read(name)` returns."""
        return self._shapes[name]

    def dtype(self, name: str) -> np.dtype:
        """The dtype that `read(name)` returns."""
        return np.dtype(np.float32)

    def read(self, name: str) -> np.ndarray:
        """The tensor called `name`, float32; the same at every call."""
        shape = self._shapes[name]
        if "norm" in name:
            return np.ones(shape, np.float32)
        generator = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        if name.endswith(".bias"):
            return generator.standard_normal(shape, np.float32) * np.float32(0.1)
        return generator.standard_normal(shape, np.float32) * np.float32(shape[1] ** -0.5)

    def read_part(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """What `read(name)` has from start to stop of one axis; the whole is drawn, the part is kept."""
        return np.array(self.read(name)[along(axis, start, stop)], order="C")
