"""scripts/check_ascend.py and the parts of what it runs; the NPU itself is not here."""

import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from mindspore_paged.ascend_check import check, operators, reference, timing, tokens, versions
from mindspore_paged.ascend_check.cases import ATTENTION_CASES, WRITER_CASES, AttentionCase, Heads
from mindspore_paged.ascend_check.report import Finding, markdown
from mindspore_paged.errors import StepError
from tests.custom_ops.attention_reference import Scene, reference_attention

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_ascend.py"


def run_script(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


class TestScript:
    def test_without_an_npu_one_line_and_exit_code_2(self):
        if versions.npu_is_present():
            pytest.skip("this machine has an NPU")
        result = run_script()
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith("error: no Ascend NPU here: /dev/davinci0 and its like are missing; --backend")
        assert result.stderr.count("\n") == 1

    def test_help_teaches(self):
        text = run_script("--help").stdout
        for word in ("set_env.sh", "ascend_emulator", "Exit code", "--no-build"):
            assert word in text

    @pytest.mark.slow
    def test_the_cpu_operators_are_right(self):
        result = run_script("--backend", "cpu")
        assert result.returncode == 0, result.stderr
        first, _, header, *_ = result.stdout.splitlines()
        assert first.startswith("mindspore_paged ")
        assert first.endswith("backend cpu: all ok")
        assert "time" not in header
        for operator in ("reshape_and_cache", "paged_attention", "copy_blocks", "read_blocks", "write_blocks"):
            assert f"\n| {operator} |" in result.stdout


class TestReference:
    """Independent of the operators: the tests' own reference, and values worked out by hand."""

    @pytest.mark.parametrize("case", ATTENTION_CASES, ids=str)
    def test_attention_is_that_of_the_tests(self, case):
        operands = case.operands(np.random.default_rng(0))
        output, magnitude = reference.attention(*operands, 0.25, case.window)
        scene = Scene(*operands, 0.25, case.window)
        np.testing.assert_allclose(output, reference_attention(scene), rtol=1e-12, atol=1e-12)
        assert np.all(magnitude >= np.abs(output) * (1 - 1e-12))

    def test_magnitude_is_of_the_terms_and_not_of_their_sum(self):
        key_cache = np.zeros((1, 16, 1, 2))
        value_cache = np.zeros((1, 16, 1, 2))
        value_cache[0, 0, 0], value_cache[0, 1, 0] = (3, 1), (-3, 1)
        table, rows, lens = np.zeros((1, 1), int), np.array([0]), np.array([2])
        output, magnitude = reference.attention(np.ones((1, 1, 2)), key_cache, value_cache, table, rows, lens, 1.0)
        np.testing.assert_allclose(output[0, 0], [0, 1])
        np.testing.assert_allclose(magnitude[0, 0], [3, 1])

    def test_writers(self):
        cache = np.arange(3 * 2, dtype=np.float16).reshape(3, 2, 1, 1)  # block b holds 2b and 2b + 1
        other = -cache

        def flat(caches):
            return [stored.ravel().tolist() for stored in caches]

        key, value = np.full((2, 1, 1), 9.0, np.float32), np.full((2, 1, 1), 2049.0, np.float32)
        assert flat(reference.reshape_and_cache(key, value, cache, other, [3, -1])) == [
            [0, 1, 2, 9, 4, 5],
            [0, -1, -2, 2048, -4, -5],  # float16 keeps 11 bits: 2049 lies halfway, and goes to the even one
        ]
        copied = reference.copy_blocks(cache, other, [(0, 1), (-1, -1), (1, 2)])
        assert flat(copied) == [[0, 1, 0, 1, 0, 1], [0, -1, 0, -1, 0, -1]]
        read = reference.read_blocks(cache, other, np.array([2, 0]))
        assert read.shape == (2, 2, 2, 1, 1)
        assert read.ravel().tolist() == [4, 5, 0, 1, -4, -5, 0, -1]
        written = reference.write_blocks(cache, other, np.stack([read * 0, read]), [1, -1], 1)
        assert flat(written) == [[0, 1, 4, 5, 4, 5], [0, -1, -4, -5, -4, -5]]
        assert cache.ravel().tolist() == [0, 1, 2, 3, 4, 5]


class TestComparison:
    @pytest.mark.usefixtures("graph_mode")
    def test_an_operator_that_reads_a_wrong_block_is_found(self, monkeypatch):
        case = ATTENTION_CASES[1]
        assert operators.check_attention(case, "cpu").right
        expected = reference.attention

        def of_other_blocks(query, key_cache, value_cache, table, rows, lens, scale, window):
            table = table.copy()
            table[1, [0, 1]] = table[1, [1, 0]]
            table[1, 2] = table[1, 3]
            return expected(query, key_cache, value_cache, table, rows, lens, scale, window)

        monkeypatch.setattr(reference, "attention", of_other_blocks)
        finding = operators.check_attention(case, "cpu")
        assert not finding.right
        assert finding.error > finding.allowed

    @pytest.mark.usefixtures("graph_mode")
    @pytest.mark.parametrize("operator", ["reshape_and_cache", "copy_blocks", "read_blocks", "write_blocks"])
    def test_one_wrong_bit_of_a_writer_is_found(self, monkeypatch, operator):
        case = WRITER_CASES[-1]
        honest = getattr(reference, operator)

        def off_by_a_bit(*operands):
            result = honest(*operands)
            array = result if operator == "read_blocks" else result[1]
            array.reshape(-1).view(np.uint16)[-1] ^= 1
            return result

        assert all(finding.right for finding in operators.check_writer_case(case, "cpu"))
        monkeypatch.setattr(reference, operator, off_by_a_bit)
        wrong = [finding.operator for finding in operators.check_writer_case(case, "cpu") if not finding.right]
        assert operator in wrong

    @pytest.mark.parametrize(
        ("output", "right"), [(1.0, True), (1.09, True), (1.11, False), (np.nan, False), (np.inf, False)]
    )
    def test_what_is_allowed(self, output, right):
        error, allowed, verdict = operators.worst(np.array([0.0, output]), np.array([0.0, 1.0]), np.array([0.0, 0.1]))
        assert verdict == right
        if not right:
            assert allowed == pytest.approx(0.1)
            assert error > allowed

    def test_nothing_but_zero_is_right_for_padding(self):
        assert not operators.worst(np.array([1e-30]), np.zeros(1), np.zeros(1))[2]

    @pytest.mark.usefixtures("graph_mode")
    def test_times_and_what_fails_of_mindspores_own(self, monkeypatch):
        monkeypatch.setattr(ms.runtime, "synchronize", lambda: None)  # a CPU has no streams
        monkeypatch.setattr(timing, "ROUNDS", 1)
        case = AttentionCase(Heads(4, 2, 32, 16, "bfloat16"), "bfloat16", (40,) * 9, (1,) * 9)
        findings = [timing.time_attention(case, "cpu"), *timing.time_writers(case, "cpu")]
        assert [finding.operator for finding in findings] == [
            "paged_attention",
            "reshape_and_cache",
            "copy_blocks",
            "read_blocks",
            "write_blocks",
        ]
        assert all(finding.milliseconds > 0 for finding in findings)
        assert all(finding.built_in.startswith("failed: ") for finding in findings[:2])
        assert all(finding.built_in is None for finding in findings[2:])


class TestTokens:
    def test_a_difference_is_a_close_call_or_wrong(self):
        reference_tokens = [[(5, 1.0), (6, 0.001), (7, 1.0)], [(1, 1.0)]]
        assert tokens.compare(reference_tokens, reference_tokens) == (4, True)
        assert tokens.compare(reference_tokens, [[(5, 1.0), (8, 0.001), (9, 1.0)], [(1, 1.0)]]) == (2, True)
        assert tokens.compare(reference_tokens, [[(5, 1.0), (6, 1.0), (9, 1.0)], [(1, 1.0)]]) == (3, False)
        assert not tokens.compare(reference_tokens, reference_tokens[:1])[1]
        assert not tokens.compare(reference_tokens, [reference_tokens[0][:2], reference_tokens[1]])[1]

    def test_a_run_that_fails_says_why(self):
        with pytest.raises(StepError) as caught:
            tokens.run_apart("gpu")
        assert str(caught.value).startswith(
            "the tiny model fails with ops_backend gpu: runtime.ops_backend is 'gpu'; it"
        )


class TestVersions:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (
                "| npu-smi 24.1.rc2                 Version: 24.1.rc2                                             |\n"
                "| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|\n"
                "| 0     910B3               | OK            | 93.6        40                0    / 0             |\n",
                ("24.1.rc2", "910B3"),
            ),
            ("| 2     Ascend910           | OK | 170.2 |\n", ("unknown", "Ascend910")),
            ("DrvMngGetConsoleLogLevel failed\n", ("unknown", "unknown")),
        ],
    )
    def test_npu_smi(self, text, expected):
        assert versions.parse_npu_smi(text) == expected

    def test_cann(self, tmp_path):
        assert versions.cann_version(None) == versions.cann_version("/absent") == "unknown"
        home = tmp_path / "8.0.RC9"
        home.mkdir()
        (tmp_path / "latest").symlink_to(home)
        assert versions.cann_version(str(tmp_path / "latest")) == "8.0.RC9"
        info = home / "aarch64-linux" / "ascend_toolkit_install.info"
        info.parent.mkdir()
        info.write_text("package_name=Ascend-cann-toolkit\nversion=8.1.RC1\ninnerversion=V100\n")
        assert versions.cann_version(str(home)) == "8.1.RC1"

    def test_npu(self, tmp_path):
        (tmp_path / "davinci_manager").touch()
        assert not versions.npu_is_present(tmp_path)
        (tmp_path / "davinci3").touch()
        assert versions.npu_is_present(tmp_path)

    def test_line(self):
        assert versions.versions_line("cpu").endswith(", MindSpore " + ms.__version__ + ", backend cpu")
        assert ", CANN " in versions.versions_line("ascend")


