"""Make lora.json: tokens and logits that transformers and PEFT compute with adapters beside tiny models, in float32.

Run in an environment of its own, which needs neither MindSpore nor this package:
    pip install torch==2.13.0 transformers==4.57.1 peft==0.18.0 'numpy<2'
    python tests/goldens/make_lora_goldens.py

Of an adapter its adapter_config.json, as PEFT writes it, and its tensors' shapes are stored; `make_adapter` makes the
same numbers of them wherever NumPy is. The models are those of families.json.
"""

import json
import sys
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.goldens.make_family_goldens import CASES as MODELS
from tests.goldens.make_family_goldens import answer_of, make_model

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "all projections, with biases": ("llama, biases", {"r": 8, "lora_alpha": 16, "target_modules": ALL}),
    "queries and values": ("llama, biases", {"r": 3, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj"]}),
    "ranks and scales of their own": (
        "qwen3, tied",
        {
            "r": 4, "lora_alpha": 8, "target_modules": ALL, "use_rslora": True,
            "rank_pattern": {"down_proj": 6, "model.layers.0.self_attn.q_proj": 2},
            "alpha_pattern": {"down_proj": 20, "layers.1.*k_proj": 3},
        },
    ),
    "concatenated projections": (
        "phi3, window",
        {"r": 5, "lora_alpha": 10, "target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]},
    ),
    "norms of what a half puts out": ("gemma3_text, as 1b", {"r": 8, "lora_alpha": 8, "target_modules": ALL}),
    "one layer": ("granite", {"r": 16, "lora_alpha": 16, "target_modules": ALL, "layers_to_transform": [1]}),
}  # fmt: skip
"""By name: the model, and PEFT's LoraConfig."""


def make_adapter(shapes: Mapping[str, list[int]], seed: int) -> dict[str, np.ndarray]:
    """The tensors of an adapter, float32 by PEFT's names, from the name and shape of each."""
    made = {}
    for name, shape in shapes.items():
        normal = np.random.RandomState(zlib.crc32(f"{seed} {name}".encode())).standard_normal(shape)
        made[name] = (0.6 * shape[1] ** -0.5 * normal).astype(np.float32)
    return made


def golden(model_name: str, keys: Mapping, families: Mapping) -> dict:
    """The entry of a case: the first seed whose answers are clear, and others than the model's."""
    import torch
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    alone = families[model_name]["tokens"]
    for seed in range(1000):
        model, _ = make_model(MODELS[model_name], families[model_name]["seed"])
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **keys))
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
            from safetensors.numpy import load_file

            shapes = {
                name: list(value.shape) for name, value in load_file(Path(folder) / "adapter_model.safetensors").items()
            }
        values = {name: torch.from_numpy(value) for name, value in make_adapter(shapes, seed).items()}
        result = set_peft_model_state_dict(model, values)
        assert not result.unexpected_keys
        answer = answer_of(model)
        print(f"{model_name} ({seed}): {answer and answer['tokens']}", flush=True)
        if answer is not None and answer["tokens"] != alone:
            kept = {key: value for key, value in config.items() if key != "base_model_name_or_path"}
            return {"model": model_name, "seed": seed, "config": kept, "shapes": shapes} | answer
    raise AssertionError("no seed gives clear answers")


def main() -> None:
    """Write the goldens beside this script."""
    here = Path(__file__)
    families = json.loads(here.with_name("families.json").read_text(encoding="utf-8"))
    goldens = {name: golden(*case, families) for name, case in CASES.items()}
    lines = [f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}" for name, entry in goldens.items()]
    here.with_name("lora.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
