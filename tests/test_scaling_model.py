"""The paper estimate of tensor parallelism, against arithmetic by hand for LLaMA-70B."""

import pytest

from mindspore_paged import scaling_model
from mindspore_paged.errors import ConfigError
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.scaling_model import Cards, all_reduce_ms, decode_step

LLAMA_70B = MODEL_CONFIGS["llama2-70b"]
IDEAL = Cards(hbm_gb_s=1000.0, hbm_share=1.0, link_gb_s=100.0, network_gb_s=10.0, collective_us=10.0, network_us=5.0)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_a_rank_has_its_part_of_70_billion_weights(ranks):
    step = decode_step(LLAMA_70B, IDEAL, ranks, batch=1, context=1000)
    assert step.weights_gb * ranks == pytest.approx(137.95, rel=1e-3)
    assert step.weights_ms == pytest.approx(step.weights_gb)  # at 1000 GB/s
    assert step.pages_gb * ranks == pytest.approx(1000 * 80 * 2 * 8 * 128 * 2 / 1e9)


def test_sixteen_ranks_share_eight_kv_heads_by_twos():
    sixteen, eight = (decode_step(LLAMA_70B, IDEAL, ranks, 1, 1000) for ranks in (16, 8))
    assert sixteen.pages_gb == eight.pages_gb
    assert eight.weights_gb / 2 < sixteen.weights_gb < 0.52 * eight.weights_gb


def test_a_sum_over_ranks_by_hand():
    """800 kB over 8 cards: 100 kB go to each peer and come back, 1 us each at 100 GB/s; 10 us at least."""
    assert all_reduce_ms(IDEAL, 1, 800_000) == 0
    assert all_reduce_ms(IDEAL, 8, 800_000) == pytest.approx(0.010 + 0.002)
    # Two servers: each card's 100 kB meet those of its counterpart, half of them sent and half received twice.
    assert all_reduce_ms(IDEAL, 16, 800_000) == pytest.approx(0.010 + 0.002 + 0.005 + 0.010)


def test_a_large_batch_is_bound_by_products():
    few, many = (decode_step(LLAMA_70B, Cards(tflops=100.0), 8, batch, 16) for batch in (1, 512))
    assert few.weights_ms == pytest.approx(few.weights_gb / (1600 * 0.8) * 1e3)
    assert many.weights_ms == pytest.approx(2 * many.weights_gb / 2 * 512 / 100)


def test_ranks_that_do_not_divide_the_heads():
    with pytest.raises(ConfigError, match="it must divide the model's num_attention_heads, 64"):
        decode_step(LLAMA_70B, Cards(), 3, 1, 100)


def test_the_table_tells_what_does_not_fit(capsys):
    assert scaling_model.main(["--ranks", "1", "4", "8", "--batches", "32"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row[-2].strip() for row in rows][:2] == ["does not fit", "1.00"]
    assert float(rows[2][-2]) > 1.5


def test_an_unknown_model_is_one_line(capsys):
    assert scaling_model.main(["--model", "llama9"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
