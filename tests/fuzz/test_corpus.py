"""What fuzzing has found, as small files: answered rightly or refused in one line ever since.

corpus/FORMAT/WHAT/ holds the files that differ from the format's first sample.
"""

from pathlib import Path

import pytest

from tests.fuzz.formats import file_format
from tests.fuzz.judge import REFUSED, RIGHT, Judge
from tests.fuzz.mutant import Mutant

CORPUS = Path(__file__).parent / "corpus"
CASES = sorted(path for path in CORPUS.glob("*/*") if path.is_dir())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.name}")
def test_found_before(case, tmp_path):
    each = file_format(case.parent.name)
    found = {str(path.relative_to(case)): path.read_bytes() for path in sorted(case.rglob("*")) if path.is_file()}
    assert found
    assert sum(map(len, found.values())) < 2048, "smaller, please"
    verdict = Judge(each, tmp_path / "scratch").judge(Mutant({**each.samples[0], **found}, case.name))
    assert verdict.outcome in (RIGHT, REFUSED), verdict.detail
