"""Tokenizers built from the vocabulary that a GGUF file carries."""

from enum import IntEnum

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.gguf_file import GgufFile
from mindspore_paged.tokenizer.end_of_turn import END_TEXTS

MODEL = "tokenizer.ggml.model"
PRE = "tokenizer.ggml.pre"
WITHOUT_VOCABULARY = (None, "none", "no_vocab")
LLAMA3 = "llama-bpe"
SPACE = "\u2581"
"""The lower block that stands for a space in SentencePiece's vocabularies."""

# How text is split into words before BPE, by the names that llama.cpp gives the ways (regex_exprs in llama-vocab.cpp).
_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {
    "gpt-2": (_GPT2_WORDS,),
    "smollm": (r"\p{N}", _GPT2_WORDS),
    LLAMA3: (_LLAMA3_WORDS,),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"),
}
_ALIASES = {"llama3": LLAMA3, "llama-v3": LLAMA3}


class TokenType(IntEnum):
    """What `tokenizer.ggml.token_type` says of a token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def gguf_backend(file: GgufFile) -> Backend | None:
    """The tokenizer in `file`, or None where it carries none.

    It adds neither BOS nor EOS to what it encodes.
    Raises CheckpointError for a kind of vocabulary or of pre-tokenizer that is not supported.
    """
    model = file.optional(MODEL, str)
    if model in WITHOUT_VOCABULARY:
        return None
    if model not in ("gpt2", "llama"):
        raise CheckpointError(f"{file.path}: {MODEL} is {model!r}; allowed: 'gpt2', 'llama'")
    _check_special_ids(file)
    backend = _byte_level(file) if model == "gpt2" else _sentencepiece(file)
    _add_tokens(backend, file)
    return backend


def gguf_sequence_ends(file: GgufFile) -> dict[str, int]:
    """The ids of the tokens put before (`bos`) and after (`eos`) an encoded text, as the file's own flags say.

    Where a flag is absent, vocabularies of LLaMA 1, 2 and 3 start with BOS and others do not, as in llama.cpp.
    """
    is_llama = file.optional(MODEL, str) == "llama" or _pre_tokenizer(file) == LLAMA3
    ends = {}
    for name, by_default in (("bos", is_llama), ("eos", False)):
        flag = file.optional(f"tokenizer.ggml.add_{name}_token", bool)
        if by_default if flag is None else flag:
            ends[name] = file.require(f"tokenizer.ggml.{name}_token_id", int)
    return ends


def _pre_tokenizer(file: GgufFile) -> str:
    kind = file.optional(PRE, str) or "default"
    return _ALIASES.get(kind, kind)


def _byte_level(file: GgufFile) -> Backend:
    """Byte-level BPE as in GPT-2."""
    kind = _pre_tokenizer(file)
    if kind not in _SPLITS:
        raise CheckpointError(f"{file.path}: {PRE} is {kind!r}; allowed: {', '.join((*_SPLITS, *_ALIASES))}")
    vocabulary = _vocabulary(file)
    backend = Backend(BPE(vocabulary, _stored_merges(file, vocabulary), ignore_merges=kind == LLAMA3))
    splits = [pre_tokenizers.Split(Regex(words), behavior="isolated") for words in _SPLITS[kind]]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(file: GgufFile) -> Backend:
    """SentencePiece's BPE with byte fallback, as LLaMA 1 and 2 have it."""
    vocabulary = _vocabulary(file)
    unknown = file.optional("tokenizer.ggml.unknown_token_id", int) or 0
    model = BPE(
        vocabulary,
        _merges_by_score(file, vocabulary),
        unk_token=_tokens(file)[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = Backend(model)
    to_blocks, to_spaces = normalizers.Replace(" ", SPACE), decoders.Replace(SPACE, " ")
    bytes_to_text = [to_spaces, decoders.ByteFallback(), decoders.Fuse()]
    if file.optional("tokenizer.ggml.add_space_prefix", bool) is False:
        backend.normalizer = to_blocks
        backend.decoder = decoders.Sequence(bytes_to_text)
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), to_blocks])
        backend.decoder = decoders.Sequence([*bytes_to_text, decoders.Strip(content=" ", left=1)])
    return backend


def _tokens(file: GgufFile) -> list[str]:
    return file.require("tokenizer.ggml.tokens", list)


def _token_types(file: GgufFile) -> list[int]:
    tokens, types = _tokens(file), file.optional("tokenizer.ggml.token_type", list)
    if types is None:
        types = [TokenType.NORMAL] * len(tokens)
    elif len(types) != len(tokens):
        raise CheckpointError(f"{file.path}: {len(tokens)} tokens but {len(types)} token types")
    # Some converters give the end of a turn another type.
    return [TokenType.CONTROL if token in END_TEXTS else kind for token, kind in zip(tokens, types, strict=True)]


def _check_special_ids(file: GgufFile):
    count = len(_tokens(file))
    for name in ("bos", "eos", "eot", "unknown"):
        index = file.optional(f"tokenizer.ggml.{name}_token_id", int)
        if index is not None and index >= count:
            raise CheckpointError(f"{file.path}: {name}_token_id is {index}, but there are only {count} tokens")


def _vocabulary(file: GgufFile) -> dict[str, int]:
    return {token: index for index, token in enumerate(_tokens(file))}


def _stored_merges(file: GgufFile, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for line in file.require("tokenizer.ggml.merges", list):
        left, _, right = line.partition(" ")
        if not {left, right, left + right} <= vocabulary.keys():
            raise CheckpointError(f"{file.path}: merge {line!r} joins or makes a token that the vocabulary lacks")
        merges.append((left, right))
    return merges


def _merges_by_score(file: GgufFile, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Merge rules that reproduce SentencePiece, which joins the neighbours whose union scores highest.

    Every way to cut a token into two tokens is a rule; rules are ranked by the score of what they make.
    """
    tokens, types = _tokens(file), _token_types(file)
    scores = file.require("tokenizer.ggml.scores", list)
    if len(scores) != len(tokens):
        raise CheckpointError(f"{file.path}: {len(tokens)} tokens but {len(scores)} scores")
    # Control and byte tokens are never the product of text.
    made = (TokenType.NORMAL, TokenType.USER_DEFINED)
    ranked = sorted((i for i, kind in enumerate(types) if kind in made), key=lambda i: (-scores[i], i))
    merges = []
    for token in (tokens[index] for index in ranked):
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [cut for cut in cuts if cut[0] in vocabulary and cut[1] in vocabulary]
        merges.extend(sorted(known, key=lambda cut: (vocabulary[cut[0]], vocabulary[cut[1]])))
    return merges


def _add_tokens(backend: Backend, file: GgufFile):
    """Make the file's control and user-defined tokens be found in the text whole, whatever stands around them."""
    tokens, types = _tokens(file), _token_types(file)
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    user_defined = [token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.USER_DEFINED]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    backend.add_tokens([AddedToken(token, normalized=False) for token in user_defined])
