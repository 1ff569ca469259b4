"""The section `parallel`: which sizes go with how many workers."""

import pytest

from mindspore_paged.config import ParallelSection, config_from_dict
from mindspore_paged.errors import ConfigError


@pytest.mark.parametrize(
    ("tensor", "data", "workers", "resolved"),
    [("auto", 1, 1, 1), ("auto", 1, 8, 8), ("auto", 2, 8, 4), (4, 2, 8, 4), (1, 1, 1, 1), (1, 3, 3, 1)],
)
def test_sizes_that_come_out_even(tensor, data, workers, resolved):
    section = ParallelSection(tensor_parallel_size=tensor, data_parallel_size=data)
    assert section.resolved_tensor_parallel_size(workers) == resolved


@pytest.mark.parametrize(
    ("tensor", "data", "workers", "message"),
    [
        (8, 1, 1, "parallel.tensor_parallel_size 8 makes 8 workers, but 1 worker run"),
        (
            2,
            2,
            8,
            "parallel.tensor_parallel_size 2 times parallel.data_parallel_size 2 makes 4 workers, but 8 workers run",
        ),
        (1, 1, 2, "parallel.tensor_parallel_size 1 makes 1 worker, but 2 workers run"),
        ("auto", 3, 8, "parallel.data_parallel_size is 3; it must divide the 8 workers that run"),
    ],
)
def test_sizes_that_do_not(tensor, data, workers, message):
    with pytest.raises(ConfigError) as refusal:
        ParallelSection(tensor_parallel_size=tensor, data_parallel_size=data).resolved_tensor_parallel_size(workers)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("value", [0, -1, "all", 1.5, True])
def test_what_is_no_size(value):
    with pytest.raises(ConfigError, match="parallel.tensor_parallel_size is"):
        config_from_dict({"parallel": {"tensor_parallel_size": value}})
