"""PagedAttention runtime for MindSpore: LLaMA as one static graph over a paged KV cache."""

from importlib import import_module

from mindspore_paged.launch import supervision
from mindspore_paged.launch.worker import is_scheduler
from mindspore_paged.sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams"]

# At import, because msrun runs the user's whole script as the scheduler too: that process must become the supervisor
# before the script loads a model, and a worker must be supervised before MindSpore's slow import can fail or hang.
# Without msrun's environment neither does anything.
if is_scheduler():
    from mindspore_paged.launch.supervisor import run_scheduler

    run_scheduler()
supervision.start()


def __getattr__(name):
    # MindSpore takes seconds to import: only those who ask for LLM pay.
    if name == "LLM":
        return import_module("mindspore_paged.llm").LLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
