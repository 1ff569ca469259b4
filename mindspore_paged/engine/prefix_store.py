"""Prefixes as things of their own: computed ahead and pinned, exported from one engine, imported into another."""

import io
import json
import zipfile
from pathlib import Path

from mindspore_paged.cache.block_pool import extend_block_hashes
from mindspore_paged.cache.page_format import (
    DamagedPageError,
    ForeignPageError,
    decode_page,
    encode_page,
    page_checksum,
)
from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.request_check import check_prompt, token_ids_of
from mindspore_paged.errors import CheckpointError, OutOfBlocksError, RequestError
from mindspore_paged.sampling_params import SamplingParams

_MANIFEST = "manifest.json"
_FORMAT = "mindspore_paged prefix"
_VERSION = 1
_DAMAGED = (
    *(zipfile.BadZipFile, EOFError, RuntimeError),  # of zipfile; a RuntimeError says encrypted, or too new
    *(KeyError, TypeError, ValueError, RequestError),  # of a manifest that is not ours
    *(DamagedPageError, ForeignPageError),
)


def pin_prefix(engine: LLMEngine, prompt: str | list[int]) -> int:
    """Compute a prompt's pages, if need be, and keep them for as long as the engine lives; returns the tokens kept.

    Only full blocks can be kept. The engine must be idle; raises RequestError if it is not, for a bad prompt, or
    where the longest sequence would no longer fit beside what is pinned.
    """
    blocks, _ = _computed_blocks(engine, prompt)
    cache = engine.scheduler.cache
    num_blocks, num_pinned = cache.pool.num_blocks - 1, len({*cache.pool.pinned_blocks(), *blocks})
    if num_blocks - num_pinned < cache.table.max_blocks_per_seq:
        raise RequestError(
            f"{num_pinned} of {num_blocks} blocks would be pinned; a sequence of max_model_len needs "
            f"{cache.table.max_blocks_per_seq} beside them: enlarge the pool, or lower scheduler.max_model_len"
        )
    cache.pool.pin(blocks)
    return len(blocks) * cache.block_size


def export_prefix(engine: LLMEngine, prompt: str | list[int], path: str | Path | None = None) -> bytes:
    """The pages of a prompt's full blocks as bytes, also written to `path`: a zip file, each page with its checksum.

    Raises RequestError as `pin_prefix` does, OSError if `path` cannot be written.
    """
    blocks, token_ids = _computed_blocks(engine, prompt)
    hashes = _hashes(engine, token_ids)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(_MANIFEST, json.dumps(_manifest(engine, token_ids)))
        for index, (name, page) in enumerate(zip(hashes, engine.runner.read_pages(blocks), strict=True)):
            data = encode_page(page, page_checksum(name, page), engine.model_fingerprint)
            archive.writestr(_member(index), data)
    if path is not None:
        Path(path).write_bytes(buffer.getvalue())
    return buffer.getvalue()


def import_prefix(engine: LLMEngine, source: bytes | str | Path) -> int:
    """Put an exported prefix into this engine's prefix cache; returns its tokens.

    Raises CheckpointError, and changes nothing, for a damaged file, or one of another model, block size or page type;
    OutOfBlocksError if the pool has no room for it now; RequestError without a prefix cache.
    """
    _check_prefix_caching(engine)
    hashes, pages = _read_archive(engine, source)
    pool = engine.scheduler.cache.pool
    known = pool.match_prefix(hashes)
    pool.retain(known)
    try:
        fresh = pool.allocate(len(hashes) - len(known))
    except OutOfBlocksError:
        pool.release(known)
        raise
    try:
        engine.mover.transfer()  # what was evicted for it is saved first
        if fresh:
            engine.runner.write_pages(fresh, pages[len(known) :])
        for block_id, name in zip(fresh, hashes[len(known) :], strict=True):
            pool.register(block_id, name)
    finally:
        pool.release(known + fresh)
    return len(hashes) * engine.scheduler.cache.block_size


def _computed_blocks(engine: LLMEngine, prompt: str | list[int]) -> tuple[list[int], list[int]]:
    """The blocks of the prompt's full blocks, after a run of it; and its tokens."""
    _check_prefix_caching(engine)
    if engine.has_unfinished:
        raise RequestError("a prefix can be computed only while no request is under way")
    token_ids = token_ids_of(prompt, engine.tokenizer)
    check_prompt(token_ids, engine.limits)
    engine.add_request(engine.make_request(token_ids, SamplingParams(max_tokens=1)))
    while engine.has_unfinished:
        for answer in engine.step().finished:
            if answer.error:
                raise RequestError(f"the prefix could not be computed: {answer.error}")
    return engine.scheduler.cache.pool.match_prefix(_hashes(engine, token_ids)), token_ids


def _hashes(engine: LLMEngine, token_ids: list[int]) -> list[bytes]:
    hashes: list[bytes] = []
    extend_block_hashes(hashes, token_ids, engine.scheduler.cache.block_size)
    return hashes


def _manifest(engine: LLMEngine, token_ids: list[int]) -> dict:
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "model_fingerprint": engine.model_fingerprint,
        "block_size": engine.scheduler.cache.block_size,
        "token_ids": token_ids,
    }


def _member(index: int) -> str:
    return f"{index:06}.safetensors"


def _check_prefix_caching(engine: LLMEngine) -> None:
    if not engine.scheduler.cache.enable_prefix_caching:
        raise RequestError("cache.enable_prefix_caching is false: no prefix can be kept, exported or imported")


def _read_archive(engine: LLMEngine, source: bytes | str | Path):
    name = "the prefix" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{name}: cannot read the prefix: {error.strerror}") from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            manifest = json.loads(_read_member(archive, _MANIFEST))
            check_prompt(manifest["token_ids"], engine.limits)
            for key, value in _manifest(engine, manifest["token_ids"]).items():
                if manifest[key] != value:
                    raise CheckpointError(f"{name}: {key} is {manifest[key]!r}, this engine needs {value!r}")
            hashes = _hashes(engine, manifest["token_ids"])
            pages = [
                decode_page(_read_member(archive, _member(index)), block_hash, engine.model_fingerprint)[0]
                for index, block_hash in enumerate(hashes)
            ]
    except _DAMAGED as error:
        raise CheckpointError(f"{name}: no prefix of this model, or damaged: {error}") from None
    return hashes, pages


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # what we write; a decoder would fail in its own way
        raise zipfile.BadZipFile(f"{name} is compressed")
    return archive.read(name)
