"""SentencePiece's tokenizer.model: checked, and freed of what is not needed, before anything works with it."""

from pathlib import Path

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.hf_files import read_bytes

MOST_BYTES = 64 * 2**20
MOST_PIECES = 2**20
LONGEST_PIECE = 512


def checked_sentencepiece(path: Path) -> bytes:
    """The bytes of a sound model with the pieces of the file at `path`; raises CheckpointError where there is none.

    The tables of its own normalizer are left out: LLaMA's tokenizers have another, and nothing checks such tables.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    content = read_bytes(path, MOST_BYTES)
    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {_other_kind(content)}") from error
    if not 3 <= len(model.pieces) <= MOST_PIECES:
        raise CheckpointError(f"{path}: has {len(model.pieces)} tokens; allowed: 3 to {MOST_PIECES}")
    longest = max(len(piece.piece) for piece in model.pieces)
    if longest > LONGEST_PIECE:
        raise CheckpointError(f"{path}: has a token of {longest} characters; allowed: {LONGEST_PIECE}")
    model.normalizer_spec.precompiled_charsmap = b""
    model.denormalizer_spec.Clear()
    return model.SerializeToString()


def _other_kind(content: bytes) -> str:
    first_line = content[:200].split(b"\n")[0].split(b" ")
    if len(first_line) == 2 and first_line[1].strip().isdigit():
        return "a tiktoken vocabulary, which does not say its special tokens; take the folder with tokenizer.json"
    return "not a SentencePiece model"
