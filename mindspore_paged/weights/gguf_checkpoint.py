"""The weights of a GGUF file, dequantized one tensor, or part of one, at a time."""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Quantization

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.gguf_file import GgufFile
from mindspore_paged.formats.gguf_header import GgufTensor
from mindspore_paged.formats.weight_format import BLOCK_FORMATS, FORMATS, WeightFormat
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.spec import ModelSpec
from mindspore_paged.weights.bfloat16 import BFLOAT16
from mindspore_paged.weights.gguf_config import gguf_model_config, spec_of_file
from mindspore_paged.weights.quantized_tensor import dequantize_part
from mindspore_paged.weights.rope_config import GGUF_ROPE_TENSORS
from mindspore_paged.weights.stored_rows import StoredRows
from mindspore_paged.weights.tensor_source import along, widened

_KEPT_DTYPES = {
    Quantization.F32: np.dtype(np.float32),
    Quantization.F16: np.dtype(np.float16),
    Quantization.BF16: BFLOAT16,
}
_ROTATED_ROLES = ("q", "k", "q_bias", "k_bias")


class GgufCheckpoint:
    """The tensors of a GGUF file under Hugging Face's names, those that are one there taken apart.

    Float tensors keep their type; quantized ones are read as float32. Where the family's files have the rows of q_proj
    and k_proj in interleaved rotary order, they are put back into the rotate-half order of Hugging Face.
    Raises CheckpointError for a damaged file, a family that is not known, or a quantization that cannot be read.
    """

    def __init__(self, path: str | Path):
        file = GgufFile(path)
        self.path = file.path
        self.model_config = gguf_model_config(file)
        self.tokenizer_source: GgufFile | None = file
        self._spec = spec_of_file(file)
        self._tensors = _under_hugging_faces_names(file, self._spec, self.model_config)
        self._refuse_unreadable_quantizations()

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read(name)` returns."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        """The dtype that `read(name)` returns."""
        return _KEPT_DTYPES.get(self._tensors[name].tensor_type, np.dtype(np.float32))

    def read(self, name: str) -> np.ndarray:
        """The tensor called `name`, as an array of its own."""
        return self.read_part(name, 0, 0, self.shape(name)[0])

    def read_part(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """What `read(name)` has from start to stop of one axis; no other rows or quantization blocks are read."""
        if not self._is_interleaved(name):
            return self._stored_part(name, axis, start, stop)
        head_dim = self._head_dim_of(name)
        # Rows change places inside their head only, so whole heads are enough.
        first, last = widened(start, stop, head_dim if axis == 0 else 1)
        heads = to_rotate_half(self._stored_part(name, axis, first, last), head_dim)
        return heads[along(axis, start - first, stop - first)]

    def block_format(self, name: str, start: int = 0, stop: int | None = None) -> WeightFormat | None:
        """The blocks that the columns from start to stop of the tensor called `name` are stored as.

        None for floats, for blocks that no kernel reads, and where a block would be cut.
        """
        form = BLOCK_FORMATS.get(int(self._tensors[name].tensor_type))
        return form if form and form.divides(start, self.shape(name)[-1] if stop is None else stop) else None

    def float_dtype(self, name: str) -> np.dtype:
        """The floats for a tensor that no blocks hold."""
        return self.dtype(name)

    def read_blocks(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """Those blocks, uint8 [rows, bytes of a row], from start to stop (weights, not bytes) of one axis."""
        rows = self._tensors[name].data
        blocks = rows.reshape(self.shape(name)[0], -1)
        if self._is_interleaved(name):
            blocks = to_rotate_half(blocks, self._head_dim_of(name))
        if axis == 1:
            form = self.block_format(name)
            start, stop = form.row_bytes(start), form.row_bytes(stop)
        return np.array(blocks[along(axis, start, stop)], order="C")

    def stored_rows(self, name: str) -> StoredRows | None:
        """The rows of the tensor called `name` in the file; None for blocks that no kernel reads."""
        tensor, shape = self._tensors[name], self.shape(name)
        is_float = tensor.tensor_type in _KEPT_DTYPES
        form = FORMATS[self.dtype(name).name] if is_float else BLOCK_FORMATS.get(int(tensor.tensor_type))
        if form is None or len(shape) > 2:
            return None
        rows = tensor.data.view(form.dtype).reshape(*shape[:1], *[-1] * (len(shape) - 1))
        order = to_rotate_half(np.arange(len(rows)), self._head_dim_of(name)) if self._is_interleaved(name) else None
        return StoredRows(form, rows, order, tensor.let_go)

    def _is_interleaved(self, name: str) -> bool:
        weight = self._spec.find(name) if self._spec.gguf_interleaves else None
        return weight is not None and weight.role in _ROTATED_ROLES

    def _head_dim_of(self, name: str) -> int:
        """head_dim, where the rows of the projection called `name` are whole heads."""
        shape, head_dim = self.shape(name), self.model_config.head_dim
        if len(shape) > 2 or shape[0] % head_dim:
            raise CheckpointError(
                f"{self.path}: tensor {name} has shape {shape}; its rows must be a multiple of head_dim, {head_dim}"
            )
        return head_dim

    def _stored_part(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        tensor = self._tensors[name]
        if tensor.tensor_type not in _KEPT_DTYPES:
            return dequantize_part(tensor.data, tensor.tensor_type, axis, start, stop)
        # The reader shows bfloat16 as pairs of bytes.
        stored = tensor.data.view(self.dtype(name)).reshape(self.shape(name))
        return np.array(stored[along(axis, start, stop)], order="C")

    def _refuse_unreadable_quantizations(self):
        one_of_each = {tensor.tensor_type: tensor for tensor in self._tensors.values()}
        for kind, tensor in one_of_each.items():
            try:
                gguf.dequantize(tensor.data.reshape(-1, tensor.data.shape[-1])[:1], kind)
            except NotImplementedError as error:
                raise CheckpointError(
                    f"{self.path}: tensor {tensor.name} is stored as {kind.name}, which cannot be read"
                ) from error


def _under_hugging_faces_names(file: GgufFile, spec: ModelSpec, config: ModelConfig) -> dict[str, GgufTensor]:
    tensors: dict[str, GgufTensor] = {}
    for stored_name, stored in file.tensors.items():
        if stored_name in GGUF_ROPE_TENSORS:
            continue
        for name, tensor in _taken_apart(file, spec, config, stored).items():
            if name in tensors:
                raise CheckpointError(f"{file.path}: tensors {tensors[name].name} and {stored_name} are both {name}")
            tensors[name] = tensor
    return tensors


def _taken_apart(file: GgufFile, spec: ModelSpec, config: ModelConfig, stored: GgufTensor) -> dict[str, GgufTensor]:
    """A stored tensor by its name, or those whose rows it has one behind the other."""
    parts = spec.gguf_parts(config, stored.name)
    if not parts:
        return {spec.from_gguf(stored.name): stored}
    if stored.shape[0] != sum(map(len, parts.values())):
        needed = " + ".join(str(len(rows)) for rows in parts.values())
        raise CheckpointError(
            f"{file.path}: tensor {stored.name} has {stored.shape[0]} rows; the model needs {needed} of several in one"
        )
    return {name: stored.rows(rows.start, rows.stop) for name, rows in parts.items()}


def to_rotate_half(weights: np.ndarray, head_dim: int) -> np.ndarray:
    """Reorder the rows of a q or k projection from pairs (0,1), (2,3), … to halves: evens, then odds.

    weights: [heads * head_dim, columns], any dtype, or a bias [heads * head_dim]. Rotary embedding turns two rows of a
    head together: GGUF puts the two side by side, Hugging Face half a head apart.
    """
    pairs = weights.reshape(len(weights) // head_dim, head_dim // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weights.shape)
