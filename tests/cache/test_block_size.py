import pytest

from mindspore_paged.cache.block_size import choose_block_size
from mindspore_paged.custom_ops.backends import BACKENDS
from mindspore_paged.custom_ops.build import OPS_ROOT


@pytest.mark.parametrize(("length", "size"), [(1, 128), (512, 128), (513, 256), (1024, 256), (1025, 512), (9999, 512)])
def test_the_articles_rule(length, size):
    chosen, reason = choose_block_size(length, BACKENDS["cpu"].tokens_in_a_copy)
    assert chosen == size
    assert str(length) in reason


@pytest.mark.parametrize("length", [1, 600, 4096])
def test_pages_of_ascend_are_no_longer_than_a_copy(length):
    """Which is what the kernel's text says, and never more, or the reason would be false."""
    tokens = BACKENDS["ascend"].tokens_in_a_copy
    assert f"kPieceTokens = {tokens};" in (OPS_ROOT / "ascendc/op_kernel/cube_matmul.h").read_text()
    chosen, reason = choose_block_size(length, tokens)
    assert chosen == tokens
    assert ("one copy of the Ascend kernel brings 128" in reason) == (length > 512)
