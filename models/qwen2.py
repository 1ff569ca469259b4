"""Qwen2 and Qwen2.5 (Yang et al. 2024), and the DeepSeek-R1 distills of them: LLaMA with biases of q, k and v."""

from typing import Any

from mindspore_paged.formats.hf_files import Length
from mindspore_paged.models.options import SlidingHfOptions
from mindspore_paged.models.spec import ModelSpec


class Qwen2HfOptions(SlidingHfOptions):
    """A window in the last layers, which is off in all that are published."""

    max_position_embeddings: Length = 32768

    def options(self) -> dict[str, Any]:
        """The window, and the biases, which all have."""
        return {"biases": ("q_proj", "k_proj", "v_proj"), **super().options()}


SPEC = ModelSpec("qwen2", ("qwen2",), ("qwen2",), Qwen2HfOptions)
