"""The fuzzer finds every kind of fault, and says of which mutant it is."""

import subprocess
import sys
from collections import Counter
from random import Random
from resource import RUSAGE_SELF, getrusage

import pytest

from tests.fuzz import judge
from tests.fuzz.campaign import ROOT, Worker, run, save_faults, table
from tests.fuzz.formats import FORMATS, PLANTED, file_format
from tests.fuzz.judge import FAULTS as JUDGED
from tests.fuzz.judge import REFUSED, RIGHT, Judge
from tests.fuzz.mutant import FileFormat, Mutant, written
from tests.fuzz.planted_format import FAULTS, FILE


@pytest.fixture(scope="module")
def planted():
    """Figures of planted faults over two workers."""
    with Worker() as one, Worker() as other:
        return run(PLANTED, 1, [one, other], len(FAULTS))


def test_every_planted_fault_is_found(planted):
    expected = {number: outcome for number, (outcome, _) in enumerate(FAULTS.values())}
    assert set(expected.values()) == {RIGHT, REFUSED, *JUDGED}
    assert {number: verdict.outcome for number, verdict in planted.faults} == {
        number: outcome for number, outcome in expected.items() if outcome in JUDGED
    }
    assert planted.outcomes == Counter(expected.values())


def test_faults_are_saved_as_files(planted, tmp_path):
    saved = save_faults(PLANTED, 1, planted, tmp_path)
    kept = {(place / FILE).read_bytes() for place in saved}
    assert kept >= {b"wrong", b"key", b"hang", b"segfault", b"memory", b"two lines"}
    assert (
        "KeyError"
        in next(place for place in saved if (place / FILE).read_bytes() == b"key").joinpath("WHAT.txt").read_text()
    )


def test_the_table_counts_by_format(planted):
    head, line, total = table({PLANTED: planted}).splitlines()
    assert head.split()[:3] == ["format", "mutants", "right"]
    assert line.split()[:2] == [PLANTED, str(len(FAULTS))]
    assert total.split()[1] == str(len(FAULTS))
    assert float(line.split()[-2]) >= 2.0


def test_a_number_is_always_the_same_mutant():
    for name in ("gguf", "page", "yaml"):
        each = file_format(name)
        first, again, other = each.mutant(3, 5), each.mutant(3, 5), each.mutant(4, 5)
        assert first == again
        assert first != other


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "mindformers"])
def test_mutators_change_something_and_samples_are_right(name, tmp_path):
    each = file_format(name)
    of_format = Judge(each, tmp_path / "scratch")
    for sample, files in enumerate(each.samples):
        verdict = of_format.judge(Mutant(files, "", sample=sample))
        assert (verdict.outcome, verdict.detail) == ("right", "")
    for mutator in set(each.mutators):
        made = [mutator(dict(each.samples[0]), Random(number)).files for number in range(20)]
        assert any(files != each.samples[0] for files in made), mutator


def test_the_script_finds_and_says_so(tmp_path):
    command = [sys.executable, "scripts/fuzz.py", "--format", PLANTED, "--seed", "2", "--mutants", "10"]
    done = subprocess.run([*command, "--output", tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "format " in done.stdout
    assert f"{tmp_path / PLANTED}" in done.stdout
    assert list(tmp_path.glob(f"{PLANTED}/*/WHAT.txt"))


def test_memory_is_judged_where_it_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "BYTES", 50_000_000)

    def use(folder):
        return {"zeros": bytearray((folder / "a").stat().st_size * 10**6).count(0) > 0}

    of_format = Judge(FileFormat("a", [{"a": b"1"}], (), use), tmp_path / "scratch")
    peak = getrusage(RUSAGE_SELF).ru_maxrss // 1000 + 1
    assert of_format.judge(Mutant({"a": b"1"}, "")).outcome == "right"
    assert of_format.judge(Mutant({"a": b"1" * (peak + 100)}, "")).outcome == "memory"


def test_files_are_written_as_they_are(tmp_path):
    assert (written({"a/b": b"c"}, tmp_path) / "a" / "b").read_bytes() == b"c"
