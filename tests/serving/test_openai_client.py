"""The official client of OpenAI's takes the server for theirs, and tokens through HTTP are LLM.generate's."""

import asyncio
import math

import openai
import pytest

from mindspore_paged import SamplingParams
from tests.serving.running import HI, MODEL

IDS = {"return_token_ids": True}


def joined(chunks) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


class TestModels:
    def test_the_model_is_listed_and_found(self, server):
        (card,) = server.client.models.list()
        assert (card.id, card.object, card.max_model_len) == (MODEL, "model", 128)
        assert server.client.models.retrieve(MODEL) == card
        with pytest.raises(openai.NotFoundError, match="the model 'other' is not served; served: tiny-model"):
            server.client.models.retrieve("other")


class TestChat:
    def test_a_whole_answer(self, server):
        output = server.llm.chat(HI, SamplingParams(max_tokens=6))
        answer = server.client.chat.completions.create(model=MODEL, messages=HI, max_completion_tokens=6)
        assert (answer.object, answer.model) == ("chat.completion", MODEL)
        (choice,) = answer.choices
        assert (choice.message.role, choice.message.content) == ("assistant", output.outputs[0].text)
        assert (choice.finish_reason, choice.logprobs) == ("length", None)
        usage = answer.usage
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 6, 10)

    def test_a_stream_adds_up_to_the_whole(self, server):
        common = {"model": MODEL, "messages": HI, "max_tokens": 8}
        whole = server.client.chat.completions.create(**common)
        chunks = list(
            server.client.chat.completions.create(**common, stream=True, stream_options={"include_usage": True})
        )
        assert joined(chunks) == whole.choices[0].message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].delta.role for chunk in chunks[1:-1]] == [None] * (len(chunks) - 2)
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
        assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
        assert {chunk.usage for chunk in chunks[:-1]} == {None}
        assert len({chunk.id for chunk in chunks}) == 1
        without = list(server.client.chat.completions.create(**common, stream=True))
        assert len(without) == len(chunks) - 1

    def test_the_clients_own_helper_for_streams_understands_them(self, server):
        whole = server.llm.chat(HI, SamplingParams(max_tokens=12)).outputs[0].text
        stop = whole[4:6]  # it takes answers that end by themselves only
        with server.client.chat.completions.stream(model=MODEL, messages=HI, stop=stop, max_tokens=12) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].message.content == whole[: whole.index(stop)]

    def test_n_answers_are_told_apart(self, server):
        params = {"model": MODEL, "messages": HI, "max_tokens": 5, "n": 3, "temperature": 1.0, "seed": 3}
        whole = server.client.chat.completions.create(**params)
        texts = [choice.message.content for choice in whole.choices]
        assert [choice.index for choice in whole.choices] == [0, 1, 2]
        assert len(set(texts)) == 3
        assert whole.usage.completion_tokens == 15
        streamed = ["", "", ""]
        for chunk in server.client.chat.completions.create(**params, stream=True):
            streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert streamed == texts

    def test_keys_of_other_servers_are_the_engines(self, server):
        keys = {"allowed_token_ids": [70, 71, 72], "min_tokens": 3, "top_n_sigma": 1.0, "typical_p": 0.9}
        keys |= {"xtc_probability": 0.5, "bad_words": ["G"]}
        params = SamplingParams(max_tokens=8, temperature=1.0, seed=2, **keys)
        answer = server.client.chat.completions.create(
            model=MODEL, messages=HI, max_tokens=8, temperature=1.0, seed=2, extra_body=keys | IDS
        )
        (choice,) = answer.choices
        assert choice.token_ids == server.llm.chat(HI, params).outputs[0].token_ids
        assert set(choice.token_ids) <= {70, 71, 72}

    def test_log_probabilities_are_the_engines_with_bytes(self, server):
        params = SamplingParams(max_tokens=5, logprobs=2)
        expected = server.llm.chat(HI, params).outputs[0].logprobs
        common = {"model": MODEL, "messages": HI, "max_tokens": 5, "logprobs": True, "top_logprobs": 2}
        whole = server.client.chat.completions.create(**common).choices[0]
        assert [entry.logprob for entry in whole.logprobs.content] == [token.logprob for token in expected]
        top = [[other.logprob for other in entry.top_logprobs] for entry in whole.logprobs.content]
        assert top == [[logprob for _, logprob in token.top_logprobs] for token in expected]
        data = bytes(byte for entry in whole.logprobs.content for byte in entry.bytes)
        assert data.decode(errors="replace") == whole.message.content
        chunks = server.client.chat.completions.create(**common, stream=True)
        streamed = [chunk.choices[0].logprobs.content for chunk in chunks if chunk.choices[0].logprobs]
        assert [entry for entries in streamed for entry in entries] == whole.logprobs.content

    def test_stop_strings_and_parts_and_nulls(self, server):
        whole = server.llm.chat(HI, SamplingParams(max_tokens=12)).outputs[0].text
        parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
        answer = server.client.chat.completions.create(
            model=MODEL, messages=parts, max_tokens=12, stop=[whole[2:4]], logit_bias=None, user="me", tools=None
        )
        assert answer.choices[0].message.content == whole[: whole.index(whole[2:4])]
        assert answer.choices[0].finish_reason == "stop"

    def test_messages_after_a_call_of_a_tool_are_taken(self, long_server):
        call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
        messages = [
            *HI,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call00001", "content": "2"},
        ]
        tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
        expected = long_server.llm.chat(messages, SamplingParams(max_tokens=2), tools=tools)
        answer = long_server.client.chat.completions.create(model=MODEL, messages=messages, tools=tools, max_tokens=2)
        assert answer.choices[0].message.content == expected.outputs[0].text
        assert answer.usage.prompt_tokens == len(expected.prompt_token_ids)

    def test_going_on_with_the_last_message(self, server):
        messages = [*HI, {"role": "assistant", "content": "So"}]
        expected = server.llm.chat(messages, SamplingParams(max_tokens=4), continue_final_message=True)
        answer = server.client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=4, extra_body={"continue_final_message": True}
        )
        assert answer.choices[0].message.content == expected.outputs[0].text
        assert answer.usage.prompt_tokens == len(expected.prompt_token_ids)

    def test_keys_that_are_not_known_are_named_in_a_header(self, server):
        raw = server.client.chat.completions.with_raw_response.create(
            model=MODEL, messages=HI, max_tokens=1, store=False, extra_body={"frobnicate": 1, "ö\n": 2}
        )
        assert raw.headers["warning"].startswith('299 - "unknown keys were ignored: frobnicate, ')
        raw = server.client.chat.completions.with_raw_response.create(model=MODEL, messages=HI, max_tokens=1)
        assert "warning" not in raw.headers


