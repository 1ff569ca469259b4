"""A model of every format of GGUF blocks, each matrix in another: as they are stored, and as the floats they mean."""

import gguf
import numpy as np
import pytest

from mindspore_paged import LLM, SamplingParams
from mindspore_paged.config import config_from_dict
from mindspore_paged.formats.weight_format import BLOCK_FORMATS, FORMATS
from tests.custom_ops.block_weights import LAYOUTS, OF_GGUF, random_blocks
from tests.weights import tiny

HIDDEN, WIDTH, VOCAB, LAYERS = 256, 512, 96, 4
PROMPTS = [list(range(3, 40)), [7, 7, 7], list(range(90, 4, -1)), [95]]
GREEDY = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True, logprobs=1)


def write_model(path, formats):
    """A LLaMA whose matrices take their formats in turn; blocks are random, with scales that keep the size of x."""
    metadata = tiny.gguf_metadata() | {
        "llama.embedding_length": HIDDEN, "llama.feed_forward_length": WIDTH, "llama.block_count": LAYERS,
        "llama.vocab_size": VOCAB, "llama.rope.dimension_count": HIDDEN // 8,
    }  # fmt: skip
    writer, rng = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    for key, value in metadata.items():
        tiny.add_value(writer, key, value)
    in_turn = iter(formats * 40)

    def add(name, rows, columns):
        form = FORMATS[next(in_turn)]
        weight = random_blocks(rng, form, rows, columns)
        size = weight.values.std() * np.sqrt(columns)
        writer.add_tensor(name, scaled(form, weight.stored, 1 / size), raw_dtype=gguf.GGMLQuantizationType(form.kind))

    add("token_embd.weight", VOCAB, HIDDEN)
    add("output.weight", VOCAB, HIDDEN)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(HIDDEN, np.float32))
        for name, rows, columns in (
            ("attn_q", HIDDEN, HIDDEN), ("attn_k", HIDDEN // 4, HIDDEN), ("attn_v", HIDDEN // 4, HIDDEN),
            ("attn_output", HIDDEN, HIDDEN), ("ffn_gate", WIDTH, HIDDEN), ("ffn_up", WIDTH, HIDDEN),
            ("ffn_down", HIDDEN, WIDTH),
        ):  # fmt: skip
            add(f"blk.{layer}.{name}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def scaled(form, stored, factor):
    """The same blocks with scales `factor` times as large, as near as they can be."""
    blocks, layout = stored.reshape(-1, form.block_bytes).copy(), LAYOUTS[form.name]
    for start in layout.halves:
        halves = blocks[:, start : start + 2].copy().view(np.float16) * np.float16(factor)
        blocks[:, start : start + 2] = halves.astype(np.float16).view(np.uint8)
    if layout.exponent is not None:
        blocks[:, layout.exponent] += np.uint8(np.rint(np.log2(factor)) % 256)
    return blocks.reshape(stored.shape)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("stored") / "mixed.gguf", OF_GGUF)


def make(path, **model):
    return LLM(
        config_from_dict(
            {
                "model": {"weights": str(path)} | model,
                "cache": {"num_blocks": 64},
                "scheduler": {"max_model_len": 128, "max_num_batched_tokens": 32, "token_buckets": [4, 32]},
            }
        ),
        show_progress=False,
    )


def test_blocks_of_every_format_answer_as_the_floats_that_they_mean(model):
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    stored, floats = make(model), make(model, weight_dtype="float32")
    held = {place.form.kind for place in stored.engine.runner.model.weight_places().values()}
    assert held >= {FORMATS[name].kind for name in OF_GGUF} <= set(BLOCK_FORMATS)
    ours, theirs = (llm.generate(prompts, GREEDY) for llm in (stored, floats))
    for our, their in zip(ours, theirs, strict=True):
        same = 0
        for (our_id, our_log), (their_id, their_log) in zip(tokens(our), tokens(their), strict=True):
            if our_id != their_id:  # of two that are as probable as the other
                assert abs(our_log - their_log) < 1e-2
                break
            assert abs(our_log - their_log) < 1e-2
            same += 1
        assert same > 4
    alone = [stored.generate(prompt, GREEDY)[0].outputs[0] for prompt in prompts]
    assert [output.token_ids for output in alone] == [output.outputs[0].token_ids for output in ours]
    assert stored.get_statistics()["compiles_after_warmup"] == 0


def tokens(output):
    sequence = output.outputs[0]
    return [(token, entry.logprob) for token, entry in zip(sequence.token_ids, sequence.logprobs, strict=True)]
