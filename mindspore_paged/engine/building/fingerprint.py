"""Which model an engine runs, as a text: only engines of equal ones can exchange pages."""

import math
from hashlib import sha256

from mindspore_paged.engine.building.plan import Plan
from mindspore_paged.engine.execution.step import Step
from mindspore_paged.tensor_parallel import WHOLE

MOST_OF_A_ROW = 1024
"""Numbers of each weight that model_fingerprint takes."""


def model_fingerprint(plan: Plan, model: Step) -> str:
    """A text that differs between models, weights, and types of pages: only equal ones can exchange pages.

    Of each weight the beginning of the first row counts, of which the first of any number of ranks has as much: whole
    pages are the same however many share the model. A model that was trained further differs there too.
    """
    model_config = plan.model.for_length(plan.max_model_len)
    digest = sha256(repr((model_config, plan.dtype, plan.kv_cache_dtype, plan.block_size)).encode())
    most_ranks = math.gcd(model_config.num_attention_heads, model_config.intermediate_size)
    cuts = WHOLE.cuts(model_config)
    on_host = plan.backend.device == "CPU"
    for name, place in sorted(model.weight_places().items()):
        cut = cuts.of(name)
        is_cut = cut is not None and cut.axis == len(place.stored_shape) - 1
        num_common = cut.length // most_ranks if is_cut else place.stored_shape[-1]
        digest.update(name.encode() + place.beginning(min(num_common, MOST_OF_A_ROW), on_host))
    return digest.hexdigest()
