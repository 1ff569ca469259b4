"""Make rope.json: the rotary frequencies and attention factors that transformers makes of a config.json's keys.

Run in an environment of its own, which needs neither MindSpore nor this package:
    pip install torch==2.13.0 transformers==4.57.1 'numpy<2'
    python tests/goldens/make_rope_goldens.py
"""

import json
from pathlib import Path

import numpy as np
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

FACTORS = np.random.default_rng(5)
SHORT = (1 + 0.3 * FACTORS.random(16)).round(3).tolist()
LONG = (1 + 30 * FACTORS.random(16)).round(3).tolist()
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG}
CASES = {
    "default": {},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "llama3": {
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        },
    },
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}},
    "yarn, context of the model": {"rope_scaling": {"type": "yarn", "factor": 16.0}},
    "yarn, bounds that are no whole pairs": {
        "rope_theta": 1000000.0,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 512, "beta_fast": 24.0,
            "beta_slow": 0.7, "truncate": False,
        },
    },
    "yarn, attention factor": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.75}},
    "yarn, both mscales": {
        "rope_scaling": {"rope_type": "yarn", "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.2}
    },
    "yarn, one mscale": {"rope_scaling": {"rope_type": "yarn", "factor": 40.0, "mscale": 0.707}},
    "longrope, factor": {"rope_scaling": {**LONGROPE, "factor": 8.0}},
    "longrope, context beside it": {"original_max_position_embeddings": 512, "rope_scaling": LONGROPE},
    "longrope, attention factor": {
        "original_max_position_embeddings": 512, "rope_scaling": {**LONGROPE, "attention_factor": 1.3},
    },
}  # fmt: skip
COMMON = {"hidden_size": 128, "num_attention_heads": 4, "max_position_embeddings": 4096, "rope_theta": 10000.0}


def main() -> None:
    """Write the goldens beside this script: each for the shortest sequences, and for the longest."""
    goldens = {}
    for name, keys in CASES.items():
        config = LlamaConfig(**COMMON | keys)
        kind = (config.rope_scaling or {}).get("rope_type", "default")
        lengths = {}
        for length in (16, config.max_position_embeddings):
            frequencies, attention_factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
            lengths[str(length)] = [[float(f"{number:.8g}") for number in frequencies.tolist()], attention_factor]
        goldens[name] = {"config": COMMON | keys, "by_length": lengths}
    path = Path(__file__).with_name("rope.json")
    path.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in goldens.items()) + "\n}\n")


if __name__ == "__main__":
    main()
