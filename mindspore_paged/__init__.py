"""PagedAttention runtime for MindSpore: LLaMA as one static graph over a paged KV cache."""

from importlib import import_module

from mindspore_paged.sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams"]


def __getattr__(name):
    # MindSpore takes seconds to import: only those who ask for LLM pay.
    if name == "LLM":
        return import_module("mindspore_paged.llm").LLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
