"""Mutants of every format that is read are answered rightly or refused in one line, within time and memory."""

import pytest

from tests.fuzz.campaign import Worker, run
from tests.fuzz.formats import FORMATS, file_format
from tests.fuzz.judge import Verdict

SEED = 20
IMPORTS_MINDSPORE = ("mindformers",)


def check(name: str, workers: list[Worker], count: int) -> None:
    figures = run(name, SEED, workers, count)
    assert figures.outcomes.total() == count
    assert not figures.faults, "\n".join(described(name, *fault) for fault in figures.faults[:5])
    assert min(figures.outcomes["right"], figures.outcomes["refused"]) > count / 50, "the mutants are all of one kind"


def described(name: str, number: int, verdict: Verdict) -> str:
    what = file_format(name).mutant(SEED, number).what
    return f"{verdict.outcome} of mutant {number}, {what[:100]}: {verdict.detail[-300:]}"


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in IMPORTS_MINDSPORE])
def test_some(name, worker):
    check(name, [worker], 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_thousands(name, worker):
    """As many as five minutes allow: those that run a process for each template are fewer."""
    with Worker() as other:
        check(name, [worker, other], 1000 if name == "chat_template" else 3000)
