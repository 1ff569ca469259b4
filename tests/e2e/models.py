"""LLMs for whole runs, their pages filled with NaN wherever nothing was written."""

import numpy as np
from mindspore import Tensor

from mindspore_paged import LLM
from mindspore_paged.config import config_from_dict


def make_llm(weights="random", name=None, cache=None, scheduler=None, **sections) -> LLM:
    """An LLM from sections of the configuration; random weights are those of the tiny model."""
    model = {"weights": weights, "name": "tiny" if weights == "random" else name}
    config = config_from_dict(
        {"model": model, "cache": cache or {}, "scheduler": scheduler or {}, "runtime": {"debug": True}, **sections}
    )
    llm = LLM(config, show_progress=False)
    poison_pages(llm)
    return llm


def poison_pages(llm: LLM) -> None:
    """Fill every page with NaN: what was not written must not count, not even times zero."""
    pool = llm.engine.runner.kv_pool
    for cache in (*pool.key_caches, *pool.value_caches):
        cache.set_data(Tensor(np.full(cache.shape, np.nan, np.float32), cache.dtype))
