"""Make prompt_logprobs.json: what Hugging Face transformers expects of a prompt's own tokens, in float32.

Run in the environment that make_goldens.py describes:
    python tests/goldens/make_prompt_logprob_goldens.py path/to/SmolLM2-135M-Instruct.Q4_1.gguf

`logprobs` are natural logarithms, of each token but the first; `top` holds the likeliest token and its own at every
TOP_EVERY-th place from 1 on. The long prompt is the beginning of scripts/texts/american_documents.txt.
"""

import json
import sys
from pathlib import Path

import torch
from gguf import GGUFReader
from make_goldens import PROMPTS, reference_tokenizer
from transformers import AutoModelForCausalLM

TEXT = Path(__file__).parents[2] / "scripts" / "texts" / "american_documents.txt"
LONG = 600
TOP_EVERY = 20


@torch.no_grad()
def case_of(model, name: str, token_ids: list[int]) -> dict:
    """A prompt and what is expected of its tokens, the whole in one forward pass without a cache."""
    logits = model(torch.tensor([token_ids]), use_cache=False).logits[0]
    logprobs = torch.log_softmax(logits.double(), dim=-1)[:-1]
    own = logprobs[torch.arange(len(token_ids) - 1), torch.tensor(token_ids[1:])]
    best = logprobs.max(dim=-1)
    return {
        "name": name,
        "prompt_token_ids": token_ids,
        "logprobs": [round(value, 5) for value in own.tolist()],
        "top": {
            str(place): [int(best.indices[place - 1]), round(float(best.values[place - 1]), 5)]
            for place in range(1, len(token_ids), TOP_EVERY)
        },
    }


def main():
    """Write the goldens beside this script."""
    path = Path(sys.argv[1])
    tokenizer = reference_tokenizer(GGUFReader(path))
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    prompts = {name: tokenizer.encode(PROMPTS[name]) for name in ("capital", "unicode")}
    prompts["documents"] = tokenizer.encode(TEXT.read_text(encoding="utf-8"))[:LONG]
    goldens = {
        "model": path.name,
        "made_with": f"transformers 4.57.1, torch {torch.__version__}, float32, eager attention",
        "cases": [case_of(model, name, token_ids) for name, token_ids in prompts.items()],
    }
    Path(__file__).with_name("prompt_logprobs.json").write_text(json.dumps(goldens) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
