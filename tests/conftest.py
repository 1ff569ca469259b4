"""Fixtures shared by all tests."""

import gc

import pytest
from hypothesis import settings

from mindspore_paged.weights.demo_model import fetch_demo_model

# How long an example takes depends on what else the machine does: no test is about that.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_finish():
    """MindSpore collects garbage at every graph that it compiles: nothing that is there before the tests is any."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def demo_model():
    """The path of the demo model, downloaded once a machine."""
    return fetch_demo_model()
