"""A server in a thread of the test's process, its official client, and raw HTTP for what no client would send."""

import asyncio
import dataclasses
import http.client
import json
import socket
import threading
import time
from functools import cached_property

import openai

from mindspore_paged.async_llm import AsyncLLM
from mindspore_paged.serving.app import create_app
from mindspore_paged.serving.connections import listen
from mindspore_paged.serving.server import HttpServer
from mindspore_paged.serving.starting import configuration

MODEL = "tiny-model"
HI = [{"role": "user", "content": "Hi"}]
JSON = {"Content-Type": "application/json"}


class RunningServer:
    """Serves an LLM from `with` to its end; the event loop runs in a thread of its own."""

    def __init__(self, llm, options, api_keys=()):
        self.llm, self.options, self._api_keys = llm, options, api_keys

    def beside(self, api_keys=(), **options):
        """Another server over the same LLM, with some options changed."""
        return RunningServer(self.llm, dataclasses.replace(self.options, **options), api_keys)

    def __enter__(self):
        self._listener = listen("127.0.0.1", 0, self.options.connection_timeout)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)  # so that slow readers are noticed soon
        self.port = self._listener.getsockname()[1]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *exception):
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _serve(self):
        self._loop = asyncio.get_running_loop()
        self.engine = AsyncLLM(self.llm, max_buffered_updates=self.options.max_buffered_updates)
        self.app = create_app(self.engine, self.options, api_keys=self._api_keys)
        self._server = HttpServer(configuration(self.app, self.options))
        serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:
            await asyncio.sleep(0.01)
        self._ready.set()
        await serving

    def _stop(self):
        self._server.should_exit = True

    @property
    def service(self):
        return self.app.state.service

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @cached_property
    def client(self):
        return self.client_with()

    def client_with(self, api_key="none", **options):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=20, **options)

    def async_client(self):
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=20)

    def call(self, function, *arguments):
        """What `function(engine, *arguments)` gives in the engine's thread, between two steps."""
        return asyncio.run_coroutine_threadsafe(self.engine.call(function, *arguments), self._loop).result(20)

    def in_loop(self, function):
        """What `function()` gives in the event loop's thread."""

        async def run():
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(20)

    @property
    def num_connections(self):
        """TCP connections that the server holds."""
        return len(self._server.server_state.connections)

    def assert_idle(self):
        """Nothing is under way a moment later, every page is free, and all books agree."""
        self.wait_until(lambda: self.service.num_under_way == 0 and self.engine.num_unfinished == 0)
        self.call(lambda engine: engine.check_integrity())
        assert self.call(lambda engine: engine.scheduler.cache.pool.num_used) == 0

    def wait_until(self, condition, seconds=5.0):
        deadline = time.monotonic() + seconds
        while not self.in_loop(condition):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def ask(self, method, path, body=None, headers=JSON):
        """Status, headers and body of a request that no client of OpenAI's would send."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def post(self, path, headers=JSON, **body):
        """Status and JSON of a POST."""
        status, _, data = self.ask("POST", path, json.dumps(body), headers)
        return status, json.loads(data)

    def connect(self):
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


def request_bytes(path, **body):
    """A POST as it goes over the wire."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def answer_on(connection):
    """Status and JSON of what the server sends before it closes the connection."""
    head, _, body = b"".join(iter(lambda: connection.recv(1 << 16), b"")).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)
