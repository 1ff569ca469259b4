"""Small tokenizers of each family: its published rules over a vocabulary of ours, as a folder and as a GGUF file."""

import io
import json
from pathlib import Path

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.tokenizer.folders import LINES, write
from tests.tokenizer.vocabularies import write_vocabulary

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CASES = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
    rf"|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_TAIL}"
)
_CL100K = rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_TAIL}"

_DEEPSEEK = (
    r"[\r\n]",
    # Of the letters that are listed there those that stand in our texts.
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0370-\u0373\u0376\u0377\u0386"
    "\u0388-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u1e00-\u1f15\u2126\u212a\u212b\ufb00-\ufb06\U00010400-\U0001044f]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
)


def _split(pattern: str) -> pre_tokenizers.Sequence:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _digits() -> pre_tokenizers.Sequence:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


QWEN = _split(_CL100K.replace(r"\p{N}{1,3}", r"\p{N}"))
BYTE_LEVEL = {
    "qwen2": {"pre": "qwen2", "rules": QWEN, "normalizer": normalizers.NFC()},
    "deepseek-r1 of qwen2": {
        "pre": "deepseek-r1-qwen", "rules": QWEN, "normalizer": normalizers.NFC(), "starts": True,
        "control": ["<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"],
        "user": ["<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>", "</think>"],
    },
    "llama 3": {"pre": "llama-bpe", "rules": _split(_CL100K), "whole_words": True, "starts": True},
    "smollm3": {"pre": "smaug-bpe", "rules": _split(_CL100K)},
    "mistral nemo": {
        "pre": "tekken", "rules": _split(_CASES % ("", "", r"\p{N}")), "whole_words": True, "starts": True,
        "control": ["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"],
    },
    "phi 4 mini": {"pre": "gpt-4o", "rules": _split(_CASES % (f"{_ENGLISH}?", f"{_ENGLISH}?", r"\p{N}{1,3}"))},
    "smollm2": {"pre": "smollm", "rules": _digits()},
    "deepseek": {
        "pre": "deepseek-llm", "starts": True,
        "rules": pre_tokenizers.Sequence(
            [
                *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in _DEEPSEEK),
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
    },
    "granite 3": {"pre": "refact", "rules": _digits(), "control": ["<|end_of_text|>", "<|start_of_role|>"]},
}  # fmt: skip
"""By family: `tokenizer.ggml.pre`, rules as its tokenizer.json has them, tokens that are put in."""


def byte_level(family: str) -> Tokenizer:
    """A tokenizer of 400 tokens, the bytes and common words; control and user-defined tokens come last."""
    facts = BYTE_LEVEL[family]
    backend = Tokenizer(models.BPE(ignore_merges=facts.get("whole_words", False)))
    backend.normalizer = facts.get("normalizer")
    backend.pre_tokenizer, backend.decoder = facts["rules"], decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(LINES * 3 + ["Größe größer 2024 DON'T don't HTTPServer \n\n  x"] * 5, trainer)
    control, user = facts.get("control", ["<|im_start|>", "<|im_end|>"]), facts.get("user", ["<think>", "</think>"])
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in control])
    backend.add_tokens([AddedToken(text, normalized=False) for text in user])
    if facts.get("starts"):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{control[0]}:0 $A:0", special_tokens=[(control[0], backend.token_to_id(control[0]))]
        )
    return backend


def write_byte_level(folder: Path, family: str) -> tuple[Path, Path]:
    """Folder and GGUF file of the same tokenizer."""
    backend, facts = byte_level(family), BYTE_LEVEL[family]
    contents = json.loads(backend.to_str())
    added = {token["id"]: token for token in contents["added_tokens"]}
    start, end = (token["content"] for token in contents["added_tokens"][:2])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end}
    config |= {"bos_token": start} if facts.get("starts") else {}
    write(folder, tokenizer__json=contents, tokenizer_config__json=config)
    by_id = {index: token for token, index in backend.get_vocab(with_added_tokens=True).items()}
    kinds = {True: int(gguf.TokenType.CONTROL), False: int(gguf.TokenType.USER_DEFINED)}
    size = len(by_id)
    metadata = {
        "model": "gpt2",
        "pre": facts["pre"],
        "tokens": [by_id[index] for index in range(size)],
        "token_type": [kinds[added[index]["special"]] if index in added else 1 for index in range(size)],
        "merges": [" ".join(pair) for pair in contents["model"]["merges"]],
        "eos_token_id": backend.token_to_id(end),
    }
    if facts.get("starts"):
        metadata |= {"bos_token_id": backend.token_to_id(start), "add_bos_token": True}
    return folder, write_vocabulary(folder / "model.gguf", **metadata)


