"""Tokenizers agree with Hugging Face transformers and SentencePiece, and follow their files' own flags."""

import json
import random
import threading
import time
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, WordLevel
from tokenizers.processors import TemplateProcessing

from mindspore_paged.errors import CheckpointError, RequestError
from mindspore_paged.formats.gguf_file import GgufFile
from mindspore_paged.tokenizer import load_tokenizer
from tests.tokenizer.vocabularies import BYTES, SPECIAL, small_bpe, write_vocabulary

GOLDENS = Path(__file__).parent / "goldens"
DEMO = json.loads((GOLDENS / "smollm2_135m.json").read_text())
KINDS = json.loads((GOLDENS / "tokenizers.json").read_text())
CHAT = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def demo_file(demo_model):
    return GgufFile(demo_model)


@pytest.fixture(scope="module")
def demo(demo_file):
    return load_tokenizer(demo_file)


@pytest.mark.parametrize("golden", DEMO["tokenizer"], ids=lambda golden: repr(golden["text"][:20]))
def test_the_demo_tokenizer_equals_the_published_one(demo, golden):
    ids = demo.encode(golden["text"])
    assert ids == golden["ids"]
    assert demo.decode(ids, skip_special_tokens=False) == golden["decoded"]
    assert demo.decode(ids) == golden["decoded_without_special"]


@pytest.mark.parametrize("case", DEMO["cases"], ids=lambda case: case["name"])
def test_prompts_and_texts_of_the_demo_model(demo, case):
    if "prompt" in case:
        assert demo.encode(case["prompt"]) == case["prompt_token_ids"]
    else:
        assert demo.apply_chat_template(case["messages"]) == case["rendered"]
        assert demo.encode_chat(case["messages"]) == case["prompt_token_ids"]
    assert demo.decode(case["token_ids"]) == case["text"]


def test_the_demo_tokenizer_knows_its_ends(demo):
    assert (demo.vocab_size, demo.bos_token_id, demo.eos_token_ids) == (49152, 1, (2, 0, 4))
    assert [demo.backend.id_to_token(end) for end in demo.eos_token_ids] == [
        "<|im_end|>",
        "<|endoftext|>",
        "<reponame>",
    ]
    assert demo.encode("") == []


def test_text_survives_a_round_trip(demo):
    generator = random.Random(0)
    alphabet = "ab 1\n\t.'é漢🙂\u200d\u0301 "
    for _ in range(300):
        text = "".join(generator.choices(alphabet, k=generator.randrange(30)))
        assert demo.decode(demo.encode(text)) == text


def test_a_saved_tokenizer_is_the_same(demo, tmp_path):
    """As an exported model carries it: ids, ends, chat template."""
    demo.save(tmp_path / "tokenizer")
    saved = load_tokenizer(tmp_path / "tokenizer")
    text = "Hello, w\u00f6rld \U0001f642\n  def f(x):\treturn 12345 <|im_end|> x"
    assert saved.encode(text) == demo.encode(text)
    assert saved.decode(saved.encode(text), skip_special_tokens=False) == text
    assert saved.encode_chat(CHAT) == demo.encode_chat(CHAT)
    assert (saved.bos_token_id, saved.eos_token_ids) == (demo.bos_token_id, demo.eos_token_ids)


def test_a_saved_tokenizer_keeps_the_ends_it_adds(tmp_path):
    for name, flags in {"both": (True, True), "none": (False, False)}.items():
        tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "<s>", "</s>"]
        kinds = [1] * (len(tokens) - 2) + [3, 3]
        path = tmp_path / f"{name}.gguf"
        add = {"add_bos_token": flags[0], "add_eos_token": flags[1]}
        ids = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
        write_vocabulary(path, model="gpt2", pre="gpt-2", tokens=tokens, token_type=kinds, merges=["a b"], **add, **ids)
        tokenizer = load_tokenizer(path)
        tokenizer.save(tmp_path / name)
        assert load_tokenizer(tmp_path / name).encode("ab") == tokenizer.encode("ab")
        assert len(tokenizer.encode("ab")) == 1 + sum(flags)


