"""Workers that all tests here share: each imports what reads a format once."""

import pytest

from tests.fuzz.campaign import Worker


@pytest.fixture(scope="session")
def worker():
    """One, for what takes seconds."""
    with Worker() as one:
        yield one
