"""Tokenizers of Hugging Face folders are those of transformers and SentencePiece, whichever files say what they are."""

import json
import subprocess
import sys

import pytest
import sentencepiece

from mindspore_paged.errors import CheckpointError, RequestError
from mindspore_paged.tokenizer import load_tokenizer
from tests.tokenizer.folders import LINES, TEXTS, byte_level, sentencepiece_model, write

LLAMA2 = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
CHAT = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def model():
    return sentencepiece_model()


@pytest.fixture(scope="module")
def bpe():
    return byte_level().to_str()


def of_transformers(folder, **options):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, **options)


def assert_as_transformers(folder, **options):
    ours, theirs = load_tokenizer(folder), of_transformers(folder, **options)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text), text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert (ours.bos_token_id, theirs.eos_token_id in ours.eos_token_ids) == (theirs.bos_token_id, True)
    return ours


@pytest.mark.parametrize("add_prefix_space", [True, False])
def test_a_sentencepiece_model_gives_the_ids_of_sentencepiece(tmp_path, add_prefix_space):
    content = sentencepiece_model(add_dummy_prefix=add_prefix_space)
    config = LLAMA2 | {"add_prefix_space": add_prefix_space, "legacy": False}
    tokenizer = load_tokenizer(write(tmp_path, tokenizer__model=content, tokenizer_config__json=config))
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    texts = [*LINES, "Hello world", "\n\n a\tb  c ", "na\u00efve \U0001f642"]
    # Before a space transformers puts no other, where SentencePiece does.
    for text in (text for text in texts if not (add_prefix_space and text.startswith(" "))):
        assert tokenizer.encode(text) == [1, *processor.encode(text)], text
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "config",
    [
        LLAMA2,
        LLAMA2 | {"legacy": False},
        LLAMA2 | {"add_bos_token": False, "add_eos_token": True},
        LLAMA2 | {"add_prefix_space": False},
        LLAMA2 | {"bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": True}},
        LLAMA2 | {"additional_special_tokens": ["[INST]", "<|im_end|>"], "pad_token": None},
        LLAMA2 | {"added_tokens_decoder": {"480": {"content": "[INST]", "special": True, "lstrip": True}}},
        {"tokenizer_class": "CodeLlamaTokenizer", "prefix_token": "<s>", "suffix_token": "</s>"},
        {"tokenizer_class": "LlamaTokenizerFast", "from_slow": True, "legacy": False},
    ],
    ids=range(9),
)
def test_a_vocabulary_alone_gives_the_ids_of_transformers(tmp_path, model, config):
    assert_as_transformers(write(tmp_path, tokenizer__model=model, tokenizer_config__json=config))


def test_a_vocabulary_without_any_configuration_is_llamas(tmp_path, model):
    """As MindFormers has it beside its checkpoints; transformers needs a config.json to know as much."""
    tokenizer = load_tokenizer(write(tmp_path / "bare", tokenizer__model=model))
    folder = write(tmp_path / "named", tokenizer__model=model, tokenizer_config__json=LLAMA2)
    assert [tokenizer.encode(text) for text in TEXTS] == [of_transformers(folder).encode(text) for text in TEXTS]
    assert load_tokenizer(tmp_path / "bare" / "tokenizer.model").encode("Hello") == tokenizer.encode("Hello")


MAP = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False, "normalized": False, "rstrip": False}}


