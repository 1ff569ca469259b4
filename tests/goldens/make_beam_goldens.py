"""Make beams.json: what Hugging Face transformers' beam search answers with the demo model's GGUF file in float32.

Run in the environment of make_goldens.py:
    python tests/goldens/make_beam_goldens.py path/to/SmolLM2-135M-Instruct.Q4_1.gguf

The prompts are token ids of smollm2_135m.json, and one that asks for a short answer, so that beams end by themselves.
"""

import json
import sys
from pathlib import Path

import torch
from gguf import GGUFReader
from make_goldens import reference_tokenizer
from transformers import AutoModelForCausalLM, GenerationConfig

FOLDER = Path(__file__).parent
SHORT = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
EOS = (2, 0, 4)
"""<|im_end|>, and what else the package takes for an end of this model's texts."""
CASES = [
    *({"name": name, "num_beams": 2, "max_new_tokens": 32} for name in ("capital", "code", "chat")),
    *({"name": name, "num_beams": 4, "max_new_tokens": 32} for name in ("capital", "code", "chat")),
    {"name": "numbers", "num_beams": 4, "max_new_tokens": 20},
    {"name": "unicode", "num_beams": 2, "max_new_tokens": 40},
    {"name": "short", "num_beams": 2, "max_new_tokens": 24},
    {"name": "short", "num_beams": 4, "max_new_tokens": 24},
    {"name": "short", "num_beams": 4, "max_new_tokens": 24, "length_penalty": 0.0},
    {"name": "short", "num_beams": 4, "max_new_tokens": 24, "length_penalty": 2.0},
    {"name": "short", "num_beams": 4, "max_new_tokens": 24, "early_stopping": True},
    {"name": "short", "num_beams": 4, "max_new_tokens": 24, "early_stopping": "never"},
]  # fmt: skip


@torch.no_grad()
def answered(model, case: dict, prompt: list[int], eos: list[int]) -> dict:
    """The case with its answers, best first, each with its end-of-sequence token and without what pads it."""
    keys = {key: value for key, value in case.items() if key != "name"}
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        generation_config=GenerationConfig(
            **keys,
            do_sample=False,
            num_return_sequences=case["num_beams"],
            eos_token_id=eos,
            pad_token_id=eos[0],
            output_scores=True,
            return_dict_in_generate=True,
        ),
    )
    lengths = (output.beam_indices >= 0).sum(dim=1).tolist()
    sequences = [row[len(prompt) :][:length].tolist() for row, length in zip(output.sequences, lengths, strict=True)]
    return case | {"token_ids": sequences, "scores": [round(score, 6) for score in output.sequences_scores.tolist()]}


def main():
    """Write the goldens beside this script."""
    path = Path(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    greedy = json.loads((FOLDER / "smollm2_135m.json").read_text(encoding="utf-8"))
    prompts = {case["name"]: case["prompt_token_ids"] for case in greedy["cases"]}
    tokenizer = reference_tokenizer(GGUFReader(path))
    rendered = tokenizer.apply_chat_template(SHORT, tokenize=False, add_generation_prompt=True)
    prompts["short"] = tokenizer.encode(rendered, add_special_tokens=False)
    cases = []
    for case in CASES:
        cases.append(answered(model, case, prompts[case["name"]], list(EOS)))
        print(case, [len(tokens) for tokens in cases[-1]["token_ids"]], cases[-1]["scores"])
        print(repr(tokenizer.decode(cases[-1]["token_ids"][0])))
    goldens = {
        "model": path.name,
        "made_with": f"transformers 4.57.1, torch {torch.__version__}, float32, eager attention",
        "eos_token_ids": list(EOS),
        "prompts": {name: prompts[name] for name in dict.fromkeys(case["name"] for case in CASES)},
        "cases": cases,
    }
    lines = json.dumps(goldens, indent=None).replace('{"name"', '\n{"name"')
    (FOLDER / "beams.json").write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
