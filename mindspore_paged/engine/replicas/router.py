"""Which of several engines a request goes to: the one where it has the least to wait for and to compute."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass
class _Route:
    """Where a request went, and what is left to do for it there, in tokens."""

    replica: int
    prompt_tokens: int
    output_tokens: int

    @property
    def outstanding(self) -> int:
        """One token at least: nobody knows that an answer is complete before it ends."""
        return self.prompt_tokens + max(1, self.output_tokens)


class ReplicaRouter:
    """Sends each request to the replica with the lowest score; `route`, `advance` and `finish` mutate.

    The score of a replica is its load less the tokens of the request's longest prefix that it knows: a token found in
    the cache is worth one token of waiting. So the longest known prefix wins until that replica is busier than another
    by more tokens than its prefix saves over what the other knows; without known prefixes the least load wins. Equal
    scores go to the lesser load, then to the lower number.

    load: for each request under way the prompt tokens that had to be computed, until its first token comes, and the
    output tokens that are still expected of it, at least one. A replica knows a prefix if its blocks are among the
    `known_blocks` names of full blocks that prompts brought to it last; with 0 it knows none.

    The idea is that of the cache-aware router of SGLang (Zheng et al. 2024), which follows prefixes until loads differ
    by a threshold. That threshold is here the work a prefix saves, as in Preble (Srivatsa et al. 2024), for load and
    prefixes have one unit. vLLM's data parallelism, by contrast, counts waiting and running requests alone.
    """

    def __init__(self, num_replicas: int, block_size: int, known_blocks: int):
        self._block_size = block_size
        self._known = [_KnownBlocks(known_blocks) for _ in range(num_replicas)]
        self._routes: dict[str, _Route] = {}
        self.loads = [0] * num_replicas
        self.num_requests = [0] * num_replicas
        self.num_prompt_tokens = [0] * num_replicas

    def route(
        self, request_id: str, block_hashes: Sequence[bytes], num_prompt_tokens: int, expected_output_tokens: int
    ) -> int:
        """Choose a replica for a request that is not under way, and take it for sent there.

        block_hashes: the chained names of the prompt's full blocks, in order. expected_output_tokens: of all sequences.
        """
        # As in the cache, a hit stops before the last token: its logits are needed.
        hashes = block_hashes[: (num_prompt_tokens - 1) // self._block_size]
        found = [known.num_leading(hashes) * self._block_size for known in self._known]
        replica = min(range(len(found)), key=lambda r: (self.loads[r] - found[r], self.loads[r], r))
        route = _Route(replica, num_prompt_tokens - found[replica], expected_output_tokens)
        self._routes[request_id] = route
        self._known[replica].add(block_hashes)
        self.loads[replica] += route.outstanding
        self.num_requests[replica] += 1
        self.num_prompt_tokens[replica] += num_prompt_tokens
        return replica

    def advance(self, request_id: str, num_tokens: int) -> None:
        """Take note of `num_tokens` more output tokens of a request under way."""
        route = self._routes[request_id]
        before = route.outstanding
        if num_tokens:
            route.prompt_tokens = 0
            route.output_tokens -= num_tokens
        self.loads[route.replica] += route.outstanding - before

    def finish(self, request_id: str) -> None:
        """Forget a request that was under way; the replica keeps what it knows."""
        route = self._routes.pop(request_id)
        self.loads[route.replica] -= route.outstanding


class _KnownBlocks:
    """Names of blocks, the `capacity` used last."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._names: OrderedDict[bytes, None] = OrderedDict()  # least recently used first

    def num_leading(self, hashes: Iterable[bytes]) -> int:
        """How many names at the beginning are known."""
        count = 0
        for name in hashes:
            if name not in self._names:
                break
            count += 1
        return count

    def add(self, hashes: Sequence[bytes]) -> None:
        # The end of a prefix first, so that it goes before its beginning: without that the rest is of no use.
        for name in reversed(hashes[: self._capacity]):
            self._names[name] = None
            self._names.move_to_end(name)
        while len(self._names) > self._capacity:
            self._names.popitem(last=False)
