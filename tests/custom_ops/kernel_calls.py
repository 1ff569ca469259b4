"""Calls the compiled operators directly, without a graph: many shapes cost no compile."""

import ctypes
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np

from mindspore_paged.custom_ops.build import find_compiler
from mindspore_paged.custom_ops.panels import arrange_panels

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT_DTYPES = (np.dtype(np.float32), np.dtype(np.float16), BFLOAT16)
INT8 = np.dtype(np.int8)
CACHE_DTYPES = (*FLOAT_DTYPES, INT8)


def assert_same_bits(actual, expected, note=""):
    """Equal to the last bit, which tells 0 from -0."""
    bits = f"u{actual.itemsize}"
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual.view(bits), expected.view(bits), err_msg=note)


class OpRefusedError(Exception):
    """The operator refused its input; the message is its own."""


def build_catcher(directory: Path) -> Path:
    """Compile the C++ function that turns an operator's exception into a message."""
    library = directory / "libcatching_call.so"
    source = Path(__file__).with_name("catching_call.cc")
    subprocess.run([*find_compiler(), "-shared", "-fPIC", "-O1", str(source), "-o", str(library)], check=True)
    return library


class Kernels:
    """The operators of one compiled library, on NumPy arrays; caches are written in place.

    A weight is a `layer_reference.Weight`, its rows in a file's order: they are put in panels for each call.
    """

    def __init__(self, library: Path, catcher: Path):
        self.path = library
        self._library = ctypes.CDLL(str(library))
        self._catching_call = ctypes.CDLL(str(catcher)).CatchingCall

    def call(self, function: str, *arrays: np.ndarray) -> None:
        """Call `function` with inputs and outputs as MindSpore would; raises OpRefusedError."""
        count = len(arrays)
        shapes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
        message = ctypes.create_string_buffer(4096)
        code = self._catching_call(
            ctypes.cast(getattr(self._library, function), ctypes.c_void_p),
            count,
            (ctypes.c_void_p * count)(*(array.ctypes.data for array in arrays)),
            (ctypes.c_int * count)(*(array.ndim for array in arrays)),
            (ctypes.c_void_p * count)(*(ctypes.addressof(shape) for shape in shapes)),
            (ctypes.c_char_p * count)(*(array.dtype.name.encode() for array in arrays)),
            message,
            ctypes.c_int64(len(message)),
        )
        if code != 0:
            raise OpRefusedError(message.value.decode())

    def paged_attention(
        self, query, key_cache, value_cache, block_table, rows, context_lens, scale, window=0
    ) -> np.ndarray:
        """Return the output, which starts as NaN so that an element left unwritten shows."""
        output = np.full(query.shape, np.nan, query.dtype)
        inputs = (query, key_cache, value_cache, block_table, rows, context_lens, np.array(scale, np.float32))
        self.call("PagedAttention", *inputs, np.array(window, np.int64), output)
        return output

    def reshape_and_cache(self, key, value, key_cache, value_cache, slot_mapping) -> None:
        """Write the slots."""
        self.call("ReshapeAndCache", key, value, key_cache, value_cache, slot_mapping, np.empty(1, np.int32))

    def copy_blocks(self, key_cache, value_cache, pairs) -> None:
        """Copy the blocks."""
        self.call("CopyBlocks", key_cache, value_cache, pairs, np.empty(1, np.int32))

    def arranged(self, weight) -> np.ndarray:
        """A weight as the operators take it."""
        return arrange_panels(weight.stored, weight.form.kind, weight.values.shape[1], self.path)

    def embedding(self, ids, table, num_columns, first_row=0, vocab_size=None) -> np.ndarray:
        """Return the rows of a weight."""
        output = np.full((len(ids), num_columns), np.nan, np.float32)
        last = len(table.stored) if vocab_size is None else vocab_size
        numbers = (np.array(number, np.int64) for number in (table.form.kind, first_row, last))
        self.call("Embedding", ids, self.arranged(table), np.zeros(num_columns, np.float32), *numbers, output)
        return output

    def norm_linear(self, x, norm_weight, weight, epsilon) -> np.ndarray:
        """Return the output, NaN where nothing was written, as all of these."""
        output = np.full((len(x), len(weight.stored)), np.nan, np.float32)
        kind = np.array(weight.form.kind, np.int64)
        self.call("NormLinear", x, norm_weight, self.arranged(weight), np.array(epsilon, np.float32), kind, output)
        return output

    def feed_forward_layer(self, x, norm_weight, weights, epsilon, adds_residual=True, activation=0) -> np.ndarray:
        """Return the output for weights gate, up and down."""
        output = np.full(x.shape, np.nan, np.float32)
        arranged = map(self.arranged, weights)
        integers = (packed_kinds(weights), np.array(activation, np.int64), np.array(adds_residual, np.int64))
        optional, there = present([weight.bias for weight in weights])
        self.call(
            "FeedForwardLayer", x, norm_weight, *arranged, *optional, np.array(epsilon, np.float32), *integers, there,
            output,
        )  # fmt: skip
        return output

    def attention_layer(
        self, x, norm_weight, weights, head_norms, places, epsilon, scale, adds_residual=True, window=0, rope_table=0
    ) -> np.ndarray:
        """Return the output for weights q, k, v and o.

        head_norms: of queries and keys, or None; places: cos_tables to rows, in the op's order.
        """
        output = np.full(x.shape, np.nan, np.float32)
        arranged = map(self.arranged, weights)
        optional, there = present([*(weight.bias for weight in weights), *head_norms])
        floats = (np.array(number, np.float32) for number in (epsilon, scale))
        options = (np.array(number, np.int64) for number in (window, rope_table))
        kinds, residual = packed_kinds(weights), np.array(adds_residual, np.int64)
        self.call(
            "AttentionLayer", x, norm_weight, *arranged, *places, *optional, *floats, *options, kinds, residual, there,
            output,
        )  # fmt: skip
        return output

    def decoder_step(
        self, tokens, places, table_entries, ends, layers, epsilon, scale, options=None, adapters=None
    ) -> np.ndarray:  # fmt: skip
        """Return the logits.

        tokens: input_ids, positions, rows, logit_indices; places: cos_tables, sin_tables, block_table; table_entries:
        indices and values; ends: table, norm_weight and head; layers: of each its weights in the order of LAYER_ROLES,
        None for those that it lacks, its caches, two that are written in place, window and rope_table; options:
        embedding_scale, residual_scale, logit_scale, activation. adapters: each token's, their numbers, and their rank.
        """
        input_ids, positions, rows, logit_indices = tokens
        cos_tables, sin_tables, block_table = places
        table, norm_weight, head = ends
        output = np.full((len(logit_indices), len(head.stored)), np.nan, np.float32)
        layout, packs = packed([weights for weights, _, _ in layers], self.arranged)
        of_layers = [caches for _, caches, _ in layers]
        key_cache, value_cache = together = [np.stack(caches) for caches in zip(*of_layers, strict=True)]
        kinds = (np.array(weight.form.kind, np.int64) for weight in (table, head))
        *scales, activation = options or (1.0, 1.0, 1.0, 0)
        *of_adapters, rank = adapters or (0,)
        self.call(
            "DecoderStep", input_ids, positions, rows, cos_tables, sin_tables, logit_indices, *table_entries,
            block_table, layout, np.array([of_layer for *_, of_layer in layers], np.int64), self.arranged(table),
            norm_weight, self.arranged(head), key_cache, value_cache, *of_adapters, *packs,
            *(np.array(number, np.float32) for number in (epsilon, scale, *scales)), np.array(activation, np.int64),
            np.array(rank, np.int64), *kinds, output,
        )  # fmt: skip
        for caches, written in zip(of_layers, zip(*together, strict=True), strict=True):
            for cache, values in zip(caches, written, strict=True):
                cache[...] = values
        return output

    def num_threads(self) -> int:
        """Threads of this library's team."""
        return self._library.PagedOpsNumThreads()

    def set_num_threads(self, number: int) -> None:
        """Make the team smaller or larger."""
        self._library.PagedOpsSetNumThreads(number)

    @property
    def has_tiles(self) -> bool:
        """Whether it can multiply on matrix tiles."""
        return self.use_tiles(True)

    def use_tiles(self, use: bool) -> bool:
        """Multiply on matrix tiles, or on vectors alone; returns whether it is tiles now."""
        return bool(self._library.PagedOpsUseTiles(int(use)))