class TestReport:
    RIGHT = Finding("copy_blocks", "NB=7", "float16", 0.0, 0.0, True)
    WRONG = Finding("paged_attention", "a|b", "float16, float16", 0.25, 0.0123, False)
    TIMED = Finding("paged_attention", "32 rows", "float16", milliseconds=1.23456, built_in="failed: x")

    def test_table(self):
        assert markdown("v1", [self.RIGHT, self.WRONG]).splitlines() == [
            "v1: 1 of 2 WRONG",
            "",
            "| operator | shape | types | largest error | allowed | verdict |",
            "| --- | --- | --- | --- | --- | --- |",
            "| copy_blocks | NB=7 | float16 | 0 | 0 | ok |",
            "| paged_attention | a/b | float16, float16 | 0.25 | 0.012 | WRONG |",
        ]

    def test_times_have_columns_where_there_are_any(self):
        lines = markdown("v1", [self.RIGHT, self.TIMED]).splitlines()
        assert lines[0] == "v1: all ok"
        assert lines[2].endswith("| verdict | time | built in |")
        assert lines[-2] == "| copy_blocks | NB=7 | float16 | 0 | 0 | ok |  |  |"
        assert lines[-1] == "| paged_attention | 32 rows | float16 |  |  |  | 1.235 ms | failed: x |"


