"""Every form in which a prompt may be given, and what is said of what is none."""

from types import SimpleNamespace

import numpy as np
import pytest

from mindspore_paged.engine.requests.prompt_forms import is_one_prompt, text_or_token_ids
from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.sampling_params import SamplingParams
from tests.engine.paged_oracle import make_engine

CHAT = [{"role": "user", "content": "Hi"}]
TOKENIZER = SimpleNamespace(
    encode_chat=lambda messages, most_tokens, **options: [len(messages), *sorted(options)], template_with_tools=""
)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Hi", "Hi"),
        ([1, 2], [1, 2]),
        (CHAT * 2, [2]),
        (tuple(CHAT), [1]),
        ({"prompt": "Hi"}, "Hi"),
        ({"prompt": "Hi", "prompt_token_ids": None}, "Hi"),
        ({"prompt_token_ids": [1, 2]}, [1, 2]),
        ({"messages": CHAT}, [1]),
        ({"messages": CHAT, "tools": [], "continue_final_message": False}, [1, "continue_final_message", "tools"]),
        ({"messages": CHAT, "tools": None, "add_generation_prompt": None, "chat_template_kwargs": None}, [1]),
    ],
)
def test_each_form_becomes_text_or_token_ids(prompt, expected):
    assert is_one_prompt(prompt)
    assert text_or_token_ids(prompt, TOKENIZER) == expected


def test_what_a_chat_says_to_its_template_goes_over_what_all_are_to_say():
    tokenizer = SimpleNamespace(
        encode_chat=lambda messages, most_tokens, chat_template_kwargs=None: chat_template_kwargs,
        template_with_tools="",
    )
    of_all = {"enable_thinking": False, "date_string": "today"}
    own = {"messages": CHAT, "chat_template_kwargs": {"enable_thinking": True}}
    assert text_or_token_ids(CHAT, tokenizer, of_all) == of_all
    assert text_or_token_ids(own, tokenizer, of_all) == {"enable_thinking": True, "date_string": "today"}
    assert text_or_token_ids(own, tokenizer) == {"enable_thinking": True}
    assert text_or_token_ids(own | {"chat_template_kwargs": 5}, tokenizer, of_all) == 5  # the tokenizer refuses it


@pytest.mark.parametrize(
    "prompt",
    [
        [1, 2, 3],
        (1, 2, 3),
        np.array([1, 2, 3]),
        np.array([1, 2, 3], np.uint8),
        [np.int64(1), np.int32(2), 3],
        {"prompt_token_ids": np.array([1, 2, 3])},
        {"prompt_token_ids": [np.int64(1), 2, 3]},
    ],
)
def test_token_ids_may_be_those_of_numpy(prompt):
    assert is_one_prompt(prompt)
    engine = make_engine()
    request = engine.make_request(text_or_token_ids(prompt, None), SamplingParams(), priority=np.int8(2))
    assert request.priority == 2
    assert request.prompt_token_ids == [1, 2, 3]
    assert {type(token) for token in request.prompt_token_ids} == {int}


@pytest.mark.parametrize(
    "prompts",
    [
        ["a", "b"],
        [[1], [2]],
        [CHAT, CHAT],
        [{"prompt": "a"}, {"messages": CHAT}],
        np.array([[1, 2]]),
        [np.array([1])],
        [],
    ],
    ids=repr,
)
def test_several_prompts_are_no_prompt(prompts):
    assert not is_one_prompt(prompts)


@pytest.mark.parametrize(
    "prompt", [np.array([1.5]), np.array([True]), np.array([[1, 2]]), np.array("a"), [True], [1, "a"], [None], [1.0]]
)
def test_what_holds_no_whole_numbers_is_refused_when_the_request_is_made(prompt):
    with pytest.raises(RequestError, match="prompt_token_ids must be a list of whole numbers"):
        make_engine().make_request(text_or_token_ids(prompt, None), SamplingParams())


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "the prompt is None; it must be text, a list of token ids, or a list of messages"),
        (5, "the prompt is 5; it must be text"),
        (b"Hi", "the prompt is b'Hi'; it must be text"),
        ({1, 2}, "the prompt is {1, 2}; it must be text"),
        ({}, "it has none of prompt, prompt_token_ids, messages; exactly one is needed"),
        ({"prompt": "a", "messages": CHAT}, "it has prompt, messages of prompt, prompt_token_ids, messages"),
        ({"prompt": "a", "promt": 1}, "unknown key 'promt'; did you mean prompt?"),
        ({"prompt": "a", 5: 1}, "unknown key 5; known keys: prompt"),
        ({"prompt": "a", "tools": []}, "tools belongs to messages, but it has prompt"),
        ({"prompt": [1, 2]}, "prompt is [1, 2]; it must be a string"),
        ({"prompt_token_ids": "12"}, "prompt_token_ids is '12'; it must be a list of whole numbers"),
        ({"messages": {"role": "user"}}, "messages is {'role': 'user'}; it must be a list of messages"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(prompt, message):
    with pytest.raises(RequestError) as refusal:
        text_or_token_ids(prompt, TOKENIZER)
    assert str(refusal.value).startswith(message)


def test_messages_need_a_tokenizer():
    with pytest.raises(RequestError, match="messages need a tokenizer with a chat template; this model has none"):
        text_or_token_ids(CHAT, None)
