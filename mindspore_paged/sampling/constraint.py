"""Answers held to a form: which tokens may come next, by llguidance (github.com/guidance-ai/llguidance).

A constraint stands with its sequence's random stream and counts: it knows the tokens that were appended, and nothing
of the batch. What is allowed next is worked out once a token, while the device computes if anyone asks then.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from mindspore_paged.errors import RequestError, StepError
from mindspore_paged.sampling.structured_outputs import JSON_STYLE, StructuredOutputs
from mindspore_paged.wording import one_line, shortened

if TYPE_CHECKING:  # imported where a request first asks for it: others start without
    from llguidance import LLMatcher, LLTokenizer

MAX_COMPILED = 64
"""Forms that are kept compiled; the one that was asked for longest ago goes."""

MAX_LEXER_STATES = 50_000
"""Of one form, 1 to 2 KB each."""

LEXER_FUEL = 200_000
"""What may be built of expressions: a fifth of llguidance's bound, with which `(a{1000}){1000}` takes a second."""


class Constraint:
    """What one sequence may still say; `observe` mutates.

    matcher: at the beginning of the answer. vocab_size: logits of a row.
    """

    def __init__(self, matcher: "LLMatcher", vocab_size: int):
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._mask: bytes | None = None  # a bit for each token that may come next, if that was worked out

    def copy(self) -> "Constraint":
        """The same state, to go on from apart."""
        return Constraint(self._matcher.deep_copy(), self._vocab_size)

    def prepare(self) -> None:
        """Work out what may come next; another thread may do so, while nobody else calls this object."""
        if self._mask is None:
            self._mask = self._matcher.compute_bitmask()

    def forbid(self, scores: np.ndarray) -> None:
        """Set the scores of tokens that may not come next to minus infinity.

        scores: [vocab_size] float32. Raises StepError where nothing may, or the form is too much to follow.
        """
        self.prepare()
        allowed = np.unpackbits(np.frombuffer(self._mask, np.uint8), count=self._vocab_size, bitorder="little")
        if self._matcher.is_error() or not allowed.any():
            why = one_line(self._matcher.get_error()) or "no token can come next"
            raise StepError(f"structured_outputs cannot be followed: {shortened(why)}")
        scores[allowed == 0] = -np.inf

    def observe(self, token: int) -> None:
        """Take note of a token that was appended; one that was not allowed shows at the next `forbid`."""
        self._mask = None
        self._matcher.consume_token(token)

    def num_allowed(self, tokens: Sequence[int]) -> int:
        """How many of these tokens may come next, one behind the other."""
        return self._matcher.validate_tokens(list(tokens))

    def forced(self) -> list[int]:
        """The tokens that must come next, as nothing else may."""
        return self._matcher.compute_ff_tokens()

    @property
    def is_complete(self) -> bool:
        """Whether nothing can come any more, but an end-of-sequence token."""
        return self._matcher.is_stopped() and not self._matcher.is_error()


_PREPARER = ThreadPoolExecutor(1, thread_name_prefix="constraints")


@contextmanager
def prepared(constraints: Sequence[Constraint]) -> Iterator[None]:
    """Another thread works out what may come next for each of these, while this one is in the block."""
    if not constraints:
        yield
        return
    work = _PREPARER.submit(lambda: [constraint.prepare() for constraint in constraints])
    try:
        yield
    finally:
        work.result()