GEMMA_TURNS = ("<start_of_turn>", "<end_of_turn>")
PHI3 = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")


def sentencepiece_bytes(**options) -> bytes:
    """A tokenizer.model of 480 tokens that falls back on bytes, digit by digit."""
    model = io.BytesIO()
    settings = {"vocab_size": 480, "model_type": "bpe", "byte_fallback": True, "character_coverage": 0.98}
    settings |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "split_digits": True}
    settings |= {"allow_whitespace_only_pieces": True, "minloglevel": 2} | options
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(LINES * 6), model_writer=model, **settings)
    return model.getvalue()


def write_gemma(folder: Path) -> tuple[Path, Path]:
    """Folder and GGUF file of a tokenizer such as Gemma's: no space put in, runs of spaces and newlines as tokens."""
    runs = [*("\n" * count for count in (1, 2, 3)), *("\u2581" * count for count in range(2, 8)), "\t", "<table>"]
    content = sentencepiece_bytes(
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
        add_dummy_prefix=False, user_defined_symbols=[*GEMMA_TURNS, *runs],
    )  # fmt: skip
    ids = sentencepiece.SentencePieceProcessor(model_proto=content).piece_to_id
    special = ("<pad>", "<eos>", "<bos>", "<unk>", *GEMMA_TURNS)
    added = {str(ids(text)): _added(text, text in special) for text in (*special, *runs)}
    config = {"tokenizer_class": "GemmaTokenizer", "added_tokens_decoder": added, "bos_token": "<bos>"}
    config |= {"eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write(folder, tokenizer__model=content, tokenizer_config__json=config)
    ends = {"bos_token_id": 2, "eos_token_id": 1, "unknown_token_id": 3, "add_space_prefix": False}
    return folder, _write_sentencepiece(folder / "model.gguf", content, added, **ends)


def write_phi3(folder: Path) -> tuple[Path, Path]:
    """Folder and GGUF file of a tokenizer such as Phi 3's: what is blank behind a special token belongs to it."""
    content = sentencepiece_bytes()
    added = {"0": _added("<unk>", True), "1": _added("<s>", True), "2": _added("</s>", True, rstrip=True)}
    added |= {str(480 + i): _added(text, True, rstrip=text != "<|endoftext|>") for i, text in enumerate(PHI3)}
    config = {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": added, "bos_token": "<s>", "legacy": True}
    config |= {"eos_token": "<|endoftext|>", "unk_token": "<unk>", "add_bos_token": False}
    write(folder, tokenizer__model=content, tokenizer_config__json=config)
    ends = {"bos_token_id": 1, "eos_token_id": 480, "unknown_token_id": 0, "add_bos_token": False, "pre": "default"}
    return folder, _write_sentencepiece(folder / "model.gguf", content, added, architecture="phi3", **ends)


def _added(text: str, special: bool, rstrip: bool = False) -> dict:
    facts = {"content": text, "lstrip": False, "normalized": False, "rstrip": rstrip, "single_word": False}
    return facts | {"special": special}


def _write_sentencepiece(path: Path, content: bytes, added: dict[str, dict], **metadata) -> Path:
    """The vocabulary as llama.cpp's converter writes it: tokens that were added are not SentencePiece's any more."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    kinds = [(processor.is_unknown, 2), (processor.is_control, 3), (processor.is_unused, 5), (processor.is_byte, 6)]
    rows = [
        [processor.id_to_piece(index), processor.get_score(index), next((kind for of, kind in kinds if of(index)), 1)]
        for index in range(processor.vocab_size())
    ]
    for index, facts in sorted(added.items(), key=lambda item: int(item[0])):
        text = facts["content"] if facts["special"] else facts["content"].replace("\u2581", " ")
        rows[int(index) : int(index) + 1] = [[text, -1000.0, 3 if facts["special"] else 4]]
    tokens, scores, kinds_of = map(list, zip(*rows, strict=True))
    return write_vocabulary(path, model="llama", tokens=tokens, scores=scores, token_type=kinds_of, **metadata)