def test_text_decodes_as_it_grows(demo):
    text = "naïve 🙂 漢字"
    stream = decoders.DecodeStream(skip_special_tokens=True)
    pieces = [stream.step(demo.backend, token) or "" for token in demo.encode(text)]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_a_path_and_an_open_file_give_the_same(demo, demo_model):
    assert load_tokenizer(demo_model).encode("Hello 42") == demo.encode("Hello 42")


@pytest.mark.parametrize("golden", KINDS["llama3_words"], ids=lambda golden: repr(golden["text"][:20]))
@pytest.mark.parametrize("pre", ["llama-bpe", "llama3"])
def test_llama3_cuts_words_as_its_published_tokenizer_does(tmp_path, golden, pre):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "x.gguf", **small_bpe(pre=pre)))
    words = [word for word, _ in tokenizer.backend.pre_tokenizer.pre_tokenize_str(golden["text"])]
    assert words == golden["words"]


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["ab", "\u01201234", "!", "\u0120x", "=$", "5"]),
        ("smollm", ["ab", "\u0120", "1", "2", "3", "4", "!", "\u0120x", "=$", "5"]),
        ("llama-bpe", ["ab", "\u0120", "123", "4", "!", "\u0120x", "=$", "5"]),
        ("default", ["ab", "\u0120", "123", "4", "!", "\u0120x", "=$", "5"]),
        (None, ["ab", "\u0120", "123", "4", "!", "\u0120x", "=$", "5"]),
    ],
)
def test_each_kind_cuts_words_its_own_way(tmp_path, pre, words):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "x.gguf", **small_bpe(pre=pre)))
    assert [word for word, _ in tokenizer.backend.pre_tokenizer.pre_tokenize_str("ab 1234! x=$5")] == words


@pytest.mark.parametrize(("pre", "length"), [("gpt-2", 3), ("llama-bpe", 1)])
def test_llama3_takes_a_whole_word_that_no_merge_makes(tmp_path, pre, length):
    vocabulary = small_bpe(pre=pre, add_bos_token=False)
    vocabulary |= {"tokens": [*vocabulary["tokens"], "xyz"], "token_type": [*vocabulary["token_type"], 1]}
    assert len(load_tokenizer(write_vocabulary(tmp_path / "x.gguf", **vocabulary)).encode("xyz")) == length


@pytest.mark.parametrize(
    ("flags", "around"),
    [
        ({}, ([], [])),
        ({"add_bos_token": False}, ([], [])),
        ({"add_bos_token": True}, ([0], [])),
        ({"add_eos_token": True}, ([], [1])),
        ({"add_bos_token": True, "add_eos_token": True}, ([0], [1])),
        ({"add_bos_token": True, "add_eos_token": True, "eos_token_id": 0}, ([0], [0])),
        ({"pre": "llama-bpe"}, ([0], [])),
        ({"pre": "llama-bpe", "add_bos_token": False}, ([], [])),
    ],
)
def test_the_files_flags_are_followed(tmp_path, flags, around):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "x.gguf", **small_bpe(**flags)))
    text = tokenizer.backend.encode("abc", add_special_tokens=False).ids
    assert tokenizer.encode("abc") == [*around[0], *text, *around[1]]


def test_control_and_user_defined_tokens_are_found_in_text(tmp_path):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "x.gguf", **small_bpe()))
    abc = tokenizer.backend.token_to_id("abc")
    ids = tokenizer.encode("abc<|user|>abc<tool>abc</s>")
    assert ids == [abc, 2, abc, 3, abc, 1]
    assert tokenizer.decode(ids) == "abcabc<tool>abc"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "abc<|user|>abc<tool>abc</s>"
    assert tokenizer.vocab_size == len(small_bpe()["tokens"])
    assert tokenizer.special_tokens == {"<s>": 0, "</s>": 1, "<|user|>": 2}


