"""What scripts/profile_step.py says of a step adds up, and the operators count what the model's own sizes say."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from mindspore_paged import LLM
from mindspore_paged.custom_ops.build import BuildError, cpu_library
from mindspore_paged.custom_ops.op_times import OP_GROUPS, MachineSpeed, take_op_times
from mindspore_paged.step_profile import HOST_PARTS, longest_sequence, profile_decode, profile_prefill

ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "configs" / "tiny.yaml")
STEPS, BATCH, GRAPH_TOKENS, CONTEXT, PREFILL = 3, 3, 4, 20, 40
LAYERS, KV_WIDTH, QUERY_WIDTH = 2, 2 * 16, 4 * 16  # of the tiny model
OF_WEIGHTS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "attention_output": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
    "lm_head": ("embed_tokens",),  # tied
}


@pytest.fixture(scope="module", params=["float32", "int8"])
def llm(request):
    overrides = [
        f"model.weight_dtype={request.param}",
        f"scheduler.token_buckets=[{GRAPH_TOKENS},64]",
        "cache.enable_prefix_caching=false",
    ]
    with LLM(TINY, overrides=overrides, show_progress=False) as llm:
        yield llm


def places_of(llm, group):
    for name, place in llm.engine.runner.model.weight_places().items():
        if any(part in name for part in OF_WEIGHTS[group]):
            yield place


def check_sums(profile, times):
    assert len(times) == profile.num_steps == STEPS
    for step in times:
        assert set(step.host) == set(HOST_PARTS)
        assert min(*step.host.values(), step.mindspore_seconds) > 0
        in_graph = sum(op.seconds for op in step.ops.values()) + step.mindspore_seconds
        assert in_graph == pytest.approx(step.graph_seconds)
        assert sum(step.host.values()) + step.graph_seconds == pytest.approx(step.seconds)
    assert profile.seconds == pytest.approx(
        sum(profile.host.values()) + sum(op.seconds for op in profile.ops.values()) + profile.mindspore_seconds
    )


def check_weights(llm, profile, num_logits):
    for group in OF_WEIGHTS:
        op, places = profile.ops[group], list(places_of(llm, group))
        tokens = num_logits if group == "lm_head" else profile.tokens  # padding is not computed
        assert op.calls == (1 if group == "lm_head" else LAYERS)
        assert op.bytes == sum(place.nbytes for place in places), group
        assert op.products == tokens * sum(math.prod(place.shape) for place in places), group


def test_a_decode_step(llm):
    profile, times = profile_decode(llm.engine, cpu_library(), BATCH, CONTEXT, range(STEPS))
    check_sums(profile, times)
    check_weights(llm, profile, num_logits=BATCH)
    assert (profile.phase, profile.tokens, profile.graph_tokens) == ("decode", BATCH, GRAPH_TOKENS)
    assert profile.context == CONTEXT + 2, "the second of three steps"
    pairs = BATCH * (CONTEXT + 2)
    assert profile.ops["attention"].bytes == LAYERS * pairs * 2 * KV_WIDTH * 4
    assert profile.ops["attention"].products == LAYERS * pairs * 2 * QUERY_WIDTH
    assert not llm.engine.has_unfinished
    assert "run" not in vars(llm.engine.runner)
    assert "sample" not in vars(llm.engine.sampler)
    llm.engine.check_integrity()


def test_a_prefill_step(llm):
    profile, times = profile_prefill(llm.engine, cpu_library(), PREFILL, range(STEPS))
    check_sums(profile, times)
    check_weights(llm, profile, num_logits=1)
    assert (profile.phase, profile.tokens, profile.graph_tokens) == ("prefill", PREFILL, 64)
    assert profile.context == PREFILL
    assert profile.ops["attention"].bytes == LAYERS * PREFILL * 2 * KV_WIDTH * 4, "each page of a row once"
    assert profile.ops["attention"].products == LAYERS * PREFILL * (PREFILL + 1) // 2 * 2 * QUERY_WIDTH
    assert not llm.engine.has_unfinished


def test_a_batch_that_takes_several_steps_to_come_in_fits_what_is_asked_for_it(llm):
    chunk = llm.config.scheduler.max_num_batched_tokens
    profile, _ = profile_decode(llm.engine, cpu_library(), GRAPH_TOKENS, 60, range(STEPS))
    assert 60 < profile.context < longest_sequence(GRAPH_TOKENS, 60, chunk, STEPS)


def test_taking_the_counts_starts_them_anew(llm):
    llm.generate([[1, 2, 3]])
    assert take_op_times(cpu_library())["qkv"].calls > 0
    counts = take_op_times(cpu_library())
    assert tuple(counts) == OP_GROUPS
    assert not any(op.calls or op.seconds or op.bytes or op.products for op in counts.values())


def test_a_library_without_counts_is_named(tmp_path):
    other = tmp_path / "other.so"
    subprocess.run(["g++", "-shared", "-x", "c++", "/dev/null", "-o", str(other)], check=True)
    with pytest.raises(BuildError, match=r"other\.so has no PagedOpsTakeTimes: it is of an older version; run"):
        take_op_times(other)


@pytest.mark.parametrize(("num_bytes", "products", "seconds"), [(200, 0, 2), (200, 500, 2), (200, 5000, 10), (0, 0, 0)])
def test_the_floor_is_the_larger_of_two(num_bytes, products, seconds):
    assert MachineSpeed(100, 1000).floor_seconds(num_bytes, products) == seconds


def profile_step(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "profile_step.py"), "--config", TINY, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_script_prints_and_writes_a_table_a_point(tmp_path):
    output = tmp_path / "profile.json"
    done = profile_step(
        *("--batches", "2", "--context", "8", "--prefill", "16", "--steps", "3", "--output", str(output)),
        *("--set", "runtime.fused_ops=false"),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(output.read_text())
    assert figures["read_gb_per_s"] > 0
    assert figures["gflop_per_s"] > 0
    assert [(point["phase"], point["tokens"]) for point in figures["points"]] == [("decode", 2), ("prefill", 16)]
    for point in figures["points"]:
        assert set(point["ops"]) == {"cache_write", "attention"}, "of layers that are not fused"
        assert point["graph_ms"] == pytest.approx(point["mindspore_ms"] + sum(o["ms"] for o in point["ops"].values()))
        assert point["step_ms"] == pytest.approx(point["graph_ms"] + sum(point["host_ms"].values()))
    first, *tables = done.stdout.split("\n\n")
    assert first.startswith("read bandwidth ")
    for table in tables:
        lines = table.splitlines()
        assert [line.split()[0] for line in lines[2:-1]] == [
            *("scheduling", "graph", "cache_write", "attention", "MindSpore", "sampling", "output", "step")
        ]
        assert lines[-1].startswith("* and all operators without a line")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--batches", "1,x"], "--batches is '1,x'; it must be numbers from 1 with commas between, as 1,8,32"),
        (["--batches", "0"], "--batches is '0'; it must be numbers from 1 with commas between, as 1,8,32"),
        (["--steps", "0"], "--steps is 0; it must be at least 1"),
        (["--output", "/none/x.json"], "--output /none/x.json: its folder is not there"),
        (
            ["--set", "runtime.ops_backend=ascend_emulator", "cache.kv_cache_dtype=float16"],
            "runtime.ops_backend is ascend_emulator; only the operators of cpu are timed",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, line):
    done = profile_step(*arguments)
    assert (done.returncode, done.stderr) == (2, f"error: {line}\n")
