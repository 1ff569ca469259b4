"""Make biases.json: tokens and logits of transformers' LlamaForCausalLM with biases and with scaled rotary embeddings.

Run in an environment of its own, which needs neither MindSpore nor this package:
    pip install torch==2.13.0 transformers==4.57.1 'numpy<2'
    python tests/goldens/make_bias_goldens.py
"""

import json
from pathlib import Path

import numpy as np

COMMON = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}
LONGROPE = {
    "rope_type": "longrope",
    "factor": 4.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
}
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
CASES = {
    "all": ({"attention_bias": True, "mlp_bias": True}, ATTENTION + MLP),
    "no o_proj.bias in the file": ({"attention_bias": True}, ATTENTION[:3]),
    "attention, yarn": (
        {
            "attention_bias": True,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        },
        ATTENTION,
    ),
    "mlp, longrope": ({"mlp_bias": True, "rope_scaling": LONGROPE}, MLP),
}
PROMPT = [5, 9, 30, 71, 2, 2, 64, 18, 33, 90]
NEW_TOKENS = 24


def make_weights(biases: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The weights of a case, by Hugging Face's names, the same wherever NumPy is."""
    random = np.random.RandomState(3)
    shapes = {
        "q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64), "o_proj": (64, 64), "gate_proj": (96, 64),
        "up_proj": (96, 64), "down_proj": (64, 96),
    }  # fmt: skip

    def normal(*shape, scale):
        return (random.standard_normal(shape) * scale).astype(np.float32)

    weights = {name: normal(97, 64, scale=0.5) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    weights["model.norm.weight"] = 1 + normal(64, scale=0.1)
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}.{norm}.weight"] = 1 + normal(64, scale=0.1)
        for projection, shape in shapes.items():
            cell = f"{prefix}.{'self_attn' if projection in ATTENTION else 'mlp'}.{projection}"
            weights[f"{cell}.weight"] = normal(*shape, scale=1.5 * shape[1] ** -0.5)
            if projection in biases:
                weights[f"{cell}.bias"] = normal(shape[0], scale=0.7)
    return weights


def main() -> None:
    """Write the goldens beside this script."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    goldens = {}
    for name, (changes, biases) in CASES.items():
        model = LlamaForCausalLM(LlamaConfig(**COMMON | changes)).float().eval()
        state = {key: torch.from_numpy(values) for key, values in make_weights(biases).items()}
        missing = [key for key in model.state_dict() if key not in state]
        model.load_state_dict(state | {key: torch.zeros(len(model.state_dict()[key])) for key in missing})
        tokens = list(PROMPT)
        with torch.no_grad():
            for _ in range(NEW_TOKENS):
                logits = model(torch.tensor([tokens])).logits[0, -1]
                tokens.append(int(logits.argmax()))
            first, last = (model(torch.tensor([ids])).logits[0, -1].tolist() for ids in (PROMPT, tokens))
        rounded = {"first": [round(x, 5) for x in first], "last": [round(x, 5) for x in last]}
        goldens[name] = {"missing": missing, "tokens": tokens[len(PROMPT) :], "logits": rounded}
    path = Path(__file__).with_name("biases.json")
    path.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in goldens.items()) + "\n}\n")


if __name__ == "__main__":
    main()
