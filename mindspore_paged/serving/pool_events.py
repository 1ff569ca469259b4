"""The pool as it is now, for whoever watches: who holds which page, who runs and waits, as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import chain
from time import perf_counter
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from mindspore_paged.async_llm import AsyncLLM
from mindspore_paged.cache.block_table import NO_BLOCK
from mindspore_paged.cache.event_log import CACHED, FREE, NULL, PINNED, REQUEST, SHARED, WITHHELD, block_owners
from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.replicas.routed_engine import RoutedEngine
from mindspore_paged.engine.requests.sequence import Sequence
from mindspore_paged.serving.errors import try_later
from mindspore_paged.serving.streams import event_stream

SECONDS_BETWEEN = 0.25
"""Between two pictures, at least; and FEWEST_TIMES as long as one takes to make, so that steps hardly wait for it."""

FEWEST_TIMES = 50
MOST_CELLS = 2048
MOST_REQUESTS = 64
MOST_WATCHERS = 32
SILENCE_SECONDS = 15.0
"""After so long without a change a comment is sent: proxies end connections on which nothing comes."""

LONGEST_SLEEP = 0.5
"""How long a watcher may take to see that it is over."""

_BY_IMPORTANCE = (NULL, FREE, WITHHELD, CACHED, PINNED, SHARED)
"""What a cell of several blocks shows is the last of these among them, and a request's before all."""

_IMPORTANCE = np.zeros(len(_BY_IMPORTANCE), np.int32)
_IMPORTANCE[[-code for code in _BY_IMPORTANCE]] = range(len(_BY_IMPORTANCE))


