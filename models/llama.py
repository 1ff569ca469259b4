"""LLaMA 1 to 3 (Touvron et al. 2023; Grattafiori et al. 2024), and what others trained in its shape."""

from typing import Any

from pydantic import StrictBool

from mindspore_paged.model_config import ATTENTION_PROJECTIONS, MLP_PROJECTIONS
from mindspore_paged.models.options import HfOptions
from mindspore_paged.models.spec import ModelSpec


class LlamaHfOptions(HfOptions):
    """Biases of attention and of the MLP, which few have."""

    attention_bias: StrictBool = False
    mlp_bias: StrictBool = False

    def options(self) -> dict[str, Any]:
        """The projections that have a bias."""
        return {"biases": ATTENTION_PROJECTIONS * self.attention_bias + MLP_PROJECTIONS * self.mlp_bias}


SPEC = ModelSpec("llama", ("llama",), ("llama",), LlamaHfOptions, gguf_interleaves=True)
