"""The engine: requests come in, steps run, tokens come out; it owns the scheduler, the device never sees a request."""

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from time import perf_counter

import numpy as np

from mindspore_paged.cache.event_log import PoolEventLog
from mindspore_paged.engine.execution.draft_model import DraftModel
from mindspore_paged.engine.execution.page_mover import PageMover
from mindspore_paged.engine.execution.planned_inputs import build_step_inputs
from mindspore_paged.engine.execution.pool_recorder import PoolRecorder
from mindspore_paged.engine.execution.runner import Runner
from mindspore_paged.engine.metrics import Metrics, collect_statistics
from mindspore_paged.engine.requests.lora_adapters import LoraAdapters
from mindspore_paged.engine.requests.outputs import (
    RequestOutput,
    SequenceUpdate,
    StepOutput,
    request_output,
    whole_answer,
)
from mindspore_paged.engine.requests.remembered_answers import RememberedAnswers
from mindspore_paged.engine.requests.request_check import ModelLimits
from mindspore_paged.engine.requests.request_maker import RequestMaker
from mindspore_paged.engine.requests.response_cache import ResponseCache
from mindspore_paged.engine.requests.sequence import Request, Sequence
from mindspore_paged.engine.scheduling.beam_forks import advance, ready_searches
from mindspore_paged.engine.scheduling.scheduler import Scheduler
from mindspore_paged.engine.scheduling.speculation import verified_tokens
from mindspore_paged.engine.scheduling.step_plan import StepPlan
from mindspore_paged.errors import IntegrityError, RequestError, StepError
from mindspore_paged.launch import supervision
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.constraint import prepared
from mindspore_paged.sampling.sampler import SampledToken, Sampler
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.tokenizer import Tokenizer