def pool_picture(engine: LLMEngine) -> dict[str, Any]:
    """The pool of an engine between two steps, small whatever its size.

    cells: runs of [cells, code], of blocks_per_cell blocks each; the codes are those of cache/event_log.py, a number
    above 0 a request's. blocks: how many blocks each kind has. requests: those that run, by the number of their blocks;
    num_blocks and num_shared_blocks are those of all of a request's texts, a block counted once.
    """
    scheduler = engine.scheduler
    pool = scheduler.cache.pool
    running = {sequence.row: sequence for sequence in scheduler.running}
    owners = block_owners(scheduler.cache, {row: _number(sequence) for row, sequence in running.items()})
    blocks_per_cell = -(-pool.num_blocks // MOST_CELLS)
    statistics = engine.get_statistics()
    return {
        "num_blocks": pool.num_blocks,
        "block_size": scheduler.cache.block_size,
        "blocks_per_cell": blocks_per_cell,
        "cells": _runs(_cells(owners, blocks_per_cell)),
        "blocks": {
            "free": pool.num_free,
            "cached": pool.num_cached,
            "withheld": pool.num_withheld,
            "used": pool.num_used,
            "shared": int(np.count_nonzero(owners == SHARED)),
            "pinned": int(np.count_nonzero(owners == PINNED)),
        },
        "requests": _requests(engine, owners),
        "counts": {
            name: statistics[name]
            for name in (
                *("num_running", "num_waiting", "num_preemptions", "num_steps", "num_output_tokens"),
                *("num_prefix_query_tokens", "num_prefix_hit_tokens"),
            )
        },
    }


class PoolEvents:
    """Pictures of the pool for any number of watchers, made only while somebody watches, and once for all of them.

    names: of the engine's requests, the ids of the HTTP requests that they are part of, which pictures tell too.
    """

    def __init__(self, llm: AsyncLLM, names: Mapping[str, str] | None = None, seconds_between: float = SECONDS_BETWEEN):
        self._llm = llm
        self._names = {} if names is None else names
        self._seconds_between = seconds_between
        self._lock = asyncio.Lock()
        self._due = 0.0
        self._picture = ""
        self._num_watchers = 0

    async def events(self, is_over: Callable[[], bool] = lambda: False) -> AsyncIterator[str]:
        """The pool now, and each time that it has changed: events of a JSON list of `pool_picture`, one a replica.

        is_over: asked between two pictures; when it says so, there are no more. Raises ApiError where MOST_WATCHERS
        watch already, and what ended the engine.
        """
        if self._num_watchers >= MOST_WATCHERS:
            raise try_later(429, f"{MOST_WATCHERS} clients watch the pool already; try again", "too_many_watchers")
        self._num_watchers += 1
        try:
            shown, spoken = None, 0.0
            while not is_over():
                picture, now = await self._newest(), perf_counter()
                if picture is not shown:
                    yield f"data: {picture}\n\n"
                    shown, spoken = picture, now
                elif now - spoken > SILENCE_SECONDS:
                    yield ": nothing changed\n\n"
                    spoken = now
                await asyncio.sleep(min(LONGEST_SLEEP, max(0.0, self._due - perf_counter())))
        finally:
            self._num_watchers -= 1

    async def _newest(self) -> str:
        async with self._lock:
            if perf_counter() >= self._due:
                pictures, seconds = await self._llm.call(_timed_pictures)
                for request in chain.from_iterable(picture["requests"] for picture in pictures):
                    request["http_request_id"] = self._names.get(request["id"])
                text = json.dumps(pictures, separators=(",", ":"))
                self._picture = self._picture if text == self._picture else text
                self._due = perf_counter() + max(self._seconds_between, FEWEST_TIMES * seconds)
            return self._picture


def pool_router(llm: AsyncLLM, names: Mapping[str, str], is_over: Callable[[], bool]) -> APIRouter:
    """The route `/pool/events`, whose streams end when `is_over` says so; names: see `PoolEvents`."""
    router, pool = APIRouter(include_in_schema=False), PoolEvents(llm, names)

    @router.get("/pool/events")
    async def get_events(http: Request) -> Response:
        return await event_stream(http, pool.events(is_over), {}, last="")

    return router


def _timed_pictures(engine: LLMEngine | RoutedEngine) -> tuple[list[dict[str, Any]], float]:
    """The pictures of all replicas, and the seconds that steps waited for them."""
    started = perf_counter()
    pictures = engine.on_every_replica(pool_picture) if isinstance(engine, RoutedEngine) else [pool_picture(engine)]
    return pictures, perf_counter() - started


def _number(sequence: Sequence) -> int:
    return sequence.request.arrival + 1


def _cells(owners: np.ndarray, blocks_per_cell: int) -> np.ndarray:
    """One code for each `blocks_per_cell` blocks: int32 [cells]."""
    if blocks_per_cell == 1:
        return owners
    importance = np.where(owners >= REQUEST, owners + len(_BY_IMPORTANCE), _IMPORTANCE[np.maximum(-owners, 0)])
    highest = np.maximum.reduceat(importance, np.arange(0, len(owners), blocks_per_cell))
    codes = np.array(_BY_IMPORTANCE, np.int32)[np.minimum(highest, len(_BY_IMPORTANCE) - 1)]
    return np.where(highest >= len(_BY_IMPORTANCE), highest - len(_BY_IMPORTANCE), codes)


def _runs(cells: np.ndarray) -> list[list[int]]:
    """Neighbours of one code as [cells, code]."""
    starts = np.flatnonzero(np.diff(cells, prepend=cells[0] - 1))
    lengths = np.diff(starts, append=len(cells))
    return np.stack([lengths, cells[starts]], axis=1).tolist()


def _requests(engine: LLMEngine, owners: np.ndarray) -> list[dict[str, Any]]:
    """The requests that run, those that hold most first, MOST_REQUESTS at most."""
    table = engine.scheduler.cache.table.block_tables
    by_request: dict[int, list[Sequence]] = {}
    for sequence in engine.scheduler.running:
        by_request.setdefault(_number(sequence), []).append(sequence)
    described = []
    for number, sequences in by_request.items():
        request = sequences[0].request
        rows = table[[sequence.row for sequence in sequences]]
        held = np.unique(rows[rows != NO_BLOCK])
        described.append(
            {
                "number": number,
                "id": request.request_id,
                "num_prompt_tokens": len(request.prompt_token_ids),
                "num_cached_tokens": request.num_cached_tokens,
                "num_output_tokens": sum(sequence.num_output_tokens for sequence in request.sequences),
                "num_blocks": len(held),
                "num_shared_blocks": int(np.isin(owners[held], (SHARED, PINNED)).sum()),
            }
        )
    described.sort(key=lambda request: (-request["num_blocks"], request["number"]))
    return described[:MOST_REQUESTS]
