"""The table of backends beside what else knows their names and what their kernels are compiled for."""

import pytest

from mindspore_paged.custom_ops import build
from mindspore_paged.custom_ops.backends import BACKENDS
from mindspore_paged.custom_ops.build_emulator import KERNEL_TYPES

ASCEND_C = {"float32": "float", "float16": "half", "bfloat16": "bfloat16_t", "int8": "int8_t"}


def test_the_build_knows_the_same_names():
    assert tuple(BACKENDS) == build.BACKENDS


@pytest.mark.parametrize("name", ["ascend_emulator", "ascend"])
def test_pages_of_a_type_are_taken_where_both_kernels_are_compiled_for_it(name):
    attention = {(each["DTYPE_QUERY"], each["DTYPE_KEY_CACHE"]) for each in KERNEL_TYPES["paged_attention_custom"]}
    writer = {(each["DTYPE_KEY"], each["DTYPE_KEY_CACHE"]) for each in KERNEL_TYPES["reshape_and_cache_custom"]}
    taken = {(ASCEND_C[of], ASCEND_C[page]) for of, pages in BACKENDS[name].cache_dtypes.items() for page in pages}
    assert taken == attention & writer
