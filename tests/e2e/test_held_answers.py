"""Answers held to a form on whole engines: the same whatever runs beside, is guessed, shared or taken away."""

import json
from random import Random

import jsonschema
import pytest

from mindspore_paged import LLM, SamplingParams
from tests.cli_runs import write_gguf
from tests.e2e.models import make_llm
from tests.sampling.json_schemas import draw_schema

VALIDATOR = jsonschema.Draft202012Validator
SCHEMA = {
    "type": "object",
    "properties": {
        "the_kind": {"enum": ["cat", "caterpillar", "dog"]},
        "the_ages": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 4},
        "the_name": {"type": "string", "maxLength": 6},
    },
    "required": ["the_kind", "the_ages", "the_name"],
    "additionalProperties": False,
}
SIZES = {"max_num_seqs": 6, "max_num_batched_tokens": 32, "token_buckets": [8, 32], "max_model_len": 128}
PARAMS = [
    SamplingParams(max_tokens=100, structured_outputs={"json": SCHEMA}),
    SamplingParams(max_tokens=100, temperature=1.0, seed=1, n=3, structured_outputs={"json": SCHEMA}),
    SamplingParams(max_tokens=20, temperature=1.0, seed=2, structured_outputs={"regex": "(ab|cd){3,6}!"}),
    SamplingParams(max_tokens=20, temperature=0.8, seed=3),
]
PROMPTS = ["A cat and a dog", "A cat and a caterpillar", "b"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf"))


def answers(weights, num_blocks=65, **scheduler):
    if "speculative_model" in scheduler:
        scheduler["speculative_model"] = weights
    with make_llm(weights, cache={"num_blocks": num_blocks}, scheduler=SIZES | scheduler) as llm:
        requests = [llm.make_request(prompt, params) for params in PARAMS for prompt in PROMPTS]
        outputs = llm.run(requests)
        llm.engine.check_integrity()
        return [
            (o.token_ids, o.text, o.finish_reason) for output in outputs for o in output.outputs
        ], llm.get_statistics()


@pytest.fixture(scope="module")
def plain(weights):
    return answers(weights)


def test_answers_are_of_their_form_and_end_by_themselves(plain):
    texts, statistics = plain
    for _, text, reason in texts[:12]:
        VALIDATOR(SCHEMA).validate(json.loads(text))
        assert reason == "stop"
    assert all(text.endswith("!") and reason == "stop" for _, text, reason in texts[12:15])
    assert statistics["tokens_per_sequence_step"] > 1.2  # what has no choice takes no step of its own
    assert statistics["compiles_after_warmup"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"num_speculative_tokens": 3},
        {"speculative_model": "itself", "num_speculative_tokens": 3},
        {"num_blocks": 14},
        {"num_blocks": 14, "num_speculative_tokens": 3},
        {"max_num_seqs": 1},
        {"enable_chunked_prefill": False, "max_num_batched_tokens": 128, "token_buckets": [8, 128]},
    ],
    ids=lambda options: "-".join(list(options)[:2]),
)
def test_they_are_the_same_with_drafts_preemptions_and_alone(plain, weights, options):
    texts, statistics = answers(weights, **options)
    assert texts == plain[0]
    assert (statistics["num_preemptions"] > 0) == ("num_blocks" in options)


def test_log_probabilities_are_told_for_every_token(weights):
    with make_llm(weights, cache={"num_blocks": 65}, scheduler=SIZES) as llm:
        params = SamplingParams(max_tokens=100, logprobs=1, structured_outputs={"json": SCHEMA})
        told = llm.generate(PROMPTS[0], params)[0].outputs[0]
        untold = llm.generate(PROMPTS[0], PARAMS[0])[0].outputs[0]
    assert told.token_ids == untold.token_ids
    assert [entry.token_id for entry in told.logprobs] == told.token_ids


def test_an_answer_that_is_cut_says_so(weights):
    with make_llm(weights, cache={"num_blocks": 65}, scheduler=SIZES) as llm:
        params = SamplingParams(max_tokens=5, structured_outputs={"json": SCHEMA})
        (output,) = llm.generate(PROMPTS[0], params)[0].outputs
    assert (len(output.token_ids), output.finish_reason, output.text) == (5, "length", '{"the')


@pytest.mark.slow
def test_300_schemas_on_the_demo_model(demo_model):
    """At temperature 1, which makes a small model write anything."""
    sizes = ["scheduler.max_num_seqs=16", "scheduler.max_model_len=1024", "cache.num_blocks=1025"]
    schemas = [draw_schema(Random(seed)) for seed in range(300)]
    with LLM(weights=demo_model, overrides=sizes, show_progress=False) as llm:
        requests = [
            llm.make_request(
                [{"role": "user", "content": f"Write an example of this JSON Schema: {json.dumps(schema)[:400]}"}],
                SamplingParams(max_tokens=600, temperature=1.0, seed=seed, structured_outputs={"json": schema}),
            )
            for seed, schema in enumerate(schemas)
        ]
        for schema, output in zip(schemas, llm.run(requests), strict=True):
            (answer,) = output.outputs
            assert answer.finish_reason == "stop", schema
            VALIDATOR(schema, format_checker=VALIDATOR.FORMAT_CHECKER).validate(json.loads(answer.text))
