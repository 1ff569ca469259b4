"""The tensors of files of Hugging Face or MindFormers as a model has them: each weight by itself, under one name."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.weight_format import WeightFormat
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.registry import spec_of
from mindspore_paged.weights.packing import BlockSource
from mindspore_paged.weights.tensor_source import TensorSource, along, widened

FUSED_QKV = ".attention.w_qkv"
FUSED_GATE_UP = ".feed_forward.w_gate_hidden"


@dataclass(frozen=True)
class _Fused:
    """Where a tensor's rows stand in a fused one: `members` blocks of rows a group, of which first to last are its."""

    groups: int
    members: int
    rows: int
    first: int
    last: int

    @property
    def rows_of_group(self) -> int:
        """Rows of the tensor in each group."""
        return (self.last - self.first) * self.rows

    def pick(self, stored: np.ndarray) -> np.ndarray:
        """The tensor's rows among whole groups of stored ones, [groups * members * rows, columns], or of a bias."""
        columns = stored.shape[1:]
        groups = stored.reshape(-1, self.members, self.rows, *columns)
        return np.ascontiguousarray(groups[:, self.first : self.last]).reshape(-1, *columns)


@dataclass(frozen=True)
class _Part:
    """Where one tensor comes from: a stored one, or those of its rows that `fused` says."""

    stored_name: str
    shape: tuple[int, ...]
    fused: _Fused | None = None


