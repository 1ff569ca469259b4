"""Tensors named and cut as MindFormers does, seen under Hugging Face's names."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mindspore_paged.errors import CheckpointError
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.weights.tensor_names import from_mindformers

FUSED_QKV = ".attention.w_qkv.weight"
FUSED_GATE_UP = ".feed_forward.w_gate_hidden.weight"


class TensorSource(Protocol):
    """Tensors under any names."""

    def names(self) -> list[str]:
        """The names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read(name)` returns."""

    def dtype(self, name: str) -> np.dtype:
        """The dtype that `read(name)` returns."""

    def read(self, name: str) -> np.ndarray:
        """The tensor called `name`."""


@dataclass(frozen=True)
class _Part:
    """Where one tensor comes from: rows of a stored one, chosen by `cut` (all of them where it is None)."""

    stored_name: str
    shape: tuple[int, ...]
    cut: Callable[[np.ndarray], np.ndarray] | None = None


class LlamaTensors:
    """The tensors of `source` under Hugging Face's names, with fused projections taken apart.

    Names of Hugging Face pass as they are; those of MindFormers are translated. With `qkv_concat`, MindFormers (1.9)
    stores w_qkv by groups, [queries that share a KV head, that key head, that value head] for each KV head, and
    w_gate_hidden with rows of gate and up in turn. Its q and k rows are in rotate-half order, as Hugging Face's are.
    Raises CheckpointError where a fused tensor does not fit `model_config`, and for two tensors of one name.
    Source: qkv_concat_hf2mg and ffn_concat_hf2mg of mindformers.utils.convert_utils.
    """

    def __init__(self, path: Path, source: TensorSource, model_config: ModelConfig):
        self.path = path
        self._source = source
        self._config = model_config
        self._parts: dict[str, _Part] = {}
        for stored_name in source.names():
            for name, part in self._parts_of(stored_name).items():
                if name in self._parts:
                    other = self._parts[name].stored_name
                    raise CheckpointError(f"{path}: tensors {other} and {stored_name} are both {name}")
                self._parts[name] = part

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._parts)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read(name)` returns."""
        return self._parts[name].shape

    def dtype(self, name: str) -> np.dtype:
        """The dtype that `read(name)` returns."""
        return self._source.dtype(self._parts[name].stored_name)

    def read(self, name: str) -> np.ndarray:
        """The tensor called `name`, as an array of its own."""
        part = self._parts[name]
        stored = self._source.read(part.stored_name)
        return np.ascontiguousarray(part.cut(stored)) if part.cut else stored

    def _parts_of(self, stored_name: str) -> dict[str, _Part]:
        if stored_name.endswith(FUSED_QKV):
            return self._parts_of_qkv(stored_name)
        if stored_name.endswith(FUSED_GATE_UP):
            return self._parts_of_gate_up(stored_name)
        return {from_mindformers(stored_name): _Part(stored_name, self._source.shape(stored_name))}

    def _parts_of_qkv(self, stored_name: str) -> dict[str, _Part]:
        kv_heads, head_dim = self._config.num_key_value_heads, self._config.head_dim
        shared = self._config.num_attention_heads // kv_heads
        columns = self._fused_columns(stored_name, kv_heads * (shared + 2) * head_dim)

        def cut(heads: slice) -> Callable[[np.ndarray], np.ndarray]:
            def rows_of_heads(stored: np.ndarray) -> np.ndarray:
                groups = stored.reshape(kv_heads, shared + 2, head_dim, columns)
                return groups[:, heads].reshape(-1, columns)

            return rows_of_heads

        layer, kv_shape = stored_name.removesuffix(FUSED_QKV), (kv_heads * head_dim, columns)
        return {
            f"{layer}.self_attn.q_proj.weight": _Part(
                stored_name, (kv_heads * shared * head_dim, columns), cut(slice(0, shared))
            ),
            f"{layer}.self_attn.k_proj.weight": _Part(stored_name, kv_shape, cut(slice(shared, shared + 1))),
            f"{layer}.self_attn.v_proj.weight": _Part(stored_name, kv_shape, cut(slice(shared + 1, shared + 2))),
        }

    def _parts_of_gate_up(self, stored_name: str) -> dict[str, _Part]:
        size = self._config.intermediate_size
        shape = (size, self._fused_columns(stored_name, 2 * size))
        layer = stored_name.removesuffix(FUSED_GATE_UP)
        return {
            f"{layer}.mlp.gate_proj.weight": _Part(stored_name, shape, lambda stored: stored[0::2]),
            f"{layer}.mlp.up_proj.weight": _Part(stored_name, shape, lambda stored: stored[1::2]),
        }

    def _fused_columns(self, stored_name: str, rows: int) -> int:
        needed = (rows, self._config.hidden_size)
        shape = self._source.shape(stored_name)
        if shape != needed:
            raise CheckpointError(f"{self.path}: tensor {stored_name} has shape {shape}; the model needs {needed}")
        return shape[1]
