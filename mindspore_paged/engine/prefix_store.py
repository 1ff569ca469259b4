"""Prefixes as things of their own: computed ahead and pinned, exported from one engine, imported into another."""

from pathlib import Path

from mindspore_paged.bounded_file import read_bounded
from mindspore_paged.cache.block_pool import NULL_BLOCK, extend_block_hashes
from mindspore_paged.cache.page_format import PageFormat
from mindspore_paged.cache.prefix_format import PrefixFormat
from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.requests.request_check import check_prompt, token_ids_of
from mindspore_paged.errors import CheckpointError, OutOfBlocksError, RequestError
from mindspore_paged.files import write_bytes
from mindspore_paged.sampling.sampling_params import SamplingParams


def pin_prefix(engine: LLMEngine, prompt: str | list[int]) -> int:
    """Compute a prompt's pages, if need be, and keep them for as long as the engine lives; returns the tokens kept.

    Only full blocks can be kept. The engine must be idle; raises RequestError if it is not, for a bad prompt, or
    where the longest sequence would no longer fit beside what is pinned.
    """
    blocks, _ = _computed_blocks(engine, prompt)
    cache = engine.scheduler.cache
    longest = engine.scheduler.most_blocks_per_seq
    num_blocks, num_pinned = cache.pool.num_blocks - 1, len({*cache.pool.pinned_blocks(), *blocks})
    if num_blocks - num_pinned < longest:
        raise RequestError(
            f"{num_pinned} of {num_blocks} blocks would be pinned; a sequence of max_model_len needs "
            f"{longest} beside them: enlarge the pool, or lower scheduler.max_model_len"
        )
    cache.pool.pin(blocks)
    return len(blocks) * cache.block_size


def export_prefix(engine: LLMEngine, prompt: str | list[int], path: str | Path | None = None) -> bytes:
    """The pages of a prompt's full blocks as bytes, also written to `path`: a zip file, each page with its checksum.

    With cache.page_key each page is sealed with the key.

    Raises RequestError as `pin_prefix` does, OSError if `path` cannot be written.
    """
    blocks, token_ids = _computed_blocks(engine, prompt)
    data = _format_of(engine).encode(token_ids, engine.runner.read_pages(blocks))
    if path is not None:
        write_bytes(path, data)
    return data


def import_prefix(engine: LLMEngine, source: bytes | str | Path) -> int:
    """Put an exported prefix into this engine's prefix cache; returns its tokens.

    Raises CheckpointError, and changes nothing, for a damaged file, for one of another model, block size or page type,
    for pages that are not made of finite numbers, and with cache.page_key for pages that the key did not seal;
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
    token_ids = token_ids_of(prompt, engine.tokenizer, engine.limits)
    check_prompt(token_ids, engine.limits)
    engine.add_request(engine.make_request(token_ids, SamplingParams(max_tokens=1)), is_computed=True)
    while engine.has_unfinished:
        for answer in engine.step().finished:
            if answer.error:
                raise RequestError(f"the prefix could not be computed: {answer.error}")
    hashes = _hashes(engine, token_ids)
    blocks = engine.scheduler.cache.pool.match_prefix(hashes)
    if len(blocks) < len(hashes):
        raise RequestError(
            f"the prefix could not be kept: the pool has room for {len(blocks)} of its {len(hashes)} pages"
        )
    return blocks, token_ids


def _hashes(engine: LLMEngine, token_ids: list[int]) -> list[bytes]:
    hashes: list[bytes] = []
    extend_block_hashes(hashes, token_ids, engine.scheduler.cache.block_size)
    return hashes


def _check_prefix_caching(engine: LLMEngine) -> None:
    if not engine.scheduler.cache.enable_prefix_caching:
        raise RequestError("cache.enable_prefix_caching is false: no prefix can be kept, exported or imported")


def _format_of(engine: LLMEngine) -> PrefixFormat:
    """What a prefix of this engine must be; a page of the pool says itself of which form pages are."""
    (page,) = engine.runner.read_pages([NULL_BLOCK])
    page_format = PageFormat.of(page, engine.model_fingerprint, engine.page_key)
    return PrefixFormat(page_format, engine.scheduler.cache.block_size, engine.limits.max_model_len)


def _read_archive(engine: LLMEngine, source: bytes | str | Path):
    """The names and pages of an exported prefix, checked; raises CheckpointError."""
    origin = "the prefix" if isinstance(source, bytes) else str(source)
    prefix_format = _format_of(engine)
    try:
        data = source if isinstance(source, bytes) else read_bounded(source, prefix_format.most_bytes)
    except (OSError, ValueError) as error:  # a ValueError is of a path with a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{origin}: cannot read the prefix: {reason}") from None
    token_ids, hashes, pages = prefix_format.decode(data, origin)
    try:
        check_prompt(token_ids, engine.limits)
    except RequestError as error:
        raise CheckpointError(f"{origin}: no prefix of this model: {error}") from None
    return hashes, pages