def test_the_end_of_a_turn_ends_a_sequence_too(tmp_path):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "x.gguf", **small_bpe(eot_token_id=2)))
    assert tokenizer.eos_token_ids == (1, 2)


def sentencepiece_file(path, **changes):
    golden = KINDS["sentencepiece"]
    keys = {key: golden[key] for key in ("tokens", "scores", "token_type")}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    return write_vocabulary(path, **({"model": "llama", "pre": "default"} | keys | ids | changes))


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    return load_tokenizer(sentencepiece_file(tmp_path_factory.mktemp("spm") / "x.gguf"))


@pytest.mark.parametrize("golden", KINDS["sentencepiece"]["texts"], ids=lambda golden: repr(golden["text"][:20]))
def test_scores_give_the_ids_of_sentencepiece(sentencepiece, golden):
    assert sentencepiece.encode(golden["text"]) == [1, *golden["ids"]]
    assert sentencepiece.decode(golden["ids"]) == golden["decoded"] == golden["text"]


def test_without_the_space_prefix_nothing_is_put_before_the_text(sentencepiece, tmp_path):
    plain = load_tokenizer(sentencepiece_file(tmp_path / "x.gguf", add_space_prefix=False, add_bos_token=False))
    assert plain.encode(" the lamp") == sentencepiece.encode("the lamp")[1:]
    assert plain.decode(plain.encode(" the lamp")) == " the lamp"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, "tokenizer.ggml.model is 'bert'; allowed: 'gpt2', 'llama'"),
        ({"pre": "latin"}, "tokenizer.ggml.pre is 'latin'; allowed: default, gpt-2, .*llama-bpe"),
        ({"tokens": None}, "lacks tokenizer.ggml.tokens"),
        ({"merges": None}, "lacks tokenizer.ggml.merges"),
        ({"merges": ["a b", "ab zz"]}, "merge 'ab zz' joins or makes a token that the vocabulary lacks"),
        ({"merges": ["a c"]}, "merge 'a c'"),
        ({"token_type": [1, 1]}, "tokens but 2 token types"),
        ({"add_bos_token": True, "bos_token_id": None}, "lacks tokenizer.ggml.bos_token_id"),
        ({"add_bos_token": "yes"}, "tokenizer.ggml.add_bos_token is 'yes'; it must be a valid boolean"),
        ({"model": "llama"}, "lacks tokenizer.ggml.scores"),
        ({"model": "llama", "scores": [1.0]}, "tokens but 1 scores"),
        ({"chat_template": "{% for %}"}, "x.gguf: the model's chat template is not valid"),
    ],
)
def test_vocabularies_that_cannot_be_used(tmp_path, changes, message):
    path = write_vocabulary(tmp_path / "x.gguf", **small_bpe(**changes))
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(path)


@pytest.mark.parametrize("model", [None, "none", "no_vocab"])
def test_a_gguf_file_without_a_vocabulary_has_no_tokenizer(tmp_path, model):
    assert load_tokenizer(write_vocabulary(tmp_path / "x.gguf", model=model)) is None


