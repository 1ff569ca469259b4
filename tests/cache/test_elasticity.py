import itertools

import pytest

from mindspore_paged.cache.elasticity import ElasticCapacity
from mindspore_paged.errors import ConfigError


def test_it_grows_at_once_above_the_high_load_and_stops_at_the_bound():
    capacity = ElasticCapacity(10, 100)
    assert capacity.advise(80, 100) == 100
    assert capacity.advise(33, 40) == 60  # above 0.8
    assert capacity.advise(32, 40) == 40  # at 0.8
    assert capacity.advise(89, 90) == 100


def test_it_shrinks_after_patience_below_the_low_load_and_stops_at_the_bound():
    capacity = ElasticCapacity(50, 100, patience=3)
    assert [capacity.advise(20, 90) for _ in range(3)] == [90, 90, 60]
    assert [capacity.advise(10, 60) for _ in range(3)] == [60, 60, 50]


def test_one_busy_step_begins_the_patience_anew():
    capacity = ElasticCapacity(10, 100, patience=3)
    assert [capacity.advise(used, 90) for used in (20, 20, 40, 20, 20, 20)] == [90] * 5 + [60]


@pytest.mark.parametrize("used", range(1, 91))
def test_no_load_makes_it_swing(used):
    """Whatever the load, the size settles: a growth is never answered by a shrink, nor the reverse."""
    capacity = ElasticCapacity(1, 1000, patience=1)
    sizes, usable = [], 90
    for _ in range(40):
        usable = max(used, capacity.advise(used, usable))
        sizes.append(usable)
    changes = [b - a for a, b in itertools.pairwise(sizes) if a != b]
    assert all(change > 0 for change in changes) or all(change < 0 for change in changes)


def test_loads_too_close_for_the_growth_are_refused():
    with pytest.raises(ConfigError, match=r"elastic loads 0\.6 and 0\.8 are too close for a growth of 1\.5"):
        ElasticCapacity(1, 10, low=0.6)
