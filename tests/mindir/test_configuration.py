"""The configuration that an exported model carries."""

from mindspore_paged.config import config_from_dict, load_config
from mindspore_paged.mindir.configuration import write_config
from mindspore_paged.mindir.folder import CONFIG
from mindspore_paged.models.registry import MODEL_CONFIGS


def test_the_sampling_defaults_come_back_as_they_were(tmp_path):
    sampling = {"temperature": 0.5, "stop": ["a", "b"], "logit_bias": {5: -1.5, 3: 100}, "seed": 3, "max_tokens": 7}
    config = config_from_dict({"model": {"weights": "random", "name": "tiny"}, "sampling": sampling})
    write_config(tmp_path, config, MODEL_CONFIGS["tiny"], num_blocks=16)
    assert load_config(tmp_path / CONFIG).sampling == config.sampling