def test_other_paths_have_no_tokenizer(tmp_path):
    assert load_tokenizer(tmp_path) is None
    assert load_tokenizer(tmp_path / "absent") is None
    assert load_tokenizer(None) is None


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder whose tokenizer.json adds BOS by itself, and would cut and fill up texts."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *BYTES, "ab"])}
    backend = Backend(BPE(vocabulary, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.enable_truncation(3)
    backend.enable_padding(length=10, pad_token="<s>")
    backend.save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>")
    return tmp_path


def write_json(path, **values):
    path.write_text(json.dumps(values))


def ids_of_abab(folder):
    tokenizer = load_tokenizer(folder)
    ab = tokenizer.backend.token_to_id("ab")
    ids = tokenizer.encode("abababab")
    return ["ab" if token == ab else token for token in ids]


def test_tokenizer_json_decides_what_is_added_and_nothing_is_cut(folder):
    assert ids_of_abab(folder) == [0, "ab", "ab", "ab", "ab"]


@pytest.mark.parametrize(
    ("flags", "around"),
    [
        ({}, ([0], [])),
        ({"add_bos_token": False}, ([], [])),
        ({"add_bos_token": True, "add_eos_token": True}, ([0], [1])),
    ],
)
def test_a_llama_tokenizer_follows_its_flags(folder, flags, around):
    ends = {"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}}
    write_json(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", **ends, **flags)
    assert ids_of_abab(folder) == [*around[0], *["ab"] * 4, *around[1]]


def test_a_flag_without_its_token_is_refused(folder):
    write_json(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast", bos_token="<bos>")
    with pytest.raises(CheckpointError, match="bos_token '<bos>' is not in the vocabulary"):
        load_tokenizer(folder)


def test_what_ends_a_sequence_comes_from_all_files(folder):
    assert load_tokenizer(folder).eos_token_ids == (1,)  # </s>, by its text
    write_json(folder / "tokenizer_config.json", bos_token="<s>", eos_token="<|user|>")
    write_json(folder / "config.json", eos_token_id=1)
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (0, (1, 2))
    write_json(folder / "generation_config.json", eos_token_id=[9, 2])
    assert load_tokenizer(folder).eos_token_ids == (9, 2, 1)


def test_chat_templates_wherever_they_are(folder):
    def rendered(**config):
        write_json(folder / "tokenizer_config.json", bos_token="<s>", **config)
        return load_tokenizer(folder).apply_chat_template(CHAT)

    assert rendered(chat_template="{{ bos_token }}{{ messages[0].content }}") == "<s>Hi"
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    assert rendered(chat_template=named) == "yes"
    (folder / "chat_template.jinja").write_text("file")
    assert rendered(chat_template="config") == "file"


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_json_is_refused(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer.json: not a tokenizer"):
        load_tokenizer(folder)


@pytest.fixture
def chat_of(tmp_path):
    def load(template):
        return load_tokenizer(write_vocabulary(tmp_path / "x.gguf", **small_bpe(chat_template=template)))

    return load


def test_a_chat_has_the_bos_of_its_template_and_no_other(tmp_path):
    template = "{{ bos_token }}{{ messages[0].content }}"
    path = write_vocabulary(tmp_path / "x.gguf", **small_bpe(chat_template=template, add_bos_token=True))
    tokenizer = load_tokenizer(path)
    assert tokenizer.encode_chat([{"role": "user", "content": "abc"}]) == tokenizer.encode("abc")
    assert tokenizer.encode_chat([{"role": "user", "content": "abc"}])[:2].count(0) == 1


@pytest.mark.parametrize(
    ("template", "flag", "begins_with_bos"),
    [
        ("{{ messages[0].content }}", True, True),
        ("{{ messages[0].content }}", False, False),
        ("{{ messages[0].content }}", None, False),
        ("{{ bos_token }}{{ messages[0].content }}", False, True),
    ],
)
def test_a_chat_starts_with_bos_where_the_file_asks_for_it_or_its_template(tmp_path, template, flag, begins_with_bos):
    """As llama.cpp has it: the flag is for every prompt, whatever made it."""
    path = write_vocabulary(tmp_path / "x.gguf", **small_bpe(chat_template=template, add_bos_token=flag))
    tokenizer = load_tokenizer(path)
    tokenizer.save(tmp_path / "saved")
    for each in (tokenizer, load_tokenizer(tmp_path / "saved")):
        ids = each.encode_chat([{"role": "user", "content": "abc"}])
        assert ids == [
            *([0] if begins_with_bos else []),
            *tokenizer.backend.encode("abc", add_special_tokens=False).ids,
        ]


def test_a_file_may_have_a_template_for_chats_with_tools(tmp_path):
    templates = {"chat_template": "plain", "chat_template.tool_use": "with {{ tools[0].function.name }}"}
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "x.gguf", **small_bpe(**templates)))
    tokenizer.save(tmp_path / "saved")
    for each in (tokenizer, load_tokenizer(tmp_path / "saved")):
        assert each.apply_chat_template(CHAT) == "plain"
        tools = [{"type": "function", "function": {"name": "f"}}]
        assert each.apply_chat_template(CHAT, tools=tools) == "with f"


def test_templates_have_the_helpers_of_transformers(chat_of):
    template = (
        "{% for message in messages %}\n"
        "    {% if loop.index > 1 %}{% break %}{% endif %}\n"
        "{{ message | tojson }} {% generation %}{{ message.content }}{% endgeneration %}\n"
        "{% endfor %}\n"
        "{{ strftime_now('%Y') | length }}{% if tools is none %}!{% endif %}"
        "{% if add_generation_prompt %} go{% endif %}"
    )
    messages = [{"role": "user", "content": "<é>"}, {"role": "user", "content": "never"}]
    tokenizer = chat_of(template)
    assert tokenizer.apply_chat_template(messages) == '{"role": "user", "content": "<é>"} <é>4! go'
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=False).endswith("4!")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 1 }}", "refused them"),
        ("{{ messages[5].content.x }}", "refused them"),
        ("{{ messages.append(1) }}", "refused them"),
        ("{{ ''.__class__.__mro__ }}", "refused them"),
    ],
)
def test_templates_that_refuse_or_reach_too_far(chat_of, template, message):
    with pytest.raises(RequestError, match=message):
        chat_of(template).apply_chat_template(CHAT)


