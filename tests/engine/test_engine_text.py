"""The text that the engine makes of its tokens, where sequences end: every token is one letter here."""

import re
from types import SimpleNamespace

import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.errors import RequestError
from tests.engine.paged_oracle import VOCAB, expected_tokens, make_engine, run_to_end

LETTERS = [chr(0x4E00 + token) for token in range(VOCAB)]
PROMPT = [1, 2, 3]
TOKENS = expected_tokens(PROMPT, 8)
TEXT = "".join(LETTERS[token] for token in TOKENS)


@pytest.fixture
def answer_of():
    """The completion of PROMPT, after its pieces were found to add up to its text."""

    def run(eos_token_ids=(), special=(), **params):
        def decode(ids, skip_special_tokens=True):
            return "".join(LETTERS[token] for token in ids if token not in special)

        tokenizer = SimpleNamespace(
            backend=SimpleNamespace(decode=decode), special_tokens={f"<|{token}|>": token for token in special}
        )
        engine = make_engine(tokenizer=tokenizer, eos_token_ids=eos_token_ids)
        request_id = engine.add_request(engine.make_request(PROMPT, SamplingParams(**{"max_tokens": 8} | params)))
        result = run_to_end(engine)
        outputs = result.answers[request_id].outputs
        for index, output in enumerate(outputs):
            updates = [update for update in result.updates if update.index == index]
            assert "".join(update.text for update in updates) == output.text
            assert [token for update in updates for token in update.token_ids] == output.token_ids
        return outputs[0] if len(outputs) == 1 else outputs

    return run


def test_the_letters_of_the_test_are_all_different():
    assert len(set(TEXT)) == len(TEXT)


def test_what_looked_like_a_stop_string_is_given_out_at_the_end(answer_of):
    output = answer_of(stop=TEXT[-2:] + "!")
    assert (output.text, output.finish_reason) == (TEXT, "length")


def test_a_stop_string_ends_the_text_before_it(answer_of):
    output = answer_of(stop=TEXT[3:5])
    assert (output.text, output.token_ids, output.finish_reason) == (TEXT[:3], TOKENS[:5], "stop")


def test_what_ends_the_text_is_part_of_it_on_request(answer_of):
    output = answer_of(stop=TEXT[3:5], include_stop_str_in_output=True)
    assert (output.text, output.token_ids, output.finish_reason) == (TEXT[:5], TOKENS[:5], "stop")
    output = answer_of(stop_token_ids=[TOKENS[2]], include_stop_str_in_output=True)
    assert (output.text, output.token_ids, output.finish_reason) == (TEXT[:3], TOKENS[:3], "stop")


def test_special_tokens_are_text_on_request_and_may_be_stopped_at_as_such(answer_of):
    special = (TOKENS[1], TOKENS[4])
    assert answer_of(special=special).text == "".join(TEXT[place] for place in (0, 2, 3, 5, 6, 7))
    # The tokenizer of this test gives special tokens no text, whoever asks: what is asked of it is seen here.
    asked = []

    def decode(ids, skip_special_tokens=True):
        asked.append(skip_special_tokens)
        return ""

    engine = make_engine(tokenizer=SimpleNamespace(backend=SimpleNamespace(decode=decode), special_tokens={"<|1|>": 1}))
    params = SamplingParams(max_tokens=2, skip_special_tokens=False, stop="a<|1|>b")
    engine.add_request(engine.make_request(PROMPT, params))
    run_to_end(engine)
    assert asked
    assert not any(asked)


def test_a_stop_string_in_the_last_token_counts_as_stop(answer_of):
    output = answer_of(stop=TEXT[-1])
    assert (output.text, output.finish_reason) == (TEXT[:-1], "stop")


@pytest.mark.parametrize("by", ["eos", "stop token"])
def test_the_token_that_ends_a_text_is_no_part_of_it(answer_of, by):
    end = TOKENS[4]
    output = answer_of(eos_token_ids=(end,)) if by == "eos" else answer_of(stop_token_ids=(end,))
    assert (output.text, output.token_ids, output.finish_reason) == (TEXT[:4], TOKENS[:5], "stop")


@pytest.mark.parametrize("others", [[], ["!"], ["?", "!", TEXT[7]]])
@pytest.mark.parametrize("ends", [{}, {"ignore_eos": True, "eos_token_ids": (TOKENS[4],)}])
def test_a_stop_string_that_is_a_special_token_stops_on_its_id(answer_of, others, ends):
    output = answer_of(stop=[*others, f"<|{TOKENS[4]}|>"], special=(TOKENS[4],), **ends)
    assert (output.text, output.token_ids, output.finish_reason) == (TEXT[:4], TOKENS[:5], "stop")


def test_it_stops_each_of_several_texts(answer_of):
    for output in answer_of(stop=[f"<|{TOKENS[4]}|>"], special=(TOKENS[4],), n=3):
        assert (output.text, output.token_ids, output.finish_reason) == (TEXT[:4], TOKENS[:5], "stop")


def test_a_special_token_that_is_no_stop_string_goes_by(answer_of):
    output = answer_of(stop=["<|63|>"], special=(TOKENS[4], 63), ignore_eos=True, eos_token_ids=(TOKENS[4],))
    assert (output.text, output.finish_reason) == (TEXT[:4] + TEXT[5:], "length")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"stop": "end<|7|>"}, "stop is 'end<|7|>', which never comes: the special token '<|7|>' is left out"),
        ({"stop": ["x", "<|7|>\n"]}, "the special token '<|7|>' is left out of the text; stop at that token alone"),
        ({"stop_token_ids": [VOCAB]}, "stop token 64 is no token of this model; allowed: 0..63"),
        ({"stop_token_ids": [3, -1]}, "stop token -1 is no token of this model; allowed: 0..63"),
    ],
)
def test_what_can_never_end_a_text_is_refused(answer_of, params, message):
    with pytest.raises(RequestError, match=re.escape(message)):
        answer_of(special=(7,), **params)
