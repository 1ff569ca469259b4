"""The builds of the operators, each as one object: what it runs on, what it takes, and where it is found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mindspore_paged.custom_ops.build import cpu_library
from mindspore_paged.custom_ops.build_emulator import emulator_library


@dataclass(frozen=True)
class HeadRule:
    """Heads that kernels take: of `step` numbers or a multiple, at most `most` (`int8_step` and `int8_most` over int8
    pages), at most `most_group` query heads for a KV head, and at most `most_width` numbers in all heads of a token."""

    step: int
    most: int
    int8_step: int
    int8_most: int
    most_group: int
    most_width: int


@dataclass(frozen=True)
class WidthRule:
    """Models whose layers are fused: what is `step` numbers wide or a multiple, hidden_size at most `most_hidden`, and
    head_dim at most `most_head`."""

    step: int
    most_hidden: int
    most_head: int


@dataclass(frozen=True)
class Backend:
    """A build of the operators, called `name` in runtime.ops_backend.

    device: MindSpore's device_target that it runs on.
    library: gives the path of the compiled operators, or raises BuildError; None where they are found by name, in the
    NPU's op package.
    fused_dtypes: types of a model whose layers it has as one operator, or a few. whole_layers: these are whole layers,
    or halves, which read weights in any format; else they are what stands between a layer's products.
    cache_dtypes: for each type of a model, those of the pages that its kernels take beside it; None: all.
    widths, heads: None: all. tokens_in_a_copy: of one page, the most that its kernels bring at a time: longer pages
    work, but gain nothing; None: there is no such length.
    is_native: compiled for the CPU that it runs on, or portable for any; reads weights in an order of its own.
    infers_shapes: tells a graph's shapes without Python, so that a loaded graph takes any number of tokens.
    """

    name: str
    device: str
    library: Callable[[], Path] | None
    fused_dtypes: tuple[str, ...] = ()
    whole_layers: bool = False
    widths: WidthRule | None = None
    cache_dtypes: Mapping[str, tuple[str, ...]] | None = None
    heads: HeadRule | None = None
    tokens_in_a_copy: int | None = None
    is_native: bool = False
    infers_shapes: bool = True


_OF_ASCEND_C = {
    "cache_dtypes": MappingProxyType(
        {
            "float32": ("float16", "bfloat16", "int8"),
            "float16": ("float16", "int8"),
            "bfloat16": ("bfloat16", "int8"),
        }
    ),
    "fused_dtypes": ("float32", "float16", "bfloat16"),
    "widths": WidthRule(step=16, most_hidden=32768, most_head=128),
    "heads": HeadRule(step=16, most=256, int8_step=32, int8_most=128, most_group=16, most_width=2**16 - 1),
    # kPieceTokens of cube_matmul.h: two pieces of 128 tokens by 128 numbers of 16 bits fill L0B. Huawei's own kernel
    # (ATB) refuses pages of more than 128 * 128 numbers a head; these take pages of any length.
    "tokens_in_a_copy": 128,
}

BACKENDS: Mapping[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("cpu", "CPU", cpu_library, fused_dtypes=("float32",), whole_layers=True, is_native=True),
        Backend("ascend_emulator", "CPU", emulator_library, **_OF_ASCEND_C),
        Backend("ascend", "Ascend", None, infers_shapes=False, **_OF_ASCEND_C),
    )
}