@pytest.mark.parametrize(
    "files",
    [
        {"special_tokens_map__json": MAP, "tokenizer_config__json": {"tokenizer_class": "PreTrainedTokenizerFast"}},
        {"special_tokens_map__json": MAP, "tokenizer_config__json": {"tokenizer_class": "GPT2Tokenizer"}},
        {"special_tokens_map__json": MAP, "config__json": {"model_type": "llama"}},
        {"config__json": {"model_type": "llama", "tokenizer_class": "LlamaTokenizer"}},
        {
            "added_tokens__json": {"[INST]": 320, "<tool>": 321},
            "tokenizer_config__json": {
                "tokenizer_class": "LlamaTokenizerFast",
                "additional_special_tokens": ["[INST]"],
            },
        },
        {
            "tokenizer_config__json": {
                "tokenizer_class": "LlamaTokenizerFast",
                "eos_token": "<|user|>",
                "add_eos_token": True,
                "added_tokens_decoder": {"320": {"content": "<tool>", "normalized": False, "special": True}},
            }
        },
        {"tokenizer_config__json": {"tokenizer_class": "CodeLlamaTokenizerFast", "add_bos_token": True}},
        {"tokenizer_config__json": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "</s>", "add_bos_token": True}},
        {
            "tokenizer_config__json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "</s>",
                "split_special_tokens": True,
            }
        },
    ],
    ids=range(9),
)
def test_the_facts_of_all_files_together_are_those_of_transformers(tmp_path, bpe, files):
    assert_as_transformers(write(tmp_path, tokenizer__json=bpe, **files))


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_vocab_json_and_merges_txt_make_a_tokenizer(tmp_path, bpe, kind):
    bpe_model = json.loads(bpe)["model"]
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in bpe_model["merges"]), ""])
    config = {"tokenizer_class": kind, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<s>"}
    files = {"vocab__json": bpe_model["vocab"], "merges__txt": merges, "tokenizer_config__json": config}
    assert_as_transformers(write(tmp_path, **files))


def test_what_only_transformers_5_writes(tmp_path, bpe):
    """Version 4 knows neither that class nor lists of extra tokens, and falls over prefixes that no file explains."""
    plain = load_tokenizer(write(tmp_path / "plain", tokenizer__json=bpe))
    config = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<|user|>"], "eos_token": "</s>"}
    tokenizer = load_tokenizer(write(tmp_path / "5", tokenizer__json=bpe, tokenizer_config__json=config))
    assert [tokenizer.encode(text) for text in TEXTS] == [plain.encode(text) for text in TEXTS]
    assert tokenizer.decode(tokenizer.encode("a<|user|>b")) == "ab"
    config = {"tokenizer_class": "LlamaTokenizerFast", "add_prefix_space": False, "add_bos_token": False}
    tokenizer = load_tokenizer(write(tmp_path / "prefix", tokenizer__json=bpe, tokenizer_config__json=config))
    assert [tokenizer.encode(text) for text in TEXTS] == [plain.encode(text) for text in TEXTS]


def test_a_model_type_adds_no_tokens_that_the_vocabulary_lacks(tmp_path):
    """transformers would put <s> and others behind the vocabulary, and <s>, which the model lacks, before a text."""
    backend = byte_level(["<|begin|>", "<|im_end|>"])
    folder = write(tmp_path, tokenizer__json=backend.to_str(), config__json={"model_type": "llama"})
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == backend.get_vocab_size()
    assert [tokenizer.encode(text) for text in TEXTS] == [backend.encode(text).ids for text in TEXTS]


def test_ends_of_turns_are_found_by_text_among_added_tokens(tmp_path, bpe, model):
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    folder = write(tmp_path / "bpe", tokenizer__json=bpe, tokenizer_config__json=config, config__json={})
    assert load_tokenizer(folder).eos_token_ids == (1, 3)
    (folder / "generation_config.json").write_text('{"eos_token_id": [9.0, -1]}')
    assert load_tokenizer(folder).eos_token_ids == (9, 1, 3)
    end = sentencepiece.SentencePieceProcessor(model_proto=model).piece_to_id("<|im_end|>")
    folder = write(tmp_path / "sp", tokenizer__model=model, tokenizer_config__json=LLAMA2)
    assert load_tokenizer(folder).eos_token_ids == (2, end)


@pytest.mark.parametrize(
    ("config", "files", "rendered"),
    [
        ({"chat_template": "{{ bos_token }}{{ messages[0].content }}"}, {}, "<s>Hi"),
        ({"chat_template": [{"name": "tool", "template": "no"}, {"name": "default", "template": "yes"}]}, {}, "yes"),
        ({"chat_template": {"default": "of a mapping"}}, {}, "of a mapping"),
        ({"chat_template": "config"}, {"chat_template.jinja": "file"}, "file"),
        ({"chat_template": "config"}, {"additional_chat_templates/default.jinja": "folder"}, "folder"),
        ({}, {"chat_template.jinja": "file", "additional_chat_templates/rag.jinja": "other"}, "file"),
        ({"additional_special_tokens": ["<|user|>"]}, {"chat_template.jinja": "{{ additional_special_tokens[0] }}"},
         "<|user|>"),
    ],
    ids=range(7),
)  # fmt: skip
def test_chat_templates_wherever_they_are(tmp_path, bpe, config, files, rendered):
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"} | config
    folder = write(tmp_path, tokenizer__json=bpe, tokenizer_config__json=config)
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    theirs = of_transformers(folder).apply_chat_template(CHAT, tokenize=False)
    assert load_tokenizer(folder).apply_chat_template(CHAT) == theirs == rendered


def test_the_bos_of_a_chat_and_the_template_for_tools_are_those_of_transformers(tmp_path, bpe):
    named = [{"name": "default", "template": "{{ messages[0].content }}"},
             {"name": "tool_use", "template": "{{ bos_token }}{{ tools[0].function.name }}"}]  # fmt: skip
    config = {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "chat_template": named}
    folder = write(tmp_path, tokenizer__json=bpe, tokenizer_config__json=config)
    tokenizer, theirs = load_tokenizer(folder), of_transformers(folder)
    assert tokenizer.encode("Hi")[:1] == theirs.encode("Hi")[:1] == [0]
    for tools in (None, [{"type": "function", "function": {"name": "f"}}]):
        assert tokenizer.encode_chat(CHAT, tools=tools) == theirs.apply_chat_template(CHAT, tools=tools)
    assert tokenizer.encode_chat(CHAT)[:1] != [0]


def test_a_folder_runs_no_code_and_names_no_files(tmp_path, bpe):
    """Names of files and of code in tokenizer_config.json, to which transformers listens, are not looked at."""
    other = byte_level(["<other>"])
    other.save(str(tmp_path / "other.json"))
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass T: pass\n"
    outside = str(tmp_path / "other.json")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "auto_map": {"AutoTokenizer": ["tokenization_x.T", "tokenization_x.T"]},
        "tokenizer_file": outside,
        "vocab_file": outside,
        "fast_tokenizer_files": ["tokenizer.4.0.0/../../other.json", "tokenizer.0.0.1.json"],
        "init_inputs": [outside],
        "gguf_file": outside,
        "name_or_path": outside,
        "sp_model_kwargs": {"model_file": outside},
        "bos_token": "<s>",
    }
    folder = write(tmp_path / "m", tokenizer__json=bpe, tokenizer_config__json=config, tokenization_x__py=trap)
    (folder / "tokenizer.0.0.1.json").write_text((tmp_path / "other.json").read_text())
    tokenizer = load_tokenizer(folder)
    assert [tokenizer.encode(text) for text in TEXTS] == [byte_level().encode(text).ids for text in TEXTS]
    assert not (tmp_path / "ran").exists()


