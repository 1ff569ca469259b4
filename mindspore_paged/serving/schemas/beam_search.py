"""How bodies ask for a beam search: vLLM's use_beam_search, beside OpenAI's n and best_of."""

from typing import Any, Protocol

from mindspore_paged.sampling.beam_search_params import BeamSearchParams, beam_search_params, defaults_for_beams
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.serving.errors import bad_request

_NEUTRAL = {"best_of": 1, "length_penalty": 1.0, "early_stopping": False}
"""Keys that need a beam search, with the values that ask for nothing."""


class BeamSearchKeys(Protocol):
    """The keys of a body that say whether there is a search, and how it goes; None for those that are not there."""

    use_beam_search: bool | None
    n: int | None
    best_of: int | None
    length_penalty: float | None
    early_stopping: bool | str | None
    stream: bool | None


def check_sampled(body: BeamSearchKeys) -> None:
    """Raise ApiError where a body without use_beam_search asks for what only a beam search has."""
    for key, neutral in _NEUTRAL.items():
        if getattr(body, key) not in (None, neutral):
            raise bad_request(f"{key} needs use_beam_search to be true", key)


def beam_search_of(body: BeamSearchKeys, given: dict[str, Any], defaults: SamplingParams) -> BeamSearchParams:
    """The beam search that a body asks for: best_of beams, or n where that is not there, of which n are told.

    given: what it says of sampling, under the names of SamplingParams. defaults: the configuration's `sampling`.
    Raises RequestError for a sampling key that would be without effect, ApiError for a stream: answers are known at the
    search's end only.
    """
    if body.stream:
        raise bad_request("use_beam_search has its answers at its end alone; it cannot be streamed", "stream")
    n = body.n or 1
    beam_width = body.best_of or n
    if beam_width < n:
        raise bad_request(f"best_of is {beam_width}; it must be at least n ({n})", "best_of")
    keys = {key: getattr(body, key) for key in ("length_penalty", "early_stopping") if getattr(body, key) is not None}
    sampling = {key: value for key, value in given.items() if key != "n"}
    return beam_search_params(defaults_for_beams(defaults, **sampling), beam_width, n=n, **keys)
