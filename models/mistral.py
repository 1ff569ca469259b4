"""Mistral 7B and Nemo (Jiang et al. 2023): LLaMA with a sliding window in its first version, and a head_dim of its own.

GGUF files call it llama, and say nothing of the window.
"""

from typing import Any, ClassVar

from mindspore_paged.formats.hf_files import Length, Size
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
