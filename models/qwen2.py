"""Qwen2 and Qwen2.5 (Yang et al. 2024), and the DeepSeek-R1 distills of them: LLaMA with biases of q, k and v."""

from typing import Any

from mindspore_paged.formats.hf_files import Length
from mindspore_paged.model_config import ModelConfig, sized
from mindspore_paged.models.options import SlidingHfOptions
from mindspore_paged.models.spec import ModelSpec

BIASES = ("q_proj", "k_proj", "v_proj")


class Qwen2HfOptions(SlidingHfOptions):
    """A window in the last layers, which is off in all that are published."""

    max_position_embeddings: Length = 32768

    def options(self) -> dict[str, Any]:
        """The window, and the biases, which all have."""
        return {"biases": BIASES, **super().options()}


SPEC = ModelSpec("qwen2", ("qwen2",), ("qwen2",), Qwen2HfOptions)

_QWEN2_5 = {
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "biases": BIASES,
    "bos_token_id": 151643,
    "eos_token_ids": (151645, 151643),
    "architecture": SPEC.name,
}
_SMALL = _QWEN2_5 | {"vocab_size": 151936, "tie_word_embeddings": True}
_LARGE = _QWEN2_5 | {"vocab_size": 152064}

MODELS: dict[str, ModelConfig] = {
    "qwen2.5-0.5b": sized(896, 4864, 24, 14, 2, **_SMALL),
    "qwen2.5-1.5b": sized(1536, 8960, 28, 12, 2, **_SMALL),
    "qwen2.5-3b": sized(2048, 11008, 36, 16, 2, **_SMALL),
    "qwen2.5-7b": sized(3584, 18944, 28, 28, 4, **_LARGE),
    "qwen2.5-14b": sized(5120, 13824, 48, 40, 8, **_LARGE),
    "qwen2.5-32b": sized(5120, 27648, 64, 40, 8, **_LARGE),
    "qwen2.5-72b": sized(8192, 29568, 80, 64, 8, **_LARGE),
}
"""The Instruct models by the name that `model.name` has; of base models some have another rms_norm_eps, 1e-5."""
