"""scripts/check_ascend.py and the parts of what it runs; the NPU itself is not here."""

import mindspore as ms
import numpy as np
import pytest

from mindspore_paged.ascend_check import (
    check,
    grid,
    int8_pages,
    operators,
    reference,
    timing,
    tokens,
    versions,
)
from mindspore_paged.ascend_check.cases import AttentionCase, Heads
from mindspore_paged.ascend_check.groups import GROUPS
from mindspore_paged.ascend_check.report import Finding, beside_each_other, markdown
from mindspore_paged.errors import StepError
from tests.custom_ops import int8_pages as int8_pages_of_tests
from tests.custom_ops.attention_reference import Scene, reference_attention
from tests.script_runs import error_of
from tests.script_runs import run_script as run

SCRIPT = "check_ascend.py"
ATTENTION_CASES = tuple(case for cases in grid.ATTENTION.values() for case in cases)
WRITER_CASES = tuple(case for cases in grid.MOVING.values() for case in cases)
SMALL_CASES = (*grid.SMALL, *grid.INT8[1:3], *grid.PADDING)


def run_script(*arguments):
    return run(SCRIPT, *arguments)


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

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (("--only", "tiles", "times"), "unknown group 'times' for backend cpu; allowed: tokens, small, "),
            (("--repeats", "0"), "repeats is 0: it must be 1 or more"),
            (("--library", "absent.so"), "library absent.so is missing"),
        ],
    )
    def test_what_makes_no_sense_is_one_line(self, arguments, error):
        assert error_of(SCRIPT, "--backend", "cpu", *arguments).startswith(error)

    @pytest.mark.slow
    @pytest.mark.parametrize("backend", ["cpu", "ascend_emulator"])
    def test_the_operators_are_right(self, backend):
        result = run_script("--backend", backend)
        assert result.returncode == 0, result.stderr
        first, _, header, *_ = result.stdout.splitlines()
        assert first.startswith("mindspore_paged ")
        assert f"backend {backend}: all ok" in first
        assert [line for line in result.stderr.splitlines() if line.startswith("group ")] == [
            f"group {group}" for group in GROUPS
        ]
        assert "time" not in header
        for operator in ("reshape_and_cache", "paged_attention", "copy_blocks", "read_blocks", "write_blocks"):
            assert f"\n| {operator} |" in result.stdout


class TestReference:
    """Independent of the operators: the tests' own reference, and values worked out by hand."""

    @pytest.mark.parametrize("case", SMALL_CASES, ids=str)
    def test_attention_is_that_of_the_tests(self, case):
        operands = case.operands(np.random.default_rng(0))
        output, magnitude = reference.attention(*operands, 0.25, case.window)
        scene = Scene(*operands, 0.25, case.window)
        expected = reference_attention(scene)
        expected[scene.rows < 0] = 0  # whatever context padding states
        np.testing.assert_allclose(output, expected, rtol=1e-12, atol=1e-12)
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
        case = grid.SMALL[1]
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
        case = grid.WRITERS[-1]
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
        monkeypatch.setattr(timing, "DECODE_CASES", (case,))
        ours, built_in = (
            [finding for *_, run_one in timed for finding in run_one()]
            for timed in (timing.times("cpu"), timing.built_in_times())
        )
        assert [finding.built_in.partition(" ")[0] for finding in built_in] == ["failed:"] * 2
        findings = beside_each_other([*ours, *built_in])
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


@pytest.mark.parametrize(
    ("finding", "code"),
    [
        (Finding("paged_attention", "s", "float16", 1.0, 0.1, True), 0),
        (Finding("paged_attention", "s", "float16", 1.0, 0.1, False), 1),
        (Finding("paged_attention", "s", "float16", 1.0, 0.1, True, repeats=20, unequal=1), 1),
        (Finding("paged_attention", "s", "float16", failed="no answer"), 1),
        (Finding("paged_attention", "s", "float16", skipped="refused"), 0),
    ],
)
def test_what_is_wrong_or_unequal_or_missing_is_exit_code_1(monkeypatch, capsys, finding, code):
    monkeypatch.setattr(check, "check_tokens", lambda backend: finding)
    monkeypatch.setattr(check, "run_group", lambda group, target, report: iter(()))
    lines = []
    assert check.check_backend("cpu", build=False, report=lines.append) == code
    assert "paged_attention" in capsys.readouterr().out
    assert lines == [f"group {group}" for group in GROUPS]


