"""Several engines that look like one: each request runs in one of them, and ends where it was made."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any

from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.replicas.figures import figures_of, merge_figures
from mindspore_paged.engine.replicas.messages import Stepped
from mindspore_paged.engine.replicas.remote_engine import Inbox, RemoteEngine
from mindspore_paged.engine.replicas.router import ReplicaRouter
from mindspore_paged.engine.requests.lora_adapters import LoraAdapters
from mindspore_paged.engine.requests.outputs import RequestOutput, SequenceUpdate, StepOutput, request_output
from mindspore_paged.engine.requests.request_check import ModelLimits
from mindspore_paged.engine.requests.response_cache import COMPLETE
from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.engine.scheduling.length_predictor import LengthPredictor, class_of, output_limit
from mindspore_paged.errors import ConfigError, RequestError
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.logits_processors import check_can_travel
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.tokenizer import Tokenizer

WAIT_SECONDS = 0.1
"""How long a step waits for other replicas at most, unless it is woken."""


class RoutedEngine:
    """Has the face of `LLMEngine`; `add_request`, `abort` and `step` mutate.

    local: replica 0, which is stepped here. connections: to the EngineServers of replicas 1, 2, ….
    Everything that asks another replica raises ReplicaError when it failed or is gone; a request is lost with it.
    Raises ConfigError if the replicas do not run the same model with the same limits.
    """

    def __init__(self, local: LLMEngine, connections: Sequence[Connection]):
        self.local = local
        self._inbox: Inbox = SimpleQueue()
        self._remotes = [RemoteEngine(replica, one, self._inbox) for replica, one in enumerate(connections, 1)]
        cache = local.scheduler.cache
        known_blocks = cache.pool.num_blocks - 1 if cache.enable_prefix_caching else 0
        self._router = ReplicaRouter(1 + len(self._remotes), cache.block_size, known_blocks)
        self._predictor = LengthPredictor()
        self._requests: dict[str, tuple[Request, int]] = {}  # under way, with the replica of each
        self._put_off: deque[tuple[int, Stepped | None]] = deque()  # came before what is in the inbox
        self._waits = False  # for other replicas, in a step
        self._updates: list[SequenceUpdate] = []  # what the step hands over
        self._finished: list[RequestOutput] = []
        try:
            self._check_alike()
        except BaseException:
            self._send_home()
            raise

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer, or None if its files hold none."""
        return self.local.tokenizer

    @property
    def limits(self) -> ModelLimits:
        """What requests are checked against."""
        return self.local.limits

    @property
    def model_fingerprint(self) -> str:
        """Equal for engines that can exchange pages."""
        return self.local.model_fingerprint

    @property
    def lora(self) -> LoraAdapters:
        """The adapters that requests may ask for, which are those of every replica."""
        return self.local.lora

    @property
    def has_unfinished(self) -> bool:
        """Whether any request is still under way."""
        return bool(self._requests)

    def make_request(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | BeamSearchParams,
        request_id: str | None = None,
        priority: int = 0,
        request_class: str | None = None,
        cache_salt: str | None = None,
        pooling: str | None = None,
        lora_adapter: str | None = None,
    ) -> Request:
        """Check a request and make it ready, as `LLMEngine.make_request` does.

        Logits processors must be given by where they are imported from.
        """
        if isinstance(params, SamplingParams):
            check_can_travel(params.logits_processors)
        return self.local.make_request(
            prompt, params, request_id, priority, request_class, cache_salt, pooling, lora_adapter
        )

    def add_request(self, request: Request) -> str:
        """Send a request of `make_request` to a replica, and return its id; raises RequestError as LLMEngine does."""
        request_id = request.request_id
        if request_id in self._requests:
            raise RequestError(f"request_id {request_id!r} is in use by a request under way")
        if request.is_finished:
            raise RequestError(f"request {request_id!r} has ended already; make another one of its prompt")
        self.lora.require(request.adapter)  # or the replica, which hears the same in the same order, would refuse it
        replica = self._router.route(
            request_id,
            request.sequences[0].extend_hashes(self.local.scheduler.cache.block_size),
            len(request.prompt_token_ids),
            self._expected_output(request),
        )
        self._requests[request_id] = request, replica
        if replica == 0:
            self.local.add_request(request)
        else:
            self._remotes[replica - 1].add(request)
        return request_id

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a request now and return what it has so far; None if it is not under way.

        For one in another replica this waits for the end of the step there.
        """
        if request_id not in self._requests:
            return None
        request, replica = self._requests[request_id]
        try:
            if replica == 0:
                self.local.abort(request_id)
            else:
                remote = self._remotes[replica - 1]
                answer = remote.answer(remote.ask(LLMEngine.abort, request_id))
                _end(request, self._withdraw(request_id) or answer)  # it may have ended by itself before
        finally:
            del self._requests[request_id]
            self._router.finish(request_id)
        return request_output(request)

    def step(self) -> StepOutput:
        """One step of the replica here, if it has work, and what the others did meanwhile; waits for them if not."""
        if self.local.has_unfinished:
            self._take_local(self.local.step())
        elif self._requests:
            self.rest()
            self._waits = True
            self._receive(WAIT_SECONDS)
            self._waits = False
        self._receive()
        output = StepOutput(self._updates, self._finished)
        self._updates, self._finished = [], []
        return output

    def rest(self) -> None:
        """Say that the replica here has nothing to do."""
        self.local.rest()

    def wake(self) -> None:
        """Let a step that waits for other replicas return; any thread may call it."""
        if self._waits:
            self._inbox.put((0, Stepped([], [])))

    def get_statistics(self) -> dict[str, float | int]:
        """Figures of all replicas since they were built; see `merge_figures`."""
        figures = self.on_every_replica(figures_of)
        return merge_figures(figures, self._router.num_requests, self._router.num_prompt_tokens)

    def check_integrity(self) -> None:
        """Raise IntegrityError unless the bookkeeping of every replica holds."""
        self.on_every_replica(LLMEngine.check_integrity)

    def on_every_replica(self, function: Callable[..., Any], *arguments) -> list[Any]:
        """What `function(engine, *arguments)` gives for each replica's engine; the first error is raised.

        function: one that pickle knows by its name. Others end their step before they do it.
        """
        numbers = [remote.ask(function, *arguments) for remote in self._remotes]
        results = [function(self.local, *arguments)]
        return results + [remote.answer(number) for remote, number in zip(self._remotes, numbers, strict=True)]

    def close(self) -> None:
        """Send the other replicas home and close the one here; nothing may run afterwards."""
        self._send_home()
        self.local.close()

    def _send_home(self) -> None:
        remotes, self._remotes = self._remotes, []
        for remote in remotes:
            remote.close()

    def _check_alike(self) -> None:
        own, *others = self.on_every_replica(_identity)
        for replica, other in enumerate(others, 1):
            if other != own:
                raise ConfigError(f"replica {replica} runs {other}, replica 0 {own}; all need one configuration")

    def _expected_output(self, request: Request) -> int:
        limit = output_limit(request, self.local.limits.max_model_len)
        return request.params.n * self._predictor.predict(class_of(request), 0, limit)

    def _receive(self, wait: float = 0.0) -> None:
        """Take all that came from the others; if nothing has, wait for it so many seconds."""
        with suppress(Empty):
            while True:
                came = self._put_off.popleft() if self._put_off else self._inbox.get(wait > 0, wait)
                self._take(*came)
                wait = 0.0

    def _withdraw(self, request_id: str) -> RequestOutput | None:
        """Drop what came of a request and was not handed over; returns its answer, if that is there.

        What came of others waits for the next step: a request must not end before its updates are handed over.
        """
        found = None
        with suppress(Empty):
            while True:
                self._put_off.append(self._inbox.get_nowait())
        for _ in range(len(self._put_off)):
            replica, message = self._put_off.popleft()
            if message is not None:
                found = next((answer for answer in message.finished if answer.request_id == request_id), found)
                message = Stepped(
                    [update for update in message.updates if update.request_id != request_id],
                    [answer for answer in message.finished if answer.request_id != request_id],
                )
            self._put_off.append((replica, message))
        return found

    def _take(self, replica: int, message: Stepped | None) -> None:
        if message is None:
            self._put_off.append((replica, None))  # whoever comes next must hear it too
            self._remotes[replica - 1].raise_gone()
            return
        for update in message.updates:
            if update.request_id in self._requests:
                self._take_update(update)
        for answer in message.finished:
            if answer.request_id in self._requests:  # not one that is left of an abort that the user interrupted
                request, _ = self._requests[answer.request_id]
                _end(request, answer)
                self._retire(request_output(request))

    def _take_update(self, update: SequenceUpdate) -> None:
        request, replica = self._requests[update.request_id]
        if replica != 0 and request.first_token_time is None:
            request.first_token_time = perf_counter()
        self._router.advance(update.request_id, len(update.token_ids))
        self._updates.append(update)

    def _take_local(self, output: StepOutput) -> None:
        for update in output.updates:
            self._take_update(update)
        for answer in output.finished:
            self._retire(answer)

    def _retire(self, answer: RequestOutput) -> None:
        request, _ = self._requests.pop(answer.request_id)
        self._router.finish(answer.request_id)
        for completion in answer.outputs:
            if completion.finish_reason in COMPLETE and request.pooling is None:
                self._predictor.observe(class_of(request), len(completion.token_ids))
        self._finished.append(answer)


def _end(request: Request, answer: RequestOutput) -> None:
    """Let a request end here as it ended in another replica."""
    request.error = answer.error
    request.answer = answer.outputs
    request.num_cached_tokens = answer.num_cached_tokens
    request.embedding = answer.embedding
    request.prompt_logprobs = answer.prompt_logprobs
    reasons = [completion.finish_reason for completion in answer.outputs]
    for sequence in request.sequences:  # of a beam search there are more than are told
        sequence.finish_reason = reasons[min(sequence.index, len(reasons) - 1)]


def _identity(engine: LLMEngine) -> tuple:
    return engine.model_fingerprint, engine.limits
