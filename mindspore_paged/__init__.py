"""PagedAttention runtime for MindSpore: LLaMA as one static graph over a paged KV cache."""

from importlib import import_module

from mindspore_paged.launch import mindspore_import, supervision
from mindspore_paged.launch.worker import is_scheduler

__all__ = ["LLM", "AsyncLLM", "BeamSearchParams", "SamplingParams"]
_MODULES = {
    "AsyncLLM": "mindspore_paged.async_llm",
    "BeamSearchParams": "mindspore_paged.sampling.beam_search_params",
    "LLM": "mindspore_paged.llm",
    "SamplingParams": "mindspore_paged.sampling.sampling_params",
}

# At import, because msrun runs the user's whole script as the scheduler too: that process must become the supervisor
# before the script loads a model, and a worker must be supervised before MindSpore's slow import can fail or hang.
# Without msrun's environment neither does anything.
if is_scheduler():
    from mindspore_paged.launch.supervisor import run_scheduler

    run_scheduler()
supervision.start()
mindspore_import.make_it_quick()


def __getattr__(name):
    # MindSpore takes seconds to import, NumPy a part of one: only those who ask for them pay.
    if name in _MODULES:
        with mindspore_import.collector_paused():
            return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
