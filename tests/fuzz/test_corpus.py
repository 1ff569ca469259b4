"""What fuzzing has found, as small files: answered rightly or refused in one line ever since.

corpus/FORMAT/WHAT/ holds the files that differ from the format's first sample.
"""

import pytest

from tests.fuzz.campaign import run
from tests.fuzz.formats import FORMATS, corpus_cases
from tests.fuzz.mutant import read_files


# MindFormers takes ten seconds to import.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "mindformers")) for name in FORMATS]
)
def test_found_before(name, worker):
    cases = corpus_cases(name)
    figures = run(f"corpus/{name}", 0, [worker], len(cases))
    assert figures.outcomes.total() == len(cases) > 0
    assert [(cases[number].name, verdict.outcome, verdict.detail) for number, verdict in figures.faults] == []


@pytest.mark.parametrize("name", FORMATS)
def test_cases_are_small(name):
    for case in corpus_cases(name):
        assert sum(map(len, read_files(case).values())) < 2048, case
