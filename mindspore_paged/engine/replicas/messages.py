"""What goes over the connection between the routing process and a replica; None from the router ends the replica.

Messages are pickled, functions among them by their names: both ends run one program, and a connection counts only
after each has proved that it knows the key which the job's supervisor handed on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mindspore_paged.engine.requests.outputs import RequestOutput, SequenceUpdate
from mindspore_paged.errors import PagedError
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.sampling_params import SamplingParams


@dataclass(frozen=True)
class Add:
    """To a replica: a checked request. waited: seconds that passed since the user made it."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams | BeamSearchParams
    priority: int
    request_class: str | None
    cache_salt: str | None
    pooling: str | None
    lora_adapter: str | None
    waited: float


@dataclass(frozen=True)
class Call:
    """To a replica: do `function(engine, *arguments)` between two steps, and reply under this number."""

    number: int
    function: Callable[..., Any]
    arguments: tuple


@dataclass(frozen=True)
class Reply:
    """From a replica: what call `number` returned, or the error that it raised."""

    number: int
    result: Any
    error: PagedError | None = None


@dataclass(frozen=True)
class Stepped:
    """From a replica: what a step brought. Prompts are left out of the answers; the router has them."""

    updates: list[SequenceUpdate]
    finished: list[RequestOutput]


@dataclass(frozen=True)
class Failed:
    """From a replica, its last word: why it cannot go on."""

    reason: str