@pytest.mark.parametrize("messages", ["Hi", [], None, ["Hi"], [{"role": "user"}], [{"role": 1, "content": "x"}]])
def test_messages_that_are_none(chat_of, messages):
    with pytest.raises(RequestError, match="messages"):
        chat_of("x").apply_chat_template(messages)


def test_a_model_without_a_template_takes_no_messages(tmp_path):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "x.gguf", **small_bpe()))
    assert not tokenizer.has_chat_template
    with pytest.raises(RequestError, match="no chat template"):
        tokenizer.apply_chat_template(CHAT)


@pytest.mark.parametrize("model", [BPE({"a": 0}, [], unk_token="nobody"), WordLevel({"a": 0}, unk_token="nobody")])
def test_a_vocabulary_that_cannot_spell_a_plain_text_is_refused(tmp_path, model):
    (tmp_path / "tokenizer.json").write_text(Backend(model).to_str())
    with pytest.raises(CheckpointError, match="not a tokenizer") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_other_threads_run_while_a_long_text_is_encoded(demo):
    turns, done = [], threading.Event()

    def turn():
        while not done.wait(0.001):
            turns.append(time.perf_counter())

    thread = threading.Thread(target=turn)
    thread.start()
    begin = time.perf_counter()
    demo.encode("a" * 400_000)  # one word: some tenths of a second
    seconds = time.perf_counter() - begin
    done.set()
    thread.join()
    assert any(begin + 0.2 * seconds < moment < begin + 0.8 * seconds for moment in turns)


def test_a_text_that_cannot_be_short_enough_is_refused_before_it_is_encoded(demo_file):
    tokenizer = load_tokenizer(demo_file)
    longest = max(tokenizer.backend.get_vocab(), key=len)
    assert tokenizer.longest_token == len(longest)
    text = "x" * (10 * len(longest))
    assert len(tokenizer.encode(text, most_tokens=10)) > 10  # the engine says what is wrong with it
    with pytest.raises(RequestError, match=f"the prompt has {len(text) + 1} characters, which no 10 tokens hold"):
        tokenizer.encode(text + "x", most_tokens=10)
    assert tokenizer.encode(text + "x")
