"""The engine: requests come in, steps run, tokens come out; it owns the scheduler, the device never sees a request."""

import itertools
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np

from mindspore_paged.engine.detokenizer import IncrementalDetokenizer
from mindspore_paged.engine.metrics import Metrics
from mindspore_paged.engine.outputs import RequestOutput, SequenceUpdate, request_output
from mindspore_paged.engine.sampler import SampledToken, Sampler
from mindspore_paged.engine.scheduler import Scheduler, StepPlan
from mindspore_paged.engine.sequence import Request, Sequence
from mindspore_paged.engine.step_inputs import StepInputs, build_step_inputs
from mindspore_paged.errors import IntegrityError, RequestError, StepError
from mindspore_paged.sampling_params import SamplingParams
from mindspore_paged.tokenizer import Tokenizer


class Runner(Protocol):
    """What the engine needs of a device; ModelRunner is the real one.

    weight_bytes, kv_cache_bytes: memory that the weights and the pages take.
    num_compiles, compiles_after_warmup: graphs compiled in all, and since the engine was ready.
    """

    weight_bytes: int
    kv_cache_bytes: int
    num_compiles: int
    compiles_after_warmup: int

    def run(self, inputs: StepInputs) -> np.ndarray:
        """Compute one step and return its logits float32 [N, vocab_size]; raises StepError."""

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        """Copy pages (source, destination) in order; raises StepError."""


@dataclass(frozen=True)
class ModelLimits:
    """What a request is checked against: token ids below vocab_size, at most max_model_len tokens in a sequence."""

    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class StepOutput:
    """What one step brought: pieces of text and tokens, and the requests that it finished."""

    updates: list[SequenceUpdate] = field(default_factory=list)
    finished: list[RequestOutput] = field(default_factory=list)