class ConstraintCompiler:
    """Makes the constraints of requests to one model; several threads may call it.

    tokenizer_json: the model's tokenizer as the tokenizers library writes it. eos_token_ids: what ends a sequence, and
    is allowed where the form is whole.
    """

    def __init__(self, tokenizer_json: str, vocab_size: int, eos_token_ids: Sequence[int]):
        self._tokenizer_json = tokenizer_json
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        self._tokenizer: LLTokenizer | None = None
        self._lock = Lock()
        self._compiled = lru_cache(MAX_COMPILED)(self._compile)

    def constraint(self, form: StructuredOutputs) -> Constraint:
        """A constraint at its beginning; raises RequestError, in one line, for a form that cannot be compiled."""
        with self._lock:
            return self._compiled(form).copy()

    def _compile(self, form: StructuredOutputs) -> Constraint:
        from llguidance import LLMatcher, LLParserLimits, LLTokenizer

        if self._tokenizer is None:
            content = without_unicode_forms(self._tokenizer_json)
            self._tokenizer = LLTokenizer(content, self._vocab_size, self._eos_token_ids or None)
        limits = LLParserLimits(max_lexer_states=MAX_LEXER_STATES, initial_lexer_fuel=LEXER_FUEL, verbose_errors=False)
        try:
            matcher = LLMatcher(self._tokenizer, grammar_of(form), log_level=0, limits=limits)
            problem = matcher.get_error() or _problem_at_first(matcher.deep_copy())
        except ValueError as error:  # JSON that is nested too deeply
            problem = str(error)
        if problem:
            raise RequestError(f"structured_outputs.{form.kind}: it cannot be followed: {_reason(problem)}")
        return Constraint(matcher, self._vocab_size)


def without_unicode_forms(tokenizer_json: str) -> str:
    """The tokenizer without what puts characters into a normal form of Unicode.

    A form of answers may ask for characters that are in none, and their tokens are wanted as they are.
    """
    content = json.loads(tokenizer_json)
    normalizer = content.get("normalizer") or {}
    each = normalizer.get("normalizers", [normalizer])
    kept = [one for one in each if one.get("type") not in ("NFC", "NFD", "NFKC", "NFKD")]
    if len(kept) == len(each):
        return tokenizer_json
    content["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    return json.dumps(content)


def _problem_at_first(matcher: "LLMatcher") -> str:
    """What goes wrong with the first two tokens: some forms prove too large only then."""
    first = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    allowed = np.flatnonzero(np.unpackbits(first, bitorder="little"))
    if len(allowed) and not matcher.is_error():
        matcher.consume_token(int(allowed[0]))
        matcher.compute_bitmask()
    return matcher.get_error()


def grammar_of(form: StructuredOutputs) -> str:
    """A form as llguidance takes it; raises RequestError for structural tags that are none."""
    from llguidance import LLMatcher

    if form.json_object:
        return LLMatcher.grammar_from_json_schema({"type": "object"}, defaults=JSON_STYLE)
    if form.json is not None:
        return LLMatcher.grammar_from_json_schema(form.json, defaults=JSON_STYLE)
    if form.regex is not None:
        return LLMatcher.grammar_from_regex(form.regex)
    if form.choice is not None:
        return LLMatcher.grammar_from_lark(f"start: {' | '.join(map(_quoted, form.choice))}")
    if form.grammar is not None:
        return LLMatcher.grammar_from_lark(form.grammar)
    return _tags(json.loads(form.structural_tag))


def _quoted(text: str) -> str:
    return json.dumps(text)  # escapes what Lark's lexer does not take as it is


def _tags(tag: dict[str, Any]) -> str:
    """Structural tags, as vLLM writes them."""
    from llguidance import StructTag

    structures, triggers = tag.get("structures"), tag.get("triggers")
    if not _is_list_of(structures, dict) or not _is_list_of(triggers, str):
        raise RequestError(
            "structured_outputs.structural_tag must have structures, a list of mappings of begin, schema and end, "
            "and triggers, a list of texts"
        )
    tags = []
    for structure in structures:
        begin, end, schema = structure.get("begin"), structure.get("end", ""), structure.get("schema", {})
        if not isinstance(begin, str) or not isinstance(end, str) or not isinstance(schema, dict):
            raise RequestError(
                f"structured_outputs.structural_tag has the structure {shortened(structure)}; its begin and end must "
                f"be texts, its schema a mapping"
            )
        trigger = next((trigger for trigger in triggers if begin.startswith(trigger)), None)
        if trigger is None:
            raise RequestError(
                f"structured_outputs.structural_tag has the structure {shortened(begin)}, which no trigger begins"
            )
        schema = {"x-guidance": JSON_STYLE} | schema
        tags.append(StructTag(trigger=trigger, begin=begin, grammar=schema, end=end))
    return StructTag.to_grammar(tags, assume_special=False)


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, kind) and each for each in value)


def _reason(error: str) -> str:
    """What is wrong, without the picture of where."""
    return one_line(error.split("\n   1 |")[0])
