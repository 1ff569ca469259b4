"""Granite 3 (IBM 2024), dense: LLaMA whose embeddings, scores, residuals and logits are each multiplied by a number."""

from typing import Any

from pydantic import Field

from mindspore_paged.models.llama import LlamaHfOptions
from mindspore_paged.models.options import GgufOptions, GgufScale, Scale
from mindspore_paged.models.spec import ModelSpec


class GraniteHfOptions(LlamaHfOptions):
    """The four numbers; logits are divided by theirs."""

    embedding_multiplier: Scale = 1.0
    attention_multiplier: Scale = 1.0
    residual_multiplier: Scale = 1.0
    logits_scaling: Scale = 1.0

    def options(self) -> dict[str, Any]:
        """The numbers, and the biases."""
        return {
            "embedding_scale": self.embedding_multiplier,
            "attention_scale": self.attention_multiplier,
            "residual_scale": self.residual_multiplier,
            "logit_scale": 1 / self.logits_scaling,
            **super().options(),
        }


class GraniteGgufOptions(GgufOptions):
    """The four numbers."""

    embedding: GgufScale = Field(0.0, alias="{arch}.embedding_scale")
    attention: GgufScale = Field(0.0, alias="{arch}.attention.scale")
    residual: GgufScale = Field(0.0, alias="{arch}.residual_scale")
    logits: GgufScale = Field(0.0, alias="{arch}.logit_scale")

    def options(self, num_layers: int) -> dict[str, Any]:
        """The numbers."""
        return {
            "embedding_scale": self.embedding or 1.0,
            "attention_scale": self.attention or None,
            "residual_scale": self.residual or 1.0,
            "logit_scale": 1 / self.logits if self.logits else 1.0,
        }


SPEC = ModelSpec("granite", ("granite",), ("granite",), GraniteHfOptions, GraniteGgufOptions, gguf_interleaves=True)
