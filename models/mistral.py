"""Mistral 7B and Nemo (Jiang et al. 2023): LLaMA with a sliding window in its first version, and a head_dim of its own.

GGUF files call it llama, and say nothing of the window.
"""

from typing import Any, ClassVar

from mindspore_paged.formats.hf_files import Length, Size
from mindspore_paged.model_config import ModelConfig, sized
from mindspore_paged.models.options import HfOptions
from mindspore_paged.models.spec import ModelSpec


class MistralHfOptions(HfOptions):
    """The window, of all layers; null where there is none."""

    meaning_nulls: ClassVar[tuple[str, ...]] = ("sliding_window",)
    num_key_value_heads: Size = 8
    max_position_embeddings: Length = 4096 * 32
    sliding_window: Length | None = 4096

    def options(self) -> dict[str, Any]:
        """The window."""
        return {"sliding_window": self.sliding_window}


SPEC = ModelSpec("mistral", ("mistral",), (), MistralHfOptions)

_MISTRAL = {"bos_token_id": 1, "eos_token_ids": (2,), "architecture": SPEC.name}
_7B = _MISTRAL | {"max_position_embeddings": 32768}
_NEMO = _MISTRAL | {"max_position_embeddings": 131072, "rope_theta": 1000000.0}

MODELS: dict[str, ModelConfig] = {
    "mistral-7b": sized(4096, 14336, 32, 32, 8, vocab_size=32768, rope_theta=1000000.0, **_7B),
    "mistral-7b-v0.1": sized(4096, 14336, 32, 32, 8, vocab_size=32000, sliding_window=4096, **_7B),
    "mistral-nemo-12b": sized(5120, 14336, 40, 32, 8, head_dim=128, vocab_size=131072, **_NEMO),
}
"""Published sizes by the name that `model.name` has; mistral-7b is version 0.3, which has no window."""
