"""Qwen3, dense (Qwen Team 2025): LLaMA with an RMSNorm over each head of queries and keys."""

from typing import Any

from pydantic import StrictBool

from mindspore_paged.formats.hf_files import Length, Size
from mindspore_paged.model_config import ATTENTION_PROJECTIONS
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