class TestCompletions:
    @pytest.mark.parametrize("prompt", ["Hello", [41, 74], ["Hello", "yo"], [[41, 74], [1], [90, 80, 5]]])
    def test_prompts_as_text_ids_and_lists_of_both(self, server, prompt):
        prompts = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
        expected = [output.outputs[0] for output in server.llm.generate(prompts, SamplingParams(max_tokens=5))]
        answer = server.client.completions.create(model=MODEL, prompt=prompt, max_tokens=5, extra_body=IDS)
        assert [choice.index for choice in answer.choices] == list(range(len(prompts)))
        assert [choice.token_ids for choice in answer.choices] == [output.token_ids for output in expected]
        assert [choice.text for choice in answer.choices] == [output.text for output in expected]
        assert answer.usage.prompt_tokens == sum(map(len, prompts))
        streamed = dict.fromkeys(range(len(prompts)), "")
        for chunk in server.client.completions.create(model=MODEL, prompt=prompt, max_tokens=5, stream=True):
            streamed[chunk.choices[0].index] += chunk.choices[0].text
        assert list(streamed.values()) == [output.text for output in expected]

    def test_n_answers_to_each_of_two_prompts(self, server):
        answer = server.client.completions.create(
            model=MODEL, prompt=["Hi", "yo"], n=2, max_tokens=4, temperature=1.0, seed=1
        )
        params = SamplingParams(n=2, max_tokens=4, temperature=1.0, seed=1)
        outputs = server.llm.generate(["Hi", "yo"], params)
        assert [choice.text for choice in answer.choices] == [o.text for output in outputs for o in output.outputs]

    @pytest.mark.parametrize("prompt", ["Hello", [41, 74]])
    def test_echo_puts_the_prompt_before_the_answer(self, server, prompt):
        plain = server.client.completions.create(model=MODEL, prompt=prompt, max_tokens=3).choices[0].text
        text = prompt if isinstance(prompt, str) else "Hi"
        common = {"model": MODEL, "prompt": prompt, "max_tokens": 3, "echo": True}
        assert server.client.completions.create(**common).choices[0].text == text + plain
        chunks = server.client.completions.create(**common, stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == text + plain

    def test_log_probabilities(self, server):
        expected = server.llm.generate("Hello", SamplingParams(max_tokens=6, logprobs=3))[0].outputs[0]
        common = {"model": MODEL, "prompt": "Hello", "max_tokens": 6, "logprobs": 3}
        logprobs = server.client.completions.create(**common).choices[0].logprobs
        assert logprobs.token_logprobs == [token.logprob for token in expected.logprobs]
        assert [sorted(top.values()) for top in logprobs.top_logprobs] == [
            sorted(logprob for _, logprob in token.top_logprobs) for token in expected.logprobs
        ]
        assert logprobs.text_offset[0] == 0
        assert len(logprobs.tokens) == 6
        chunks = list(server.client.completions.create(**common, stream=True))
        assert [t for c in chunks for t in c.choices[0].logprobs.tokens] == logprobs.tokens
        assert [t for c in chunks for t in c.choices[0].logprobs.token_logprobs] == logprobs.token_logprobs

    @pytest.mark.parametrize("prompt", ["Hello", [41, 74]])
    def test_echo_with_log_probabilities_tells_those_of_the_prompt(self, server, prompt):
        """As lm-eval asks for them."""
        params = SamplingParams(max_tokens=1, logprobs=1, prompt_logprobs=1)
        output = server.llm.generate([prompt], params)[0]
        told = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs]
        common = {"model": MODEL, "prompt": prompt, "max_tokens": 1, "logprobs": 1, "echo": True, "n": 2}
        answer = server.client.completions.create(**common)
        for choice in answer.choices:
            assert choice.logprobs.token_logprobs == [None, *(token.logprob for token in told)]
            assert choice.logprobs.top_logprobs[0] is None
            best = [max(top.values()) for top in choice.logprobs.top_logprobs[1:]]
            assert best == [max(token.logprob, token.top_logprobs[0][1]) for token in told]
            assert choice.logprobs.text_offset[:2] == [0, 1]
            assert len(choice.logprobs.tokens) == len(output.prompt_token_ids) + 1
        (first, *_) = server.client.completions.create(**common, stream=True)
        assert first.choices[0].logprobs == answer.choices[first.choices[0].index].logprobs

    @pytest.mark.parametrize("logprobs", [None, 0, 3])
    @pytest.mark.parametrize("prompt", ["Hello", [41, 74], [41]])
    def test_echo_without_tokens_is_the_prompt_alone(self, server, prompt, logprobs):
        """As older versions of lm-eval ask for prompts' log-probabilities."""
        output = server.llm.generate([prompt], SamplingParams(max_tokens=1, prompt_logprobs=logprobs))[0]
        text = prompt if isinstance(prompt, str) else server.llm.tokenizer.decode(prompt)
        common = {"model": MODEL, "prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": logprobs, "n": 2}
        answer = server.client.completions.create(**common, extra_body=IDS)
        assert [choice.index for choice in answer.choices] == [0, 1]
        for choice in answer.choices:
            assert (choice.text, choice.finish_reason, choice.token_ids) == (text, "length", [])
            if logprobs is None:
                assert choice.logprobs is None
                continue
            told = [None if token is None else token.logprob for token in output.prompt_logprobs]
            assert choice.logprobs.token_logprobs == told
            assert len(choice.logprobs.top_logprobs) == len(choice.logprobs.text_offset) == len(told)
        count = len(output.prompt_token_ids)
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
            count, 0, count,
        )  # fmt: skip
        chunks = list(server.client.completions.create(**common, stream=True))
        for index, choice in enumerate(answer.choices):
            own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
            assert "".join(piece.text for piece in own) == text
            assert [piece.finish_reason for piece in own] == ["length"]
            assert own[0].logprobs == choice.logprobs

    def test_an_end_of_sequence_token_behind_it_changes_nothing(self, server):
        first = server.llm.generate("Hello", SamplingParams(max_tokens=1))[0].outputs[0].token_ids[0]
        common = {"model": MODEL, "prompt": "Hello", "max_tokens": 0, "echo": True}
        answer = server.client.completions.create(**common, extra_body={"stop_token_ids": [first]})
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("Hello", "length")

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({}, "max_tokens is 0; it must be at least 1"),
            ({"echo": False}, "max_tokens is 0; it must be at least 1"),
            ({"echo": True, "extra_body": {"min_tokens": 2}}, "min_tokens is 2; it must be 0 where max_tokens is"),
            ({"echo": True, "extra_body": {"use_beam_search": True}}, "max_tokens is 0; it must be at least 1"),
        ],
    )
    def test_no_tokens_are_asked_for_beside_echo_alone(self, server, body, message):
        with pytest.raises(openai.BadRequestError, match=message):
            server.client.completions.create(model=MODEL, prompt="Hello", max_tokens=0, **body)
        with pytest.raises(openai.BadRequestError, match="max_tokens is 0; it must be at least 1"):
            server.client.chat.completions.create(model=MODEL, messages=HI, max_tokens=0, extra_body={"echo": True})

    def test_cached_tokens_of_the_prompt_are_counted(self, server):
        prompt = [*range(2, 50)]
        cached = [
            server.client.completions.create(
                model=MODEL, prompt=prompt, max_tokens=1
            ).usage.prompt_tokens_details.cached_tokens
            for _ in range(2)
        ]
        assert cached == [0, 32]  # the last token of the third page is computed again, for its logits