DEEP = "[" * 100000
BAD_CONFIGS = [
    ({"tokenizer_class": "x"}, "tokenizer_class is 'x'; allowed"),
    ({"tokenizer_class": "\n\x1b[31m"}, "tokenizer_class is"),
    ({"tokenizer_class": ["LlamaTokenizer"]}, "tokenizer_class is .*; it must be a text"),
    ({"tokenizer_class": "AutoTokenizer"}, "tokenizer_class is 'AutoTokenizer'; allowed"),
    ({"bos_token": {"a": 1}}, "bos_token: content is None; it must be there"),
    ({"bos_token": {"content": 1e308}}, "bos_token: content is 1e.308; it must be a text"),
    ({"eos_token": {"content": "</s>", "lstrip": float("nan")}}, "eos_token: lstrip is nan"),
    ({"unk_token": 7}, "unk_token is 7"),
    ({"chat_template": 0.5}, "chat_template is 0.5"),
    ({"chat_template": [["default"]]}, "chat_template is .'default'"),
    ({"chat_template": [{"name": "default"}]}, "chat_template: template is None"),
    ({"chat_template": {"default": ["x"]}}, "chat_template: default is .'x'"),
    ({"chat_template": {str(i): "" for i in range(99)}}, "chat_template is"),
    ({"chat_template": "{% for %}"}, "chat template is not valid"),
    ({"additional_special_tokens": "<s>"}, "additional_special_tokens is"),
    ({"additional_special_tokens": [1]}, "additional_special_tokens"),
    ({"added_tokens_decoder": {"-1": {"content": "x"}}}, "added_tokens_decoder"),
    ({"added_tokens_decoder": {"9" * 30: {"content": "x"}}}, "added_tokens_decoder"),
    ({"added_tokens_decoder": {"5": "x"}}, "added_tokens_decoder"),
    ({"add_bos_token": "yes"}, "add_bos_token is 'yes'; it must be true or false"),
    ({"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<bos>"}, "bos_token '<bos>' is not in the vocabulary"),
    (DEEP, "too deeply nested"),
    (b"\xff\xfe", "not UTF-8"),
    (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
]


@pytest.mark.parametrize(("config", "message"), BAD_CONFIGS, ids=range(len(BAD_CONFIGS)))
def test_configurations_that_are_none(tmp_path, bpe, config, message):
    assert_refused(write(tmp_path, tokenizer__json=bpe, tokenizer_config__json=config), message)


def assert_refused(folder, message):
    with pytest.raises(CheckpointError, match=message) as error:
        load_tokenizer(folder)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("name", ["special_tokens_map__json", "added_tokens__json"])
@pytest.mark.parametrize(
    "content",
    [DEEP, b"\xff", "[1]", '{"bos_token": {"a": 1}}', '{"bos_token": [[1]]}', '{"eos_token": {"content": 1}}', "null"],
    ids=range(7),
)
def test_other_files_that_are_none(tmp_path, bpe, name, content):
    assert_refused(write(tmp_path, tokenizer__json=bpe, **{name: content}), "not a tokenizer|JSON|UTF-8|it must be")


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/a.jinja"])
@pytest.mark.parametrize(("content", "message"), [(b"\xff\xfe", "not UTF-8"), (b"x" * 2**21, "more than 1048576")])
def test_template_files_that_are_none(tmp_path, bpe, name, content, message):
    folder = write(tmp_path, tokenizer__json=bpe)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    assert_refused(folder, message)


def test_a_tokenizer_of_absurd_size_is_not_read(tmp_path, model):
    for name in ("tokenizer.json", "tokenizer.model"):
        with (write(tmp_path / name) / name).open("wb") as file:
            file.truncate(2**40)
        assert_refused(tmp_path / name, f"{name}: has more than 67108864 bytes")


UNKNOWN_TOKEN_BEFORE = [{"SpecialToken": {"id": "x", "type_id": 0}}]


@pytest.mark.parametrize(
    "content",
    ["", "{}", DEEP, b"\xff", '{"version": "1.0", "model": {"type": "BPE"}}', {"single": UNKNOWN_TOKEN_BEFORE}],
    ids=range(6),
)
def test_a_tokenizer_json_that_is_none(tmp_path, bpe, content):
    if isinstance(content, dict):
        content = json.loads(bpe) | {"post_processor": {"type": "TemplateProcessing"} | content}
    assert_refused(write(tmp_path, tokenizer__json=content), r"tokenizer.json: not a tokenizer")


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
        {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}},
        {"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B", "type_id": 0}}]}
         | {"pair": [], "special_tokens": {}}},
        {"model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}},
    ],
    ids=range(4),
)  # fmt: skip
def test_rules_that_cannot_be_followed(tmp_path, bpe, part):
    """Three of them end in a panic of Rust, which is no Exception in Python."""
    assert_refused(write(tmp_path, tokenizer__json=json.loads(bpe) | part), r"tokenizer.json: not a tokenizer")