class LLMEngine:
    """Runs requests to their end; `add_request`, `abort` and `step` mutate.

    scheduler: owns pages and queues. runner: computes steps. tokenizer: None if prompts are given as token ids.
    debug: check every invariant whenever nothing is left to do.
    """

    def __init__(
        self, scheduler: Scheduler, runner: Runner, tokenizer: Tokenizer | None, limits: ModelLimits, debug=False
    ):
        self.scheduler = scheduler
        self.runner = runner
        self.tokenizer = tokenizer
        self.limits = limits
        self.debug = debug
        self.metrics = Metrics()
        self._sampler = Sampler()
        self._requests: dict[str, Request] = {}
        self._arrivals = itertools.count()

    @property
    def has_unfinished(self) -> bool:
        """Whether any request is still under way."""
        return bool(self._requests)

    def make_request(
        self, prompt: str | SequenceOf[int], params: SamplingParams, request_id: str | None = None
    ) -> Request:
        """Check a request and make it ready, without queueing it; raises RequestError that says what is wrong."""
        text = prompt if isinstance(prompt, str) else None
        token_ids = self._encode(prompt) if text is not None else list(prompt)
        self._check_prompt(token_ids)
        if params.stop and self.tokenizer is None:
            raise RequestError(f"stop is {list(params.stop)}; stop strings need a tokenizer, and this model has none")
        arrival = next(self._arrivals)
        request = Request(request_id or f"request-{arrival}", arrival, text, token_ids, params, perf_counter())
        decoder = self.tokenizer.backend if self.tokenizer is not None else None
        request.sequences = [
            Sequence(request, index, IncrementalDetokenizer(decoder, params.stop, token_ids))
            for index in range(params.n)
        ]
        return request

    def add_request(self, request: Request) -> str:
        """Queue a request of `make_request`, and return its id; raises RequestError if it is in use or has ended."""
        if request.request_id in self._requests:
            raise RequestError(f"request_id {request.request_id!r} is in use by a request under way")
        if request.is_finished:
            raise RequestError(f"request {request.request_id!r} has ended already; make another one of its prompt")
        self._requests[request.request_id] = request
        self.scheduler.add(request.sequences[0])
        return request.request_id

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a request now and return what it has so far; None if it is not under way."""
        request = self._requests.get(request_id)
        if request is None:
            return None
        output = StepOutput()
        self._end_request(request, "abort", output)
        return output.finished[0]

    def step(self) -> StepOutput:
        """Schedule, compute, sample and append: one turn for everything that runs."""
        started = perf_counter()
        plan = self.scheduler.schedule()
        if not plan.chunks:
            return StepOutput()
        try:
            logits = self._compute(plan)
        except StepError as error:
            return self._recover(plan, error)
        except BaseException:
            self._roll_back(plan)
            raise
        self.scheduler.commit(plan)
        self._count_pages()
        output = self._append_tokens(self._sequences_to_sample(plan), logits)
        self._count(plan, perf_counter() - started)
        if self.debug and not self.has_unfinished:
            self.check_integrity()
        return output

    def get_statistics(self) -> dict[str, float | int]:
        """Figures since the engine was built.

        memory_usage_gb: weights and pages, in 10^9 bytes. block_utilization: share of the slots in used pages that hold
        a token, over all steps; pool_utilization: most of the pool's pages in use at once. throughput: generated tokens
        a second of the time in steps. prefix_cache_hit_rate: share of the tokens of starting (and restarting)
        sequences that were found in the cache. time_to_first_token_s: mean, from arrival. The rest are counts.
        """
        metrics, scheduler, runner = self.metrics, self.scheduler, self.runner
        num_blocks = scheduler.cache.pool.num_blocks
        return {
            "memory_usage_gb": (runner.weight_bytes + runner.kv_cache_bytes) / 1e9,
            "weights_gb": runner.weight_bytes / 1e9,
            "kv_cache_gb": runner.kv_cache_bytes / 1e9,
            "block_utilization": metrics.block_utilization,
            "pool_utilization": metrics.peak_used_blocks / (num_blocks - 1),
            "throughput": metrics.throughput,
            "time_to_first_token_s": metrics.time_to_first_token_s,
            "prefix_cache_hit_rate": scheduler.prefix_cache_hit_rate,
            "num_blocks": num_blocks,
            "num_preemptions": scheduler.num_preemptions,
            "num_steps": metrics.num_steps,
            "num_computed_tokens": metrics.num_computed_tokens,
            "num_output_tokens": metrics.num_output_tokens,
            "num_requests_finished": metrics.num_requests_finished,
            "num_requests_failed": metrics.num_requests_failed,
            "compiled_graphs": runner.num_compiles,
            "compiles_after_warmup": runner.compiles_after_warmup,
        }

    def check_integrity(self) -> None:
        """Raise IntegrityError unless pages, rows, queues and requests agree; when idle, every page must be back."""
        self.scheduler.check_integrity()
        if not self.has_unfinished and (self.scheduler.has_unfinished or self.scheduler.cache.pool.num_used):
            raise IntegrityError(f"no request is left, but {self.scheduler.cache.pool.num_used} blocks are held")

    def _compute(self, plan: StepPlan) -> np.ndarray:
        cache = self.scheduler.cache
        copies = cache.take_copies()
        if copies:
            self.runner.copy_blocks(copies)
        return self.runner.run(build_step_inputs(plan, cache.table.take_changes()))

    def _sequences_to_sample(self, plan: StepPlan) -> list[tuple[Sequence, int]]:
        """Sequences that get a token from this step, each with its row of logits; a prompt's siblings start here."""
        sequences = []
        for row, chunk in enumerate(plan.chunks):
            if not chunk.is_last:
                continue
            sequence = chunk.sequence
            sequences.append((sequence, row))
            if sequence.index == 0 and sequence.num_output_tokens == 0:
                for sibling in sequence.request.sequences[1:]:
                    if self.scheduler.fork(sequence, sibling):
                        sequences.append((sibling, row))
                    else:
                        self.scheduler.add(sibling)
        return sequences

    def _append_tokens(self, sequences: list[tuple[Sequence, int]], logits: np.ndarray) -> StepOutput:
        output = StepOutput()
        rows = [row for _, row in sequences]
        sampled = self._sampler.sample(logits[rows], [sequence.sampling_state for sequence, _ in sequences])
        for (sequence, _), token in zip(sequences, sampled, strict=True):
            if sequence.is_finished:
                continue  # a sibling's error ended the whole request a moment ago
            if isinstance(token, StepError):
                self._fail(sequence.request, token, output)
            else:
                self._append(sequence, token, output)
        return output

    def _append(self, sequence: Sequence, token: SampledToken, output: StepOutput) -> None:
        request = sequence.request
        if request.first_token_time is None:
            request.first_token_time = perf_counter()
            self.metrics.record_first_token(request.first_token_time - request.arrival_time)
        sequence.token_ids.append(token.token_id)
        sequence.sampling_state.observe(token.token_id)
        if request.params.logprobs is not None:
            sequence.logprobs.append(token)
        self.metrics.num_output_tokens += 1
        ends = self._is_stop_token(sequence, token.token_id)
        text = "" if ends else sequence.detokenizer.append(token.token_id)
        reason = "stop" if ends or sequence.detokenizer.stopped_by else self._length_reason(sequence)
        if reason is not None:
            text += sequence.detokenizer.finish()
            reason = "stop" if sequence.detokenizer.stopped_by else reason
            self._end_sequence(sequence, reason)
        output.updates.append(SequenceUpdate(request.request_id, sequence.index, text, [token.token_id], reason))
        self._retire(request, output)

    def _is_stop_token(self, sequence: Sequence, token_id: int) -> bool:
        params = sequence.request.params
        is_eos = token_id in self.limits.eos_token_ids and not params.ignore_eos
        return is_eos or token_id in params.stop_token_ids

    def _length_reason(self, sequence: Sequence) -> str | None:
        at_limit = sequence.num_output_tokens == sequence.request.params.max_tokens
        return "length" if at_limit or sequence.num_tokens == self.limits.max_model_len else None

    def _recover(self, plan: StepPlan, error: StepError) -> StepOutput:
        """After a step that failed: end the request that fails alone, if it is known by now, and keep the others."""
        output = StepOutput()
        for culprit in self._roll_back(plan):
            self._fail(culprit.request, error, output)
        return output

    def _roll_back(self, plan: StepPlan) -> list[Sequence]:
        self.scheduler.cache.take_copies()
        self.scheduler.cache.table.forget_device()
        return self.scheduler.roll_back(plan)

    def _fail(self, request: Request, error: StepError, output: StepOutput) -> None:
        request.error = str(error)
        self.metrics.num_requests_failed += 1
        self._end_request(request, "error", output)

    def _end_request(self, request: Request, reason: str, output: StepOutput) -> None:
        for sequence in request.sequences:
            if not sequence.is_finished:
                text = sequence.detokenizer.finish()
                self._end_sequence(sequence, reason)
                update = SequenceUpdate(request.request_id, sequence.index, text, [], reason, request.error)
                output.updates.append(update)
        self._retire(request, output)

    def _end_sequence(self, sequence: Sequence, reason: str) -> None:
        self.scheduler.finish(sequence, reason)

    def _retire(self, request: Request, output: StepOutput) -> None:
        if request.is_finished:
            del self._requests[request.request_id]
            self.metrics.num_requests_finished += 1
            output.finished.append(request_output(request))

    def _count(self, plan: StepPlan, seconds: float) -> None:
        self.metrics.num_steps += 1
        self.metrics.num_computed_tokens += plan.num_tokens
        self.metrics.busy_seconds += seconds

    def _count_pages(self) -> None:
        cache = self.scheduler.cache
        tokens = sum(sequence.num_computed_tokens for sequence in self.scheduler.running)
        self.metrics.record_pool(cache.pool.num_used, cache.block_size, cache.num_reserved_tokens - tokens)

    def _encode(self, prompt: str) -> list[int]:
        if self.tokenizer is None:
            raise RequestError("the prompt is text, but this model has no tokenizer; give token ids")
        return self.tokenizer.encode(prompt)

    def _check_prompt(self, token_ids: list[int]) -> None:
        if not token_ids:
            raise RequestError("the prompt is empty; at least one token is needed")
        if not all(type(token_id) is int for token_id in token_ids):
            raise RequestError("prompt_token_ids must be a list of whole numbers")
        worst = min(token_ids) if min(token_ids) < 0 else max(token_ids)
        if not 0 <= worst < self.limits.vocab_size:
            raise RequestError(
                f"prompt token {worst} is no token of this model; allowed: 0..{self.limits.vocab_size - 1}"
            )
        if len(token_ids) >= self.limits.max_model_len:
            raise RequestError(
                f"the prompt has {len(token_ids)} tokens; max_model_len {self.limits.max_model_len} "
                "leaves no room for an answer"
            )
