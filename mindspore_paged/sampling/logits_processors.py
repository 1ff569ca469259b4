"""Functions of a user's own that change logits before a token is chosen; names and signatures as in vLLM."""

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mindspore_paged.errors import RequestError, StepError
from mindspore_paged.wording import one_line, shortened

MAX_PROCESSORS = 16
MAX_PATH = 256
"""Characters."""

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*([.:][^\W\d]\w*(\.[^\W\d]\w*)*)")

GivenProcessor = str | Callable[..., np.ndarray]
"""A function, or where it is imported from: `module:name` or `module.name`."""


@dataclass(frozen=True)
class LogitsProcessor:
    """A function that may change the logits of a sequence before each token.

    function: of (output_token_ids, logits), or of (prompt_token_ids, output_token_ids, logits): lists of ints, and
    float32 [vocab_size], which it may change in place and returns, or another array of that kind.
    takes_prompt: which of both. name: as it was asked for.
    """

    function: Callable[..., np.ndarray]
    takes_prompt: bool
    name: str

    def apply(self, prompt: Sequence[int], output: Sequence[int], scores: np.ndarray) -> None:
        """Change scores, float32 [vocab_size], in place; raises StepError for a function that fails or gives others."""
        texts = (list(prompt), list(output)) if self.takes_prompt else (list(output),)
        try:
            changed = self.function(*texts, scores)
        except Exception as error:  # noqa: BLE001 - whatever it raises ends its own request alone
            raise StepError(
                f"logits_processors: {self.name} failed: {type(error).__name__}: {one_line(error)}"
            ) from None
        is_like = isinstance(changed, np.ndarray) and changed.dtype == np.float32 and changed.shape == scores.shape
        if not is_like:
            given = f"{changed.dtype} {list(changed.shape)}" if isinstance(changed, np.ndarray) else shortened(changed)
            raise StepError(
                f"logits_processors: {self.name} returned {given}; it must be float32 {list(scores.shape)} of NumPy"
            )
        if changed is not scores:
            scores[:] = changed  # what it keeps for itself is not edited further
        peak = scores.max()
        if np.isnan(peak) or peak == np.inf:
            raise StepError(f"logits_processors: {self.name} returned {peak}; logits must be finite, or -inf")


def checked_processors(given: Any) -> tuple[GivenProcessor, ...]:
    """What a request names, as a tuple; raises RequestError for what is no function and no path of one.

    Nothing is imported here.
    """
    if isinstance(given, str) or callable(given):
        given = (given,)
    if not isinstance(given, list | tuple):
        raise RequestError(
            f"logits_processors is {shortened(given)}; it must be a list of functions, or of where they are imported "
            f"from, module:name"
        )
    if len(given) > MAX_PROCESSORS:
        raise RequestError(f"logits_processors has {len(given)} entries; it must have {MAX_PROCESSORS} at most")
    for each in given:
        is_path = isinstance(each, str) and len(each) <= MAX_PATH and _PATH.fullmatch(each)
        if not callable(each) and not is_path:
            raise RequestError(
                f"logits_processors: {shortened(each)} is no function, and not where one is imported from, module:name"
            )
    return tuple(given)


def qualified_name(processor: GivenProcessor) -> str:
    """`module.name` of a function, or of where one is imported from."""
    if isinstance(processor, str):
        return processor.replace(":", ".")
    named = processor if hasattr(processor, "__qualname__") else type(processor)
    return f"{named.__module__}.{named.__qualname__}"


def check_allowed(processors: Sequence[GivenProcessor], pattern: str | None) -> None:
    """Raise RequestError for a processor whose qualified name does not match the pattern as a whole; None allows none.

    vLLM's --logits-processor-pattern: whoever asks must not choose what code runs.
    """
    for processor in processors:
        name = qualified_name(processor)
        if pattern is None or not re.fullmatch(pattern, name):
            why = "none is allowed here" if pattern is None else "it is none of those that are allowed here"
            raise RequestError(f"logits_processors: {shortened(name)}: {why} (server.logits_processor_pattern)")


def check_can_travel(processors: Sequence[GivenProcessor]) -> None:
    """Raise RequestError for a function that is not named by its path: other processes must find it, too."""
    for processor in processors:
        if not isinstance(processor, str):
            raise RequestError(
                f"logits_processors: {shortened(qualified_name(processor))} is a function; with replicas it must be "
                f"named by where it is imported from, module:name"
            )


def resolved_processors(given: Sequence[GivenProcessor]) -> tuple[LogitsProcessor, ...]:
    """The functions that a request names, imported; raises RequestError for one that cannot be, or takes others."""
    return tuple(map(_resolved, given))


def _resolved(given: GivenProcessor) -> LogitsProcessor:
    name = qualified_name(given)
    function = _imported(given) if isinstance(given, str) else given
    if not callable(function):
        raise RequestError(f"logits_processors: {name} is {shortened(function)}, which cannot be called")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise RequestError(f"logits_processors: {name} does not say what arguments it takes") from None
    for num_arguments in (3, 2) if len(signature.parameters) == 3 else (2, 3):
        try:
            signature.bind(*range(num_arguments))
        except TypeError:
            continue
        return LogitsProcessor(function, num_arguments == 3, name)
    raise RequestError(
        f"logits_processors: {name} takes {one_line(signature)}; it must take (output_token_ids, logits), or "
        f"(prompt_token_ids, output_token_ids, logits)"
    )


def _imported(path: str) -> Any:
    """What `module:name` or `module.name` stands for; of the latter the longest part that is a module is one."""
    module, _, name = path.partition(":")
    parts = name.split(".") if name else []
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError as error:
            is_itself = error.name is not None and (module == error.name or module.startswith(f"{error.name}."))
            if name or not is_itself or "." not in module:
                raise RequestError(f"logits_processors: {path} cannot be imported: {one_line(error)}") from None
            module, _, attribute = module.rpartition(".")
            parts.insert(0, attribute)
        except Exception as error:  # noqa: BLE001 - a module may raise anything while it is imported
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise RequestError(f"logits_processors: {path} cannot be imported: {reason}") from None
    for attribute in parts:
        if not hasattr(found, attribute):
            raise RequestError(f"logits_processors: {path} cannot be imported: there is no {attribute} in it")
        found = getattr(found, attribute)
    return found
