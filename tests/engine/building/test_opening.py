"""A model's name beside what the weights say of themselves."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mindspore_paged.config import config_from_dict
from mindspore_paged.engine.building.opening import resolve_model_config
from mindspore_paged.errors import ConfigError
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.rope_scaling import RopeScaling


def resolve(name: str, described, **config):
    sections = {"model": {"name": name, "config": config}}
    return resolve_model_config(config_from_dict(sections), SimpleNamespace(model_config=described, path="weights"))


def divisors_of_llama3(factor: float, theta: float, head_dim: int) -> list[float]:
    """What llama.cpp's converter writes of Llama 3.1's scaling into rope_freqs.weight."""
    divisors = []
    for pair in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (pair / head_dim)
        smooth = min(max((8192 / wavelength - 1.0) / (4.0 - 1.0), 0.0), 1.0)
        divisors.append(1 / ((1 - smooth) / factor + smooth))
    return divisors


@pytest.mark.parametrize(("name", "factor"), [("llama3.1-8b", 8.0), ("llama3.2-1b", 32.0)])
def test_gguf_files_write_a_scaling_as_numbers(name, factor):
    named = MODEL_CONFIGS[name]
    divisors = divisors_of_llama3(factor, named.rope_theta, named.head_dim)
    described = replace(named, rope_scaling=RopeScaling(divisors=tuple(divisors)))
    assert resolve(name, described) == described
    others = replace(named, rope_scaling=RopeScaling(divisors=tuple(1.001 * divisor for divisor in divisors)))
    with pytest.raises(ConfigError, match=rf"^model.name {name} has rope_scaling .*; leave model.name out$"):
        resolve(name, others)


def test_gguf_files_call_mistral_llama():
    described = replace(MODEL_CONFIGS["mistral-7b"], architecture="llama")
    assert resolve("mistral-7b", described) == described


def test_gguf_files_do_not_say_a_window():
    described = replace(MODEL_CONFIGS["mistral-7b-v0.1"], architecture="llama", sliding_window=None)
    with pytest.raises(ConfigError, match=r"has sliding_window 4096, but the weights say None; leave model.name out$"):
        resolve("mistral-7b-v0.1", described)
    assert resolve("mistral-7b-v0.1", described, sliding_window=4096).window_of(31) == 4096
