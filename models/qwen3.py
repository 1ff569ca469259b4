"""Qwen3, dense (Qwen Team 2025): LLaMA with an RMSNorm over each head of queries and keys."""

from typing import Any

from pydantic import StrictBool

from mindspore_paged.formats.hf_files import Length, Size
from mindspore_paged.model_config import ATTENTION_PROJECTIONS, ModelConfig, sized
from mindspore_paged.models.options import GgufOptions, SlidingHfOptions
from mindspore_paged.models.spec import ModelSpec


class Qwen3HfOptions(SlidingHfOptions):
    """Biases and a window, which are off in all that are published."""

    head_dim: Size = 128
    max_position_embeddings: Length = 32768
    attention_bias: StrictBool = False

    def options(self) -> dict[str, Any]:
        """The norms, the window, the biases."""
        return {"qk_norm": True, "biases": ATTENTION_PROJECTIONS * self.attention_bias, **super().options()}


class Qwen3GgufOptions(GgufOptions):
    """None of its own."""

    def options(self, num_layers: int) -> dict[str, Any]:
        """The norms."""
        return {"qk_norm": True}


SPEC = ModelSpec("qwen3", ("qwen3",), ("qwen3",), Qwen3HfOptions, Qwen3GgufOptions)

_QWEN3 = {
    "vocab_size": 151936,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "qk_norm": True,
    "bos_token_id": 151643,
    "eos_token_ids": (151645, 151643),
    "architecture": SPEC.name,
}
_TIED = _QWEN3 | {"tie_word_embeddings": True}

MODELS: dict[str, ModelConfig] = {
    "qwen3-0.6b": sized(1024, 3072, 28, 16, 8, **_TIED),
    "qwen3-1.7b": sized(2048, 6144, 28, 16, 8, **_TIED),
    "qwen3-4b": sized(2560, 9728, 36, 32, 8, **_TIED),
    "qwen3-8b": sized(4096, 12288, 36, 32, 8, **_QWEN3),
    "qwen3-14b": sized(5120, 17408, 40, 40, 8, **_QWEN3),
    "qwen3-32b": sized(5120, 25600, 64, 64, 8, **_QWEN3),
}
"""Published sizes by the name that `model.name` has."""