def test_a_rule_that_fails_at_some_texts_refuses_these(tmp_path, bpe):
    slow = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer = load_tokenizer(write(tmp_path, tokenizer__json=json.loads(bpe) | {"pre_tokenizer": slow}))
    with pytest.raises(RequestError, match="the model's tokenizer cannot encode the prompt: Onig: Regex search error"):
        tokenizer.encode("a" * 40 + "b")


def long_piece():
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_model())
    model.pieces.add(piece="x" * 100000, score=-1.0)
    return model.SerializeToString()


def hostile_tables():
    """Tables of a normalizer that reach beyond their end: reading on from there is what a checked copy cannot do."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_model())
    model.normalizer_spec.precompiled_charsmap = (8).to_bytes(4, "little") + b"\xff" * 8 + b"\0\xff"
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 tokens"),
        (b"hello", "not a SentencePiece model"),
        (b"\n\xff\xff\xff\xff\x0f", "not a SentencePiece model"),
        (b"SGVsbG8= 0\nd29ybGQ= 1\n", "a tiktoken vocabulary"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (long_piece, "has a token of 100000 characters"),
        (lambda: sentencepiece_model(model_type="char"), "tokenizer.model: not a tokenizer"),
    ],
    ids=range(7),
)
def test_a_tokenizer_model_that_is_none(tmp_path, content, message):
    content = content() if callable(content) else content
    assert_refused(write(tmp_path, tokenizer__model=content, tokenizer_config__json=LLAMA2), message)


def test_tables_of_a_normalizer_are_not_used(tmp_path, model):
    folder = write(tmp_path / "x", tokenizer__model=hostile_tables(), tokenizer_config__json=LLAMA2)
    plain = write(tmp_path / "plain", tokenizer__model=model, tokenizer_config__json=LLAMA2)
    assert [load_tokenizer(folder).encode(text) for text in TEXTS] == [load_tokenizer(plain).encode(t) for t in TEXTS]


def test_only_foreign_folders_import_transformers_and_nothing_is_said(tmp_path, model):
    """It takes seconds; and what it tells developers is not for users."""
    folder = write(tmp_path / "foreign", tokenizer__model=model, tokenizer_config__json=LLAMA2)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mindspore_paged.tokenizer import load_tokenizer\n"
        "for folder in map(Path, sys.argv[1:]):\n"
        "    tokenizer = load_tokenizer(folder)\n"
        "    print('transformers' in sys.modules, tokenizer.encode('Hello world'), tokenizer.eos_token_ids)\n"
    )
    load_tokenizer(folder).save(tmp_path / "saved")
    command = [sys.executable, "-c", program, str(tmp_path / "saved"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    saved, foreign = done.stdout.splitlines()
    assert saved == foreign.replace("True", "False", 1)
    assert done.stderr == ""
