"""Parts of quantized GGUF tensors, dequantized without the rest of the tensor."""

import gguf
import numpy as np

from mindspore_paged.weights.tensor_source import along, widened

_SLICE_BYTES = 4 << 20


def dequantize_part(
    stored: np.ndarray, kind: gguf.GGMLQuantizationType, axis: int, start: int, stop: int
) -> np.ndarray:
    """From start to stop of one axis of a quantized tensor, float32.

    stored: uint8 [..., bytes of a row], as `GgufTensor.data` shows the file. Of each row only the quantization blocks
    that the part touches are read, some MB at a time, because what dequantizing needs besides its result is several
    times as large.
    """
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    first, last = 0, stored.shape[-1] // block_bytes * block
    kept = slice(first, last)
    if axis == stored.ndim - 1:
        first, last = widened(start, stop, block)
        kept = slice(start - first, stop - first)
        stored = stored[..., first // block * block_bytes : last // block * block_bytes]
    else:
        stored = stored[along(axis, start, stop)]
    rows = stored.reshape(-1, stored.shape[-1])
    weights = np.empty((len(rows), kept.stop - kept.start), np.float32)
    step = max(1, _SLICE_BYTES // (4 * (last - first)))
    for row in range(0, len(rows), step):
        some = np.ascontiguousarray(rows[row : row + step])
        with np.errstate(all="ignore"):  # scales that are infinite or NaN are the file's, and show in the answers
            weights[row : row + step] = gguf.dequantize(some, kind)[:, kept]
    return weights.reshape(*stored.shape[:-1], weights.shape[1])