@pytest.mark.parametrize(("right", "code"), [(True, 0), (False, 1)])
def test_a_wrong_result_is_exit_code_1(monkeypatch, capsys, right, code):
    finding = Finding("paged_attention", "s", "float16", 1.0, 0.1, right)
    monkeypatch.setattr(check, "check_tokens", lambda backend: finding)
    monkeypatch.setattr(check, "check_in_this_process", lambda backend, report: [finding])
    lines = []
    assert check.check_backend("cpu", build=False, report=lines.append) == code
    assert "paged_attention" in capsys.readouterr().out
    assert len(lines) == 1


def test_cases_cover_every_combination_of_types_and_of_heads_that_share():
    """The kernels differ by these; a combination that no case has would go unchecked."""
    assert {(case.query_dtype, case.heads.cache_dtype) for case in ATTENTION_CASES} == {
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
        ("float32", "float16"),
        ("float32", "bfloat16"),
    }
    assert {case.heads.heads // case.heads.kv_heads for case in ATTENTION_CASES} >= {1, 4, 8}
    types = {"float32", "float16", "bfloat16"}
    pairs = {(case.key_dtype, case.heads.cache_dtype) for case in WRITER_CASES}
    assert pairs == {(key, cache) for key in types for cache in types - {"float32"}}
