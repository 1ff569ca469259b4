from mindspore_paged.config import config_from_dict
from mindspore_paged.engine.graph_report import compile_without_weights


def test_the_graph_has_every_layer_and_copies_no_page():
    sections = {"model": {"name": "tiny", "config": {"num_hidden_layers": 5}}}
    sections["cache"] = {"block_size": "auto"}
    report = compile_without_weights(config_from_dict(sections), 2)
    assert report.num_layers == 5
    assert report.nodes["Custom"] == 12  # attention and SwiGLU in each layer, the embedding and the head
    assert report.nodes["MatMul"] == 5 * 7 + 1
    assert report.nodes["TensorMove"] == 0  # how MindSpore copies a Parameter that it does not dare to share
