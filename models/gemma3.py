"""Gemma 3, text (Gemma Team 2025): norms before and behind attention and MLP, a gate through GELU, local layers.

Five layers of six slide, and rotate by a base of their own; embeddings are multiplied by the root of their size.
"""

from typing import Annotated, Any, ClassVar

from pydantic import Field, StrictBool

from mindspore_paged.formats.hf_files import Length, Size
from mindspore_paged.model_config import ATTENTION_PROJECTIONS, FULL, SLIDING
from mindspore_paged.models.options import DEFAULT_THETA, GgufOptions, GgufSize, HfOptions, LayerTypes, Scale
from mindspore_paged.models.spec import LAYER_WEIGHTS, ModelSpec, WeightSpec, replaced

PATTERN = 6
"""Every layer of this number attends to all."""


class Gemma3HfOptions(HfOptions):
    """Windows, the scale of scores, two bases of the rotation."""

    required: ClassVar[dict[str, tuple]] = {
        "hidden_activation": ("gelu_pytorch_tanh",),
        "final_logit_softcapping": (None,),
        "attn_logit_softcapping": (None,),
        "use_bidirectional_attention": (False,),
    }
    default_theta: ClassVar[float] = 1_000_000.0
    num_key_value_heads: Size = 4
    head_dim: Size = 256
    max_position_embeddings: Length = 131_072
    tie_word_embeddings: StrictBool = True
    attention_bias: StrictBool = False
    query_pre_attn_scalar: Scale = 256.0
    sliding_window: Length = 4096
    sliding_window_pattern: Size = PATTERN
    layer_types: LayerTypes | None = None
    rope_local_base_freq: Scale = DEFAULT_THETA

    def options(self) -> dict[str, Any]:
        """All that differs from LLaMA."""
        return {
            **_options(self.hidden_size),
            "biases": ATTENTION_PROJECTIONS * self.attention_bias,
            "attention_scale": self.query_pre_attn_scalar**-0.5,
            "sliding_window": self.sliding_window,
            "layer_types": self.layer_types or layer_types(self.num_hidden_layers, self.sliding_window_pattern),
            "local_rope_theta": self.rope_local_base_freq,
        }


class Gemma3GgufOptions(GgufOptions):
    """The window, and the base of its layers' rotation; llama.cpp knows their pattern by the family."""

    hidden_size: GgufSize = Field(alias="{arch}.embedding_length")
    heads: GgufSize = Field(alias="{arch}.attention.head_count")
    window: Annotated[int, Field(ge=1, lt=2**31)] = Field(alias="{arch}.attention.sliding_window")
    key_length: Annotated[int, Field(ge=0, le=2**16)] = Field(0, alias="{arch}.attention.key_length")
    local_base: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        DEFAULT_THETA, alias="{arch}.rope.freq_base_swa"
    )

    def options(self, num_layers: int) -> dict[str, Any]:
        """All that differs from LLaMA. Of 62 layers is the model of 27 billion, whose scores are scaled otherwise."""
        of_head = self.hidden_size / self.heads
        scaled_by = of_head if num_layers == 62 else self.key_length or of_head
        return {
            **_options(self.hidden_size),
            "attention_scale": scaled_by**-0.5,
            "sliding_window": self.window,
            "layer_types": layer_types(num_layers, PATTERN),
            "local_rope_theta": self.local_base,
        }


def _options(hidden_size: int) -> dict[str, Any]:
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "qk_norm": True,
        "output_norms": True,
        "embedding_scale": hidden_size**0.5,
    }


def layer_types(num_layers: int, pattern: int) -> tuple[str, ...]:
    """The last of every `pattern` layers attends to all, the others slide."""
    return tuple(FULL if layer % pattern == pattern - 1 else SLIDING for layer in range(num_layers))


SPEC = ModelSpec(
    "gemma3",
    ("gemma3_text",),
    ("gemma3",),
    Gemma3HfOptions,
    Gemma3GgufOptions,
    layer=replaced(
        LAYER_WEIGHTS,
        WeightSpec(
            "attention_output_norm", "post_attention_layernorm.weight", ("hidden",), "post_attention_norm.weight"
        ),
        WeightSpec("mlp_norm", "pre_feedforward_layernorm.weight", ("hidden",), "ffn_norm.weight"),
        WeightSpec("mlp_output_norm", "post_feedforward_layernorm.weight", ("hidden",), "post_ffw_norm.weight"),
    ),
    norm_offset=1.0,
)
