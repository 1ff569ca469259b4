"""Fixtures shared by all tests."""

import pytest

from mindspore_paged.weights.demo_model import fetch_demo_model


@pytest.fixture(scope="session")
def demo_model():
    """The path of the demo model, downloaded once a machine."""
    return fetch_demo_model()
