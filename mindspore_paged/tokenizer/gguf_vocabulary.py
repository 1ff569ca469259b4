"""Tokenizers built from the vocabulary that a GGUF file carries."""

from enum import IntEnum

import numpy as np
from pydantic import Field
from tokenizers import AddedToken, decoders, normalizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.gguf_file import SENTENCEPIECE, TOKENIZER, TOKENS, GgufFile
from mindspore_paged.formats.gguf_metadata import GgufSection
from mindspore_paged.tokenizer.end_of_turn import END_TEXTS
from mindspore_paged.tokenizer.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from mindspore_paged.wording import one_line, shortened

BYTE_LEVEL = "gpt2"
PRE = "tokenizer.ggml.pre"
LONGEST_SHOWN = 40
WITHOUT_VOCABULARY = (None, "none", "no_vocab")
SPACE = "\u2581"
"""The lower block that stands for a space in SentencePiece's vocabularies."""
_WITHOUT_BLANKS = ("<unk>", "<s>", "<|endoftext|>")
"""The control tokens of Phi 3 that leave the blanks behind them alone (as in llama-vocab.cpp)."""
LONGEST_TOKEN = 1024
"""Characters; the longest that are published are runs of 256 spaces or dashes."""


class TokenType(IntEnum):
    """What `tokenizer.ggml.token_type` says of a token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class _Kind(GgufSection):
    model: str | None = Field(None, alias=TOKENIZER)
    pre: str = Field("default", alias=PRE)
    adds_bos: bool | None = Field(None, alias="tokenizer.ggml.add_bos_token")
    adds_eos: bool = Field(False, alias="tokenizer.ggml.add_eos_token")
    adds_space: bool = Field(True, alias="tokenizer.ggml.add_space_prefix")


class _Vocabulary(GgufSection):
    tokens: list[str] = Field(alias=TOKENS)
    types: list[int] | None = Field(None, alias="tokenizer.ggml.token_type")


class _Merges(GgufSection):
    merges: list[str] = Field(alias="tokenizer.ggml.merges")


class _Scores(GgufSection):
    scores: list[float] = Field(alias="tokenizer.ggml.scores")


def gguf_backend(file: GgufFile) -> Backend | None:
    """The tokenizer in `file`, or None where it carries none.

    It adds neither BOS nor EOS to what it encodes.
    Raises CheckpointError for a kind of vocabulary or of pre-tokenizer that is not supported, and for tokens, merges or
    scores that contradict each other.
    """
    kind = file.metadata.section(_Kind)
    if kind.model in WITHOUT_VOCABULARY:
        return None
    if kind.model not in (BYTE_LEVEL, SENTENCEPIECE):
        raise CheckpointError(
            f"{file.path}: {TOKENIZER} is {shortened(kind.model)}; allowed: {BYTE_LEVEL!r}, {SENTENCEPIECE!r}"
        )
    tokens, types = _tokens_and_types(file)
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    try:
        if kind.model == BYTE_LEVEL:
            backend = _byte_level(file, ids, _pre_tokenizer(file, kind))
        else:
            merges = _merges_by_score(file, tokens, types, ids)
            backend = _sentencepiece(ids, merges, tokens[file.special_token_ids.get("unknown", 0)], kind.adds_space)
        _add_tokens(backend, tokens, types, takes_blanks=_is_phi3(file, kind))
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises nothing narrower
        raise CheckpointError(
            f"{file.path}: no tokenizer can be made of this vocabulary ({one_line(error)})"
        ) from error
    return backend


def gguf_sequence_ends(file: GgufFile) -> dict[str, int]:
    """The ids of the tokens put before (`bos`) and after (`eos`) an encoded text, as the file's own flags say.

    Where a flag is absent, vocabularies of LLaMA 1, 2 and 3 start with BOS if they have one, as do some more kinds, and
    others do not, as in llama.cpp. Raises CheckpointError for a flag that asks for a token that is not named.
    """
    kind = file.metadata.section(_Kind)
    by_default = kind.model == SENTENCEPIECE or _pre_tokenizer(file, kind).starts_with_bos
    flags = {"bos": kind.adds_bos, "eos": kind.adds_eos}
    ids = file.special_token_ids
    for name, flag in flags.items():
        if flag and name not in ids:
            raise CheckpointError(f"{file.path}: the GGUF metadata lacks tokenizer.ggml.{name}_token_id")
    added = {"bos": by_default if kind.adds_bos is None else kind.adds_bos, "eos": kind.adds_eos}
    return {name: ids[name] for name, is_added in added.items() if is_added and name in ids}


def _pre_tokenizer(file: GgufFile, kind: _Kind) -> PreTokenizer:
    name = kind.pre or "default"
    if name not in PRE_TOKENIZERS:
        begin = name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}..."  # the allowed ones are many
        raise CheckpointError(f"{file.path}: {PRE} is {shortened(begin)}; allowed: {', '.join(PRE_TOKENIZERS)}")
    return PRE_TOKENIZERS[name]


def _tokens_and_types(file: GgufFile) -> tuple[list[str], list[int]]:
    vocabulary = file.metadata.section(_Vocabulary)
    # An empty text is nowhere in a text; as in llama.cpp it gets another, so that ids keep their places.
    tokens, types = vocabulary.tokens, vocabulary.types
    if "" in tokens:
        tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]
    if not tokens:
        raise CheckpointError(f"{file.path}: {TOKENS} is empty")
    if types is None:
        types = [TokenType.NORMAL] * len(tokens)
    elif len(types) != len(tokens):
        raise CheckpointError(f"{file.path}: {len(tokens)} tokens but {len(types)} token types")
    if max(map(len, tokens)) > LONGEST_TOKEN:
        longest = max(tokens, key=len)
        raise CheckpointError(
            f"{file.path}: token {shortened(longest)} has {len(longest)} characters; allowed: {LONGEST_TOKEN}"
        )
    if len(set(tokens)) < len(tokens):
        ids: dict[str, int] = {}
        for index, token in enumerate(tokens):
            if ids.setdefault(token, index) != index:
                raise CheckpointError(f"{file.path}: tokens {ids[token]} and {index} are both {shortened(token)}")
    types = list(types)
    for index in map(tokens.index, END_TEXTS.intersection(tokens)):
        types[index] = TokenType.CONTROL  # some converters give the end of a turn another type
    return tokens, types


def _byte_level(file: GgufFile, ids: dict[str, int], pre_tokenizer: PreTokenizer) -> Backend:
    """Byte-level BPE as in GPT-2."""
    lines = file.metadata.section(_Merges).merges
    try:
        merges = [tuple(line.split(" ", 1)) for line in lines]
        backend = Backend(BPE(ids, merges, ignore_merges=pre_tokenizer.takes_whole_words))
    except Exception:  # tokenizers raises nothing narrower, and does not say which merge it is
        _check_merges(file, lines, ids)
        raise
    if pre_tokenizer.composes:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizer.build()
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(ids: dict[str, int], merges: list[tuple[str, str]], unknown: str, adds_space: bool) -> Backend:
    """SentencePiece's BPE with byte fallback, as LLaMA 1 and 2 have it."""
    backend = Backend(BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    to_blocks, to_spaces = normalizers.Replace(" ", SPACE), decoders.Replace(SPACE, " ")
    bytes_to_text = [to_spaces, decoders.ByteFallback(), decoders.Fuse()]
    if adds_space:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), to_blocks])
        backend.decoder = decoders.Sequence([*bytes_to_text, decoders.Strip(content=" ", left=1)])
    else:
        backend.normalizer = to_blocks
        backend.decoder = decoders.Sequence(bytes_to_text)
    return backend


