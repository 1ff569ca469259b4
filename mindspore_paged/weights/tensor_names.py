"""One set of tensor names, Hugging Face's for LLaMA, and how GGUF and MindFormers spell them."""

import re
from collections.abc import Iterable

from mindspore_paged.model_config import ATTENTION_PROJECTIONS, MLP_PROJECTIONS

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"

_GGUF_TOP = {"token_embd.weight": EMBEDDING, "output_norm.weight": FINAL_NORM, "output.weight": LM_HEAD}
_GGUF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_MINDFORMERS_TOP = {
    "model.tok_embeddings.embedding_weight": EMBEDDING,
    "model.tok_embeddings.weight": EMBEDDING,
    "model.norm_out.weight": FINAL_NORM,
}
_MINDFORMERS_LAYER = {
    "attention_norm": "input_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}


def from_gguf(name: str) -> str:
    """The Hugging Face name of a GGUF tensor of architecture `llama`; an unknown name is returned as it is."""
    return _translate(name, r"blk\.(\d+)\.(\w+)\.(weight|bias)", _GGUF_TOP, _GGUF_LAYER)


def biased_projections(names: Iterable[str]) -> tuple[str, ...]:
    """The projections of decoder layers of which `names`, Hugging Face's, have a bias, in the order of a layer."""
    pattern = re.compile(r"model\.layers\.\d+\.(?:self_attn|mlp)\.(\w+)\.bias")
    found = {match[1] for match in map(pattern.fullmatch, names) if match}
    return tuple(name for name in ATTENTION_PROJECTIONS + MLP_PROJECTIONS if name in found)


def from_mindformers(name: str) -> str:
    """The Hugging Face name of a MindFormers LLaMA parameter; any other name is returned as it is.

    Source: `convert_name` of mindformers.models.llama.llama.LlamaForCausalLM (MindFormers 1.9).
    """
    return _translate(name, r"model\.layers\.(\d+)\.([\w.]+)\.(weight|bias)", _MINDFORMERS_TOP, _MINDFORMERS_LAYER)


def from_hf(name: str) -> str:
    """The name with the `model.` that a model saved without its head lacks; any other name is returned as it is."""
    return f"model.{name}" if re.match(r"(embed_tokens|layers\.\d+|norm)\.", name) else name


def _translate(name: str, layer_pattern: str, top: dict[str, str], layer: dict[str, str]) -> str:
    match = re.fullmatch(layer_pattern, name)
    if match and match[2] in layer:
        return f"model.layers.{match[1]}.{layer[match[2]]}.{match[3]}"
    return top.get(name, name)
