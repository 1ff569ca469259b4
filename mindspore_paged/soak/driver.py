"""Requests that come, run and are aborted at random, each answer held against the one it has when it runs alone."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

from mindspore_paged.engine.requests.outputs import RequestOutput, SequenceUpdate
from mindspore_paged.errors import OutOfBlocksError, RequestError, StepError
from mindspore_paged.llm import LLM
from mindspore_paged.soak.resources import resources_now
from mindspore_paged.soak.traffic import Kind, facts_of

MOST_IN_FLIGHT = 24
ABORTS_PER_STEP = 0.003
REQUESTS_PER_ROUND = 200
"""A round ends when no request is left: then every page must be back."""

COMPLETE = ("stop", "length")
MOST_SHOWN = 20


@dataclass
class SoakReport:
    """What came of a soak. resources: what the process held at the beginning, in the middle and at the end."""

    seconds: float = 0.0
    requests: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """With plain numbers, lists and mappings."""
        return asdict(self) | {"requests": dict(self.requests)}


def answer_alone(llm: LLM, kinds: Sequence[Kind], progress: Callable) -> list[list[dict[str, Any]]]:
    """What each kind answers when nothing runs beside it."""
    return [facts_of(llm.run([_make(llm, kind)])[0].outputs) for kind in progress(kinds)]


class Soak:
    """Runs random requests on `llm` until it is told to stop.

    kinds: what is asked. expected: the answer of each kind, of `answer_alone`.
    """

    def __init__(self, llm: LLM, kinds: Sequence[Kind], expected: Sequence[list[dict[str, Any]]], seed: int):
        self._llm = llm
        self._kinds = kinds
        self._expected = expected
        self._random = random.Random(seed)
        self._in_flight: dict[str, int] = {}  # the kind of each request under way
        self._seen: dict[str, list[list[int]]] = {}  # tokens that the updates of its sequences brought
        self.report = SoakReport()

    def run(self, is_over: Callable[[int, float], bool], progress: Callable[[int], None]) -> SoakReport:
        """Rounds of requests until `is_over(requests ended, seconds)`; progress: is told how many more have ended."""
        started = perf_counter()
        self._round(progress)  # what grows once, such as working memory for the largest step, has grown then
        samples = [asdict(resources_now())]
        while len(samples) < 3 or not is_over(self.report.requests["ended"], perf_counter() - started):
            self._round(progress)
            samples.append(asdict(resources_now()))
        self.report.resources = [samples[0], samples[len(samples) // 2], samples[-1]]
        self.report.seconds = perf_counter() - started
        self.report.statistics = self._llm.get_statistics()
        return self.report

    def _round(self, progress: Callable[[int], None]) -> None:
        engine, to_come = self._llm.engine, REQUESTS_PER_ROUND
        while to_come or engine.has_unfinished:
            coming = min(to_come, self._random.randint(0, max(0, MOST_IN_FLIGHT - len(self._in_flight))))
            for _ in range(coming):
                self._send()
            to_come -= coming
            output = engine.step()
            for update in output.updates:
                self._take_update(update)
            for answer in output.finished:
                self._take_answer(answer)
                progress(1)
            if self._in_flight and self._random.random() < ABORTS_PER_STEP * len(self._in_flight):
                aborted = engine.abort(self._random.choice(list(self._in_flight)))
                if aborted is not None:
                    self._take_answer(aborted, is_withdrawn=True)
                    progress(1)
        engine.check_integrity()
        self._hand_over_a_prefix()

    def _send(self) -> None:
        number = self._random.randrange(len(self._kinds))
        request = _make(self._llm, self._kinds[number], priority=self._random.choice((-1, 0, 0, 0, 1, 2)))
        self._in_flight[request.request_id] = number
        self._seen[request.request_id] = [[] for _ in request.sequences]
        self._llm.engine.add_request(request)
        self.report.requests["sent"] += 1

    def _take_update(self, update: SequenceUpdate) -> None:
        if update.request_id in self._seen:  # not of one that was aborted while its last step was on its way
            self._seen[update.request_id][update.index] += update.token_ids

    def _take_answer(self, answer: RequestOutput, is_withdrawn: bool = False) -> None:
        number = self._in_flight.pop(answer.request_id, None)
        if number is None:
            self._complain(answer, "it ends twice")
            return
        seen = self._seen.pop(answer.request_id)
        reasons = {completion.finish_reason for completion in answer.outputs}
        self.report.requests["ended"] += 1
        self.report.requests["failed" if answer.error else "aborted" if "abort" in reasons else "finished"] += 1
        self.report.requests["sequences"] += len(answer.outputs)
        if answer.error and "injected" not in answer.error and "row" not in answer.error:
            self._complain(answer, f"it failed by itself: {answer.error}")
        # One that ended in another replica just before it was aborted is whole, but its last updates are dropped.
        if not is_withdrawn and seen != [completion.token_ids for completion in answer.outputs]:
            self._complain(answer, f"its updates brought {seen}")
        self._compare(answer, self._kinds[number], self._expected[number])

    def _compare(self, answer: RequestOutput, kind: Kind, expected: list[dict[str, Any]]) -> None:
        for facts, right in zip(facts_of(answer.outputs), expected, strict=True):
            num_tokens = len(facts["token_ids"])
            if not kind.is_repeatable:
                if num_tokens > kind.params.max_tokens:
                    self._complain(answer, f"it has {num_tokens} tokens of at most {kind.params.max_tokens}")
            elif facts["finish_reason"] in COMPLETE:
                if facts != right:
                    self._complain(answer, f"it answers {facts}, alone {right}")
            elif facts["token_ids"] != right["token_ids"][:num_tokens]:
                self._complain(answer, f"it ended early with {facts}, alone {right}")

    def _complain(self, answer: RequestOutput, what: str) -> None:
        self.report.requests["wrong"] += 1
        if len(self.report.wrong) < MOST_SHOWN:
            self.report.wrong.append(f"{answer.request_id}: {what}")

    def _hand_over_a_prefix(self) -> None:
        """Export a prompt's pages and import them again; what an injected fault or a full pool forbids is no fault."""
        try:
            data = self._llm.export_prefix(list(self._random.choice(self._kinds).prompt_token_ids))
            self._llm.import_prefix(data)
            self.report.requests["prefixes handed over"] += 1
        except (RequestError, OutOfBlocksError, StepError):
            self.report.requests["prefixes refused"] += 1


def _make(llm: LLM, kind: Kind, priority: int = 0):
    return llm.make_request(list(kind.prompt_token_ids), kind.params, priority, kind.request_class)
