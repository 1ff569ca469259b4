"""Greedy tokens of a tiny random model on two backends: each runs in a process of its own, which has one device."""

import json
import os
import subprocess
import sys

from mindspore_paged.ascend_check.report import Finding
from mindspore_paged.errors import StepError
from mindspore_paged.script import exit_code_of

PROMPT_LENGTHS = (5, 21, 37)  # the last is prefilled in two steps
MAX_TOKENS = 24
SECONDS = 900
CLOSE_CALL = 0.02
"""Two tokens whose log probabilities differ by less than this may change places by rounding."""

Tokens = list[list[tuple[int, float]]]
"""For each prompt the tokens, each with the lead of its log probability over the next best."""


def check_tokens(backend: str) -> Finding:
    """Compare the tokens of a backend with those of the CPU operators; raises StepError if a run fails."""
    reference, tested = run_apart("cpu"), run_apart(backend)
    equal, right = compare(reference, tested)
    total = sum(map(len, reference))
    shape = f"{len(reference)} prompts, {equal} of {total} tokens before the first difference"
    return Finding("tiny model against cpu", shape, "float32, float16", float(total - equal), 0.0, right)


def compare(reference: Tokens, tested: Tokens) -> tuple[int, bool]:
    """How many tokens are equal before each sequence's first difference, and whether each of those was a close call."""
    equal, right = 0, len(reference) == len(tested)
    for expected, found in zip(reference, tested, strict=False):
        for (token, lead), (other, _) in zip(expected, found, strict=False):
            if token != other:
                right = right and lead < CLOSE_CALL
                break
            equal += 1
        else:
            right = right and len(expected) == len(found)
    return equal, right


def run_apart(backend: str) -> Tokens:
    """Generate in a process of its own; raises StepError with its last line if it fails."""
    command = [sys.executable, "-m", "mindspore_paged.ascend_check.tokens", backend]
    environment = {"GLOG_v": "3", **os.environ}
    try:
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise StepError(f"the tiny model takes more than {SECONDS} s with ops_backend {backend}") from None
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise StepError(f"the tiny model fails with ops_backend {backend}: {last.removeprefix('error: ')}")
    return [[(token, lead) for token, lead in sequence] for sequence in json.loads(result.stdout.splitlines()[-1])]


def generate(backend: str) -> Tokens:
    """Run the tiny model in this process."""
    from mindspore_paged.config import config_from_dict  # the process that starts the others needs none of it
    from mindspore_paged.llm import LLM
    from mindspore_paged.sampling.sampling_params import SamplingParams

    config = config_from_dict(
        {
            "model": {"name": "tiny", "weights": "random", "seed": 7},
            "cache": {"num_blocks": 32, "kv_cache_dtype": "float16"},
            "scheduler": {
                "max_num_seqs": 4,
                "max_num_batched_tokens": 32,
                "max_model_len": 96,
                "token_buckets": [4, 32],
            },
            "runtime": {"ops_backend": backend},
        }
    )
    params = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0, ignore_eos=True, logprobs=2)
    prompts = [[(7 * place + 3 * length) % 250 + 1 for place in range(length)] for length in PROMPT_LENGTHS]
    with LLM(config, show_progress=False) as llm:
        outputs = llm.generate(prompts, params)
    return [[_with_lead(sampled) for sampled in output.outputs[0].logprobs] for output in outputs]


def _with_lead(sampled) -> tuple[int, float]:
    (_, best), (_, next_best) = sampled.top_logprobs
    return sampled.token_id, best - next_best


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: print(json.dumps(generate(sys.argv[1])))))
