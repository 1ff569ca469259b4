import pytest

from mindspore_paged.config import config_from_dict
from mindspore_paged.engine.building.graph_report import compile_without_weights


@pytest.mark.parametrize(
    ("fused", "num_custom", "num_matmul"),
    [
        (False, 10, 5 * 7 + 1),  # a cache write and an attention in each layer
        (True, 1, 0),  # the whole step, whose layers the logits tell apart from fewer
    ],
)
def test_the_graph_has_every_layer_and_copies_no_page(fused, num_custom, num_matmul):
    sections = {"model": {"name": "tiny", "config": {"num_hidden_layers": 5}}}
    sections["cache"] = {"block_size": "auto"}
    sections["runtime"] = {"fused_ops": fused}
    report = compile_without_weights(config_from_dict(sections), 2)
    assert report.num_layers == 5
    assert report.nodes["Custom"] == num_custom
    assert report.nodes["MatMul"] == num_matmul
    assert report.nodes["TensorMove"] == 0  # how MindSpore copies a Parameter that it does not dare to share


QWEN2 = {"architecture": "qwen2", "biases": ["q_proj", "k_proj", "v_proj"]}
QWEN3 = {"architecture": "qwen3", "qk_norm": True}
GEMMA3 = {"architecture": "gemma3", "qk_norm": True, "output_norms": True, "hidden_act": "gelu_pytorch_tanh"}
GEMMA3 |= {"embedding_scale": 8.0, "local_rope_theta": 100.0, "sliding_window": 16}
GEMMA3 |= {"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]}


def report_of(fused_ops, **model):
    model = {"num_hidden_layers": 4, "head_dim": 16, **model}
    sections = {
        "model": {"name": "tiny", "dtype": "float16", "config": model},
        "cache": {"block_size": "auto"},
        "runtime": {"ops_backend": "ascend_emulator", "fused_ops": fused_ops},
    }
    return compile_without_weights(config_from_dict(sections), 2)


@pytest.mark.parametrize(
    ("model", "others"),
    [({}, 0), (QWEN2, 0), (QWEN3, 0), (GEMMA3, 1)],
    ids=["llama", "qwen2", "qwen3", "gemma3, whose second layer brings another table of rotations"],
)
def test_a_layer_is_nine_launches_on_ascend(model, others):
    report = report_of("auto", **model)
    assert report.launches_per_layer == (3 * 9 + others) / 3
    assert report.nodes["Custom"] == 4 * 5 + 1, "and the last norm"
    assert report.nodes["MatMul"] == 4 * 4 + 1, "and the head"
    assert report.nodes["TensorMove"] == 0


@pytest.mark.slow
def test_a_bias_behind_a_sum_over_ranks_is_a_launch_of_its_own():
    biases = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert report_of("auto", biases=biases).launches_per_layer == 11


@pytest.mark.slow
def test_operator_by_operator_it_is_more_than_forty():
    report = report_of(False)
    assert report.launches_per_layer > 40
    assert report.nodes["TensorMove"] == 0


def test_one_layer_alone_has_nothing_to_be_compared_with():
    assert report_of("auto", num_hidden_layers=1).launches_per_layer == 0
