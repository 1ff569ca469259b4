"""What a request asks of the sampler; names and meanings as in vLLM."""

import math
import sys
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.logit_bias import LogitBias, logit_bias_pairs
from mindspore_paged.sampling.logits_processors import GivenProcessor, checked_processors
from mindspore_paged.sampling.structured_outputs import StructuredOutputs, structured_outputs
from mindspore_paged.wording import is_unicode, shortened

MAX_N = 16384
"""vLLM's bound: each of a prompt's sequences takes memory before it runs."""

MAX_PROMPT_LOGPROBS = 128
"""They are kept for every token of a prompt until its answer has ended."""

MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 100
"""Every logit below 3e36 stays finite in float32."""

MAX_BAD_WORDS = 256
MAX_BREAKERS = 64
MAX_BREAKER_LENGTH = 40
"""Characters, as in llama.cpp: each text is looked for in the whole vocabulary."""

MAX_STOPS = 64
MAX_STOP_LENGTH = 512
"""Characters. Every token is compared with every stop string; OpenAI takes 4 of them."""


@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of one request are chosen and when it ends; raises RequestError for a value out of range.

    None stands for the default of any of these but max_tokens. Numbers may be NumPy's.

    max_tokens: tokens to generate at most; None means up to max_model_len.
    temperature: 0 is greedy; otherwise logits are divided by it.
    top_p: keep the most likely tokens whose probabilities sum to at least this (Holtzman et al. 2019).
    top_k: keep this many of the most likely tokens; 0 or -1 keeps all.
    min_p: drop tokens less likely than this share of the most likely one.
    typical_p: keep the tokens whose surprise is nearest to the expected one, up to this probability together.
    top_n_sigma: keep logits within so many standard deviations of the largest; 0 keeps all.
    xtc_probability, xtc_threshold: so often drop all tokens of at least this probability but the least likely of them.
    n: sequences for one prompt, which share the prompt's pages.
    seed: makes the request's draws reproducible, whatever runs beside it; None or -1 draws from
        the system's entropy.
    stop: strings that end the text; they are not part of it. One that is a special token ends it by its id.
    min_tokens: no end-of-sequence token or stop token comes, and no stop string is looked for, before so many tokens.
    allowed_token_ids: the only tokens that may come; None allows all.
    bad_words: texts that never come, with a space in front or without.
    stop_token_ids: tokens that end the sequence, besides the model's own end-of-sequence tokens.
    ignore_eos: go on after an end-of-sequence token.
    logprobs: report this many of the most likely tokens at each position, and the chosen one; -1 reports all,
        None nothing.
    prompt_logprobs: report this many of the most likely tokens at each position of the prompt, and its own; None
        reports nothing.
    presence_penalty, frequency_penalty: subtracted from the logits of generated tokens, once or per occurrence.
    repetition_penalty: divides positive and multiplies negative logits of prompt and generated tokens (CTRL);
        from 0.01 to 100.
    dry_multiplier: DRY takes this much, times dry_base for each further token, from the logits of tokens that would go
        on with a repetition of dry_allowed_length tokens; 0 takes nothing. Names and meanings are llama.cpp's.
    dry_penalty_last_n: tokens of prompt and answer in which repetitions are looked for; -1 is all, 0 none.
    dry_sequence_breakers: texts over which no repetition reaches.
    logit_bias: a mapping of token ids (or their digits) to numbers from -100 to 100, added to the logits before
        penalties and temperature; kept as pairs in order of ids. Log-probabilities are reported as they are without it.
    truncate_prompt_tokens: of a longer prompt only so many of the last tokens are taken; -1: as many as leave room for
        max_tokens in max_model_len (for 1 where that is None); None refuses prompts that are too long.
    skip_special_tokens: special tokens have no text.
    spaces_between_special_tokens: false: where special tokens have a text, what the decoder puts between two of them
        is left out. As in vLLM it is spaces of decoders that join words; byte-level and SentencePiece ones put none.
    include_stop_str_in_output: the text ends behind the stop string, or the stop token's text, that ends it.
    logits_processors: functions, or where they are imported from (`module:name`), that change the logits before all
        else does; see LogitsProcessor. Whoever may set this chooses code that runs.
    structured_outputs: the form that the text is held to, a mapping of the keys of StructuredOutputs or one of these.
    """

    max_tokens: int | None = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    n: int = 1
    seed: int | None = None
    min_tokens: int = 0
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    logit_bias: LogitBias = ()
    truncate_prompt_tokens: int | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    logits_processors: tuple[GivenProcessor, ...] = ()
    structured_outputs: StructuredOutputs | None = None

    def __post_init__(self):
        for field in fields(self):
            value = _plain(getattr(self, field.name))
            if value is None and field.name != "max_tokens":
                value = field.default
            object.__setattr__(self, field.name, value)
        if self.seed == -1:
            object.__setattr__(self, "seed", None)
        if isinstance(self.logprobs, bool):  # as OpenAI's chats ask for them
            object.__setattr__(self, "logprobs", 1 if self.logprobs else None)
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        self._require("stop", "a string or a list of strings", isinstance(self.stop, (list, tuple)))
        for name in ("bad_words", "dry_sequence_breakers"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))
            self._require(name, "a list of strings", isinstance(getattr(self, name), (list, tuple)))
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._require("stop_token_ids", "a list of whole numbers", isinstance(self.stop_token_ids, (list, tuple)))
        if self.allowed_token_ids is not None:
            is_list = isinstance(self.allowed_token_ids, (list, tuple)) and len(self.allowed_token_ids) > 0
            self._require("allowed_token_ids", "a list of whole numbers, at least one, or none", is_list)
            object.__setattr__(self, "allowed_token_ids", tuple(map(_plain, self.allowed_token_ids)))
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", tuple(map(_plain, self.stop_token_ids)))
        object.__setattr__(self, "logit_bias", logit_bias_pairs(self.logit_bias))
        object.__setattr__(self, "logits_processors", checked_processors(self.logits_processors))
        object.__setattr__(self, "structured_outputs", structured_outputs(self.structured_outputs))
        self._check_types()
        self._require("max_tokens", "at least 1, or none", self.max_tokens is None or self.max_tokens >= 1)
        self._require("temperature", "0 or more, and finite", 0 <= self.temperature < math.inf)
        self._require("top_p", "above 0 and at most 1", 0 < self.top_p <= 1)
        self._require("top_k", "at least 1, or 0 or -1 for all", self.top_k >= -1)
        self._require("min_p", "from 0 to 1", 0 <= self.min_p <= 1)
        self._require("typical_p", "above 0 and at most 1", 0 < self.typical_p <= 1)
        self._require("top_n_sigma", "0 or more, and finite", 0 <= self.top_n_sigma < math.inf)
        self._require("xtc_probability", "from 0 to 1", 0 <= self.xtc_probability <= 1)
        self._require("xtc_threshold", "from 0 to 1", 0 <= self.xtc_threshold <= 1)
        at_most = self.max_tokens is None or self.min_tokens <= self.max_tokens
        self._require("min_tokens", "from 0 to max_tokens", self.min_tokens >= 0 and at_most)
        self._require("n", f"from 1 to {MAX_N}", 1 <= self.n <= MAX_N)
        self._require("seed", "0 or more, or -1 or none", self.seed is None or self.seed >= 0)
        self._require("logprobs", "0 or more, -1 for all, or none", self.logprobs is None or self.logprobs >= -1)
        is_told = self.prompt_logprobs is None or 0 <= self.prompt_logprobs <= MAX_PROMPT_LOGPROBS
        self._require("prompt_logprobs", f"from 0 to {MAX_PROMPT_LOGPROBS}, or none", is_told)
        self._require("presence_penalty", "from -2 to 2", -2 <= self.presence_penalty <= 2)
        self._require("frequency_penalty", "from -2 to 2", -2 <= self.frequency_penalty <= 2)
        is_sane = MIN_REPETITION_PENALTY <= self.repetition_penalty <= MAX_REPETITION_PENALTY
        self._require("repetition_penalty", "from 0.01 to 100", is_sane)
        kept = self.truncate_prompt_tokens
        self._require("truncate_prompt_tokens", "at least 1, or -1 or none", kept is None or kept >= 1 or kept == -1)
        self._check_dry()
        self._require("stop", "strings that are not empty", all(self.stop))
        self._require("stop", f"{MAX_STOPS} strings at most", len(self.stop) <= MAX_STOPS)
        longest = max(map(len, self.stop), default=0)
        self._require("stop", f"strings of at most {MAX_STOP_LENGTH} characters", longest <= MAX_STOP_LENGTH)
        self._require("stop", "Unicode text, which half a surrogate pair is not", all(map(is_unicode, self.stop)))
        fit = all(word.strip() and len(word) <= MAX_STOP_LENGTH and is_unicode(word) for word in self.bad_words)
        self._require("bad_words", f"texts of 1 to {MAX_STOP_LENGTH} characters, not blank", fit)
        self._require("bad_words", f"{MAX_BAD_WORDS} texts at most", len(self.bad_words) <= MAX_BAD_WORDS)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken, so that no draw is needed."""
        return self.temperature == 0

    @cached_property
    def biases(self) -> tuple[np.ndarray, np.ndarray] | None:
        """`logit_bias` as the sampler takes it: token ids [B] int64, what to add [B] float32; None if it is empty."""
        if not self.logit_bias:
            return None
        tokens, values = zip(*self.logit_bias, strict=True)
        return np.array(tokens, dtype=np.int64), np.array(values, dtype=np.float32)

    def _check_dry(self):
        self._require("dry_multiplier", "0 or more", self.dry_multiplier >= 0)
        self._require("dry_base", "1 or more", self.dry_base >= 1)
        self._require("dry_allowed_length", "0 or more", self.dry_allowed_length >= 0)
        self._require("dry_penalty_last_n", "0 or more, or -1 for all", self.dry_penalty_last_n >= -1)
        name, texts = "dry_sequence_breakers", self.dry_sequence_breakers
        fit = all(1 <= len(text) <= MAX_BREAKER_LENGTH and is_unicode(text) for text in texts)
        self._require(name, f"texts of 1 to {MAX_BREAKER_LENGTH} characters", fit)
        self._require(name, f"{MAX_BREAKERS} texts at most", len(texts) <= MAX_BREAKERS)

    def _check_types(self):
        optional_ints = ("max_tokens", "seed", "logprobs", "prompt_logprobs", "truncate_prompt_tokens")
        ints = ("top_k", "n", "min_tokens", "dry_allowed_length", "dry_penalty_last_n")
        for name in (*ints, *(name for name in optional_ints if getattr(self, name) is not None)):
            self._require(name, "a whole number", _is_number(getattr(self, name), int))
        for name in (
            "temperature",
            "top_p",
            "min_p",
            "typical_p",
            "top_n_sigma",
            "xtc_probability",
            "xtc_threshold",
            "presence_penalty",
            "frequency_penalty",
            "repetition_penalty",
            "dry_multiplier",
            "dry_base",
        ):
            self._require(name, "a finite number", _is_number(getattr(self, name), (int, float)))
        switches = ("ignore_eos", "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output")
        for name in switches:
            self._require(name, "true or false", isinstance(getattr(self, name), bool))
        self._require("stop", "a string or a list of strings", all(isinstance(text, str) for text in self.stop))
        for name in ("bad_words", "dry_sequence_breakers"):
            self._require(name, "a list of strings", all(isinstance(text, str) for text in getattr(self, name)))
        allowed = self.allowed_token_ids or ()
        self._require("allowed_token_ids", "a list of whole numbers", all(_is_number(token, int) for token in allowed))
        self._require(
            "stop_token_ids",
            "a list of whole numbers",
            all(_is_number(token, int) for token in self.stop_token_ids),
        )

    def _require(self, name: str, allowed: str, holds: bool):
        if not holds:
            raise RequestError(f"{name} is {shortened(getattr(self, name))}; it must be {allowed}")


def _plain(value: Any) -> Any:
    """What NumPy has of its own, as Python has it."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def _is_number(value, kinds) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
