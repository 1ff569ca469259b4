"""Fixtures shared by all tests."""

import pytest
from hypothesis import settings

from mindspore_paged.weights.demo_model import fetch_demo_model

# How long an example takes depends on what else the machine does: no test is about that.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def demo_model():
    """The path of the demo model, downloaded once a machine."""
    return fetch_demo_model()
