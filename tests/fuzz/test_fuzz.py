"""Mutants of every format that is read are answered rightly or refused in one line, within time and memory."""

import pytest

from tests.fuzz.campaign import Worker, run
from tests.fuzz.formats import file_format
from tests.fuzz.judge import Verdict

SEED = 20
IMPORTS_MINDSPORE = ("ckpt", "mindformers")
FORMATS = ("safetensors", "yaml", "page", "prefix")  # those whose readers withstand it


@pytest.fixture(scope="module")
def workers():
    """Two, each of which imports a reader once."""
    with Worker() as one, Worker() as other:
        yield [one, other]


def check(name: str, workers: list[Worker], count: int) -> None:
    figures = run(name, SEED, workers, count)
    assert figures.outcomes.total() == count
    assert not figures.faults, "\n".join(described(name, *fault) for fault in figures.faults[:5])
    assert min(figures.outcomes["right"], figures.outcomes["refused"]) > count / 50, "the mutants are all of one kind"


def described(name: str, number: int, verdict: Verdict) -> str:
    what = file_format(name).mutant(SEED, number).what
    return f"{verdict.outcome} of mutant {number}, {what[:100]}: {verdict.detail[-300:]}"


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in IMPORTS_MINDSPORE])
def test_some(name, workers):
    check(name, workers, 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_thousands(name, workers):
    check(name, workers, 3000)
