"""What the bodies of several paths have in common: sampling parameters, options of streams, usage."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.sampling_params import (
    MAX_REPETITION_PENALTY,
    MIN_REPETITION_PENALTY,
    SamplingParams,
)
from mindspore_paged.serving.errors import bad_request
from mindspore_paged.serving.schemas.answer_format import GUIDED, answer_format
from mindspore_paged.serving.schemas.beam_search import beam_search_of, check_sampled
from mindspore_paged.wording import shortened

MAX_N = 128
"""Answers to one prompt: OpenAI's bound."""

MAX_LOGPROBS = 20
"""Most likely tokens that are told for each position: OpenAI's bound for chats."""

LONGEST_SALT = 256

MAX_NAMED = 16
"""Unknown keys that a warning names."""

_SAMPLING_KEYS = (
    *("temperature", "top_p", "top_k", "min_p", "n", "seed", "stop", "stop_token_ids", "ignore_eos"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"),
    *("logits_processors", "truncate_prompt_tokens", "spaces_between_special_tokens"),
    *("skip_special_tokens", "include_stop_str_in_output", "min_tokens", "allowed_token_ids", "bad_words"),
    *("typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold"),
    *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
)
_NOTHING_DEPENDS_ON = frozenset(
    {
        *("metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
        *("service_tier", "store"),
    }
)
"""Keys of OpenAI's that no answer of ours could show the effect of."""

_NOT_SERVED: dict[str, tuple] = {
    "audio": (),
    "best_of": (1,),
    "function_call": ("none",),
    "functions": ([],),
    **dict.fromkeys(("mirostat", "mirostat_mode"), (0,)),
    "modalities": (["text"],),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "suffix": ("",),
    "use_beam_search": (False,),
    "web_search_options": (),
}
"""Keys that would change the answer and cannot yet, with the values that ask for nothing."""


def _texts(value: Any) -> str | list[str] | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return value
    raise ValueError("text, or a list of texts")


_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 17.0 is a whole one, as JSON Schema says."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = Annotated[int, BeforeValidator(_whole)]


def _text_or_parts(value: Any) -> str | list[dict[str, Any]] | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        return value
    raise ValueError("text, or a list of blocks")


TextOrParts = Annotated[
    Any,
    PlainValidator(_text_or_parts),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}, {"type": "null"}]}),
]


class OpenSchema(BaseModel):
    """A body that may have keys we do not know: they are ignored, and told in a header."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    def warning_headers(self) -> dict[str, str]:
        """A header that names the unknown keys, if there are any; raises ApiError for what cannot be done."""
        ignored = self._ignored_keys()
        if not ignored:
            return {}
        names = shortened(", ".join(ignored[:MAX_NAMED])).encode("ascii", "backslashreplace").decode()
        return {"Warning": f'299 - "unknown keys were ignored: {names.strip(chr(39))}"'.replace("\\", "/")}

    def _ignored_keys(self) -> list[str]:
        extra = self.model_extra or {}
        for key, value in extra.items():
            if key in _NOT_SERVED and value is not None and value not in _NOT_SERVED[key]:
                raise bad_request(f"{key} is not supported by this server", key, "unsupported_parameter")
        return [key for key in extra if key not in _NOTHING_DEPENDS_ON and key not in _NOT_SERVED]


class StreamOptions(OpenSchema):
    """include_usage: a last chunk without choices tells the tokens that were counted."""

    include_usage: bool | None = None


class SamplingFields(OpenSchema):
    """How tokens are chosen, and when the answer ends; what is left out, or null, comes from the config's `sampling`.

    priority: the higher, the sooner. cache_salt: prompts with different ones do not share pages.
    return_token_ids: tell the token ids, too (vLLM's).
    logits_processors: functions on the server, of those that server.logits_processor_pattern allows.
    skip_special_tokens, spaces_between_special_tokens, include_stop_str_in_output: what of the tokens becomes text, see
    SamplingParams. truncate_prompt_tokens: of a longer prompt so many of the last ones are taken.
    response_format, structured_outputs, guided_json, guided_regex, guided_choice, guided_grammar: what the answer is
    held to, at most one of them; OpenAI's, vLLM's, and vLLM's of before.
    use_beam_search: search for the likeliest answers with best_of beams, or n; length_penalty and early_stopping: see
    BeamSearchParams.
    """

    model: str
    max_tokens: WholeNumber | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: WholeNumber | None = None
    min_p: float | None = None
    n: Annotated[WholeNumber, Field(ge=1, le=MAX_N)] | None = None
    seed: WholeNumber | None = None
    stop: Annotated[Any, PlainValidator(_texts), WithJsonSchema(_TEXTS)] = None
    stop_token_ids: list[WholeNumber] | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[str, float] | None = None
    min_tokens: WholeNumber | None = None
    allowed_token_ids: list[WholeNumber] | None = None
    bad_words: list[str] | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: WholeNumber | None = None
    dry_penalty_last_n: WholeNumber | None = None
    dry_sequence_breakers: list[str] | None = None
    truncate_prompt_tokens: WholeNumber | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    logits_processors: list[str] | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: Annotated[float, Field(ge=MIN_REPETITION_PENALTY, le=MAX_REPETITION_PENALTY)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: WholeNumber | None = None
    user: str | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=LONGEST_SALT)] | None = None
    return_token_ids: bool | None = None
    use_beam_search: bool | None = None
    best_of: Annotated[WholeNumber, Field(ge=1, le=MAX_N)] | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a chunk that tells the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def admission(self) -> dict[str, Any]:
        """What `Service.prepare` wants to know beside prompts and parameters."""
        return {"priority": self.priority, "cache_salt": self.cache_salt}

    def sampling_params(self, defaults: SamplingParams, **others: Any) -> SamplingParams | BeamSearchParams:
        """The parameters, `defaults` where neither the body nor `others` says otherwise.

        Raises RequestError for values out of range, ApiError for what the streaming options contradict.
        """
        if self.stream_options is not None and not self.stream:
            raise bad_request("stream_options needs stream to be true", "stream_options")
        given = {key: getattr(self, key) for key in _SAMPLING_KEYS} | {"max_tokens": self.max_tokens}
        held = {key: getattr(self, key) for key in ("structured_outputs", *GUIDED)}
        given["structured_outputs"] = answer_format(held, self.response_format, "response_format")
        given = {key: value for key, value in given.items() if value is not None} | others
        if self.use_beam_search:
            return beam_search_of(self, given, defaults)
        check_sampled(self)
        return replace(defaults, **given)


def _is_none(value: Any) -> bool:
    return value is None


LEFT_OUT_IF_NONE = Field(default=None, exclude_if=_is_none)
"""For a key that answers have only where there is something to tell."""

OptionalIds = Annotated[list[int] | None, LEFT_OUT_IF_NONE]


class PromptTokensDetails(BaseModel):
    """cached_tokens: of the prompt, found in pages that were computed before."""

    cached_tokens: int = 0


class Usage(BaseModel):
    """Tokens that were counted; those of a prompt once, however many answers it got."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
