"""The model of time: its counts against counts by hand, its estimates against bounds."""

import re
from dataclasses import replace

import pytest

from mindspore_paged.custom_ops import build, build_emulator
from mindspore_paged.custom_ops.ascendc import cost_model
from mindspore_paged.custom_ops.ascendc.cost_model import Chip, Decode, estimate, slope_and_offset

pytestmark = pytest.mark.usefixtures("emulated")
LLAMA_70B_OF_8 = Decode(batch=32, context=2048)


def test_tiles_are_those_of_the_kernel():
    header = (build_emulator.ASCENDC_SOURCES / "op_kernel" / "paged_attention_tiling.h").read_text()
    constants = {name: int(value) for name, value in re.findall(r"constexpr uint32_t (\w+) = (\d+);", header)}
    assert constants["kVectorTileTokens"] == cost_model.VECTOR_TILE_TOKENS
    assert constants["kCubeTileTokens"] == cost_model.CUBE_TILE_TOKENS
    assert constants["kMinTokensPerCore"] == cost_model.MIN_TOKENS_PER_CORE


def test_a_vector_tile_by_hand():
    """64 tokens of 128: each query three passes over K's rows, two over V's halves, and V's rows folded into one."""
    per_tile, _ = slope_and_offset(LLAMA_70B_OF_8, "vector")["vector_repeats"]
    scores, products, folds, result, spread = 3 * 64, 2 * 64, 2 * 63, 2, 8
    widening = 2 * 64 * 128 // 64
    least = 8 * (scores + products + folds + result + spread) + widening
    assert least <= per_tile <= least + 80, "the softmax of eight rows of 64 takes a few dozen more"
    assert slope_and_offset(LLAMA_70B_OF_8, "vector")["kv_bytes"] == (64 * 128 * 2 * 2, 0)


def test_a_cube_tile_by_hand():
    """512 tokens of 128, both products, eight queries filled up to sixteen; scores and weights go there and back."""
    counts = slope_and_offset(LLAMA_70B_OF_8, "cube")
    assert counts["cube_macs"] == (2 * 512 * 128 * 16, 0)
    assert counts["kv_bytes"] == (512 * 128 * 2 * 2, 0)
    assert counts["fix_bytes"] == (8 * 512 * 4 + 8 * 128 * 4, 0)
    assert counts["exchanged_bytes"] == (2 * (8 * 512 * 4 + 8 * 512 * 2 + 8 * 128 * 4), 0)


@pytest.mark.parametrize("variant", ["vector", "cube"])
@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("context", [512, 8192])
def test_no_estimate_is_below_the_bytes(variant, batch, context):
    shape = replace(LLAMA_70B_OF_8, batch=batch, context=context)
    result = estimate(shape, Chip(), variant)
    assert result.lower_bound == pytest.approx(2 * batch * context * 128 * 2 / 1.6e12 * 1e6)
    assert result.total > result.lower_bound


def test_twice_the_bandwidth_helps_only_who_waits_for_it():
    fast = replace(Chip(), hbm_gb_s=3200)
    assert estimate(LLAMA_70B_OF_8, fast, "cube").total < 0.7 * estimate(LLAMA_70B_OF_8, Chip(), "cube").total
    vector = estimate(LLAMA_70B_OF_8, Chip(), "vector")
    assert vector.limit == "vector"
    assert estimate(LLAMA_70B_OF_8, fast, "vector").units["vector"] == vector.units["vector"]


def test_tables_are_printed(capsys):
    assert cost_model.main(["--batches", "8", "--contexts", "1024", "--hbm-gb-s", "1200"]) == 0
    printed = capsys.readouterr().out
    bound = 80 * 2 * 8 * 1024 * 128 * 2 / 1.2e12 * 1e3
    assert "| 8 | 1024 | " in printed
    assert f" {bound:.2f} |" in printed


def test_without_the_emulator_it_says_what_to_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cost_model, "emulator_library", lambda: build_emulator.emulator_library(tmp_path))
    cost_model.counts_of.cache_clear()
    cost_model.slope_and_offset.cache_clear()
    assert cost_model.main([]) == 2
    assert build.BUILD_COMMAND in capsys.readouterr().err
