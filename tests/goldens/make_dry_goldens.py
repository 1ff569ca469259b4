"""Make dry.json: what llama.cpp's DRY sampler takes from logits, behind texts that repeat themselves.

Run where llama.cpp's library is, with gguf beside it:
    pip install llama-cpp-py-sync xllamacpp gguf
    python tests/goldens/make_dry_goldens.py

(The first package says what llama.cpp's functions take, and the second has a library that older systems can load.)
The vocabulary is that of byte-level BPE with a few longer tokens, over which breakers reach in every way. A case's
`token_ids` are the text, `params` have this package's names, and `penalties` are those above zero, by token. In place
of a dry_penalty_last_n of -1 llama.cpp is given the length of the text, for its server does so.
"""

import json
import random
import tempfile
from pathlib import Path

import xllamacpp.xllamacpp
from llama_cpp_py_sync._cffi_bindings import get_ffi
from make_pre_tokenizer_goldens import BYTES, write

SPACE, LINE = BYTES[ord(" ")], BYTES[ord("\n")]
WORDS = ["##", "a#", "#:", "x##", "##:", "##:x", "ab", "abc", SPACE + "a", SPACE + "ab", "x" + LINE, LINE + LINE, "bc:"]
BREAKERS = [[], ["\n"], ["##:"], ["abc", ":"], [" ab"], ["x\n"], ["\n", ":", '"', "*"], ["ab#", "b"], ["##:x a"]]
NUM_CASES = 90


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges."""
    tokens = list(dict.fromkeys([*BYTES, *WORDS]))
    pairs = [(word[:cut], word[cut:]) for word in WORDS for cut in range(1, len(word))]
    return tokens, [f"{left} {right}" for left, right in pairs if left in tokens and right in tokens]


def penalties(ffi, lib, vocab, size: int, token_ids: list[int], params: dict) -> dict[str, float]:
    """What the sampler takes from logits of zero."""
    texts = [ffi.new("char[]", text.encode()) for text in params["dry_sequence_breakers"]]
    last_n = params["dry_penalty_last_n"]
    sampler = lib.llama_sampler_init_dry(
        vocab, params["dry_multiplier"], params["dry_base"], params["dry_allowed_length"],
        len(token_ids) if last_n == -1 else last_n, ffi.new("char *[]", texts), len(texts),
    )  # fmt: skip
    for token_id in token_ids:
        lib.llama_sampler_accept(sampler, token_id)
    data = ffi.new("llama_token_data[]", size)
    for token_id in range(size):
        data[token_id].id = token_id
    candidates = ffi.new("llama_token_data_array *", {"data": data, "size": size, "selected": -1, "sorted": False})
    lib.llama_sampler_apply(sampler, candidates)
    lib.llama_sampler_free(sampler)
    taken = {data[place].id: -data[place].logit for place in range(size)}
    return {str(token_id): round(taken[token_id], 6) for token_id in sorted(taken) if taken[token_id] != 0}


def main() -> None:
    """Write the goldens beside this script."""
    tokens, merges = vocabulary()
    rng = random.Random(11)
    ffi = get_ffi()
    lib = ffi.dlopen(xllamacpp.xllamacpp.__file__)
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gguf"
        write(path, tokens, merges, "gpt-2")
        parameters = lib.llama_model_default_params()
        parameters.vocab_only = True
        model = lib.llama_model_load_from_file(str(path).encode(), parameters)
        assert model != ffi.NULL
        said = [tokens.index(text) for text in ("a", "b", "c", "x", "#", ":", SPACE, LINE, *WORDS)]
        for case in range(NUM_CASES):
            some = rng.sample(said, rng.choice([2, 3, 5, 8]))
            piece = [rng.choice(some) for _ in range(rng.randint(4, 12))]
            text = [rng.choice(some) for _ in range(8)] + piece + [rng.choice(said)] + piece[: rng.randint(3, 12)]
            params = {
                "dry_multiplier": rng.choice([0.5, 0.8, 2.0]),
                "dry_base": rng.choice([1.0, 1.5, 1.75]),
                "dry_allowed_length": rng.choice([0, 1, 2, 3]),
                "dry_penalty_last_n": rng.choice([-1, -1, 9, 16]),
                "dry_sequence_breakers": BREAKERS[case % len(BREAKERS)],
            }
            found = penalties(ffi, lib, lib.llama_model_get_vocab(model), len(tokens), text, params)
            cases.append({"token_ids": text, "params": params, "penalties": found})
        lib.llama_model_free(model)
    head = {"tokens": tokens, "merges": merges}
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    content = f'{json.dumps(head, ensure_ascii=False)[:-1]},\n"cases": [\n{lines}\n]}}\n'
    Path(__file__).with_name("dry.json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
