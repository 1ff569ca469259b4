"""What files say of a decoder's options: the keys that all families have, for a family to add its own.

A family's class says by `options()` what its keys mean as fields of ModelConfig.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictBool

from mindspore_paged.formats.gguf_metadata import GgufSection
from mindspore_paged.formats.hf_files import NO_TOKEN, HfModel, Length, Number, Size, TokenId
from mindspore_paged.model_config import FULL, SLIDING

DEFAULT_THETA = 10000.0

LayerTypes = Annotated[tuple[Literal["full_attention", "sliding_attention"], ...], Field(max_length=2**16)]
Scale = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
GgufSize = Annotated[int, Field(ge=1, le=2**24)]
GgufScale = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class HfOptions(HfModel):
    """Keys of config.json; absent ones take the defaults of transformers' class for the family, here LLaMA's.

    required: settings that change what is computed, with the values that are; the first is named where one is refused.
    """

    required: ClassVar[dict[str, tuple]] = {"hidden_act": ("silu", "swish"), "partial_rotary_factor": (1.0,)}
    default_theta: ClassVar[float] = DEFAULT_THETA
    longrope_types: ClassVar[tuple[str, ...]] = ("longrope",)

    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    max_position_embeddings: Length = 2048
    original_max_position_embeddings: Length | None = None
    rms_norm_eps: Number = 1e-6
    tie_word_embeddings: StrictBool = False
    bos_token_id: TokenId = NO_TOKEN

    def options(self) -> dict[str, Any]:
        """Fields of ModelConfig beside its sizes; raises ValueError with a text for a value that cannot be."""
        return {}

    @property
    def size_of_head(self) -> int:
        """head_dim."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


class SlidingHfOptions(HfOptions):
    """Those of families some of whose layers may slide, by `layer_types` or from `max_window_layers` on (Qwen)."""

    use_sliding_window: StrictBool = False
    sliding_window: Length = 4096
    max_window_layers: Annotated[int, Field(strict=True, ge=0)] = 28
    layer_types: LayerTypes | None = None

    def options(self) -> dict[str, Any]:
        """The window, and which layers have it."""
        if not self.use_sliding_window:
            return {}
        types = self.layer_types or tuple(
            SLIDING if layer >= self.max_window_layers else FULL for layer in range(self.num_hidden_layers)
        )
        return {"sliding_window": self.sliding_window, "layer_types": types}


class GgufOptions(GgufSection):
    """Keys of a GGUF file's metadata, in which {arch} stands for what it calls the family; 0 is absent.

    rotates_part: whether fewer numbers of a head than all may be rotated.
    """

    rotates_part: ClassVar[bool] = False

    def options(self, num_layers: int) -> dict[str, Any]:
        """Fields of ModelConfig beside its sizes."""
        return {}
