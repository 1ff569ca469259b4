"""The configuration that an exported model carries."""

from dataclasses import replace

import pytest

from mindspore_paged.config import config_from_dict, load_config
from mindspore_paged.errors import CheckpointError
from mindspore_paged.mindir.configuration import _check_own_words, write_config
from mindspore_paged.mindir.folder import CONFIG
from mindspore_paged.models.registry import MODEL_CONFIGS


def test_the_sampling_defaults_come_back_as_they_were(tmp_path):
    sampling = {"temperature": 0.5, "stop": ["a", "b"], "logit_bias": {5: -1.5, 3: 100}, "seed": 3, "max_tokens": 7}
    sampling |= {"dry_multiplier": 0.8, "dry_sequence_breakers": ["\n", "###"], "truncate_prompt_tokens": -1}
    config = config_from_dict({"model": {"weights": "random", "name": "tiny"}, "sampling": sampling})
    write_config(tmp_path, config, MODEL_CONFIGS["tiny"], num_blocks=16)
    assert load_config(tmp_path / CONFIG).sampling == config.sampling


def test_code_is_not_exported_and_none_is_taken(tmp_path):
    sampling = {"logits_processors": ["tests.sampling.processors:only_even"]}
    config = config_from_dict({"model": {"weights": "random", "name": "tiny"}, "sampling": sampling})
    write_config(tmp_path, config, MODEL_CONFIGS["tiny"], num_blocks=16)
    written = load_config(tmp_path / CONFIG)
    assert written.sampling.logits_processors == ()
    named = replace(written, sampling=config.sampling)
    with pytest.raises(CheckpointError, match="sampling.logits_processors is set; only who runs the model may set it"):
        _check_own_words(written.model.weights, named)
