"""A load on any server of OpenAI's API by HTTP, and what each request waited for as its client sees it."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import aiohttp

from mindspore_paged.benchmarking.conversations import Conversation, Turn
from mindspore_paged.benchmarking.report import percentile
from mindspore_paged.benchmarking.serving import Load, Record
from mindspore_paged.errors import ConfigError

CHAT, COMPLETIONS = "chat", "completions"
_LONGEST_ERROR = 200
_LONGEST_EVENT = 1 << 20
_DONE = b"[DONE]"


@dataclass
class HttpRecord(Record):
    """What became of one request; times in seconds after the start, as its client saw them.

    token_times: when each piece of text came, which may be of several tokens. num_prompt, num_cached, num_output: by
    the server's usage. num_asked: tokens that the answer should have. turn: its place in its conversation. ended: when
    the answer was over, whatever came of it.
    """

    num_asked: int = 0
    num_output: int = 0
    num_cached: int = 0
    turn: int = 0
    ended: float = 0.0


@dataclass(frozen=True)
class ServedRun:
    """records: of all requests. seconds, cpu_seconds: how long the load took, and how much CPU time this process."""

    records: list[HttpRecord]
    seconds: float
    cpu_seconds: float

    @property
    def load(self) -> Load:
        """How many requests were under way, each time that this changed."""
        changes = sorted((at, by) for record in self.records for at, by in ((record.arrival, 1), (record.ended, -1)))
        running = list(itertools.accumulate(by for _, by in changes))
        return Load([at for at, _ in changes], running, [])


def served_figures(served: ServedRun, first: ServedRun | None = None) -> dict:
    """What only a client of a server can tell of a run.

    first: the run of the request before all others, whose TTFT is told apart. Times in ms; client_cpu_share: of a core.
    """
    good = [record for record in served.records if record.error is None and record.token_times]
    turns = range(1 + max((record.turn for record in good), default=-1))
    figures = {
        "client_cpu_share": served.cpu_seconds / served.seconds,
        "num_short": sum(record.num_output < record.num_asked for record in good),
        "cached_prompt_share": sum(record.num_cached for record in good) / max(1, sum(r.num_prompt for r in good)),
        "ttft_ms_p50_by_turn": [1e3 * percentile([r.ttft for r in good if r.turn == turn], 50) for turn in turns],
    }
    if first is not None:
        (record, *_) = first.records
        figures["first_ttft_ms"] = 1e3 * record.ttft if record.token_times else None
    return figures


@dataclass(frozen=True)
class Server:
    """A server under load.

    base_url: without the /v1 of its paths. api: `chat` or `completions`. api_key: or None. timeout: seconds that a
    request may take.
    """

    base_url: str
    model: str
    api: str = CHAT
    api_key: str | None = None
    timeout: float = 600.0

    def measure(
        self,
        conversations: Sequence[Conversation],
        concurrency: int | None = None,
        on_finished: Callable[[int], object] = lambda count: None,
    ) -> ServedRun:
        """Ask it all, each conversation at its time, or by `concurrency` clients that begin another when one ends.

        Turns of a conversation follow each other, each with all that was said before. on_finished: is called with 1
        at the end of each request.
        """
        return asyncio.run(self.ask(conversations, concurrency, on_finished))

    async def ask(
        self, conversations: Sequence[Conversation], concurrency: int | None, on_finished: Callable[[int], object]
    ) -> ServedRun:
        """`measure` in an event loop that does other things, too: cpu_seconds are of all that it does."""
        return await _Load(self, on_finished).run(conversations, concurrency)

    def session(self) -> aiohttp.ClientSession:
        """Connections to it, any number at once."""
        headers = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        return aiohttp.ClientSession(
            headers=headers,
            # Each request has a connection of its own: some servers close those that they kept just as they are used.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=self.timeout),
        )

    def find_model(self) -> "Server":
        """The same server with the first model that it lists, where none is named; raises ConfigError without one."""
        return self if self.model else replace(self, model=asyncio.run(self._first_model()))

    async def _first_model(self) -> str:
        where = f"{self.base_url}/v1/models"
        try:
            async with self.session() as session, session.get(where) as response:
                text = await response.text(errors="replace")
                if response.status != 200:
                    raise ConfigError(f"--base-url {self.base_url}: {where} answers {_refusal(response.status, text)}")
                return json.loads(text)["data"][0]["id"]
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise ConfigError(f"--base-url {self.base_url}: nobody answers there: {_told(error)}") from None
        except (ValueError, LookupError, TypeError):
            raise ConfigError(f"--base-url {self.base_url}: {where} lists no model; name one by --model") from None


class _Load:
    """One run of conversations against a server."""

    def __init__(self, server: Server, on_finished: Callable[[int], object]):
        self._server = server
        self._on_finished = on_finished
        self._records: list[HttpRecord] = []
        self._start = 0.0

    async def run(self, conversations: Sequence[Conversation], concurrency: int | None) -> ServedRun:
        async with self._server.session() as session:
            cpu, self._start = time.process_time(), time.perf_counter()
            if concurrency is None:
                await asyncio.gather(*(self._hold_at_its_time(session, each) for each in conversations))
            else:
                waiting = iter(conversations)
                await asyncio.gather(*(self._hold_all(session, waiting) for _ in range(concurrency)))
            return ServedRun(self._records, self._now(), time.process_time() - cpu)

    def _now(self) -> float:
        return time.perf_counter() - self._start

    async def _hold_at_its_time(self, session: aiohttp.ClientSession, conversation: Conversation) -> None:
        await asyncio.sleep(conversation.at - self._now())
        await self._hold(session, conversation, conversation.at)

    async def _hold_all(self, session: aiohttp.ClientSession, waiting: Iterator[Conversation]) -> None:
        for conversation in waiting:
            await self._hold(session, conversation, self._now())

    async def _hold(self, session: aiohttp.ClientSession, conversation: Conversation, arrival: float) -> None:
        said = [] if conversation.system is None else [("system", conversation.system)]
        for place, turn in enumerate(conversation.turns):
            said.append(("user", turn.text))
            record = HttpRecord(arrival, 0, num_asked=turn.num_output, turn=place)
            self._records.append(record)
            answer = await self._ask(session, said, turn, record)
            record.ended = self._now()
            self._on_finished(1)
            if record.error is not None:
                break
            said.append(("assistant", answer))
            arrival = record.ended

    async def _ask(self, session: aiohttp.ClientSession, said: list, turn: Turn, record: HttpRecord) -> str:
        """One request; fills the record and returns the text of the answer."""
        pieces: list[str] = []
        try:
            async with session.post(self._url, json=self._body(said, turn)) as response:
                if response.status != 200:
                    record.error = _refusal(response.status, await response.text(errors="replace"))
                    return ""
                async for event in events_of(response.content):
                    now = self._now()
                    if event.get("error"):
                        record.error = _refusal(response.status, json.dumps(event))
                        return ""
                    piece = self._text_of(event)
                    if piece:
                        record.token_times.append(now)
                        pieces.append(piece)
                    if usage := event.get("usage"):
                        record.num_prompt, record.num_output = usage["prompt_tokens"], usage["completion_tokens"]
                        record.num_cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            record.error = _told(error)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            record.error = f"what it sent is no answer: {_told(error)}"
        if record.error is None and not record.num_output:
            record.error = "its answer has no usage"
        return "".join(pieces)

    @property
    def _url(self) -> str:
        return f"{self._server.base_url}/v1/{'chat/completions' if self._server.api == CHAT else 'completions'}"

    def _body(self, said: list, turn: Turn) -> dict:
        body = {
            "model": self._server.model,
            "max_tokens": turn.num_output,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._server.api == CHAT:
            return body | {"messages": [{"role": role, "content": text} for role, text in said]}
        return body | {"prompt": "\n".join(text for _, text in said)}

    def _text_of(self, event: dict) -> str:
        text = ""
        for choice in event.get("choices") or ():
            if self._server.api == COMPLETIONS:
                text += choice.get("text") or ""
            else:
                delta = choice.get("delta") or {}
                text += delta.get("content") or delta.get("reasoning_content") or ""
        return text


async def events_of(stream: aiohttp.StreamReader) -> AsyncIterator[dict]:
    """The events of a stream as JSON has them, up to `data: [DONE]`; raises ValueError for a stream without that."""
    rest = b""
    async for data in stream.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _LONGEST_EVENT:
            raise ValueError(f"an event of more than {_LONGEST_EVENT} bytes")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            payload = line[5:].strip()
            if payload == _DONE:
                return
            yield json.loads(payload)
    raise ValueError("its stream ends without data: [DONE]")


def _refusal(status: int, text: str) -> str:
    """A status with the message in a body of OpenAI's form, or else how the body begins."""
    with suppress(ValueError, LookupError, TypeError):
        text = json.loads(text)["error"]["message"]
    return f"{status}: {' '.join(str(text).split())[:_LONGEST_ERROR]}"


def _told(error: BaseException) -> str:
    return " ".join(str(error).split())[:_LONGEST_ERROR] or type(error).__name__
