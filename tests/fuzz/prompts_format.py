"""Prompts files: one request a line, made ready by an engine as the command line does it."""

import json
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from mindspore_paged.errors import RequestError
from mindspore_paged.prompts_file import read_prompts_file
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.tokenizer import load_tokenizer
from tests.engine.paged_oracle import make_engine
from tests.fuzz.folder_samples import folders
from tests.fuzz.havoc import havoc_of
from tests.fuzz.json_values import broken, mutated, same_content
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant, written

FILE = "prompts.jsonl"
_LINES = (
    {"prompt": "ab abc", "max_tokens": 4, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 1, "stop": ["c"]},
    {"prompt_token_ids": [4, 5, 6], "n": 2, "logprobs": 1, "stop_token_ids": [7], "ignore_eos": True, "min_p": 0.1},
    {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], "priority": 1},
    {
        "prompt": "c",
        "request_class": "short",
        "cache_salt": "ours",
        "presence_penalty": 1,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.1,
        "logit_bias": {"2": -100, "3": 1.5},
    },
)
_SAMPLES = [{FILE: b"".join(json.dumps(line).encode() + b"\n" for line in _LINES)}]
VALUES = (
    *(
        12,
        13,
        100,
        -100,
        101,
        2.5,
        [0],
        [12, 13],
        [-1],
        [True],
        [1.0],
        [[1]],
        ["c", ""],
        ["c" * 5000],
        "\ud800",
        "\U0010ffff",
    ),
    *(
        {"role": "user", "content": "a"},
        {"role": "tool", "content": None},
        {"role": "user", "content": [{"type": "text"}]},
    ),
    *(
        [{"role": "user"}],
        [{"content": "a"}],
        [{"role": 1, "content": "a"}],
        [{"role": "user", "content": ["a"]}],
        "a" * 300,
    ),
)
KEYS = (
    "tools",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "prompt",
    "messages",
    "n",
    "Stop",
)


def a_line(files: Files, random: Random) -> Mutant:
    """Other values in a line."""
    lines = files[FILE].split(b"\n")
    at = random.randrange(len(lines) - 1)
    entry = json.loads(lines[at])
    if random.random() < 0.2:
        entry[random.choice(KEYS)] = random.choice(VALUES)
    lines[at], what = mutated(entry, random, VALUES)
    return Mutant({FILE: b"\n".join(lines)}, f"line {at + 1}: {what}")


def hardly_json(files: Files, random: Random) -> Mutant:
    """A line that is hardly JSON."""
    lines = files[FILE].split(b"\n")
    at = random.randrange(len(lines) - 1)
    lines[at], what = broken(lines[at], random)
    return Mutant({FILE: b"\n".join(lines)}, f"line {at + 1}: {what}")


def harmless(files: Files, random: Random) -> Mutant:
    """The same requests as another program might write them."""
    lines = [same_content(json.loads(line), random).replace(b"\n", b"") for line in files[FILE].split(b"\n")[:-1]]
    start, end = random.choice((b"", b"\xef\xbb\xbf", b"\n\n")), random.choice((b"", b"\n", b"\r\n \n"))
    return Mutant({FILE: start + b"\n".join(lines) + end}, "written otherwise", EVERYTHING)


@cache
def _tokenizer():
    with TemporaryDirectory() as folder:
        return load_tokenizer(written(folders()[0], Path(folder)))


def use(folder: Path) -> dict[str, Any]:
    """Read the requests and make each ready; one that is refused is named as the command line names it."""
    engine = make_engine(tokenizer=_tokenizer())
    entries = read_prompts_file(folder / FILE, SamplingParams())
    return {"requests": [_made_ready(engine, entry) for entry in entries]}


def _made_ready(engine, entry) -> tuple:
    prompt = entry.prompt
    try:
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
            prompt = engine.tokenizer.encode_chat(prompt)
        request = engine.make_request(prompt, entry.params, None, entry.priority, entry.request_class, entry.cache_salt)
    except RequestError as error:
        raise RequestError(f"{entry.origin}: {error}") from error
    engine.add_request(request)
    return request.prompt_token_ids, entry.params


FORMATS = (FileFormat("prompts", _SAMPLES, (*[a_line] * 6, hardly_json, harmless, havoc_of()), use),)
