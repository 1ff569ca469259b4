"""Phi-3, Phi-3.5 and Phi-4-mini (Abdin et al. 2024): LLaMA with q|k|v and gate|up as one matrix each, and longrope."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from mindspore_paged.formats.hf_files import Length, Number
from mindspore_paged.models.options import GgufOptions, HfOptions
from mindspore_paged.models.spec import Concatenation, ModelSpec


class Phi3HfOptions(HfOptions):
    """A window, and the part of a head that is rotated."""

    required: ClassVar[dict[str, tuple]] = {"hidden_act": ("silu", "swish")}
    longrope_types: ClassVar[tuple[str, ...]] = ("longrope", "su", "yarn")
    max_position_embeddings: Length = 4096
    original_max_position_embeddings: Length = 4096
    rms_norm_eps: Number = 1e-5
    sliding_window: Length | None = None
    partial_rotary_factor: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0

    def options(self) -> dict[str, Any]:
        """The window, and how many numbers of a head are rotated."""
        rotated = int(self.size_of_head * self.partial_rotary_factor)
        return {
            "sliding_window": self.sliding_window,
            "rotary_dim": None if rotated == self.size_of_head else rotated,
        }


class Phi3GgufOptions(GgufOptions):
    """The window."""

    rotates_part: ClassVar[bool] = True
    window: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, alias="{arch}.attention.sliding_window")

    def options(self, num_layers: int) -> dict[str, Any]:
        """The window."""
        return {"sliding_window": self.window or None}


SPEC = ModelSpec(
    "phi3",
    ("phi3",),
    ("phi3",),
    Phi3HfOptions,
    Phi3GgufOptions,
    concatenations=(
        Concatenation("self_attn.qkv_proj.weight", "attn_qkv.weight", ("q", "k", "v")),
        Concatenation("mlp.gate_up_proj.weight", "ffn_up.weight", ("gate", "up")),
    ),
)