class ModelTensors:
    """The tensors of `source` under Hugging Face's names, with fused projections taken apart.

    Names of Hugging Face pass as they are, but for a `model.` that is missing; those of MindFormers are translated.
    What the family's files have as one tensor of several weights is as many here, and norms are what is multiplied
    with, in float32 where the files say them by an offset.
    With `qkv_concat`, MindFormers (1.9) stores w_qkv by groups, [queries that share a KV head, that key head, that
    value head] for each KV head, and w_gate_hidden with rows of gate and up in turn. Its q and k rows are in
    rotate-half order, as Hugging Face's are.
    Raises CheckpointError where a fused tensor does not fit `model_config`, and for two tensors of one name.
    Source: qkv_concat_hf2mg and ffn_concat_hf2mg of mindformers.utils.convert_utils.
    """

    def __init__(self, path: Path, source: TensorSource, model_config: ModelConfig):
        self.path = path
        self._source = source
        self._config, self._spec = model_config, spec_of(model_config)
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
        return np.dtype(np.float32) if self._is_offset(name) else self._source.dtype(self._parts[name].stored_name)

    def read(self, name: str) -> np.ndarray:
        """The tensor called `name`, as an array of its own."""
        part = self._parts[name]
        if part.fused and part.fused.groups == 1:
            return self.read_part(name, 0, 0, part.shape[0])
        stored = self._source.read(part.stored_name)
        if self._is_offset(name):
            return stored.astype(np.float32) + np.float32(self._spec.norm_offset)
        return part.fused.pick(stored) if part.fused else stored

    def read_part(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """What `read(name)` has from start to stop of one axis; of a fused tensor, the groups around it are read."""
        part, fused = self._parts[name], self._parts[name].fused
        if self._is_offset(name):
            return np.array(self.read(name)[along(axis, start, stop)], order="C")
        if fused is None:
            return self._source.read_part(part.stored_name, axis, start, stop)
        if axis == 0 and fused.groups == 1:
            before = fused.first * fused.rows
            return self._source.read_part(part.stored_name, 0, before + start, before + stop)
        if axis == 1:
            return fused.pick(self._source.read_part(part.stored_name, axis, start, stop))
        first, last = widened(start, stop, fused.rows_of_group)
        stored_rows = [row // fused.rows_of_group * fused.members * fused.rows for row in (first, last)]
        rows = fused.pick(self._source.read_part(part.stored_name, axis, *stored_rows))
        return rows[start - first : stop - first]

    def block_format(self, name: str, start: int = 0, stop: int | None = None) -> WeightFormat | None:
        """The blocks of the tensor called `name`, if the files have it as such and it is one run of rows there."""
        part = self._parts[name]
        if not isinstance(self._source, BlockSource) or (part.fused and part.fused.groups > 1):
            return None
        return self._source.block_format(part.stored_name, start, stop)

    def float_dtype(self, name: str) -> np.dtype:
        """The floats for a tensor that no blocks hold."""
        of_blocks = isinstance(self._source, BlockSource) and not self._is_offset(name)
        return self._source.float_dtype(self._parts[name].stored_name) if of_blocks else self.dtype(name)

    def read_blocks(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """Those blocks from start to stop (weights, not bytes) of one axis, as an array of its own."""
        part, fused = self._parts[name], self._parts[name].fused
        before, rows = (fused.first * fused.rows, part.shape[0]) if fused else (0, part.shape[0])
        if axis == 0:
            return self._source.read_blocks(part.stored_name, 0, before + start, before + stop)
        blocks = self._source.read_blocks(part.stored_name, axis, start, stop)
        return np.array(blocks[before : before + rows]) if fused else blocks

    def _parts_of(self, stored_name: str) -> dict[str, _Part]:
        cell, _, kind = stored_name.rpartition(".")
        if kind in ("weight", "bias") and cell.endswith(FUSED_QKV):
            return self._parts_of_qkv(stored_name, cell.removesuffix(FUSED_QKV), kind)
        if kind in ("weight", "bias") and cell.endswith(FUSED_GATE_UP):
            return self._parts_of_gate_up(stored_name, cell.removesuffix(FUSED_GATE_UP), kind)
        name = from_hf(self._spec.from_mindformers(stored_name))
        return self._parts_of_rows(stored_name, name) or {name: _Part(stored_name, self._source.shape(stored_name))}

    def _is_offset(self, name: str) -> bool:
        weight = self._spec.find(name) if self._spec.norm_offset else None
        return weight is not None and weight.is_norm

    def _parts_of_rows(self, stored_name: str, name: str) -> dict[str, _Part]:
        """Weights whose rows a tensor has one behind the other; none if it is no such tensor."""
        parts = self._spec.parts(self._config, name)
        num_rows = sum(map(len, parts.values()))
        columns = self._fused_columns(stored_name, num_rows) if parts else ()
        return {
            weight: self._fused_part(stored_name, columns, _Fused(1, num_rows, 1, rows.start, rows.stop))
            for weight, rows in parts.items()
        }

    def _parts_of_qkv(self, stored_name: str, layer: str, kind: str) -> dict[str, _Part]:
        kv_heads, head_dim = self._config.num_key_value_heads, self._config.head_dim
        shared = self._config.num_attention_heads // kv_heads
        columns = self._fused_columns(stored_name, kv_heads * (shared + 2) * head_dim)
        members = {"q_proj": (0, shared), "k_proj": (shared, shared + 1), "v_proj": (shared + 1, shared + 2)}
        return {
            f"{layer}.self_attn.{projection}.{kind}": self._fused_part(
                stored_name, columns, _Fused(kv_heads, shared + 2, head_dim, first, last)
            )
            for projection, (first, last) in members.items()
        }

    def _parts_of_gate_up(self, stored_name: str, layer: str, kind: str) -> dict[str, _Part]:
        size = self._config.intermediate_size
        columns = self._fused_columns(stored_name, 2 * size)
        return {
            f"{layer}.mlp.{projection}.{kind}": self._fused_part(
                stored_name, columns, _Fused(size, 2, 1, first, first + 1)
            )
            for first, projection in enumerate(("gate_proj", "up_proj"))
        }

    def _fused_part(self, stored_name: str, columns: tuple[int, ...], fused: _Fused) -> _Part:
        return _Part(stored_name, (fused.groups * fused.rows_of_group, *columns), fused)

    def _fused_columns(self, stored_name: str, rows: int) -> tuple[int, ...]:
        needed = (rows, self._config.hidden_size) if stored_name.endswith(".weight") else (rows,)
        shape = self._source.shape(stored_name)
        if shape != needed:
            raise CheckpointError(f"{self.path}: tensor {stored_name} has shape {shape}; the model needs {needed}")
        return shape[1:]


def from_hf(name: str) -> str:
    """The name with the `model.` that a model saved without its head lacks; any other name is returned as it is."""
    return f"model.{name}" if re.match(r"(embed_tokens|layers\.\d+|norm)\.", name) else name
