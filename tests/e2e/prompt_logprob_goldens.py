"""What Hugging Face transformers expects of prompts' own tokens (goldens/prompt_logprobs.json)."""

import json
from pathlib import Path

import numpy as np
import pytest

GOLDENS = Path(__file__).parents[1] / "goldens" / "prompt_logprobs.json"
CASES = {case["name"]: case for case in json.loads(GOLDENS.read_text(encoding="utf-8"))["cases"]}
BOUND = 1e-3
"""Nats: the goldens have five digits, and a float32 sum depends on its order."""


def check_logprobs(logprobs, case) -> None:
    """logprobs: of each token but the first."""
    np.testing.assert_allclose(logprobs, case["logprobs"], rtol=0, atol=BOUND)


def check_told(told, case) -> None:
    """told: an entry for each of the prompt's tokens, with the likeliest one."""
    first, *others = told
    assert first is None
    assert [token.token_id for token in others] == case["prompt_token_ids"][1:]
    check_logprobs([token.logprob for token in others], case)
    for place, (token_id, logprob) in case["top"].items():
        assert told[int(place)].top_logprobs[0] == (token_id, pytest.approx(logprob, abs=BOUND))
