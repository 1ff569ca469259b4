"""An AsyncLLM of a few lines over the engine of paged_oracle: whoever reads a stream steps the engine."""

import asyncio

from tests.engine.paged_oracle import make_engine


class SteppedLLM:
    """`engine` is stepped by whoever waits for an update; steps go by while others are read, so streams interleave."""

    def __init__(self, **options):
        self.engine = make_engine(**options)
        self._inboxes = {}

    async def generate(self, request):
        self.engine.add_request(request)
        inbox = self._inboxes[request.request_id] = []
        try:
            while inbox or not request.is_finished:
                if not inbox:
                    for update in self.engine.step().updates:
                        self._inboxes[update.request_id].append(update)
                while inbox:
                    yield inbox.pop(0)
                await asyncio.sleep(0)
        finally:
            self.engine.abort(request.request_id)
            del self._inboxes[request.request_id]

    async def call(self, function, *arguments):
        return function(self.engine, *arguments)

    async def get_statistics(self):
        return self.engine.get_statistics()
