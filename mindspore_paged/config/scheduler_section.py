"""The scheduler's section of the engine's configuration, and what follows from it."""

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, StrictBool, StrictFloat, StrictInt, field_validator
from pydantic.dataclasses import dataclass

from mindspore_paged.config.values import DEMO_WEIGHTS, SECTION, WeightDtype, path
from mindspore_paged.errors import ConfigError


def _draft_weights(value: Any) -> Any:
    return value if value in (DEMO_WEIGHTS, None) else path(value)


def _switch_or_auto(value: Any) -> bool | str:
    if value != "auto" and type(value) is not bool:
        raise ValueError("true, false or auto")
    return value


@dataclass(frozen=True, config=SECTION)
class SchedulerSection:
    """How much runs in one step.

    max_num_seqs: sequences that run at once. max_num_batched_tokens: tokens of a step, prefill and decode together.
    max_model_len: tokens of a sequence, prompt and output; None is as many as the model and the pool allow.
    token_buckets: the static graphs, by their number of tokens; None chooses them (`resolved_token_buckets`).
    policy: who goes first; ageing_steps: steps of waiting that make up for a level of priority, or a token of work.
    predict_lengths: admit a request only where its answer, as long as answers of its class lately were, fits too.
    reserve_max_model_len: set aside max_model_len tokens for each, as a contiguous cache does: to compare with.
    long_prefill_share: most of a few steps' tokens that prompts longer than long_prompt_tokens may take while others
    want them; None is no limit. long_prompt_tokens: None is max_num_batched_tokens.
    num_speculative_tokens: guesses behind the last token of a sequence that a step checks; 0 makes none.
    speculative_model: a smaller model of the same vocabulary that makes the guesses, as model.weights names one;
    speculative_weight_dtype: of it, as model.weight_dtype is of the model. adaptive_speculation: make fewer guesses, or
    none, where the measured shares of right ones and times of steps say that it is faster; `auto`: with a
    speculative_model.
    prompt_lookup_min, prompt_lookup_max: without one the guesses are what followed an earlier place of the text's last
    tokens, as many of them as have one, within these bounds.
    """

    max_num_seqs: StrictInt = Field(8, ge=1)
    max_num_batched_tokens: StrictInt = Field(256, ge=1)
    max_model_len: Annotated[StrictInt, Field(ge=1)] | None = None
    enable_chunked_prefill: StrictBool = True
    token_buckets: tuple[Annotated[StrictInt, Field(ge=1)], ...] | None = None
    policy: Literal["fcfs", "priority", "shortest"] = "fcfs"
    ageing_steps: Annotated[StrictFloat, Field(gt=0, allow_inf_nan=False)] | None = None
    predict_lengths: StrictBool = False
    reserve_max_model_len: StrictBool = False
    long_prefill_share: Annotated[StrictFloat, Field(gt=0, le=1)] | None = None
    long_prompt_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    num_speculative_tokens: StrictInt = Field(0, ge=0)
    speculative_model: Annotated[str | Path | None, BeforeValidator(_draft_weights)] = None
    speculative_weight_dtype: WeightDtype = "auto"
    adaptive_speculation: Annotated[bool | str, PlainValidator(_switch_or_auto)] = "auto"
    prompt_lookup_min: StrictInt = Field(2, ge=1)
    prompt_lookup_max: StrictInt = Field(4, ge=1)

    @field_validator("max_num_batched_tokens")
    @classmethod
    def _every_sequence_can_decode(cls, tokens, info):
        sequences = info.data.get("max_num_seqs", 1)
        if tokens < sequences:
            raise ValueError(f"at least scheduler.max_num_seqs ({sequences}): each running sequence takes a token")
        return tokens

    @field_validator("enable_chunked_prefill")
    @classmethod
    def _whole_prompts_fit(cls, enabled, info):
        tokens, longest = info.data.get("max_num_batched_tokens"), info.data.get("max_model_len")
        if not enabled and tokens is not None and longest is not None and longest > tokens:
            raise ValueError(_unchunked_limit(longest, tokens))
        return enabled

    @field_validator("token_buckets")
    @classmethod
    def _buckets_end_at_the_largest_step(cls, buckets, info):
        tokens = info.data.get("max_num_batched_tokens")
        if buckets is None or tokens is None:
            return buckets
        if not buckets or any(a >= b for a, b in itertools.pairwise(buckets)) or buckets[-1] != tokens:
            raise ValueError(f"ascending numbers that end at scheduler.max_num_batched_tokens ({tokens})")
        return buckets

    @field_validator("long_prefill_share")
    @classmethod
    def _only_what_can_be_cut_is_shared_out(cls, share, info):
        if share is not None and not info.data.get("enable_chunked_prefill", True):
            raise ValueError("left out where scheduler.enable_chunked_prefill is false: whole prompts cannot be spread")
        return share

    @field_validator("speculative_model")
    @classmethod
    def _a_draft_model_has_something_to_guess(cls, model, info):
        if model is not None and info.data.get("num_speculative_tokens") == 0:
            raise ValueError("left out where scheduler.num_speculative_tokens is 0: it would guess nothing")
        return model

    @field_validator("speculative_weight_dtype")
    @classmethod
    def _only_a_draft_model_has_weights(cls, dtype, info):
        if dtype != "auto" and info.data.get("speculative_model", "") is None:
            raise ValueError("left out where scheduler.speculative_model is not given: it is of its weights")
        return dtype

    @field_validator("prompt_lookup_max")
    @classmethod
    def _lookups_are_a_range(cls, longest, info):
        shortest = info.data.get("prompt_lookup_min", longest)
        if longest < shortest:
            raise ValueError(f"at least scheduler.prompt_lookup_min ({shortest})")
        return longest

    @property
    def adapts_speculation(self) -> bool:
        """Whether the number of guesses follows from measurements."""
        wanted = self.adaptive_speculation
        return self.speculative_model is not None if wanted == "auto" else wanted

    @property
    def logits_per_seq(self) -> int:
        """Tokens of a sequence whose logits one step may want."""
        return 1 + self.num_speculative_tokens

    @property
    def chunk_tokens(self) -> int | None:
        """Tokens of one sequence that a step computes at most; None where prompts are not cut."""
        return self.max_num_batched_tokens if self.enable_chunked_prefill else None

    def resolved_token_buckets(self) -> tuple[int, ...]:
        """The graphs' token counts: powers of two up to a full decode batch, then times four up to the largest step.

        Both limits are buckets themselves: a full decode batch and a full step waste no padding.
        """
        if self.token_buckets is not None:
            return self.token_buckets
        decode_batch = min(self.max_num_seqs * self.logits_per_seq, self.max_num_batched_tokens)
        buckets = [1]
        while buckets[-1] < decode_batch:
            buckets.append(min(2 * buckets[-1], decode_batch))
        while buckets[-1] < self.max_num_batched_tokens:
            buckets.append(min(4 * buckets[-1], self.max_num_batched_tokens))
        return tuple(buckets)

    def resolved_max_model_len(self, model_limit: int, pool_tokens: int) -> int:
        """The longest sequence in tokens, for a model of `model_limit` positions and a pool of `pool_tokens`.

        Raises ConfigError where an explicit `max_model_len` exceeds either, or whole prompts do not fit in a step.
        """
        longest = min(model_limit, pool_tokens) if self.max_model_len is None else self.max_model_len
        if longest > model_limit:
            raise ConfigError(
                f"scheduler.max_model_len is {longest}; the model has {model_limit} positions (max_position_embeddings)"
            )
        if longest > pool_tokens:
            raise ConfigError(
                f"scheduler.max_model_len is {longest}, but the pool holds {pool_tokens} tokens; "
                "raise cache.num_blocks or cache.memory_budget, or lower max_model_len"
            )
        if not self.enable_chunked_prefill and longest > self.max_num_batched_tokens:
            limit = _unchunked_limit(longest, self.max_num_batched_tokens)
            raise ConfigError(f"scheduler.enable_chunked_prefill is False; it must be {limit}")
        return longest


def _unchunked_limit(longest: int, tokens: int) -> str:
    return f"true where max_model_len ({longest}) exceeds scheduler.max_num_batched_tokens ({tokens})"