class TestTokensAreTheEngines:
    """The same requests through LLM.generate and through HTTP, beside each other."""

    @pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "top_p": 0.95, "top_k": 50}])
    def test_alone_and_with_32_neighbours(self, server, sampling):
        prompts = [[2 + (7 * place + step) % 250 for step in range(1 + place % 11)] for place in range(33)]
        each = [{"seed": place, "max_tokens": 4 + place % 13, **sampling} for place in range(33)]
        params = [SamplingParams(**keys) for keys in each]
        expected = [output.outputs[0].token_ids for output in server.llm.generate(prompts, params)]
        assert self.alone(server, prompts[0], each[0]) == expected[0]
        assert asyncio.run(self.together(server, prompts, each)) == expected

    @staticmethod
    def alone(server, prompt, keys):
        top_k = {"top_k": keys["top_k"]} if "top_k" in keys else {}
        keys = {key: value for key, value in keys.items() if key != "top_k"}
        answer = server.client.completions.create(model=MODEL, prompt=prompt, **keys, extra_body=IDS | top_k)
        return answer.choices[0].token_ids

    @staticmethod
    async def together(server, prompts, each):
        async def one(client, place):
            keys = dict(each[place])
            top_k = {"top_k": keys.pop("top_k")} if "top_k" in keys else {}
            common = {"model": MODEL, "prompt": prompts[place], "extra_body": IDS | top_k, **keys}
            if place % 2:
                return (await client.completions.create(**common)).choices[0].token_ids
            chunks = await client.completions.create(**common, stream=True)
            return [token async for chunk in chunks for token in chunk.choices[0].token_ids]

        async with server.async_client() as client:
            return await asyncio.gather(*(one(client, place) for place in range(len(prompts))))


class TestErrors:
    def test_the_client_raises_its_own_errors(self, server):
        with pytest.raises(openai.BadRequestError) as caught:
            server.client.chat.completions.create(model=MODEL, messages=HI, temperature=-1)
        error = caught.value
        assert (error.param, error.type, error.code) == ("temperature", "invalid_request_error", None)
        assert error.body["message"] == "temperature is -1.0; it must be 0 or more, and finite"
        with pytest.raises(openai.NotFoundError) as caught:
            server.client.chat.completions.create(model="gpt-5", messages=HI)
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as caught:
            server.client.completions.create(model=MODEL, prompt=[5] * 128)
        assert caught.value.code == "context_length_exceeded"

    def test_a_stream_that_cannot_begin_has_a_status(self, server):
        with pytest.raises(openai.BadRequestError):
            server.client.chat.completions.create(model=MODEL, messages=HI, temperature=-1, stream=True)


def test_no_number_that_json_does_not_have_is_told(server):
    answer = server.client.completions.create(model=MODEL, prompt="x", max_tokens=3, logprobs=20)
    assert all(math.isfinite(value) for top in answer.choices[0].logprobs.top_logprobs for value in top.values())