def _check_merges(file: GgufFile, lines: list[str], ids: dict[str, int]) -> None:
    """Raise CheckpointError that names the first merge of or to a token that is not there."""
    for line in lines:
        left, _, right = line.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            raise CheckpointError(
                f"{file.path}: merge {shortened(line)} joins or makes a token that the vocabulary lacks"
            )


def _merges_by_score(file: GgufFile, tokens: list[str], types: list[int], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Merge rules that reproduce SentencePiece, which joins the neighbours whose union scores highest.

    Every way to cut a token into two tokens is a rule; rules are ranked by the score of what they make.
    """
    scores = file.metadata.section(_Scores).scores
    if len(scores) != len(tokens):
        raise CheckpointError(f"{file.path}: {len(tokens)} tokens but {len(scores)} scores")
    if any(score != score for score in scores):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.scores holds what is no number (NaN)")
    # Control and byte tokens are never the product of text.
    made = (TokenType.NORMAL, TokenType.USER_DEFINED)
    ranked = sorted((i for i, kind in enumerate(types) if kind in made), key=lambda i: (-scores[i], i))
    merges = []
    for token in (tokens[index] for index in ranked):
        known = [(token[:at], token[at:]) for at in range(1, len(token)) if token[:at] in ids and token[at:] in ids]
        if len(known) > 1:
            known.sort(key=lambda cut: (ids[cut[0]], ids[cut[1]]))
        merges += known
    return merges


def _is_phi3(file: GgufFile, kind: _Kind) -> bool:
    return kind.model == SENTENCEPIECE and file.metadata.get("general.architecture") == "phi3"


def _add_tokens(backend: Backend, tokens: list[str], types: list[int], takes_blanks: bool) -> None:
    """Make control and user-defined tokens be found in the text whole, whatever stands around them.

    takes_blanks: what is blank behind one belongs to it, as in Phi 3's tokenizer.json; a GGUF file does not say so.
    """
    of_kind = {TokenType.CONTROL: [], TokenType.USER_DEFINED: []}
    kinds = np.array(types)
    for kind, added in of_kind.items():
        for token in (tokens[index] for index in np.flatnonzero(kinds == kind).tolist()):
            rstrip = takes_blanks and token not in _WITHOUT_BLANKS
            added.append(AddedToken(token, normalized=False, rstrip=rstrip))
    backend.add_special_tokens(of_kind[TokenType.CONTROL])
    backend.add_tokens(of_kind[TokenType.USER_DEFINED])
