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
