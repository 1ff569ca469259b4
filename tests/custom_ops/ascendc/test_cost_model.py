"""The model of time: its counts against counts by hand, its estimates against bounds, its tables against the page."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mindspore_paged.custom_ops import build, build_emulator
from mindspore_paged.custom_ops.ascendc import cost_model, emulator_counts
from mindspore_paged.custom_ops.ascendc.attention_time import estimate
from mindspore_paged.custom_ops.ascendc.chip import Chip
from mindspore_paged.custom_ops.ascendc.cost_tables import TABLE, with_tables
from mindspore_paged.custom_ops.ascendc.emulator_counts import Attention, counts_of, slope_and_offset
from mindspore_paged.custom_ops.ascendc.step_model import decode_step, product_ms
from mindspore_paged.errors import ConfigError
from mindspore_paged.models.registry import model_config_by_name
from mindspore_paged.scaling_model import Cards

pytestmark = pytest.mark.usefixtures("emulated")
LLAMA_70B_OF_8 = Attention(batch=32, context=2048)
PAGE = Path(__file__).parents[3] / "docs" / "ascend_performance.md"


def test_tiles_are_those_of_the_kernel():
    header = (build_emulator.ASCENDC_SOURCES / "op_kernel" / "paged_attention_tiling.h").read_text()
    constants = {name: int(value) for name, value in re.findall(r"constexpr uint32_t (\w+) = (\d+);", header)}
    assert {
        "vector": constants["kVectorTileTokens"],
        "cube": constants["kCubeTileTokens"],
    } == emulator_counts.TILE_TOKENS
    assert {
        "vector": constants["kPagedAttentionVectorKey"],
        "cube": constants["kPagedAttentionCubeKey"],
    } == emulator_counts.KEYS
    assert constants["kMinTokensPerCore"] == emulator_counts.MIN_TOKENS_PER_CORE


class TestCounts:
    """Of what any kernel must move and do, whatever else it does."""

    @pytest.mark.parametrize("variant", ["vector", "cube"])
    def test_a_tile_by_hand(self, variant):
        """Its keys and values are read once, and for eight queries filled up to sixteen both are multiplied."""
        tokens = emulator_counts.TILE_TOKENS[variant]
        per_tile, per_task = zip(*slope_and_offset(LLAMA_70B_OF_8, variant).values(), strict=True)
        names = list(slope_and_offset(LLAMA_70B_OF_8, variant))
        of_tile, of_task = dict(zip(names, per_tile, strict=True)), dict(zip(names, per_task, strict=True))
        assert (of_tile["kv_bytes"], of_task["kv_bytes"]) == (tokens * 128 * 2 * 2, 0)
        if variant == "cube":
            assert of_tile["aic_cube_macs"] == 2 * tokens * 128 * 16
            assert of_tile["aic_mte2_rows"] >= 2 * tokens, "a row for each key and value"
        else:
            assert of_tile["aic_cube_macs"] == 0
            assert of_tile["aiv_mte2_bytes"] == tokens * 128 * 2 * 2
            assert of_tile["aiv_vector_repeats"] >= 8 * 5 * 64, "five passes over the tile for each of eight queries"

    def test_all_cores_together_load_each_byte_once(self):
        shape = Attention(batch=4, context=2048)
        for variant in ("vector", "cube"):
            assert counts_of(shape, variant, cube_cores=20)["kv_bytes"] == shape.kv_bytes

    def test_two_short_runs_stand_for_a_long_one(self):
        """Shapes that the emulator runs whole, once so, once put together."""
        shape = Attention(batch=20, context=1536)
        whole = emulator_counts.counts_of_busiest(shape, "cube", 20)
        together = emulator_counts.counts_of_busiest(replace(shape, batch=40), "cube", 20)
        for name in ("aic_mte2_bytes", "aic_cube_macs", "aiv_vector_repeats", "exchanged_bytes"):
            assert together[name] == pytest.approx(2 * whole[name], rel=0.1), name

    def test_int8_pages_are_half_the_bytes(self):
        shape = Attention(batch=2, context=1024, is_int8=True)
        assert counts_of(shape, "vector", 20)["kv_bytes"] == shape.kv_bytes == 2 * 2 * 1024 * 132

    def test_a_chunk_of_a_prompt_multiplies_what_is_not_masked(self):
        chunk = Attention(batch=1, context=256, new_tokens=256)
        least = 2 * 8 * 128 * 256 * 257 // 2 // 20
        assert counts_of(chunk, "cube", 20)["aic_cube_macs"] >= least


class TestChip:
    def test_the_measured_points_are_met(self):
        chip = Chip()
        for row_bytes, tb_s in ((512, 1.41), (128, 1.07)):
            rows = 10_000
            reached = 24 * rows * row_bytes / chip.load_us(rows * row_bytes, rows) * 1e-6
            assert reached == pytest.approx(tb_s, rel=0.002)
        assert 48 * chip.ub_gb_s == pytest.approx(1490, rel=0.002)

    def test_no_row_is_faster_than_32_bytes_a_cycle(self):
        chip = Chip()
        for row_bytes in (32, 64, 256, 512, 4096, 65536):
            reached = row_bytes / chip.load_us(row_bytes, 1) * 1e-3
            assert reached <= chip.long_row_gb_s * (1 + 1e-9)
            assert row_bytes < 512 or reached == pytest.approx(chip.long_row_gb_s)
        assert chip.long_row_gb_s == pytest.approx(32 * chip.clock_ghz, rel=0.02)


class TestEstimate:
    @pytest.mark.parametrize("variant", ["vector", "cube"])
    @pytest.mark.parametrize(("batch", "context"), [(1, 512), (8, 512), (64, 8192)])
    def test_none_is_below_the_bytes(self, variant, batch, context):
        shape = replace(LLAMA_70B_OF_8, batch=batch, context=context)
        result = estimate(shape, Chip(), variant)
        assert result.lower_bound == pytest.approx(2 * batch * context * 128 * 2 / 1.6e12 * 1e6)
        assert result.work >= result.lower_bound
        assert result.total == result.work + 20
        ports = shape.kv_bytes / (40 * 31.0 if variant == "vector" else 20 * 58.7) * 1e-3
        assert result.work >= ports * 0.999, "what all ports together carry"

    def test_wider_ports_help_only_who_waits_for_them(self):
        fast = replace(Chip(), long_row_gb_s=117.4, short_row_gb_s=89.2)
        slow = Chip()
        cube = estimate(LLAMA_70B_OF_8, slow, "cube")
        assert cube.limit == "GM to L1"
        assert estimate(LLAMA_70B_OF_8, fast, "cube").work < cube.work
        assert estimate(LLAMA_70B_OF_8, fast, "vector").work == estimate(LLAMA_70B_OF_8, slow, "vector").work

    def test_more_cores_take_less(self):
        chip = Chip()
        assert estimate(LLAMA_70B_OF_8, chip.wider(), "cube").work < estimate(LLAMA_70B_OF_8, chip, "cube").work


class TestStep:
    def test_weights_of_one_row_are_their_bytes_and_of_many_their_multiplications(self):
        chip = Chip()
        assert product_ms(chip, 10**9, 1) == pytest.approx(2e9 / (20 * 58.7e9) * 1e3)
        assert product_ms(chip, 10**9, 4096) == pytest.approx(10**9 * 4096 / (20 * 4096 * 0.7 * 1.8e9) * 1e3)

    def test_the_sum_of_its_operators_and_launches(self):
        model = model_config_by_name("llama3-70b")
        step = decode_step(model, Chip(), Cards(), 8, 32, 2048, 41)
        assert step.launches_ms == pytest.approx(80 * 41 * 0.020)
        assert step.total == pytest.approx(step.launches_ms + sum(step.operators.values()))
        products = sum(step.operators[name] for name in ("q, k, v", "o", "gate, up", "down", "head"))
        table = model.vocab_size * model.hidden_size  # the embedding's, which is looked up
        bytes_of_card = 2 * (70.55e9 - table) / 8
        assert products == pytest.approx(bytes_of_card / 1.174e12 * 1e3, rel=0.01)
        fewer = decode_step(model, Chip(), Cards(), 8, 32, 2048, 9)
        assert step.total - fewer.total == pytest.approx(80 * 32 * 0.020)


class TestTables:
    @pytest.mark.slow
    def test_those_of_the_page_are_what_the_command_prints(self, capsys):
        """After a change of the kernels: cost_model --write docs/ascend_performance.md."""
        assert cost_model.main([]) == 0
        printed = capsys.readouterr().out.strip()
        places = TABLE.finditer(PAGE.read_text(encoding="utf-8"))
        assert "\n\n".join(place[0].removesuffix("\n<!-- end of table -->") for place in places) == printed

    def test_what_is_asked_for_is_what_they_are_of(self, capsys):
        arguments = ["--batches", "8", "--contexts", "1024", "--hbm-gb-s", "1200", "--launches", "7"]
        assert cost_model.main([*arguments, "--only", "decode", "operators"]) == 0
        printed = capsys.readouterr().out
        bound = 80 * 2 * 8 * 1024 * 128 * 2 / 1.2e12 * 1e3
        assert "| 8 | 1024 | " in printed
        assert f" | {bound:.2f} | " in printed
        assert f"| launches | {80 * 7 * 0.02:.2f} | " in printed

    def test_they_are_put_where_their_names_stand(self):
        page = "a\n<!-- table: one -->\nold\n<!-- end of table -->\nb <!-- table: two -->\n<!-- end of table -->"
        written = with_tables(page, {"one": "| 1 |", "two": "| 2 |\n| 3 |"})
        assert written == (
            "a\n<!-- table: one -->\n| 1 |\n<!-- end of table -->\n"
            "b <!-- table: two -->\n| 2 |\n| 3 |\n<!-- end of table -->"
        )
        assert with_tables(written, {"one": "| 1 |", "two": "| 2 |\n| 3 |"}) == written
        with pytest.raises(ConfigError, match="places for the tables one, two, there are one"):
            with_tables(page, {"one": "| 1 |"})

    def test_without_the_emulator_it_says_what_to_run(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(emulator_counts, "emulator_library", lambda: build_emulator.emulator_library(tmp_path))
        for cached in (counts_of, slope_and_offset, emulator_counts.chosen_variant):
            cached.cache_clear()
        assert cost_model.main([]) == 2
        assert build.BUILD_COMMAND in capsys.readouterr().err
