"""SmolLM3 (Hugging Face 2025): LLaMA of which every fourth layer does not rotate queries and keys (NoPE)."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictBool

from mindspore_paged.formats.hf_files import Length, Size
from mindspore_paged.model_config import FULL, SLIDING
from mindspore_paged.models.llama import LlamaHfOptions
from mindspore_paged.models.options import GgufOptions, LayerTypes
from mindspore_paged.models.spec import ModelSpec

INTERVAL = 4
"""Every layer of this number has no rotation; GGUF files do not say so."""


class SmolLm3HfOptions(LlamaHfOptions):
    """Which layers rotate (no_rope_layers has a 1 for those that do), and a window of those that do not."""

    default_theta: ClassVar[float] = 2000000.0
    max_position_embeddings: Length = 32768
    num_key_value_heads: Size = 4
    tie_word_embeddings: StrictBool = True
    no_rope_layers: Annotated[tuple[Literal[0, 1], ...], Field(max_length=2**16)] | None = None
    no_rope_layer_interval: Size = INTERVAL
    use_sliding_window: StrictBool = False
    sliding_window: Length | None = None
    layer_types: LayerTypes | None = None

    def options(self) -> dict[str, Any]:
        """The layers without rotation, the window, the biases."""
        rotates = self.no_rope_layers
        if rotates is None:
            without = layers_without_rope(self.num_hidden_layers, self.no_rope_layer_interval)
        elif len(rotates) == self.num_hidden_layers:
            without = tuple(layer for layer, does in enumerate(rotates) if not does)
        else:
            raise ValueError(f"no_rope_layers has {len(rotates)} entries for {self.num_hidden_layers} layers")
        windows = {}
        if self.use_sliding_window and self.sliding_window is not None:
            types = self.layer_types or tuple(
                SLIDING if layer in without else FULL for layer in range(self.num_hidden_layers)
            )
            windows = {"sliding_window": self.sliding_window, "layer_types": types}
        return {"layers_without_rope": without, **windows, **super().options()}


class SmolLm3GgufOptions(GgufOptions):
    """None of its own."""

    def options(self, num_layers: int) -> dict[str, Any]:
        """The layers without rotation."""
        return {"layers_without_rope": layers_without_rope(num_layers, INTERVAL)}


def layers_without_rope(num_layers: int, interval: int) -> tuple[int, ...]:
    """The last of every `interval` layers."""
    return tuple(range(interval - 1, num_layers, interval))


SPEC = ModelSpec("smollm3", ("smollm3",), ("smollm3",), SmolLm3HfOptions, SmolLm3GgufOptions, gguf_interleaves=True)
