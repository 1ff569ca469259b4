"""LLMs for whole runs, their pages filled with NaN wherever nothing was written."""

from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
from mindspore import Tensor

from mindspore_paged import LLM
from mindspore_paged.config import EngineConfig, config_from_dict
from mindspore_paged.engine.building import builder
from mindspore_paged.engine.execution.kv_pool import KVPagePool
from mindspore_paged.engine.execution.runner_with_draft import RunnerWithDraft


def make_llm(weights="random", name=None, cache=None, scheduler=None, **sections) -> LLM:
    """An LLM from sections of the configuration; random weights are those of the tiny model."""
    llm = LLM(_config(weights, name, cache, scheduler, sections), show_progress=False)
    runner = llm.engine.runner
    for each in (runner.runner, runner.draft) if isinstance(runner, RunnerWithDraft) else (runner,):
        poison_pages(each.kv_pool)
    return llm


def make_llm_over(other: LLM, cache=None, scheduler=None, **sections) -> LLM:
    """Another LLM over the model, pages and graphs of `other`, which is not to be used again: nothing is compiled.

    The pool and the rows must have the shape that `other` gave them; the rest of the configuration is free.
    """
    runner, model = other.engine.runner, other.config.model
    poison_pages(runner.kv_pool)
    runner.kv_pool.block_table.set_data(Tensor(np.zeros(runner.kv_pool.block_table.shape, np.int32)))
    with patch.multiple(
        builder,
        build_kv_pool=lambda *arguments: runner.kv_pool,
        build_model=lambda *arguments: runner.model,
        load_weights=lambda *arguments: nullcontext(),
        ModelRunner=lambda *arguments: runner,
    ):
        return LLM(_config(model.weights, model.name, cache, scheduler, sections), show_progress=False)


def _config(weights, name, cache, scheduler, sections) -> EngineConfig:
    runtime = sections.pop("runtime", {})
    model = {"weights": weights, "name": "tiny" if weights == "random" else name, **sections.pop("model", {})}
    return config_from_dict(
        {
            "model": model,
            "cache": cache or {},
            "scheduler": scheduler or {},
            "runtime": {"debug": True} | runtime,
            **sections,
        }
    )


def poison_pages(pool: KVPagePool) -> None:
    """Fill every page with NaN: what was not written must not count, not even times zero."""
    for cache in (*pool.key_caches, *pool.value_caches):
        # Scales of int8 pages are NaN if all their bits are set.
        nothing = (
            np.full(cache.shape, -1, np.int8) if pool.dtype == "int8" else np.full(cache.shape, np.nan, np.float32)
        )
        cache.set_data(Tensor(nothing, cache.dtype))
