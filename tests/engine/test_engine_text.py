"""The text that the engine makes of its tokens, where sequences end: every token is one letter here."""

from types import SimpleNamespace

import pytest

from mindspore_paged import SamplingParams
from tests.engine.paged_oracle import VOCAB, expected_tokens, make_engine, run_to_end

LETTERS = [chr(0x4E00 + token) for token in range(VOCAB)]
PROMPT = [1, 2, 3]
TOKENS = expected_tokens(PROMPT, 8)
TEXT = "".join(LETTERS[token] for token in TOKENS)


@pytest.fixture
def answer_of():
    """The completion of PROMPT, after its pieces were found to add up to its text."""

    def run(eos_token_ids=(), **params):
        decoder = SimpleNamespace(decode=lambda ids, skip_special_tokens=True: "".join(LETTERS[i] for i in ids))
        engine = make_engine(tokenizer=SimpleNamespace(backend=decoder), eos_token_ids=eos_token_ids)
        request_id = engine.add_request(engine.make_request(PROMPT, SamplingParams(**{"max_tokens": 8} | params)))
        result = run_to_end(engine)
        (output,) = result.answers[request_id].outputs
        assert "".join(update.text for update in result.updates) == output.text
        assert [token for update in result.updates for token in update.token_ids] == output.token_ids
        return output

    return run


def test_the_letters_of_the_test_are_all_different():
    assert len(set(TEXT)) == len(TEXT)


def test_what_looked_like_a_stop_string_is_given_out_at_the_end(answer_of):
    output = answer_of(stop=TEXT[-2:] + "!")
    assert (output.text, output.finish_reason) == (TEXT, "length")


def test_a_stop_string_ends_the_text_before_it(answer_of):
    output = answer_of(stop=TEXT[3:5])
    assert (output.text, output.token_ids, output.finish_reason) == (TEXT[:3], TOKENS[:5], "stop")


def test_a_stop_string_in_the_last_token_counts_as_stop(answer_of):
    output = answer_of(stop=TEXT[-1])
    assert (output.text, output.finish_reason) == (TEXT[:-1], "stop")


@pytest.mark.parametrize("by", ["eos", "stop token"])
def test_the_token_that_ends_a_text_is_no_part_of_it(answer_of, by):
    end = TOKENS[4]
    output = answer_of(eos_token_ids=(end,)) if by == "eos" else answer_of(stop_token_ids=(end,))
    assert (output.text, output.token_ids, output.finish_reason) == (TEXT[:4], TOKENS[:5], "stop")