class LLMEngine:
    """Runs requests to their end; `add_request`, `abort` and `step` mutate.

    scheduler: owns pages and queues. runner: computes steps. tokenizer: None if prompts are given as token ids.
    mover: moves whole pages around the steps; None makes one without tiers. draft_model: fills in what the scheduler
    leaves room for; None where it plans drafts itself, or none. response_cache: answers of identical
    requests; None keeps none. event_log: where each step's use of the pool is written; None writes nothing.
    model_fingerprint: equal for engines that can exchange pages; page_key: seals pages that leave, and opens those
    that come in; None trusts whoever brings them. lora: the adapters that requests may ask for; None: there are none.
    debug: check every invariant whenever nothing is left to do.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        tokenizer: Tokenizer | None,
        limits: ModelLimits,
        *,
        mover: PageMover | None = None,
        draft_model: DraftModel | None = None,
        response_cache: ResponseCache | None = None,
        event_log: PoolEventLog | None = None,
        model_fingerprint: str = "",
        page_key: bytes | None = None,
        lora: LoraAdapters | None = None,
        debug: bool = False,
    ):
        self.scheduler = scheduler
        self.runner = runner
        self.mover = mover or PageMover(scheduler, runner)
        self.draft_model = draft_model
        self._remembered = RememberedAnswers(response_cache)
        self.pool_recorder = PoolRecorder(event_log, scheduler, self.mover)
        self.model_fingerprint = model_fingerprint
        self.page_key = page_key
        self.debug = debug
        self.metrics = Metrics()
        self.sampler = Sampler()
        self.lora = lora or LoraAdapters(None)
        self.request_maker = RequestMaker(tokenizer, limits, self.lora)
        self._requests: dict[str, Request] = {}

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer; None if prompts are given as token ids."""
        return self.request_maker.tokenizer

    @property
    def limits(self) -> ModelLimits:
        """What requests are checked against."""
        return self.request_maker.limits

    @property
    def has_unfinished(self) -> bool:
        """Whether any request is still under way."""
        return bool(self._requests)

    def make_request(
        self,
        prompt: str | SequenceOf[int],
        params: SamplingParams | BeamSearchParams,
        request_id: str | None = None,
        priority: int = 0,
        request_class: str | None = None,
        cache_salt: str | None = None,
        pooling: str | None = None,
        lora_adapter: str | None = None,
    ) -> Request:
        """Check a request and make it ready, without queueing it; raises RequestError that says what is wrong.

        priority, request_class, cache_salt, pooling: see `Request`. lora_adapter: the name of one that is loaded.
        """
        return self.request_maker.make(
            prompt, params, request_id, priority, request_class, cache_salt, pooling, lora_adapter
        )

    def add_request(self, request: Request, is_computed: bool = False) -> str:
        """Queue a request of `make_request`, and return its id; raises RequestError if it is in use or has ended.

        is_computed: it is computed even where the response cache has its answer, for the sake of its pages.
        """
        if request.request_id in self._requests:
            raise RequestError(f"request_id {request.request_id!r} is in use by a request under way")
        if request.is_finished:
            raise RequestError(f"request {request.request_id!r} has ended already; make another one of its prompt")
        self.lora.hold(request.adapter)
        self._requests[request.request_id] = request
        if is_computed or not self._remembered.find(request):
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
        remembered = self._remembered.take()
        if remembered:
            return self._hand_over(remembered)
        self.mover.before_schedule()
        plan = self.scheduler.schedule()
        if not plan.chunks:
            return StepOutput()
        try:
            result = self._compute(plan)
            self.scheduler.commit(plan)
            self.metrics.record_pool(self.scheduler)
            output = self._pool(plan, result) if plan.pools else self._sample(plan, result)
        except StepError as error:
            return self._recover(plan, error)
        except BaseException:
            self._roll_back(plan)
            raise
        self._count(plan, perf_counter() - started)
        self.pool_recorder.record(self.metrics.num_steps)
        if self.debug and not self.has_unfinished:
            self.check_integrity()
        return output

    def rest(self) -> None:
        """Say that there is nothing to do until another request comes."""
        supervision.report_state(self.metrics.num_steps, "idle")

    def wake(self) -> None:
        """Nothing: no step here waits for others."""

    def get_statistics(self) -> dict[str, float | int]:
        """Figures since the engine was built; see `collect_statistics`. tensor_parallel_size: ranks of the model."""
        figures = collect_statistics(self.metrics, self.scheduler, self.mover, self.runner)
        return figures | {"tensor_parallel_size": self.runner.num_ranks}

    def close(self) -> None:
        """Let go of files, threads and other ranks; nothing may run afterwards."""
        self.runner.close()
        self.pool_recorder.close()
        if self.mover.host_tier is not None:
            self.mover.host_tier.close()

    def check_integrity(self) -> None:
        """Raise IntegrityError unless pages, rows, queues, requests and every rank's block_table agree.

        When idle, every page must be back.
        """
        self.scheduler.check_integrity()
        for rank, device in enumerate(self.runner.block_tables()):
            self.scheduler.cache.table.check_device(device, rank)
        pool = self.scheduler.cache.pool
        if not self.has_unfinished and pool.num_used != len(set(pool.pinned_blocks())):
            raise IntegrityError(f"no request is left, but {pool.num_used} blocks are held")

    def _compute(self, plan: StepPlan) -> np.ndarray:
        self.mover.transfer()
        table_changes = self.scheduler.cache.table.take_changes()
        if self.draft_model is not None:
            self.draft_model.propose(plan, table_changes)
        inputs = build_step_inputs(plan, table_changes)
        if plan.pools:
            return self.runner.run_hidden(inputs)
        with prepared(plan.constraints):
            return self.runner.run(inputs)

    def _sequences_to_sample(self, plan: StepPlan) -> list[tuple[Sequence, int, tuple[int, ...]]]:
        """Sequences that get tokens from this step, each with its row of logits, and the drafts that have the rows
        behind it; a prompt's siblings start here.
        """
        sequences = []
        for chunk, row in plan.rows_of_logits():
            if chunk.is_last and not chunk.sequence.is_finished and chunk.sequence.request.beams is None:
                last = row + chunk.num_logits - 1 - len(chunk.drafts)
                sequences.append((chunk.sequence, last, chunk.drafts))
                sequences += [(sibling, last, ()) for sibling in self._start_siblings(chunk.sequence)]
        return sequences

    def _tell_prompts(self, plan: StepPlan, logits: np.ndarray, output: StepOutput) -> None:
        """Take what the logits say of the tokens of prompts whose log-probabilities are asked for."""
        for chunk, row in plan.rows_of_logits():
            if chunk.wants_all:
                try:
                    chunk.sequence.prompt_logprobs.add(chunk.start, logits[row : row + chunk.num_tokens])
                except StepError as error:
                    self._fail(chunk.sequence.request, error, output)

    def _search(self, plan: StepPlan, logits: np.ndarray, output: StepOutput) -> None:
        """Let searches whose beams all have logits go on, or end."""
        for request, error in ready_searches(plan, logits):
            if error is not None:
                self._fail(request, error, output)
                continue
            if request.first_token_time is None:  # that it is under way is told at once, its answers at its end
                self._note_first_token(request)
                output.updates.append(SequenceUpdate(request.request_id, 0, "", [], None))
            advance(request.beams, self.scheduler)
            self.metrics.record_beams(len(request.sequences))
            if request.beams.search.is_done:
                request.answer = request_output(request).outputs
                for sequence in request.sequences:
                    self.scheduler.finish(sequence, request.answer[0].finish_reason)
                output.updates.extend(whole_answer(request.request_id, request.answer))
                self._retire(request, output)

    def _start_siblings(self, sequence: Sequence) -> list[Sequence]:
        """Those that share the pages of a prompt that was computed just now; the others wait for a row."""
        if sequence.index != 0 or sequence.num_output_tokens != 0:
            return []
        started = []
        for sibling in sequence.request.sequences[1:]:
            if self.scheduler.fork(sequence, sibling):
                started.append(sibling)
            else:
                self.scheduler.add(sibling)
        return started

    def _pool(self, plan: StepPlan, states: np.ndarray) -> StepOutput:
        """Take the hidden states of a step; who has all of its prompt's has its embedding, and ends."""
        output = StepOutput()
        for chunk, row in plan.rows_of_logits():
            sequence, request = chunk.sequence, chunk.sequence.request
            sequence.pooled.add(chunk.start, states[row : row + chunk.num_logits])
            if not chunk.is_last:
                continue
            try:
                request.embedding = sequence.pooled.embedding()
            except StepError as error:
                self._fail(request, error, output)
            else:
                self.metrics.num_prompt_tokens += len(request.prompt_token_ids)
                self._end_request(request, "stop", output)
        return output

    def _sample(self, plan: StepPlan, logits: np.ndarray) -> StepOutput:
        output = StepOutput()
        self._tell_prompts(plan, logits, output)
        self._search(plan, logits, output)
        sequences = self._sequences_to_sample(plan)
        rows, states = [row for _, row, _ in sequences], [sequence.sampling_state for sequence, _, _ in sequences]
        firsts = self.sampler.sample(_rows_of(logits, rows), states)
        for (sequence, row, drafts), first, state in zip(sequences, firsts, states, strict=True):
            if not sequence.is_finished:  # a sibling's error may have ended the whole request a moment ago
                tokens = verified_tokens(self.sampler, first, drafts, logits[row + 1 :], state)
                self._append(sequence, tokens, drafts, output)
        return output

    def _append(
        self,
        sequence: Sequence,
        tokens: Iterator[SampledToken | StepError],
        drafts: tuple[int, ...],
        output: StepOutput,
    ) -> None:
        """Append what a step brought a sequence, in order, until one of the tokens ends it."""
        request, text, token_ids = sequence.request, "", []
        for token in tokens:
            if token_ids:  # the one before is in the cache already, as a draft, and this one was sampled behind it
                self.scheduler.accept_draft(sequence)
            if isinstance(token, StepError):
                break
            text += self._append_token(sequence, token)
            token_ids.append(token.token_id)
            if sequence.is_finished:
                break
        if token_ids:
            num_accepted = sum(token_id == draft for token_id, draft in zip(token_ids, drafts, strict=False))
            if drafts:
                self.scheduler.speculation.observe(len(drafts), num_accepted, len(token_ids))
            if not isinstance(token, StepError):
                text += self._append_forced(sequence, token_ids)
            self.metrics.record_tokens(len(token_ids), len(drafts), num_accepted)
            reason = sequence.finish_reason
            logprobs = None if request.params.logprobs is None else sequence.logprobs[-len(token_ids) :]
            told = sequence.prompt_logprobs
            is_first = told is not None and sequence.num_output_tokens == len(token_ids)
            output.updates.append(
                SequenceUpdate(
                    request.request_id,
                    sequence.index,
                    text,
                    token_ids,
                    reason,
                    logprobs=logprobs,
                    prompt_logprobs=told.entries if is_first else None,
                )
            )
        if isinstance(token, StepError):
            self._fail(request, token, output)
            return
        if drafts and not sequence.is_finished:
            self.scheduler.drop_drafts(sequence)
        self._retire(request, output)

    def _append_forced(self, sequence: Sequence, token_ids: list[int]) -> str:
        """Append the tokens that a constraint leaves no choice of, to `token_ids` too; returns their text.

        The next step computes them together: no logits are needed but behind the last, unless somebody asks for them.
        """
        state, text = sequence.sampling_state, ""
        params = sequence.request.params
        if state.constraint is None or state.forbids_more or sequence.is_finished or params.logprobs is not None:
            return text
        for token_id in state.constraint.forced():
            state.pass_over_draw()
            text += self._append_token(sequence, SampledToken(token_id))
            token_ids.append(token_id)
            if sequence.is_finished:
                break
        return text

    def _append_token(self, sequence: Sequence, token: SampledToken) -> str:
        """Append one token, and end the sequence if it is the last; returns the text that is safe to show now."""
        request = sequence.request
        self._note_first_token(request)
        sequence.token_ids.append(token.token_id)
        sequence.sampling_state.observe(token.token_id)
        if request.params.logprobs is not None:
            sequence.logprobs.append(token)
        ends = self._is_stop_token(sequence, token.token_id)
        is_shown = not ends or request.params.include_stop_str_in_output
        text = sequence.detokenizer.append(token.token_id) if is_shown else ""
        constraint = sequence.sampling_state.constraint
        is_whole = constraint is not None and constraint.is_complete
        reason = "stop" if ends or is_whole or sequence.detokenizer.stopped_by else self._length_reason(sequence)
        if reason is not None:
            text += sequence.detokenizer.finish()
            reason = "stop" if sequence.detokenizer.stopped_by else reason
            self.scheduler.finish(sequence, reason)
        return text

    def _note_first_token(self, request: Request) -> None:
        if request.first_token_time is None:
            request.first_token_time = perf_counter()
            self.metrics.record_first_token(
                request.first_token_time - request.arrival_time, len(request.prompt_token_ids)
            )

    def _is_stop_token(self, sequence: Sequence, token_id: int) -> bool:
        request = sequence.request
        is_eos = token_id in self.limits.eos_token_ids and not request.params.ignore_eos
        return is_eos or token_id in request.stop_token_ids

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
        self.scheduler.cache.take_transfers()  # whose rows are given up next
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
                self.scheduler.finish(sequence, reason)
                if sequence.index < request.params.n:  # of a beam search there are more than are told
                    update = SequenceUpdate(request.request_id, sequence.index, text, [], reason, request.error)
                    output.updates.append(update)
        self._retire(request, output)

    def _retire(self, request: Request, output: StepOutput) -> None:
        if request.is_finished:
            del self._requests[request.request_id]
            self.lora.release(request.adapter)
            self.metrics.num_requests_finished += 1
            output.finished.append(request_output(request))
            self._remembered.keep(request, output.finished[-1].outputs)

    def _count(self, plan: StepPlan, seconds: float) -> None:
        self.metrics.record_step(plan.num_tokens, seconds)
        self.mover.after_step(plan, seconds)
        if self.scheduler.speculation is not None:
            self.scheduler.speculation.observe_step(plan.num_tokens, seconds - plan.drafting_seconds)

    def _hand_over(self, remembered: list[Request]) -> StepOutput:
        """End the requests whose answers were remembered."""
        output = StepOutput()
        for request in remembered:
            output.updates.extend(whole_answer(request.request_id, request.answer))
            self.metrics.num_response_cache_hits += 1
            self._retire(request, output)
        return output


def _rows_of(logits: np.ndarray, rows: list[int]) -> np.ndarray:
    """Some rows of the logits, copied only where they do not stand at the beginning, side by side: they are large."""
    return logits[: len(rows)] if rows == list(range(len(rows))) else logits[rows]