def packed_kinds(weights) -> np.ndarray:
    """The kinds of some weights as one input of an operator."""
    return np.array(sum(weight.form.kind << 8 * place for place, weight in enumerate(weights)), np.int64)


def present(optional) -> tuple[list[np.ndarray], np.ndarray]:
    """Those of some weights that are not None, and the bits that say which they are."""
    there = sum((weight is not None) << place for place, weight in enumerate(optional))
    return [weight for weight in optional if weight is not None], np.array(there, np.int64)


def attention_roles(norm_weight, weights, head_norms=(None, None), output_norm=None) -> list:
    """The weights of attention in the order of LAYER_ROLES, of q, k, v and o with their biases."""
    return [norm_weight, *weights, *(weight.bias for weight in weights), *head_norms, output_norm]


def feed_forward_roles(norm_weight, weights, output_norm=None) -> list:
    """The others, of gate, up and down with their biases."""
    return [norm_weight, *weights, *(weight.bias for weight in weights), output_norm]


def packed(layers, arranged) -> tuple[np.ndarray, list[np.ndarray]]:
    """layout and packs of layers' weights, a norm or a bias being an array: layers in turn in two packs, with gaps."""
    packs = [b"?" * 3, b""]
    layout = []
    for number, weights in enumerate(layers):
        for weight in weights:
            if weight is None:
                layout.append((-1, 0, 0, 0, 0))
                continue
            is_row = isinstance(weight, np.ndarray)
            kind, shape = (0, (1, len(weight))) if is_row else (weight.form.kind, weight.values.shape)
            layout.append((number % 2, len(packs[number % 2]), kind, *shape))
            packs[number % 2] += (weight if is_row else arranged(weight)).tobytes() + b"?" * 5
    layout = np.array(layout, np.int64).reshape(len(layers), -1, 5)
    return layout, [np.frombuffer(pack, np.uint8).copy() for pack in packs]
