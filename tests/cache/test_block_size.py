import pytest

from mindspore_paged.cache.block_size import choose_block_size
from mindspore_paged.custom_ops.backends import BACKENDS


@pytest.mark.parametrize(("length", "size"), [(1, 128), (512, 128), (513, 256), (1024, 256), (1025, 512), (9999, 512)])
def test_the_articles_rule(length, size):
    chosen, reason = choose_block_size(length, 128, BACKENDS["cpu"].numbers_in_a_block)
    assert chosen == size
    assert str(length) in reason


@pytest.mark.parametrize(("head_dim", "size"), [(64, 256), (80, 192), (128, 128), (256, 64)])
def test_the_ascend_kernel_bounds_it(head_dim, size):
    chosen, reason = choose_block_size(4096, head_dim, BACKENDS["ascend"].numbers_in_a_block)
    assert chosen == size
    assert chosen % 16 == 0
    assert chosen * head_dim <= 128 * 128
    assert f"holds {size}" in reason
