"""What is checked: the cases of each group, the likeliest to fail on silicon among them."""

from collections.abc import Mapping
from types import MappingProxyType

from mindspore_paged.ascend_check.cases import AttentionCase, Heads, WriterCase

SMALL = (
    AttentionCase(Heads(8, 8, 128, 128, "float16"), "float16", (1, 128, 129, 300), (1, 1, 1, 1)),
    AttentionCase(Heads(16, 4, 128, 16, "float16"), "float16", (33, 160), (1, 1), padding=2),
    AttentionCase(Heads(16, 2, 128, 128, "bfloat16"), "bfloat16", (257, 64), (1, 1)),
    AttentionCase(Heads(9, 3, 64, 16, "float16"), "float32", (40, 7), (33, 1)),
    AttentionCase(Heads(4, 2, 16, 16, "bfloat16"), "float32", (50,), (4,)),
    AttentionCase(Heads(8, 4, 64, 16, "float16"), "float16", (20, 150), (1, 30), window=40),
    AttentionCase(Heads(16, 4, 128, 16, "float16"), "float16", (20, 150), (1, 30), window=40),
)
TILES = (
    AttentionCase(Heads(8, 2, 128, 128, "float16"), "float16", (513, 2000, 4096), (1, 1, 1)),
    AttentionCase(Heads(16, 2, 128, 16, "bfloat16"), "bfloat16", (513, 2000, 4096), (1, 1, 1)),
    AttentionCase(Heads(4, 4, 128, 128, "float16"), "float16", (513, 2000, 4096), (1, 1, 1)),
)
"""Decode over several tiles, on cube and vector cores."""
SPLIT = (
    AttentionCase(Heads(8, 1, 128, 128, "float16"), "float16", (16384,), (1,)),
    AttentionCase(Heads(8, 1, 128, 128, "float16"), "float16", (9000, 40, 5000), (1, 1, 1)),
    AttentionCase(Heads(1, 1, 128, 128, "float16"), "float16", (16384,), (1,)),
)
"""One sequence over many cores: unfinished softmax to the workspace, SyncAll, merged there."""
HEAD_DIM_80 = (
    AttentionCase(Heads(16, 4, 80, 16, "float16"), "float16", (513, 100), (1, 1)),
    AttentionCase(Heads(16, 4, 80, 16, "bfloat16"), "bfloat16", (1100,), (70,)),
    AttentionCase(Heads(3, 3, 80, 16, "float16"), "float16", (513, 100), (1, 1)),
)
"""Rows that are no power of two: 160 bytes, five fractals."""
PREFILL = (
    AttentionCase(Heads(4, 1, 128, 128, "float16"), "float16", (700,), (700,)),
    AttentionCase(Heads(4, 1, 128, 128, "float16"), "float16", (1100,), (1100,)),
    AttentionCase(Heads(8, 2, 128, 16, "bfloat16"), "bfloat16", (900, 300, 41), (700, 1, 41), padding=3),
)
"""Chunks at group 4: runs of tokens that share the loads of KV, masked at their ends."""
INT8 = (
    AttentionCase(Heads(8, 2, 128, 128, "int8"), "float16", (513, 2000), (1, 1)),
    AttentionCase(Heads(8, 8, 128, 16, "int8"), "bfloat16", (300, 65), (5, 1)),
    AttentionCase(Heads(9, 3, 64, 16, "int8"), "float32", (40, 7), (33, 1)),
    AttentionCase(Heads(8, 1, 96, 128, "int8"), "float16", (4096,), (1,)),
)
INT8_WRITERS = (
    WriterCase(Heads(8, 8, 128, 128, "int8"), "float16", tokens=40),
    WriterCase(Heads(4, 2, 32, 16, "int8"), "bfloat16", tokens=17),
    WriterCase(Heads(6, 3, 96, 16, "int8"), "float32", tokens=5),
)
PADDING = (
    AttentionCase(Heads(8, 8, 64, 16, "float16"), "float16", (40, 7), (1, 3), padding=3, padding_context=7),
    AttentionCase(Heads(8, 1, 64, 16, "float16"), "float16", (40, 7), (1, 3), padding=3, padding_context=7),
)
"""Row -1 with a context: zeros."""
WRITERS = (
    WriterCase(Heads(8, 8, 128, 128, "float16"), "float16", tokens=5),
    WriterCase(Heads(8, 2, 128, 16, "bfloat16"), "bfloat16", tokens=40),
    WriterCase(Heads(9, 3, 64, 16, "float16"), "float32", tokens=17),
    WriterCase(Heads(4, 2, 16, 16, "bfloat16"), "float32", tokens=1),
    WriterCase(Heads(4, 2, 32, 16, "bfloat16"), "float16", tokens=6),
    WriterCase(Heads(4, 2, 32, 16, "float16"), "bfloat16", tokens=6),
)
FAR_PAGES = (
    AttentionCase(Heads(8, 8, 128, 128, "float16"), "float16", (200, 129), (1, 1)),
    AttentionCase(Heads(16, 4, 128, 128, "float16"), "float16", (200, 129), (1, 1)),
)
"""The same in pages more than 2^32 elements behind the caches' begin."""

ATTENTION: Mapping[str, tuple[AttentionCase, ...]] = MappingProxyType(
    {
        "small": SMALL,
        "tiles": TILES,
        "split": SPLIT,
        "head_dim_80": HEAD_DIM_80,
        "prefill": PREFILL,
        "int8": INT8,
        "padding": PADDING,
    }
)
"""Group -> cases of paged_attention."""
MOVING: Mapping[str, tuple[WriterCase, ...]] = MappingProxyType({"writers": WRITERS, "int8_writers": INT8_WRITERS})
"""Group -> cases of the operators that move whole tokens and blocks."""