def test_a_tiny_model_that_fails_is_a_finding(monkeypatch, capsys):
    def fails(backend):
        raise StepError("the tiny model fails")

    monkeypatch.setattr(check, "check_tokens", fails)
    lines = []
    assert check.check_backend("cpu", build=False, only=["tokens"], report=lines.append) == 1
    assert "FAILED: the tiny model fails" in capsys.readouterr().out
    assert lines == ["group tokens", "stopped in group tokens: the tiny model fails"]


class TestRepeats:
    def test_other_bits_are_counted(self):
        outputs = iter([1.0, 1.0, 2.0, -0.0, 1.0])
        runs = operators.repeated(lambda: (np.zeros(2), np.array([next(outputs)])), 5)
        assert (runs.repeats, runs.unequal, runs.outputs[1][0]) == (5, 2, 1.0)

    @pytest.mark.usefixtures("graph_mode")
    def test_an_operator_runs_as_often_as_asked(self, monkeypatch):
        calls = []

        class Counting(operators.PagedAttention):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                calls.append(self)

        monkeypatch.setattr(operators, "PagedAttention", Counting)
        finding = operators.check_attention(grid.SMALL[0], "cpu", 3)
        assert (finding.verdict, len(calls)) == ("ok, 3 times the same", 1)


class TestInt8Pages:
    def test_they_are_those_of_the_tests(self):
        rng = np.random.default_rng(0)
        vectors = rng.standard_normal((3, 16, 2, 32)).astype(np.float32) * 10 ** rng.uniform(-30, 30, (3, 16, 2, 1))
        vectors[0, 0, 0, 3], vectors[0, 1, 0, :], vectors[0, 2, 1] = np.nan, 0, 1e-44
        stored = int8_pages.to_cache(vectors, np.dtype(np.int8))
        np.testing.assert_array_equal(stored, int8_pages_of_tests.to_cache(vectors, np.int8))
        np.testing.assert_array_equal(int8_pages.from_cache(stored), int8_pages_of_tests.from_cache(stored))


class TestGrid:
    def test_every_combination_of_types_and_of_heads_that_share(self):
        """The kernels differ by these; a combination that no case has would go unchecked."""
        assert {(case.query_dtype, case.heads.cache_dtype) for case in ATTENTION_CASES} == {
            ("float16", "float16"),
            ("bfloat16", "bfloat16"),
            ("float32", "float16"),
            ("float32", "bfloat16"),
            ("float32", "int8"),
            ("float16", "int8"),
            ("bfloat16", "int8"),
        }
        assert {case.heads.heads // case.heads.kv_heads for case in ATTENTION_CASES} >= {1, 4, 8}
        types = {"float32", "float16", "bfloat16"}
        pairs = {(case.key_dtype, case.heads.cache_dtype) for case in WRITER_CASES}
        assert pairs == {(key, cache) for key in types for cache in {*types, "int8"} - {"float32"}}

    @pytest.mark.parametrize("case", [*grid.SMALL[:5], grid.TILES[0], grid.HEAD_DIM_80[0], grid.INT8[1]], ids=str)
    def test_a_token_that_is_left_out_shows(self, case):
        """First, last, or at the edge of a tile: each of these is what some query looks for."""
        operands = case.operands(np.random.default_rng(1))
        rows, context_lens = operands[4:]
        expected, magnitude = reference.attention(*operands, 0.1)
        shorter = (*operands[:5], np.maximum(context_lens - 1, 1))
        without_last, _ = reference.attention(*shorter, 0.1)
        asked = (rows >= 0) & (context_lens > 1)
        allowed = 8 * operators.ROUNDING["bfloat16"] * magnitude
        assert np.all((np.abs(without_last - expected) > allowed).any(axis=(1, 2))[asked])
