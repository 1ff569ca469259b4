"""truncate_prompt_tokens: against the tokenizers library's own truncation, and whole answers of what is left."""

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from mindspore_paged import SamplingParams
from mindspore_paged.engine.requests.prompt_truncation import cut_prompt
from mindspore_paged.errors import RequestError
from mindspore_paged.tokenizer import Tokenizer
from tests.cli_runs import write_gguf
from tests.e2e.models import make_llm

SIZES = {"max_num_seqs": 4, "max_num_batched_tokens": 32, "token_buckets": [8, 32], "max_model_len": 64}
LONG = "it was the best of times, it was the worst of times, " * 4


def letters(**around) -> Backend:
    vocabulary = {letter: place for place, letter in enumerate("<>abcdefg\u0120")}
    backend = Backend(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<", ">"])
    if around:
        backend.post_processor = TemplateProcessing(special_tokens=[("<", 0), (">", 1)], **around)
    return backend


@pytest.mark.parametrize("around", [{}, {"single": "< $A"}, {"single": "< $A >"}], ids=str)
@pytest.mark.parametrize("most", [3, 4, 7, 8, 9, 10, 50])
def test_special_tokens_around_a_text_stay(around, most):
    text, backend = "ab cd efg", letters(**around)
    token_ids = backend.encode(text).ids
    left, ids = cut_prompt(text, token_ids, most, Tokenizer(letters(**around), None, (), None))
    backend.enable_truncation(max_length=most, direction="left")
    assert ids == backend.encode(text).ids
    assert text.endswith(left)
    assert (left == text) == (ids == token_ids)


def test_token_ids_are_cut_as_they_are():
    assert cut_prompt(None, [5, 6, 7, 8], 3, None) == (None, [6, 7, 8])
    assert cut_prompt(None, [5, 6], 2, None) == (None, [5, 6])


def test_no_room_for_the_text_is_refused():
    tokenizer = Tokenizer(letters(single="< $A >"), None, (), None)
    with pytest.raises(RequestError, match="2 tokens hold nothing of the prompt: 2 special tokens are around it"):
        cut_prompt("abc", tokenizer.encode("abc"), 2, tokenizer)


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    weights = str(write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf"))
    with make_llm(weights, cache={"num_blocks": 65}, scheduler=SIZES) as llm:
        yield llm


def test_a_long_prompt_is_answered_by_its_end(llm):
    whole = llm.tokenizer.encode(LONG)
    with pytest.raises(RequestError, match="the prompt has"):
        llm.generate(LONG)
    (kept,) = llm.generate(LONG, SamplingParams(max_tokens=6, truncate_prompt_tokens=20))
    added = llm.tokenizer.backend.num_special_tokens_to_add(False)
    assert kept.prompt_token_ids == whole[:added] + whole[added - 20 :]
    assert LONG.endswith(kept.prompt)
    (same,) = llm.generate([kept.prompt_token_ids], SamplingParams(max_tokens=6))
    assert same.outputs == kept.outputs
    (cut,) = llm.generate([whole], SamplingParams(max_tokens=6, truncate_prompt_tokens=20))
    assert cut.prompt_token_ids == whole[-20:]


def test_minus_one_leaves_room_for_the_answer(llm):
    whole = llm.tokenizer.encode(LONG)
    for max_tokens, room in ((24, 24), (None, 1)):
        params = SamplingParams(max_tokens=max_tokens, truncate_prompt_tokens=-1, ignore_eos=True)
        (output,) = llm.generate([whole], params)
        assert output.prompt_token_ids == whole[-(64 - room) :]
        assert len(output.outputs[0].token_ids) == room
    (short,) = llm.generate("abc", SamplingParams(max_tokens=4, truncate_prompt_tokens=-1))
    assert short.prompt == "abc"


def test_a_long_chat_is_cut_too(llm):
    messages = [{"role": "user", "content": LONG * 10}]
    with pytest.raises(RequestError):
        llm.chat(messages)
    output = llm.chat(messages, SamplingParams(max_tokens=2, truncate_prompt_tokens=30))
    assert output.prompt_token_ids == llm.tokenizer.encode_chat(messages)[-30:]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens is 0; it must be at least 1, or -1 or none"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens is -2; it must be at least 1, or -1 or none"),
        ({"truncate_prompt_tokens": 65}, r"truncate_prompt_tokens is 65; it must be at most max_model_len \(64\)"),
        (
            {"truncate_prompt_tokens": 10**300},
            r"truncate_prompt_tokens is 1[0.]{1,60}; it must be at most max_model_len",
        ),
        ({"truncate_prompt_tokens": 64}, "max_model_len 64 leaves no room for an answer"),
        ({"truncate_prompt_tokens": -1, "max_tokens": 64}, "but max_tokens 64 leaves no room for a prompt"),
        ({"spaces_between_special_tokens": 1}, "spaces_between_special_tokens is 1; it must be true or false"),
    ],
)
def test_what_cannot_be_is_one_line(llm, keys, message):
    with pytest.raises(RequestError, match=message) as refused:
        llm.generate([llm.tokenizer.encode(LONG)], SamplingParams(**keys))
    assert "\n" not in str(refused.value)
