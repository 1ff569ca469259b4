"""A server's clients at their worst: they leave at random moments, read slowly, or never finish what they say.

Each answer that is read to its end is held against the one that its request has when it runs alone.
"""

import asyncio
import json
import random
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from mindspore_paged.benchmarking.http_load import events_of
from mindspore_paged.soak.driver import MOST_SHOWN, SoakReport
from mindspore_paged.soak.resources import Resources, resources_of
from mindspore_paged.soak.traffic import Kind

CLIENTS = 24
REQUESTS_PER_ROUND = 300
"""A round ends when no request is left: then every page must be back."""

LEAVING, SLOW, HALF_OPEN = 0.5, 0.04, 0.04
"""Shares of requests whose client leaves at a moment within the time that answers take, so that some come before it;
whose client reads slowly; and that never come to their end."""

LONGEST_HALF_OPEN = 2.0
SECONDS_TO_SETTLE = 30.0
SECONDS_TO_SEE = 0.5
SMALL_BUFFER = 2048
"""Bytes that the kernel keeps for a slow client, of which it takes SIP at once."""
SIP = 64
_USED = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")


class HttpSoak:
    """Asks a server until told to stop.

    base_url: without /v1. model: as the server calls it. pid: the server's process. kinds: what is asked. expected: the
    answers of each kind when it runs alone, as `facts_of` has them.
    """

    def __init__(
        self, base_url: str, model: str, pid: int, kinds: Sequence[Kind], expected: Sequence[list[dict]], seed: int
    ):
        self._url = base_url
        self._model = model
        self._pid = pid
        self._kinds = kinds
        self._expected = expected
        self._random = random.Random(seed)
        self._seconds = 0.1  # that whole answers take, of late
        self.report = SoakReport()

    def run(self, is_over: Callable[[int, float], bool], progress: Callable[[int], object]) -> SoakReport:
        """Rounds of requests until `is_over(requests sent, seconds)`; progress: is told how many more have ended."""
        return asyncio.run(self._run(is_over, progress))

    async def _run(self, is_over: Callable[[int, float], bool], progress: Callable[[int], object]) -> SoakReport:
        started = perf_counter()
        samples: list[Resources] = []
        while len(samples) < 3 or not is_over(self.report.requests["ended"], perf_counter() - started):
            await self._round(progress)
            samples.append(await self._resources(samples))
        # What grows once, such as working memory for the largest step, has grown after the first round.
        self.report.resources = [asdict(samples[place]) for place in (0, len(samples) // 2, -1)]
        self.report.seconds = perf_counter() - started
        return self.report

    async def _resources(self, before: list[Resources]) -> Resources:
        """What the server holds when it has seen that its clients are gone, for which it has some time."""
        await asyncio.sleep(SECONDS_TO_SEE)
        for _ in range(100):
            now = resources_of(self._pid)
            if not before or now.descriptors <= before[0].descriptors:
                break
            await asyncio.sleep(0.1)
        return now

    async def _round(self, progress: Callable[[int], object]) -> None:
        to_come = iter(range(REQUESTS_PER_ROUND))
        half_open: list[asyncio.Task] = []

        async def client() -> None:
            for _ in to_come:
                if self._random.random() < HALF_OPEN:
                    half_open.append(asyncio.create_task(self._half_open()))
                await self._request(session)
                progress(1)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(client() for _ in range(CLIENTS)))
            await asyncio.gather(*half_open)
            await self._settle(session)

    async def _settle(self, session: aiohttp.ClientSession) -> None:
        """Wait until nothing runs, waits or holds a page; what does not come back in time is a fault."""
        deadline = perf_counter() + SECONDS_TO_SETTLE
        while in_use := await self._in_use(session):
            if perf_counter() > deadline:
                self._complain(f"after a round: {in_use}")
                return
            await asyncio.sleep(0.05)

    async def _in_use(self, session: aiohttp.ClientSession) -> dict[str, float]:
        async with session.get(f"{self._url}/metrics") as response:
            lines = (await response.text()).splitlines()
        found = {}
        for name in _USED:
            values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{", 1)[0].split(" ", 1)[0] == name]
            found[name] = sum(values) if values else float("nan")
        self.report.statistics = found
        return {name: value for name, value in found.items() if value != 0}

    async def _request(self, session: aiohttp.ClientSession) -> None:
        number, drawn = self._random.randrange(len(self._kinds)), self._random.random()
        self.report.requests["ended"] += 1
        if drawn < LEAVING:
            request = self._leave(session, number)
        else:
            request = self._read_slowly(number) if drawn < LEAVING + SLOW else self._read(session, number)
        try:
            await request
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError, LookupError) as error:
            self.report.requests["failed"] += 1
            self._complain(f"kind {number}: {type(error).__name__}: {error}")

    async def _read(self, session: aiohttp.ClientSession, number: int) -> None:
        streams, started = self._random.random() < 0.5, perf_counter()
        async with self._post(session, number, streams) as response:
            await _require_ok(response)
            events = [event async for event in events_of(response.content)] if streams else [await response.json()]
        self._seconds += 0.1 * (perf_counter() - started - self._seconds)
        self._compare(number, events)
        self.report.requests["finished"] += 1

    async def _leave(self, session: aiohttp.ClientSession, number: int) -> None:
        """Go at a random moment, politely or by a reset: before the answer begins, or somewhere in it."""
        try:
            await asyncio.wait_for(self._ask_for(session, number), self._random.uniform(0, self._seconds))
            self.report.requests["answered before they left"] += 1
        except asyncio.TimeoutError:
            self.report.requests["aborted"] += 1

    async def _ask_for(self, session: aiohttp.ClientSession, number: int) -> None:
        by_reset = self._random.random() < 0.5
        async with self._post(session, number, streams=self._random.random() < 0.8) as response:
            try:
                await _require_ok(response)
                await response.content.read()
            finally:
                if by_reset and response.connection is not None:
                    _reset(response.connection.transport)
                response.close()

    async def _read_slowly(self, number: int) -> None:
        """Some bytes at a time, out of small buffers; whether it is served to its end is the server's to decide."""
        connector = aiohttp.TCPConnector(socket_factory=_small_socket)
        async with aiohttp.ClientSession(connector=connector, read_bufsize=SIP) as session:
            data = b""
            async with self._post(session, number, streams=True) as response:
                await _require_ok(response)
                while piece := await response.content.read(SIP):
                    data += piece
                    await asyncio.sleep(self._random.uniform(0, 0.02))
        lines = [line[5:].strip() for line in data.split(b"\n") if line.startswith(b"data:")]
        self._compare(number, [json.loads(line) for line in lines if line != b"[DONE]"])
        self.report.requests["finished"] += 1
        self.report.requests["read slowly"] += 1

    async def _half_open(self) -> None:
        """Begin a request, never end it, and stay for a while."""
        body = json.dumps(self._body(self._random.randrange(len(self._kinds)), False)).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: soak\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        whole = head + body
        part = whole[: self._random.randrange(len(whole))]
        target = urlsplit(self._url)
        try:
            _, writer = await asyncio.open_connection(target.hostname, target.port)
            writer.write(part)
            await asyncio.sleep(self._random.uniform(0, LONGEST_HALF_OPEN))
            if self._random.random() < 0.5:
                _reset(writer.transport)
            writer.close()
        except OSError as error:
            self._complain(f"half open: {error}")
        self.report.requests["half open"] += 1

    def _post(self, session: aiohttp.ClientSession, number: int, streams: bool):
        return session.post(f"{self._url}/v1/completions", json=self._body(number, streams))

    def _body(self, number: int, streams: bool) -> dict[str, Any]:
        kind = self._kinds[number]
        params = {name: value for name, value in asdict(kind.params).items() if value not in (None, ())}
        body = {"model": self._model, "prompt": list(kind.prompt_token_ids), "stream": streams, **params}
        body["priority"] = self._random.choice((-1, 0, 0, 0, 1, 2))
        return body | ({"stream_options": {"include_usage": True}} if streams else {})

    def _compare(self, number: int, events: list[dict]) -> None:
        """Hold texts, ends and counts of an answer, whole or in pieces, against those of the request alone."""
        kind, right = self._kinds[number], self._expected[number]
        texts, reasons, num_tokens = [""] * kind.params.n, [None] * kind.params.n, None
        for event in events:
            if event.get("error"):
                self._complain(f"kind {number}: {event['error']}")
                return
            for choice in event["choices"]:
                texts[choice["index"]] += choice["text"]
                reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
            num_tokens = (event.get("usage") or {}).get("completion_tokens", num_tokens)
        if not kind.is_repeatable:
            if num_tokens is None or num_tokens > kind.params.n * kind.params.max_tokens:
                self._complain(f"kind {number}: it has {num_tokens} tokens of at most {kind.params.max_tokens} each")
            return
        facts = list(zip(texts, reasons, strict=True)), num_tokens
        alone = [(one["text"], one["finish_reason"]) for one in right], sum(len(one["token_ids"]) for one in right)
        if facts != alone:
            self._complain(f"kind {number}: it answers {facts}, alone {alone}")

    def _complain(self, what: str) -> None:
        self.report.requests["wrong"] += 1
        if len(self.report.wrong) < MOST_SHOWN:
            self.report.wrong.append(what)


async def _require_ok(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise ValueError(f"status {response.status}: {(await response.text())[:200]}")


def _small_socket(address_info) -> socket.socket:
    family, kind, protocol, *_ = address_info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    return made


def _reset(transport: asyncio.Transport) -> None:
    """Have the connection end by a reset when it is closed, as that of a process that was killed."""
    if (connected := transport.get_extra_info("socket")) is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
