"""Make logits_processors.json: what the logits processors of Hugging Face transformers leave of rows of logits.

Run in an environment of its own, which needs neither MindSpore nor this package:
    pip install torch==2.13.0 transformers==4.57.1 'numpy<2'
    python tests/goldens/make_logits_processor_goldens.py

A case's `params` have this package's names, `scores` hold null for a token that cannot come. `bad_words_ids` and
`eos_token_id` are the model's side of it; the answer so far is what stands behind the first `prompt_length` tokens.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from transformers.generation import logits_process as hf

VOCAB = 48
TOKENS = [3, 9, 3, 17, 40, 9, 22, 5, 17, 40, 9]
PROMPT_LENGTH = 6
EOS = [2, 7]
BAD_WORDS = [[11], [9, 30], [40, 9, 31], [5, 32], [9, 9, 33]]  # of which the first three may not come next

EDITS = {
    **{f"repetition_penalty {by}": ({"repetition_penalty": by}, [hf.RepetitionPenaltyLogitsProcessor(by)])
       for by in (1.3, 0.6, 100.0, 0.01)},
    **{f"min_tokens {count}": ({"min_tokens": count}, [hf.MinNewTokensLengthLogitsProcessor(PROMPT_LENGTH, count, EOS)])
       for count in (5, 6)},
    "bad_words": ({}, [hf.NoBadWordsLogitsProcessor(BAD_WORDS, EOS)]),
    "logit_bias": (
        {"logit_bias": {"4": 2.5, "9": -100.0, "40": 0.75}},
        [hf.SequenceBiasLogitsProcessor([[[4], 2.5], [[9], -100.0], [[40], 0.75]])],
    ),
    "repetition_penalty, bad_words, min_tokens": (
        {"repetition_penalty": 1.2, "min_tokens": 9},
        [
            hf.RepetitionPenaltyLogitsProcessor(1.2),
            hf.NoBadWordsLogitsProcessor(BAD_WORDS, EOS),
            hf.MinNewTokensLengthLogitsProcessor(PROMPT_LENGTH, 9, EOS),
        ],
    ),
}  # fmt: skip
FILTERS = {
    "temperature": ({"temperature": 0.7}, [hf.TemperatureLogitsWarper(0.7)]),
    "top_k": ({"top_k": 7}, [hf.TopKLogitsWarper(7)]),
    **{f"top_p {mass}": ({"top_p": mass}, [hf.TopPLogitsWarper(mass)]) for mass in (0.2, 0.75, 0.97)},
    **{f"min_p {share}": ({"min_p": share}, [hf.MinPLogitsWarper(share)]) for share in (0.02, 0.3)},
    **{f"typical_p {mass}": ({"typical_p": mass}, [hf.TypicalLogitsWarper(mass)]) for mass in (0.2, 0.6, 0.95)},
    "temperature, top_k, top_p": (
        {"temperature": 1.6, "top_k": 12, "top_p": 0.8},
        [hf.TemperatureLogitsWarper(1.6), hf.TopKLogitsWarper(12), hf.TopPLogitsWarper(0.8)],
    ),
    "temperature, min_p, typical_p": (
        {"temperature": 1.4, "min_p": 0.05, "typical_p": 0.7},
        [hf.TemperatureLogitsWarper(1.4), hf.MinPLogitsWarper(0.05), hf.TypicalLogitsWarper(0.7)],
    ),
}


def processed(row: list[float], processors: list) -> list[float | None]:
    """The row behind all of the processors, in their order."""
    scores = torch.tensor([row])
    for processor in processors:
        scores = processor(torch.tensor([TOKENS]), scores)
    return [None if math.isinf(score) else score for score in scores[0].tolist()]


def main() -> None:
    """Write the goldens beside this script."""
    random = np.random.RandomState(7)
    rows = [[round(value, 3) for value in (random.standard_normal(VOCAB) * scale).tolist()] for scale in (1.0, 3.0)]
    assert all(len(set(row)) == VOCAB for row in rows), "ties are the sampler's own business"
    goldens = {
        "made_with": f"transformers 4.57.1, torch {torch.__version__}, float32",
        "token_ids": TOKENS,
        "prompt_length": PROMPT_LENGTH,
        "eos_token_id": EOS,
        "bad_words_ids": BAD_WORDS,
        "logits": rows,
    }
    for kind, cases in (("edits", EDITS), ("filters", FILTERS)):
        goldens[kind] = [
            {"name": name, "params": params, "scores": [processed(row, processors) for row in rows]}
            for name, (params, processors) in cases.items()
        ]
    text = ",\n".join(
        f"{json.dumps(key)}: " + (_lines(value) if key in ("edits", "filters") else json.dumps(value))
        for key, value in goldens.items()
    )
    Path(__file__).with_name("logits_processors.json").write_text(f"{{\n{text}\n}}\n", encoding="utf-8")


def _lines(cases: list[dict]) -> str:
    return "[\n" + ",\n".join(map(json.dumps, cases)) + "\n]"


if __name__ == "__main__":
    main()
