"""What a model's step needs of the pool of pages."""

from typing import Protocol

from mindspore import Parameter


class KVPages(Protocol):
    """Parameters that a step reads and writes in place; the engine allocates them and moves their pages.

    key_caches, value_caches: one a layer, [num_blocks, block_size, num_kv_heads, head_dim], or one for all layers
    together, with a dimension for them in front. block_table: int32 [max_num_seqs, max_blocks_per_seq].
    """

    key_caches: list[Parameter]
    value_caches: list[Parameter]
    block_table: Parameter
    block_size: int
